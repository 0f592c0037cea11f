# SPDX-License-Identifier: Apache-2.0

"""What a parent was not told yet of a group: coalesced while it waits."""


class News:
    """What the parent wasn't told yet of a group."""

    def __init__(self):
        self.ready = False      # it is to be told
        self._nodes = {}        # name -> whether it joined or left
        self._waiting = []      # what is told with the absences of its view
        self._absences = {}     # host -> what keeper.absences tells of it
        self._founded = None

    def nodes(self, joined, left):
        self._waiting += [(name, True) for name in joined]
        self._waiting += [(name, False) for name in left]

    def view(self, absences, founded):
        self.ready = True
        for name, there in self._waiting:
            if self._nodes.setdefault(name, there) is not there:
                # It came and went, and the parent never knew.
                del self._nodes[name]
        self._waiting.clear()
        self._absences.update(absences)
        self._founded = founded

    def take(self):
        """Return what is to be told, and forget it."""
        nodes, self._nodes = self._nodes, {}
        absences, self._absences = self._absences, {}
        self.ready = False
        return {'joined': sorted(n for n, there in nodes.items() if there),
                'left': sorted(n for n, there in nodes.items() if not there),
                'absences': absences, 'founded': self._founded}
