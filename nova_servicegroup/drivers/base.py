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

A driver says where signs of life are written (``publish``, ``withdraw``) and
what it finds there (``observe``, ``load_group``). When it is written, what
happens when that fails, and what Nova is told is decided once for all
drivers: here and in ``liveness``.
"""

import abc
import datetime
import enum
import functools
import random
import threading
import time
import typing

from oslo_config import cfg
from oslo_log import log as logging
from oslo_utils import timeutils

from nova_servicegroup import conf as sg_conf
from nova_servicegroup import exception
from nova_servicegroup import groups
from nova_servicegroup.integration import service_records
from nova_servicegroup import liveness
from nova_servicegroup import per_process
from nova_servicegroup import records

LOG = logging.getLogger(__name__)

#: seconds that a service may take to leave, with all of its drivers together
LEAVE_TIMEOUT = 2.0
UTC = datetime.timezone.utc
#: the group whose members are evacuated, so that its silence is doubted
GUARDED = 'compute'
#: reads (topic, host) of a record
KEY = records.Reader('topic', 'host')


class Promise(enum.Enum):
    """What a driver may promise. The contract suite holds it to its word."""

    SEES_LEAVE = 'A member that leaves is down for every reader at once.'
    SEES_STOP = 'A service that is stopped gets no new instances at once.'
    SEES_KILL = 'One whose process is killed gets none within a second.'
    KNOWS_OUTAGE = 'A store that cannot be asked is "unknown", never "down".'
    PLACES_IN_DOUBT = 'Commands reach a host whose heartbeats do not arrive.'
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
    recovered_text = 'Recovered from being unable to report status.'

    def __init__(self, *args, conf=None, monotonic=None, utcnow=None,
                 jitter=None, inventory=None, store=None, **kwargs):
        self.conf = cfg.CONF if conf is None else conf
        self.settings = sg_conf.settings(self.conf)
        # Looked up now and not at import: eventlet may have patched since.
        self.monotonic = monotonic or time.monotonic
        self.utcnow = utcnow or timeutils.utcnow
        # The same clock in seconds since 1970, at a fifth of the time.
        self.wall = functools.partial(
            timeutils.utcnow_ts, microsecond=True) if utcnow is None else (
                lambda: utcnow().replace(tzinfo=UTC).timestamp())
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
    def withdraw(self, membership, end, timeout):
        """Write that this process ends, within so many seconds. May raise.

        :param end: liveness.End.STOPPED when the service stops, LEFT when the
            operator takes the member out
        """

    @abc.abstractmethod
    def observe(self, record):
        """Return the liveness.Member of a service record.

        Logs nothing of the living and, but for a bounded first read, never
        blocks.

        :raises ServiceGroupUnavailable: the store can't be asked
        """

    @abc.abstractmethod
    def load_group(self, record):
        """Return the liveness.Group that the service of a record is in.

        Called when the service seems to be lost, once a second at most.

        :raises ServiceGroupUnavailable: the store can't be asked
        """

    @abc.abstractmethod
    def now(self):
        """Return the time on the clock of this driver's evidence, seconds."""

    @abc.abstractmethod
    def recorded_time(self, record):
        """Return when the service was last known to be well, or None."""

    def witness(self, member):
        """Return who saw the last evidence of a liveness.Member, for people.

        Does no I/O.
        """
        return 'the %s driver' % self.name

    def details(self, record):
        """Return what else the store holds of a service, for people.

        May block for a few seconds.

        :returns: dict, names to values that JSON can express
        """
        return {}

    def explain(self, error, membership):
        """Return the Failure to log for an exception that publish raised."""
        return Failure(logging.ERROR,
                       'Unexpected error while reporting service status', True)

    def verdict(self, record, guarded=True):
        """Return the liveness.Verdict on the service of a record.

        :param guarded: doubt it if much of its group is silent, too
        """
        topic = record.get('topic', None)
        # Nobody evacuates the others (conductors, schedulers).
        guarded = guarded and topic == GUARDED
        rules = self.settings.rules
        key = None

        def load():
            return self.load_group(record)

        def group():
            nonlocal key
            key = topic, self.cell_of(record)
            return self.groups.get(key, load)

        try:
            verdict = liveness.judge(
                self.observe(record), group if guarded else None, self.now(),
                rules)
        except exception.InvalidMember:
            # A record that nobody reports for.
            verdict = liveness.Verdict(liveness.State.DOWN,
                                       liveness.Reason.NEVER)
        except exception.ServiceGroupUnavailable as e:
            LOG.debug('Cannot tell whether a service is up: %s', e)
            verdict = liveness.Verdict(liveness.State.UNKNOWN,
                                       liveness.Reason.OUTAGE)
        if verdict.state is liveness.State.UNKNOWN:
            self.groups.note(key, verdict)
        elif verdict.state is not liveness.State.UP:
            LOG.debug('Seems service %(binary)s on host %(host)s is down. '
                      'Last heartbeat was %(seen_at)s: %(reason)s.',
                      {'binary': record.get('binary', None),
                       'host': record.get('host', None),
                       'seen_at': verdict.seen_at,
                       'reason': verdict.reason.value})
        if guarded and self.groups.doubted:
            self._review(record, load)
        return verdict

    def _review(self, record, load):
        try:
            self.groups.review((GUARDED, self.cell_of(record)), load,
                               self.now(), self.settings.rules)
        except exception.ServiceGroupUnavailable:
            # Then it hasn't ended.
            pass

    def answer(self, record, question, policy=None):
        """Return True, False or None; see ``liveness.answer``.

        :param policy: by default that of ``[servicegroup] outage_policy``
        """
        if self.surely_up(record):
            return True
        policy = policy or self.settings.outage_policy
        if (question is liveness.Question.MAY_PLACE and policy == 'safe'
                and Promise.PLACES_IN_DOUBT not in self.promises):
            # Who is silent is no candidate, whatever the others do.
            verdict = self.verdict(record, guarded=False)
            return verdict.state is liveness.State.UP
        return liveness.answer(self.verdict(record), question, policy)

    def surely_up(self, record):
        """Return whether it is plain to see that the verdict is UP.

        The short way of a thousand questions in a row. False says nothing: it
        sends whoever asks the long way, and has to be said of everybody while
        a group is in doubt, since the long way finds the end of that. Never
        blocks, logs or raises.
        """
        return False

    def is_up(self, record):
        """Return whether Nova may not act as if the host were gone."""
        return self.surely_up(record) or self.answer(
            record, liveness.Question.IS_GONE)

    def updated_time(self, record):
        """Return what agrees with ``is_up``; see ``API.get_updated_time``."""
        if self.surely_up(record):
            return self.recorded_time(record)
        verdict = self.verdict(record)
        if verdict.state is not liveness.State.UP and liveness.answer(
                verdict, liveness.Question.IS_GONE,
                self.settings.outage_policy):
            # Tools that judge by age (InstanceHA) must see what Nova is told.
            return as_aware(self.utcnow().replace(microsecond=0))
        return self.recorded_time(record)

    @staticmethod
    def cell_of(record):
        """Return what tells apart the cells of a store that each cell has."""
        return None

    @property
    def groups(self):
        """The Groups of this process, for this driver and configuration."""
        return self.shared('groups', self._make_groups)

    def _make_groups(self):
        return groups.Groups(self.name, self.monotonic)

    def join(self, member, group, service=None):
        """See ``API.join``."""
        for value, what in ((member, 'member (a host name)'),
                            (group, 'group (a topic)'),
                            (service, 'service')):
            if not value:
                raise exception.InvalidMember(
                    'The %s driver cannot join the member %r to the group %r: '
                    'the %s is missing.' % (self.name, member, group, what))
        if not service.report_interval:
            # As in-tree; API refuses such a configuration.
            return
        membership = Membership(self, member, group, service)
        self._memberships[member, group] = membership
        membership.start()

    def leave(self, member, group):
        """See ``API.leave``."""
        membership = self._memberships.pop((member, group), None)
        if membership is not None:
            membership.leave(liveness.End.LEFT)

    def shared(self, kind, make):
        """Return this process's object of a kind for this driver and conf."""
        return per_process.get((self.name, kind, id(self.conf)), make)

    @property
    def _memberships(self):
        return self.shared('memberships', dict)

    @staticmethod
    def key(member):
        """Return (topic, host) of a service record.

        :raises InvalidMember: one of them is missing
        """
        group, host = member['topic'], member['host']
        if not (group and host and isinstance(group, str)
                and isinstance(host, str)):
            raise exception.InvalidMember(
                'The service record of %r has the host %r and the topic %r, '
                'so nothing can be known of it. nova-osapi_compute and '
                'nova-metadata never report: leave their records out.' % (
                    member.get('binary'), host, group))
        return group, host


