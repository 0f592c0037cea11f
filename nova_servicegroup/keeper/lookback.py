# SPDX-License-Identifier: Apache-2.0

"""Whose records to read to learn who came back before this reader looked.

Whether a silent member may still come back depends on how many fell silent
with it and are back. A reader that started since, or was cut off itself, finds
these among the living, and only their records tell.
"""

import random

#: seconds for which it is of interest that somebody came back
RECENT = 3600
#: records that show whether one in twenty came back: they miss it once in
#: 28,000 times
SAMPLE = 200
#: of all hosts: where more are silent, fewer that came back may decide
FEW = 0.01


class LookBack:
    """Reads a sample of the records; all if one of them or many are silent.

    To read ten thousand records costs a server as much as to let a thousand
    members join, and in most cases one host was lost and nobody else.

    One is for one connection: what happened before it was not seen.
    """

    def __init__(self):
        self._begun = False
        self._due = []
        self._rest = []

    @property
    def is_complete(self):
        """All records were chosen to be read."""
        return self._begun and not self._rest

    def silent(self, count, hosts):
        """Take how many hosts are silent, at least one, and who is there."""
        if not self._begun:
            self._begun = True
            random.shuffle(hosts)
            self._due, self._rest = hosts[:SAMPLE], hosts[SAMPLE:]
        if count > FEW * (count + len(hosts)):
            self._choose_all()

    @property
    def going_on(self):
        """There are records to read before anybody's silence is judged."""
        return bool(self._due)

    def take(self, most):
        """Return the hosts whose records to read next, a list."""
        chosen, self._due = self._due[:most], self._due[most:]
        return chosen

    def was_read(self, record, time):
        """Take a Record of one of them, None if there is none.

        :param time: now in ZooKeeper's time, seconds since 1970
        """
        if record is not None and record.gap and (
                time - record.gap[1] < RECENT):
            self._choose_all()

    def _choose_all(self):
        self._due += self._rest
        self._rest = []
