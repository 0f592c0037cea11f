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

"""The contract of a driver, and all that drivers have in common.

A driver says where evidence of life is written (``publish``, ``withdraw``)
and what the evidence is worth (``liveness``, ``updated_time``). When it is
written, what happens when that fails, and how an answer becomes Nova's
boolean is decided here, once for all.
"""

import abc
import datetime
import enum
import random
import threading
import time
import typing

from oslo_config import cfg
from oslo_log import log as logging
from oslo_utils import timeutils

from nova_servicegroup import conf as sg_conf
from nova_servicegroup import exception
from nova_servicegroup import inventory
from nova_servicegroup import liveness
from nova_servicegroup import shared

LOG = logging.getLogger(__name__)

#: seconds that a service may take to leave, with all of its drivers together
LEAVE_TIMEOUT = 2.0
_UTC = datetime.timezone.utc


class Promise(enum.Enum):
    """What a driver may promise. The contract suite holds it to its word."""

    SEES_LEAVE = 'A member that leaves is down for every reader at once.'
    SEES_KILL = 'A member whose process is killed is down within a second.'
    KNOWS_OUTAGE = 'A store that cannot be asked is "unknown", never "down".'
    READER_CLOCK = "Once seen, a member is judged by the reader's clock alone."
    LOCAL_READS = 'A question costs no I/O once the view has been filled.'
    IN_TREE_FORMAT = "Nova's in-tree driver reads what it writes, and back."


class Failure(typing.NamedTuple):
    """How a failed beat is told to the operator.

    ``lasting``: it won't heal by itself, so it is told even when it follows
    another failure.
    """

    level: int
    text: str
    traceback: bool = False
    lasting: bool = False


class Driver(abc.ABC):
    """A way to say "I am alive" and to see who said so.

    Making one opens nothing, starts nothing and logs nothing. All methods
    may be called from any thread or green thread.

    :param conf: the configuration, by default Nova's
    :param monotonic: clock for ages, seconds as float
    :param utcnow: wall clock, naive UTC datetime
    :param jitter: ``jitter(low, high)`` gives a float between, seconds
    :param inventory: ``inventory(group)`` gives Nova's service records
    :param store: the client of the store, where the driver has one
    """

    #: set of Promise
    promises = frozenset()
    #: what [servicegroup] leave_on_stop is when it isn't set
    leaves_on_stop = True
    recovered_text = 'Recovered from being unable to report status.'

    def __init__(self, *args, conf=None, monotonic=None, utcnow=None,
                 jitter=None, inventory=None, store=None, **kwargs):
        self.conf = cfg.CONF if conf is None else conf
        self.settings = sg_conf.settings(self.conf)
        # Looked up now and not at import: eventlet may have patched since.
        self.monotonic = monotonic or time.monotonic
        self.utcnow = utcnow or timeutils.utcnow
        self.jitter = jitter or random.uniform
        self.list_services = inventory or _list_services
        self.store = store

    @property
    @abc.abstractmethod
    def name(self):
        """The value of ``servicegroup_driver`` that chooses this driver."""

    @abc.abstractmethod
    def publish(self, membership):
        """Write the evidence that this member lives; raise if it isn't stored.

        Blocks for less than ``membership.interval`` seconds.
        """

    @abc.abstractmethod
    def withdraw(self, membership, timeout):
        """Take this process's evidence back, within so many seconds.

        May raise.
        """

    @abc.abstractmethod
    def liveness(self, member):
        """Return a Liveness for a service record.

        Logs nothing of the living and, but for a bounded first read, never
        blocks.
        """

    @abc.abstractmethod
    def updated_time(self, member):
        """Return the aware UTC datetime of the last evidence, or None."""

    def explain(self, error, membership):
        """Return the Failure to log for an exception that publish raised."""
        return Failure(logging.ERROR,
                       'Unexpected error while reporting service status', True)

    def is_up(self, member):
        """Return whether the member is up; see ``Policy.verdict``."""
        group, host = self.key(member)
        return self.policy.verdict(group, host, self.liveness(member))

    def join(self, member, group, service=None):
        """See ``API.join``."""
        for value, what in ((member, 'member (a host name)'),
                            (group, 'group (a topic)'),
                            (service, 'service')):
            if not value:
                raise exception.InvalidMember(
                    'The %s driver cannot join the member %r to the group %r: '
                    'the %s is missing.' % (self.name, member, group, what))
        interval = service.report_interval
        if not interval or interval < 0:
            raise exception.ConfigurationError(
                'The service %s on %s has the report interval %r, so it would '
                'never report and be down for ever: set [DEFAULT] '
                'report_interval to at least 1 second.'
                % (group, member, interval))
        membership = Membership(self, member, group, service)
        self._memberships[member, group] = membership
        membership.start()

    def leave(self, member, group):
        """See ``API.leave``."""
        membership = self._memberships.pop((member, group), None)
        if membership is not None:
            membership.leave(withdraw=True)

    def note_forced_down(self, member):
        """Take in that the operator calls a member down. Asks nobody."""
        self.policy.guard.left(member.get('topic'), member.get('host'))

    @property
    def policy(self):
        """The Policy of this process, of this driver and configuration."""
        return self.shared('policy', self._make_policy)

    def _make_policy(self):
        return liveness.Policy(self.name, self.settings, self.monotonic)

    def shared(self, kind, make):
        """Return this process's object of a kind for this driver and conf."""
        return shared.get((self.name, kind, id(self.conf)), make)

    @property
    def _memberships(self):
        return self.shared('memberships', dict)

    @staticmethod
    def key(member):
        """Return (topic, host) of a service record.

        :raises InvalidMember: one of them is missing
        """
        group, host = member['topic'], member['host']
        if not group or not host:
            raise exception.InvalidMember(
                'The service record %s has no %s, so nothing can be known of '
                'it. nova-osapi_compute and nova-metadata never report: leave '
                'their records out.' % (
                    member.get('binary'), 'host' if group else 'topic'))
        return group, host