def as_aware(moment):
    """Return a time of a service record as an aware datetime in UTC.

    Records hold aware times, rows naive ones in UTC, what came over RPC may
    be a string, and None is none.

    :raises ValueError: it is no time
    """
    if isinstance(moment, str):
        moment = timeutils.parse_isotime(moment)
    if moment is None:
        return None
    if not isinstance(moment, datetime.datetime):
        raise ValueError('%.100r is no time' % (moment,))
    if moment.tzinfo is UTC:
        return moment
    if moment.tzinfo is None:
        return moment.replace(tzinfo=UTC)
    try:
        return moment.astimezone(UTC)
    except OverflowError as e:
        raise ValueError('%s is no time in UTC' % moment) from e


def changed_at(record):
    """Return when a service record was changed last, aware, in UTC.

    None when it doesn't say so, or nothing that can be read.
    """
    try:
        return as_aware(record['updated_at'])
    except ValueError:
        return None


def _list_services(group):
    return service_records.list_services(group)


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
        self._leaves_on_stop = driver.conf.servicegroup.leave_on_stop
        self._end = None
        self._left = False
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
            self.leave(liveness.End.STOPPED if self._leaves_on_stop else None)

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

    def leave(self, end):
        """End the heartbeat; raises nothing.

        Blocks for this driver's part of LEAVE_TIMEOUT at most.

        :param end: the liveness.End to write, None to write nothing
        """
        if not self._leaving.acquire(blocking=False):
            return
        # First: a heartbeat in flight writes it again when it lands.
        self._end = end
        self._left = True
        self._idle.wait(self._leave_timeout / 2)
        self._withdraw()
        LOG.info('Left the %(group)s group as %(member)s.',
                 {'group': self.group, 'member': self.member})

    @property
    def _leave_timeout(self):
        return LEAVE_TIMEOUT / len(self._all)

    def _withdraw(self):
        if self._end is None:
            return
        try:
            self.driver.withdraw(self, self._end, self._leave_timeout / 2)
        except Exception:
            LOG.warning('Could not take back the membership of %(member)s in '
                        'the %(group)s group; it runs out by itself.',
                        {'member': self.member, 'group': self.group},
                        exc_info=True)
