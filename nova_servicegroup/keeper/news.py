# SPDX-License-Identifier: Apache-2.0

"""Changes of a group that wait to be sent to the parent."""


class News:
    """Unsent changes of a group, coalesced while they wait."""

    def __init__(self):
        self.ready = False      # there is a change to send
        self._nodes = {}        # name -> whether it joined or left
        self._absences = {}     # host -> its entry of Absences.changes()
        self._founded = None

    def view(self, nodes, absences, founded):
        self.ready = True
        for name, joined in nodes:
            if self._nodes.setdefault(name, joined) is not joined:
                # It joined and left before it was posted to the parent.
                del self._nodes[name]
        self._absences.update(absences)
        self._founded = founded

    def take(self):
        """Return the fields of the message to send, and drop them."""
        nodes, self._nodes = self._nodes, {}
        absences, self._absences = self._absences, {}
        self.ready = False
        return {'joined': sorted(n for n, joined in nodes.items() if joined),
                'left': sorted(n for n, joined in nodes.items() if not joined),
                'absences': absences, 'founded': self._founded}
