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


class Liveness(typing.NamedTuple):
    """A driver's answer.

    ``since``: aware UTC datetime of the evidence (the last heartbeat, the
    moment of the loss), or None when there is none.
    """

    state: State
    since: typing.Any
    reason: Reason


class MassFailureGuard:
    """Doubts the verdict when half of a group falls silent at once.

    Not the hosts are suspected then but the way they report. Members count
    from the time they were seen up. A group's episode begins when more than
    the threshold of it was lost within one ``service_down_time`` and ends
    when enough of them are back. Safe from any thread.
    """

    def __init__(self, settings, monotonic=time.monotonic):
        self._settings = settings
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._up = {}        # group -> {host: when last seen up}
        self._silent = {}    # group -> {host: when found silent}
        self._episodes = {}  # group -> when it began

    def alive(self, group, host):
        """Note that a member is up. Takes no lock unless it was silent."""
        try:
            self._up[group][host] = self._monotonic()
        except KeyError:
            with self._lock:
                self._up.setdefault(group, {})[host] = self._monotonic()
        if host in self._silent.get(group, ()):
            with self._lock:
                self._silent[group].pop(host, None)
                self._review(group)

    def left(self, group, host):
        """Note that a member left or was seen to die: not a silent loss."""
        with self._lock:
            self._up.get(group, {}).pop(host, None)
            self._silent.get(group, {}).pop(host, None)
            self._review(group)

    def doubted_for(self, group, host):
        """Note a silent member; tell for how long its group is in doubt.

        :returns: seconds since the mass failure began, or None when the
            silence of this member is to be believed
        """
        with self._lock:
            silent = self._silent.setdefault(group, {})
            if self._up.get(group, {}).pop(host, None) is not None:
                silent[host] = self._monotonic()
            self._review(group)
            if group in self._episodes and host in silent:
                return self._monotonic() - self._episodes[group]
        return None

    def _review(self, group):
        silent = self._silent.get(group, {})
        now = self._monotonic()
        window = self._settings.service_down_time
        if group not in self._episodes:
            for host in [h for h, t in silent.items() if now - t > window]:
                del silent[host]
        # A host that nobody has asked about for long may be decommissioned.
        up = sum(1 for t in list(self._up.get(group, {}).values())
                 if now - t <= 10 * window)
        total = up + len(silent)
        failing = (total >= MASS_FAILURE_MINIMUM and len(silent) >
                   self._settings.mass_failure_threshold * total)
        if failing and group not in self._episodes:
            self._episodes[group] = now
            LOG.error('%(silent)d of %(total)d members of the group %(group)s '
                      'fell silent within %(window)s s. More likely it is '
                      'their way of reporting that failed than all of them: '
                      'they are held as up for %(grace)s s and unknown after '
                      'that. Force down the hosts that are known to be dead.',
                      {'silent': len(silent), 'total': total, 'group': group,
                       'window': window,
                       'grace': self._settings.outage_grace})
        elif not failing and group in self._episodes:
            LOG.warning('The mass failure of the group %(group)s ended after '
                        '%(length).1f s; %(silent)d of %(total)d members are '
                        'still silent and are down.',
                        {'group': group, 'silent': len(silent),
                         'total': total,
                         'length': now - self._episodes.pop(group)})


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
            if answer.reason is not Reason.SILENT:
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
