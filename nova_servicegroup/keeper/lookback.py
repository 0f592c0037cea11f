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

"""Whose records to read to learn who came back before this reader looked.

Whether a silent member may still come back depends on how many fell silent
with it and are back. A reader that started since, or was cut off itself, finds
these among the living, and only their records tell.
"""

import random

#: seconds for which it is of interest that somebody came back
RECENT = 3600
#: records that show whether anybody came back: of those that one in twenty
#: would have to be found in, this many miss it once in 28,000 times
SAMPLE = 200


class LookBack:
    """Reads a sample of the records, and all if one was silent lately.

    To read ten thousand records costs a server as much as to let a thousand
    members join, and in most cases one host was lost and nobody else.
    """

    def __init__(self):
        self._begun = False
        self._due = []
        self._rest = []

    def again(self):
        """Forget it all: something may have happened unseen."""
        self.__init__()

    def begin(self, hosts):
        """Somebody is silent; ``hosts`` is the list of the living."""
        if not self._begun:
            self._begun = True
            random.shuffle(hosts)
            self._due, self._rest = hosts[:SAMPLE], hosts[SAMPLE:]

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
            self._due += self._rest
            self._rest = []
