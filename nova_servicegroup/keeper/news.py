# SPDX-License-Identifier: Apache-2.0

"""What a parent was not told yet of a group: coalesced while it waits."""


class News:
    """What the parent wasn't told yet of a group."""

    def __init__(self):
        self.ready = False      # it is to be told
        self._nodes = {}        # name -> whether it joined or left
        self._absences = {}     # host -> what keeper.absences tells of it
        self._founded = None

    def view(self, nodes, absences, founded):
        self.ready = True
        for name, there in nodes:
            if self._nodes.setdefault(name, there) is not there:
                # It came and went, and the parent never knew.
                del self._nodes[name]
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
