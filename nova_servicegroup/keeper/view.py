# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""What a keeper believes of one directory."""


class View:
    """The members of a directory, as far as listings are to be believed.

    After the connection was away, a member that a listing lacks need not be
    dead: when the whole ensemble was away or was wiped, living members come
    back one after the other. Until they had their time, whoever was believed
    in before and hasn't been seen since is held. A member that was seen after
    the outage and then goes is gone.

    :param known: names believed in before this keeper began
    """

    def __init__(self, known=()):
        self.members = frozenset(known)
        self._unseen = self.members
        self._hold_until = None

    def reconnected(self, hold_until):
        """Begin to hold who is believed in. A monotonic time, seconds."""
        self._unseen = self.members
        self._hold_until = hold_until

    def listed(self, names, now):
        """Take a listing; return the names that are now believed in."""
        names = frozenset(names)
        self._unseen -= names
        if self._hold_until is not None and now >= self._hold_until:
            self._unseen = frozenset()
        if not self._unseen:
            self._hold_until = None
        self.members = names | self._unseen
        return self.members

    @property
    def review_at(self):
        """When to list again because somebody is held, or None."""
        return self._hold_until
