# SPDX-License-Identifier: Apache-2.0

"""Heartbeats in Nova's services table.

Every ``report_interval`` seconds a service saves its record with a higher
``report_count``; Nova's database layer then sets ``last_seen_up``. A service
is up while that time, or its creation, is at most ``service_down_time``
seconds away. This driver and Nova's in-tree driver read each other's
heartbeats, so a deployment may mix the two.

For the operator:

* A dead host is down ``service_down_time - report_interval`` to
  ``service_down_time`` seconds after its death. A service that is stopped
  gracefully gets no new instances from then on; it is down after
  ``restart_grace``.
* nova-compute reports through RabbitMQ and a conductor. If many computes are
  silent at once, one of these has probably failed, so the computes are
  unknown, not down: see ``[servicegroup] mass_failure_threshold``. Each cell
  is judged from its own table. ``report_count`` carries the data for it, see
  the module of that name. Nova's in-tree driver doesn't write these, so its
  computes may be down for a while if they come back late after an outage.
* The conductor's clock sets the time; the clocks of API and scheduler are
  compared with it: synchronize these. The compute's own clock matters only at
  its start.
* Every service costs a message and an UPDATE per interval.
"""

from oslo_db import exception as db_exc
from oslo_log import log as logging
import oslo_messaging as messaging

from nova_servicegroup.drivers import base
from nova_servicegroup.drivers import common
from nova_servicegroup.integration import bounded_rpc
from nova_servicegroup.integration import report_count
from nova_servicegroup.integration import service_records
from nova_servicegroup import liveness
from nova_servicegroup.liveness import Reason
from nova_servicegroup import records

LOG = logging.getLogger(__name__)

_HEARTBEAT = records.Reader('last_seen_up', 'report_count')


class DbDriver(common.Driver):
    """See the module's text."""

    name = 'db'
    promises = frozenset([base.Promise.SEES_LEAVE,
                          base.Promise.IN_TREE_FORMAT,
                          base.Promise.SEES_STOP,
                          base.Promise.LOCAL_READS])

    def publish(self, heartbeat):
        record = heartbeat.service.service_ref
        now = self.monotonic()
        counter = self._counters.get(heartbeat)
        if counter is None:
            counter = self._counters[heartbeat] = report_count.Counter(
                record.report_count, self._silent_for(record),
                self._late_after, now)
        self._save(record, counter.heartbeat(now), heartbeat.interval * 0.9)
        counter.stored(now)

    def withdraw(self, heartbeat, end, timeout):
        counter = self._counters.pop(heartbeat, None)
        if counter is not None:
            self._save(heartbeat.service.service_ref, counter.last(end),
                       timeout)

    @staticmethod
    def _save(record, count, timeout):
        bounded_rpc.limit(record, timeout)
        # Nova's database layer sets last_seen_up only if this grows (Nova
        # commit b9bae02af2): enabling a dead host must not make it up.
        record.report_count = count
        record.save()

    @property
    def _counters(self):
        return self.shared('counters', dict)

    @property
    def _late_after(self):
        return self.settings.service_down_time * 2 / 3

    def _silent_for(self, record):
        last = records.as_aware(record.last_seen_up)
        return None if last is None else self.now() - last.timestamp()

    def surely_up(self, record):
        try:
            last, count = _HEARTBEAT[type(record)](record)
            if last.tzinfo is None:
                last = last.replace(tzinfo=records.UTC)
            age = self.now() - last.timestamp()
            return (abs(age) <= self.settings.service_down_time
                    and not report_count.is_last(count)
                    and not self.groups.doubted)
        except Exception:
            # A column is missing, or a time has another form.
            return False

    def observe(self, record):
        last_seen_up = record.get('last_seen_up', None)
        return self._member(
            record.get('host', None), last_seen_up,
            None if last_seen_up else record.get('created_at', None),
            _count_of(record), self.now())

    def _member(self, host, last_seen_up, created_at, count, now):
        try:
            seen_at = records.as_aware(last_seen_up or created_at)
        except ValueError:
            return liveness.Member(host, None, doubt=Reason.UNREADABLE)
        if seen_at is None:
            return liveness.Member(host, None, reason=Reason.NEVER)
        last = seen_at.timestamp()
        end, gap = report_count.decode(count, last)
        # A heartbeat from the future is as wrong as an old one (bug 867674).
        alive = abs(now - last) <= self.settings.service_down_time
        if last_seen_up:
            reason = Reason.HEARTBEAT if alive else Reason.SILENT
        else:
            reason = Reason.STARTING if alive else Reason.NEVER
        return liveness.Member(host, last, alive, end, gap, reason=reason,
                               seen_at=seen_at)

    def load_group(self, record):
        now = self.now()
        return liveness.Group(
            [self._member(row.host, row.last_seen_up, row.created_at,
                          row.report_count, now)
             for row in self.list_heartbeats(record, record['topic'])],
            self._late_after)

    def now(self):
        return self.wall()

    cell_of = staticmethod(service_records.cell_of)
    list_heartbeats = staticmethod(service_records.heartbeats)

    def recorded_time(self, record):
        # As in the record, like in-tree.
        return record['updated_at']

    def witness(self, member):
        if member.end is not None:
            return 'the service itself, in its last heartbeat'
        if member.reason in (Reason.STARTING, Reason.NEVER):
            return 'Nova\'s database, where it was created then'
        return 'nova-conductor, which stamped last_seen_up in the database'

    def details(self, record):
        return {'report_count': _count_of(record)}

    def classify_error(self, error, heartbeat):
        record = heartbeat.service.service_ref
        kind = _kind_of(error)
        if kind == 'ServiceNotFound':
            return base.Failure(
                logging.ERROR,
                'The services table record for the %s service on host %s is '
                'gone. It was deleted while the service runs: stop the '
                'service if that was meant, restart it to make a new record.'
                % (record.binary, record.host), persistent=True)
        if isinstance(error, db_exc.DBError) or kind.startswith('DB'):
            return base.Failure(
                logging.ERROR,
                'Unexpected error while reporting service status: the '
                'database refused the heartbeat of the %s service on host '
                '%s; trying again every %s s. (%s: %s)'
                % (record.binary, record.host, heartbeat.interval, kind,
                   error))
        if _is_of_the_bus(error):
            return base.Failure(
                logging.WARNING,
                'Lost connection to nova-conductor for reporting service '
                'status. The %s service on host %s tries again every %s s; '
                'check the message bus and nova-conductor. (%s: %s)'
                % (record.binary, record.host, heartbeat.interval, kind,
                   error))
        return super().classify_error(error, heartbeat)


def _count_of(record):
    """Return a record's report_count, None if it was not read."""
    try:
        return record.get('report_count', None)
    except Exception:
        return None


def _kind_of(error):
    """Return the name of an exception's class, or of the remote one's."""
    if isinstance(error, messaging.RemoteError):
        return error.exc_type or 'RemoteError'
    # oslo.messaging names a rebuilt exception <class>_Remote.
    return type(error).__name__.removesuffix('_Remote')


def _is_of_the_bus(error):
    """Return whether no conductor got or answered the message."""
    if isinstance(error, messaging.RemoteError):
        return False
    # oslo.messaging passes on its library's exceptions while it connects.
    return (isinstance(error, messaging.MessagingException)
            or type(error).__module__.partition('.')[0] in ('kombu', 'amqp'))
