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

"""Up, down or unknown, and the one policy that makes it Nova's boolean.

Liveness is evidence with an age. A driver says what its evidence is worth;
``Policy.verdict`` is the only place that turns it into yes or no.
"""

import enum
import threading
import time
import typing

from oslo_log import log as logging

from nova_servicegroup import exception

LOG = logging.getLogger(__name__)

MASS_FAILURE_MINIMUM = 10
#: members nobody has asked about for so many service_down_times don't count
FORGET_AFTER = 10


class State(enum.Enum):
    UP = 'up'
    DOWN = 'down'
    UNKNOWN = 'unknown'


class Reason(enum.Enum):
    """Why a driver answers as it does. The text is for people."""

    HEARTBEAT = 'a heartbeat within service_down_time'
    PRESENT = 'its ephemeral node is there'
    STARTING = 'created within service_down_time, no heartbeat yet'
    SILENT = 'no heartbeat within service_down_time'
    GONE = 'its session ended'
    LEFT = 'it left'
    NEVER = 'it was never seen'
    OUTAGE = 'the store cannot be reached'
    UNREADABLE = 'what the store holds cannot be read'


#: reasons to say "down" that tell no more than that nothing was heard
SILENCES = frozenset([Reason.SILENT, Reason.UNREADABLE])


class Liveness(typing.NamedTuple):
    """A driver's answer.

    ``since``: aware UTC datetime of the evidence (the last heartbeat, the
    moment of the loss), or None when there is none.
    """

    state: State
    since: typing.Any
    reason: Reason


class _Group:
    """What the guard knows of the members of one group."""

    def __init__(self):
        self.up = {}       # host -> when last seen up
        self.silent = {}   # host -> (when found silent, when last asked about)
        self.doubted_since = None  # when its mass failure began
        self.swept_at = float('-inf')

    def knows(self, host):
        return host in self.up or host in self.silent

    def drop(self, host):
        self.up.pop(host, None)
        self.silent.pop(host, None)


class MassFailureGuard:
    """Doubts the verdict when half of a group falls silent at once.

    Not the hosts are suspected then but the way they report. Members count
    from the time they were seen up. A group's mass failure begins when more
    than the threshold of it was lost within one ``service_down_time`` and ends
    when enough of them are back, or gone for good. Safe from any thread.

    Asked about thousands of dead hosts in a row: none of them may cost a look
    at all the others.
    """

    def __init__(self, settings, monotonic=time.monotonic):
        self._settings = settings
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._groups = {}

    def alive(self, group, host):
        """Note that a member is up. Takes no lock unless it was silent."""
        known = self._known(group)
        known.up[host] = self._monotonic()
        if host in known.silent:
            with self._lock:
                known.silent.pop(host, None)
                self._review(group, known)

    def left(self, group, host):
        """Note that a member left, was seen to die or is forced down.

        That is not a silent loss.
        """
        known = self._known(group)
        if known.knows(host):
            with self._lock:
                known.drop(host)
                self._review(group, known)

    def doubted_for(self, group, host):
        """Note a silent member; tell for how long its group is in doubt.

        :returns: seconds since the mass failure began, or None when the
            silence of this member is to be believed
        """
        known = self._known(group)
        if not known.knows(host):
            # Dead for long, or never seen.
            return None
        with self._lock:
            now = self._monotonic()
            since, _ = known.silent.get(host, (now, None))
            known.silent[host] = since, now
            known.up.pop(host, None)
            self._review(group, known)
            if known.doubted_since is not None and host in known.silent:
                return now - known.doubted_since
        return None

    def _known(self, group):
        try:
            return self._groups[group]
        except KeyError:
            return self._groups.setdefault(group, _Group())

    def _review(self, group, known):
        now = self._monotonic()
        window = self._settings.service_down_time
        if known.doubted_since is None:
            # They stand in the order in which they fell silent.
            while known.silent:
                host, (since, _) = next(iter(known.silent.items()))
                if now - since <= window:
                    break
                del known.silent[host]
        if now - known.swept_at > window:
            known.swept_at = now
            self._sweep(known, now - FORGET_AFTER * window)
        silent = len(known.silent)
        total = silent + len(known.up)
        failing = (total >= MASS_FAILURE_MINIMUM and silent >
                   self._settings.mass_failure_threshold * total)
        if failing and known.doubted_since is None:
            known.doubted_since = now
            LOG.error('%(silent)d of %(total)d members of the group %(group)s '
                      'fell silent within %(window)s s. More likely it is '
                      'their way of reporting that failed than all of them: '
                      'they are held as up for %(grace)s s and unknown after '
                      'that. Force down the hosts that are known to be dead.',
                      {'silent': silent, 'total': total, 'group': group,
                       'window': window,
                       'grace': self._settings.outage_grace})
        elif not failing and known.doubted_since is not None:
            LOG.warning('The mass failure of the group %(group)s ended after '
                        '%(length).1f s; %(silent)d of %(total)d members are '
                        'still silent and are down.',
                        {'group': group, 'silent': silent, 'total': total,
                         'length': now - known.doubted_since})
            known.doubted_since = None

    @staticmethod
    def _sweep(known, oldest):
        """Drop whom nobody has asked about for long: decommissioned hosts."""
        for host, asked in known.up.copy().items():
            if asked < oldest:
                known.up.pop(host, None)
        for host, (_, asked) in list(known.silent.items()):
            if asked < oldest:
                del known.silent[host]


class Policy:
    """Turns a driver's answers into Nova's boolean.

    :param driver: the driver's name, for messages
    :param settings: a conf.Settings
    """

    def __init__(self, driver, settings, monotonic=time.monotonic):
        self.driver = driver
        self.settings = settings
        self.guard = MassFailureGuard(settings, monotonic)

    def verdict(self, group, host, answer):
        """Return whether Nova shall take the member for up. Never blocks.

        :param answer: a Liveness
        :raises ServiceGroupUnavailable: nobody can tell, and
            ``[servicegroup] outage_policy`` is ``raise``
        """
        if answer.state is State.UP:
            self.guard.alive(group, host)
            return True
        if answer.state is State.DOWN:
            if answer.reason not in SILENCES:
                self.guard.left(group, host)
                return False
            doubted_for = self.guard.doubted_for(group, host)
            if doubted_for is None:
                return False
            if doubted_for <= self.settings.outage_grace:
                return True
        return self._unknown(group, host, answer)

    def _unknown(self, group, host, answer):
        if self.settings.outage_policy == 'raise':
            raise exception.ServiceGroupUnavailable(
                self.driver, 'cannot tell whether %s of the group %s is up: '
                '%s' % (host, group, answer.reason.value))
        return self.settings.outage_policy == 'up'