def as_aware(moment):
    """Return a time of a service record as an aware datetime in UTC.

    Records hold aware times, rows naive ones in UTC, what came over RPC may
    be a string, and None is none.

    :raises ValueError: a string that is no time
    """
    if isinstance(moment, str):
        moment = timeutils.parse_isotime(moment)
    if moment is None or moment.tzinfo is _UTC:
        return moment
    if moment.tzinfo is None:
        return moment.replace(tzinfo=_UTC)
    return moment.astimezone(_UTC)


def _list_services(group):
    return inventory.list_services(group)


class Membership:
    """One member of one group, and the heartbeat that keeps it one.

    ``beat`` runs in the service's timer and may meet ``leave`` in another
    thread: whoever comes last, the evidence is gone after a leave.
    """

    def __init__(self, driver, member, group, service):
        self.driver = driver
        self.member = member
        self.group = group
        self.service = service
        self.interval = service.report_interval
        on_stop = driver.conf.servicegroup.leave_on_stop
        self._leaves_on_stop = (driver.leaves_on_stop if on_stop is None
                                else on_stop)
        self._left = False
        self._withdraws = True
        self._leaving = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        self._lost_at = None
        self._told_lasting = False
        # With also_report a service has one for each driver. They are kept
        # on the service: Nova's would ask its manager for an attribute that
        # it hasn't.
        self._all = vars(service).setdefault('servicegroup_memberships', [])

    def start(self):
        """Publish at once and again every interval, as long as it serves."""
        self._all[:] = [one for one in self._all if not one._left] + [self]
        self.beat()
        pulse = self.service.tg.add_timer_args(
            self.interval, self.beat,
            # A thousand services that start together shall not beat together.
            initial_delay=self.driver.jitter(0, self.interval),
            # An exception would end the timer for good (Nova 49b0d1741c).
            stop_on_exception=False)
        self._leave_when_stopped(pulse)

    def _leave_when_stopped(self, pulse):
        # The timer's stop is the one hook that runs in the process that
        # joined, and only there, with and without workers, in both modes.
        stop = pulse.stop

        def stop_and_leave(*args, **kwargs):
            stop(*args, **kwargs)
            self.leave(withdraw=self._leaves_on_stop)

        pulse.stop = stop_and_leave

    def beat(self):
        """Publish once. Raises nothing; logs a loss and its end once each."""
        if self._left:
            return
        self._idle.clear()
        try:
            self.driver.publish(self)
        except Exception as error:
            self._lost(error)
        else:
            self._recovered()
        finally:
            self._idle.set()
        if self._left:
            self._withdraw()

    def _lost(self, error):
        failure = self.driver.explain(error, self)
        if self._lost_at is not None and (
                self._told_lasting or not failure.lasting):
            LOG.debug('Still unable to report status: %s', error)
        else:
            LOG.log(failure.level, failure.text, exc_info=failure.traceback)
            self._told_lasting = failure.lasting
        if self._lost_at is None:
            self._lost_at = self.driver.monotonic()
        self._set_flag()

    def _recovered(self):
        if self._lost_at is not None:
            LOG.info('%(text)s The outage lasted %(length).1f s.',
                     {'text': self.driver.recovered_text,
                      'length': self.driver.monotonic() - self._lost_at})
            self._lost_at = None
            self._told_lasting = False
        self._set_flag()

    def _set_flag(self):
        # Nova's drivers keep the same flag on the service.
        self.service.model_disconnected = any(
            one._lost_at is not None for one in self._all)

    def leave(self, withdraw):
        """End the heartbeat; raises nothing.

        Blocks for this driver's part of LEAVE_TIMEOUT at most.

        :param withdraw: take the evidence back, or let it run out
        """
        if not self._leaving.acquire(blocking=False):
            return
        # Before a beat in flight can see that it has to withdraw.
        self._withdraws = withdraw
        self._left = True
        self._idle.wait(self._leave_timeout / 2)
        self._withdraw()
        LOG.info('Left the %(group)s group as %(member)s.',
                 {'group': self.group, 'member': self.member})

    @property
    def _leave_timeout(self):
        return LEAVE_TIMEOUT / len(self._all)

    def _withdraw(self):
        if not self._withdraws:
            return
        try:
            self.driver.withdraw(self, self._leave_timeout / 2)
        except Exception:
            LOG.warning('Could not take back the membership of %(member)s in '
                        'the %(group)s group; it runs out by itself.',
                        {'member': self.member, 'group': self.group},
                        exc_info=True)
