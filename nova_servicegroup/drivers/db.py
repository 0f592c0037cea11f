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

"""Heartbeats in Nova's own services table.

Every ``report_interval`` seconds a service saves its record with a higher
``report_count``; Nova's database layer then stamps ``last_seen_up``. A service
is up while that stamp, or its creation, is at most ``service_down_time``
seconds away. Both sides are exactly what Nova's in-tree driver writes and
reads, so a fleet may mix the two.

For the operator:

* A dead service is noticed after ``service_down_time - report_interval`` to
  ``service_down_time`` seconds; a stop in order takes as long.
* nova-compute reports through RabbitMQ and a conductor, and one of them lost
  looks to readers like the loss of every compute; the mass failure guard
  (``[servicegroup] mass_failure_threshold``) is for that.
* The stamp is made by the conductor's clock and read by the clocks of API and
  scheduler: keep those in step. The compute's own clock doesn't matter.
* Every service costs a message and an UPDATE per interval.
"""

from oslo_db import exception as db_exc
from oslo_log import log as logging
import oslo_messaging as messaging

from nova_servicegroup.drivers import base
from nova_servicegroup.liveness import Liveness
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State

LOG = logging.getLogger(__name__)


class DbDriver(base.Driver):
    """See the module's text."""

    name = 'db'
    promises = frozenset([base.Promise.IN_TREE_FORMAT,
                          base.Promise.LOCAL_READS])

    def publish(self, membership):
        record = membership.service.service_ref
        _bound_rpc(record, membership.interval)
        # Nova's database layer stamps last_seen_up only when this grows
        # (Nova commit b9bae02af2), so that enabling a dead host doesn't
        # bring it back to life.
        record.report_count += 1
        record.save()

    def withdraw(self, membership, timeout):
        """Leave the row as it is: the in-tree driver and the API expect it."""

    def liveness(self, member):
        try:
            last_seen_up = base.as_aware(member.get('last_seen_up'))
            since = last_seen_up or base.as_aware(member['created_at'])
        except ValueError:
            return Liveness(State.UNKNOWN, None, Reason.UNREADABLE)
        if since is None:
            return Liveness(State.DOWN, None, Reason.NEVER)
        age = (base.as_aware(self.utcnow()) - since).total_seconds()
        # A beat from the future is as wrong as an old one (bug 867674).
        if abs(age) <= self.settings.service_down_time:
            return Liveness(
                State.UP, since,
                Reason.HEARTBEAT if last_seen_up else Reason.STARTING)
        LOG.debug('Seems service %(binary)s on host %(host)s is down. Last '
                  'heartbeat was %(since)s, %(age)s s ago.',
                  {'binary': member.get('binary'), 'host': member.get('host'),
                   'since': since, 'age': age})
        return Liveness(State.DOWN, since,
                        Reason.SILENT if last_seen_up else Reason.NEVER)

    def updated_time(self, member):
        return base.as_aware(member['updated_at'])

    def explain(self, error, membership):
        record = membership.service.service_ref
        kind = _kind_of(error)
        if kind == 'ServiceNotFound':
            return base.Failure(
                logging.ERROR,
                'The services table record for the %s service on host %s is '
                'gone. It was deleted while the service runs: stop the '
                'service if that was meant, restart it to make a new record.'
                % (record.binary, record.host), lasting=True)
        if isinstance(error, db_exc.DBError) or kind.startswith('DB'):
            return base.Failure(
                logging.ERROR,
                'Unexpected error while reporting service status: the '
                'database refused the heartbeat of the %s service on host '
                '%s; trying again every %s s. (%s: %s)'
                % (record.binary, record.host, membership.interval, kind,
                   error))
        if _is_of_the_bus(error):
            return base.Failure(
                logging.WARNING,
                'Lost connection to nova-conductor for reporting service '
                'status. The %s service on host %s tries again every %s s; '
                'look at the message bus and at nova-conductor. (%s: %s)'
                % (record.binary, record.host, membership.interval, kind,
                   error))
        return super().explain(error, membership)


def _kind_of(error):
    """Return the name of an exception's class, of the remote one by RPC."""
    if isinstance(error, messaging.RemoteError):
        return error.exc_type or 'RemoteError'
    # oslo.messaging gives a rebuilt exception the name <class>_Remote.
    return type(error).__name__.removesuffix('_Remote')


def _is_of_the_bus(error):
    """Return whether the message never came to a conductor, or no answer."""
    if isinstance(error, messaging.RemoteError):
        return False
    # oslo.messaging lets what its library raises through where it makes a
    # new connection.
    return (isinstance(error, messaging.MessagingException)
            or type(error).__module__.partition('.')[0] in ('kombu', 'amqp'))


class _BoundedConductor:
    """Nova's conductor API with a time limit on saving an object.

    Unbounded, one lost reply holds the heartbeat for rpc_response_timeout,
    60 s: as long as service_down_time (bug 1368989; Nova had the bound and
    lost it in 6285d6a511).
    """

    def __init__(self, conductor, timeout):
        self._conductor = conductor
        self._timeout = timeout

    def __getattr__(self, name):
        return getattr(self._conductor, name)

    def object_action(self, context, objinst, objmethod, args, kwargs):
        # No retry: the next beat is one. The timeout doesn't count while a
        # connection is made, and each attempt at a hung broker takes 5 s.
        client = self._conductor.client.prepare(timeout=self._timeout, retry=0)
        return client.call(context, 'object_action', objinst=objinst,
                           objmethod=objmethod, args=args, kwargs=kwargs)


def _bound_rpc(record, interval):
    """Let this record's RPCs end before the next beat is due."""
    conductor = record.indirection_api
    if conductor is None or isinstance(conductor, _BoundedConductor):
        return
    record.indirection_api = _BoundedConductor(conductor, interval * 0.9)
