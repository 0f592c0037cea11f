# SPDX-License-Identifier: Apache-2.0

"""Which records to read to find hosts that returned before the connection.

Whether a silent member may still return depends on how many fell silent with
it and have returned. A reader that connects later sees these hosts as present;
only the gaps in their records show that they were missing.
"""

import collections
import itertools
import random

#: seconds for which a return matters, at least
RECENT = 3600
#: records in the sample: if one host in twenty returned, the sample misses
#: it once in 28,000 times
SAMPLE = 200
#: share of silent hosts above which all records are read: fewer returns than
#: the sample finds may decide then
FEW = 0.01


class LookBack:
    """Chooses a sample of the records, or all if one of them shows a return.

    Chooses all, too, if many hosts are silent. Reading ten thousand records
    costs a server as much as a thousand joins, and in most cases only one host
    was lost.

    Each connection has a LookBack of its own.

    :param grace: seconds after which a return no longer matters, if that is
        longer than RECENT
    """

    def __init__(self, grace):
        self.recent = max(RECENT, grace)
        self._begun = False
        self._due = collections.deque()
        self._rest = []

    @property
    def is_complete(self):
        """Whether all records were chosen."""
        return self._begun and not self._rest

    def silent(self, count, hosts):
        """Choose records.

        :param count: how many hosts are silent, at least one
        :param hosts: the present hosts, a list; shuffled here
        """
        if not self._begun:
            self._begun = True
            random.shuffle(hosts)
            self._due.extend(hosts[:SAMPLE])
            self._rest = hosts[SAMPLE:]
        if count > FEW * (count + len(hosts)):
            self._choose_all()

    @property
    def going_on(self):
        """Whether chosen records are unread; no host becomes silent then."""
        return bool(self._due)

    def next(self, most):
        """Return the hosts whose records to read next, a list."""
        return list(itertools.islice(self._due, most))

    def answered(self):
        """Forget the next host: there is an answer or an error."""
        self._due.popleft()

    def record_read(self, record, time):
        """Take the Record of a chosen host, None if there is none.

        :param time: now in ZooKeeper's time, seconds since 1970
        """
        if record is not None and record.gap and (
                time - record.gap[1] < self.recent):
            self._choose_all()

    def _choose_all(self):
        self._due += self._rest
        self._rest = []
