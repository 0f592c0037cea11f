# SPDX-License-Identifier: Apache-2.0

"""How often a keeper lists a directory, and which nodes' owners it checks."""

import itertools

from nova_servicegroup.keeper import names

#: seconds of pause after listing a directory, for each name in it: at 10,000
#: members there are two listings a second in the worst case
PAUSE_PER_NAME = 0.00005
#: seconds for which the largest number of names decides the pause
LATELY = 60
#: new nodes that are checked before they count as members
CHECKS = 200
#: checks per second of further nodes: a hundred readers of 10,000 members
#: must not send a million requests at once
CHECKS_PER_SECOND = 20


class Pace:
    """The pause between listings."""

    def __init__(self):
        self._most = 0
        self._until = None

    def pause(self, count, now):
        """Return the pause after a listing of ``count`` names, in seconds.

        Depends on the largest recent count: when all members restart, the
        directory is small for a while, but not to be listed more often.
        """
        if self._until is None or count >= self._most or now >= self._until:
            self._most = count
            self._until = now + LATELY
        return PAUSE_PER_NAME * self._most


class OwnerCheck:
    """Chooses the nodes whose owners to check.

    A node that no session owns, such as one from a restored backup, would be
    up for ever. But each check is a request, and thousands cost more than a
    listing. So a few new nodes are checked at once, before they count as
    members, and further ones at a limited rate. A node without an owner makes
    others likely: it lifts the limit.
    """

    def __init__(self):
        self.non_members = set()
        self._owned = set()
        self._unchecked = set()
        self._checks = CHECKS   # those allowed now
        self._counted_at = None

    def changed(self, joined, left):
        """Apply changes of a listing, two sets of names."""
        invalid = {name for name in joined if names.host(name) is None}
        for known in (self._owned, self._unchecked, self.non_members):
            known -= left
        self._unchecked |= joined - invalid
        self.non_members |= invalid

    def next(self, now, joined=frozenset()):
        """Return the names to check now, a set.

        :param joined: names of new nodes, which come before all others
        """
        due = self.due(now)
        chosen = set(itertools.islice(
            joined & self._unchecked, int(self._checks)))
        if due is not None and due <= now:
            others = (name for name in self._unchecked if name not in chosen)
            chosen.update(itertools.islice(
                others, max(0, int(self._checks) - len(chosen))))
        self._checks -= len(chosen)
        return chosen

    def checked(self, owned, non_members):
        """Take the results; nodes in neither set no longer exist."""
        self._owned |= owned
        self.non_members |= non_members
        self._unchecked -= owned | non_members
        if non_members:
            self._checks = CHECKS

    def due(self, now):
        """Return when to call ``next`` again, None for never."""
        if not self._unchecked:
            return None
        self._refill(now)
        wanted = min(len(self._unchecked), CHECKS_PER_SECOND)
        return now + max(0, wanted - self._checks) / CHECKS_PER_SECOND

    def _refill(self, now):
        if self._counted_at is not None:
            self._checks = min(CHECKS, self._checks + CHECKS_PER_SECOND * (
                now - self._counted_at))
        self._counted_at = now
