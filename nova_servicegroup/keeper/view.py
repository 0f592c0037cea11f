# SPDX-License-Identifier: Apache-2.0

"""How often a keeper lists a directory, and which nodes it looks at."""

import itertools

from nova_servicegroup.keeper import names

#: seconds of pause after listing a directory, for each name in it: at 10,000
#: members there are two listings a second in the worst case
PAUSE_PER_NAME = 0.00005
#: seconds for which a directory counts as large as it was
LATELY = 60
#: new nodes that are looked at before they are believed in
LOOKS = 200
#: nodes a second that are looked at when there were more: a hundred readers
#: of 10,000 members shall not ask a million questions at once
LOOKS_PER_SECOND = 20


class Pace:
    """How long to wait between listings."""

    def __init__(self):
        self._most = 0
        self._until = None

    def pause(self, count, now):
        """Return the seconds to wait after a listing of so many names.

        When all members restart the directory is small for a while, and would
        be listed all the more often.
        """
        if self._until is None or count >= self._most or now >= self._until:
            self._most = count
            self._until = now + LATELY
        return PAUSE_PER_NAME * self._most


class OwnerCheck:
    """Which names of a listing are to be looked at: who owns the node?

    A node that no session owns is somebody's leftover, a restored backup for
    one, and would be "up" for ever. But each look is a request, and dearer
    than a listing when there are thousands. So a few new names are looked at
    at once, before they are believed in, and the rest of many bit by bit.
    Where one leftover is found there are more: then it goes faster.
    """

    def __init__(self):
        self.non_members = set()
        self._owned = set()
        self._unsure = set()
        self._looks = LOOKS
        self._counted_at = None

    def changed(self, joined, left):
        """Take what has changed of a listing, two sets of names."""
        odd = {name for name in joined if names.host(name) is None}
        for some in (self._owned, self._unsure, self.non_members):
            some -= left
        self._unsure |= joined - odd
        self.non_members |= odd

    def next(self, now):
        """Return the names to look at now, a list."""
        self._earn(now)
        chosen = list(itertools.islice(self._unsure, int(self._looks)))
        self._looks -= len(chosen)
        return chosen

    def looked(self, owned, non_members):
        """Take what was seen of names; those in neither set have gone."""
        self._owned |= owned
        self.non_members |= non_members
        self._unsure -= owned | non_members
        if non_members:
            self._looks = LOOKS

    def due(self, now):
        """Return when to ask for the next names, None for never."""
        if not self._unsure:
            return None
        self._earn(now)
        wanted = min(len(self._unsure), LOOKS_PER_SECOND)
        return now + max(0, wanted - self._looks) / LOOKS_PER_SECOND

    def _earn(self, now):
        if self._counted_at is not None:
            self._looks = min(LOOKS, self._looks + LOOKS_PER_SECOND * (
                now - self._counted_at))
        self._counted_at = now
