# SPDX-License-Identifier: Apache-2.0

"""Heartbeats in memcached.

Every ``report_interval`` seconds a service writes the current time under its
key, on every memcached server or on one (``[servicegroup] mc_replicate``). Key
and value have the format of Nova's in-tree driver, so a deployment may mix the
two. A reader keeps a copy of all queried heartbeats and refreshes it with one
request per server, at most every ``view_refresh`` seconds.

For the operator:

* A dead service is detected ``service_down_time - report_interval`` to
  ``service_down_time`` seconds, and a ``view_refresh``, after its death. A
  service that is stopped gracefully gets no new instances from then on; it is
  down after ``restart_grace``.
* Heartbeats don't expire, so that all readers, new ones too, judge the silence
  of many hosts alike.
* The clocks of the hosts may differ if a reader has seen a service's value
  change. A reader that has just started, or gets a query once an hour,
  compares its own clock with the writer's: synchronize them.
* An outage of memcached shorter than ``service_down_time`` changes no answer;
  a longer one makes the states unknown. A flush or restart changes no answer
  of running readers; readers that start later don't know for
  ``service_down_time`` which services are down.
* A client that can write to memcached can keep a dead service up. Stored
  values are never executed, but let only Nova's hosts reach memcached.
"""

import math
import sys

from oslo_log import log as logging

from nova_servicegroup.drivers import base
from nova_servicegroup.drivers import common
from nova_servicegroup import exception
from nova_servicegroup.integration import service_records
from nova_servicegroup import liveness
from nova_servicegroup.memcached import configured
from nova_servicegroup.memcached import servers
from nova_servicegroup.memcached import view
from nova_servicegroup.memcached import wire
from nova_servicegroup.memcached import writing
from nova_servicegroup import per_process
from nova_servicegroup import records

LOG = logging.getLogger(__name__)


class MemcachedDriver(common.Driver):
    """See the module's text."""

    name = 'mc'
    promises = frozenset([base.Promise.SEES_LEAVE,
                          base.Promise.SEES_STOP,
                          base.Promise.PLACES_IN_DOUBT,
                          base.Promise.KNOWS_OUTAGE,
                          base.Promise.READER_CLOCK,
                          base.Promise.LOCAL_READS,
                          base.Promise.IN_TREE_FORMAT])
    recovered_text = ('Recovered connection to memcache server for reporting '
                      'service status.')

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self._view_key = (self.name, 'view', id(self.conf))
        # Raises ConfigurationError for invalid options.
        self._servers

    @property
    def _servers(self):
        return self.store or self.shared(
            'servers', lambda: configured.Servers(self.conf))

    # Writing

    def publish(self, heartbeat):
        self._writer.beat((heartbeat.group, heartbeat.member),
                          heartbeat.interval * 0.9)

    def withdraw(self, heartbeat, end, timeout):
        self._writer.leave((heartbeat.group, heartbeat.member), end, timeout)

    @property
    def _writer(self):
        return self.shared('writer', self._make_writer)

    def _make_writer(self):
        self._warn_if_in_process()
        return writing.Writer(self._servers, self.settings, self.monotonic,
                              self.utcnow)

    def _warn_if_in_process(self):
        if self._servers[0].name == servers.IN_PROCESS:
            self.shared('warned', self._warn_in_process)

    @staticmethod
    def _warn_in_process():
        LOG.warning('[DEFAULT] memcached_servers = <None>: heartbeats are '
                    'kept in this process, and no other process sees them. '
                    'Set [cache] memcache_servers for anything but a trial.')
        return True

    def classify_error(self, error, heartbeat):
        if not isinstance(error, writing.NotStored):
            return super().classify_error(error, heartbeat)
        return base.Failure(
            logging.WARNING,
            'Lost connection to memcache server for reporting service '
            'status. The %s service on host %s tries again every %s s. (%s)'
            % (heartbeat.group, heartbeat.member, heartbeat.interval,
               error))

    # Reading

    def surely_up(self, record):
        try:
            known = self._view
            state = known.members[records.KEY[type(record)](record)]
        except (KeyError, AttributeError, TypeError):
            return False
        now = self.monotonic()
        return (now < state.up_until and now < known.due
                and not known.doubted)

    def observe(self, record):
        known, state = self._view, self._state(record)
        member = known.observe(state)
        if (member.last is None and not known.listed
                and state.topic == liveness.GUARDED):
            # The verdict depends on which other members report.
            known.renew(self.list_members)
            member = known.observe(state)
        return member

    def load_group(self, record):
        return self._view.group(record['topic'], self.list_members)

    def now(self):
        return self._view.now()

    def list_services(self, group):
        services = super().list_services(group)
        # These will be queried soon.
        self._view.expect(_members_of(services))
        return services

    def list_members(self):
        """Return (topic, host, whether it is deleted) of all services."""
        if self.inventory:
            return _members_of(self.inventory(None))
        return service_records.members()

    def recorded_time(self, record):
        """Return the time of the last heartbeat or the record's last change.

        The later one, aware, in UTC; None if there is neither.
        """
        recorded = records.changed_at(record)
        try:
            seen = self._state(record).moment
        except exception.InvalidMember:
            return recorded
        if seen is None or recorded is not None and recorded > seen:
            return recorded
        return seen

    def witness(self, member):
        if member.end is not None:
            return 'the service itself, by its last value in memcached'
        return 'memcached, where the service wrote it by its own clock'

    def view_age(self, group):
        known = self.find('view')
        return math.inf if known is None else known.age

    def report(self):
        found = super().report()
        known = self.find('view')
        if known is not None:
            found['members known'] = len(known.members)
            found['view'] = '%.1f s old' % known.age
            found['servers'] = known.report()
        return found

    def details(self, record):
        key = wire.key(*self.key(record), prefix=self._servers.prefix)
        return {'memcached_key': key, 'memcached_servers': [
            self._servers[index].name for index in self._servers.of(key)]}

    @property
    def _view(self):
        return per_process.get(self._view_key, self._make_view)

    def _make_view(self):
        self._warn_if_in_process()
        return view.View(self._servers, self.settings, self.monotonic,
                         self.utcnow, liveness.GUARDED, self.groups.doubted)

    def _state(self, member):
        known, key = self._view, self.key(member)
        state = known.members.get(key)
        if state is None or state.pending or self.monotonic() >= known.due:
            return known.member(
                key, None if self._has_no_database() else self.list_members)
        state.queried_at = known.due
        return state

    @staticmethod
    def _has_no_database():
        # A nova-compute queries few members, and lists services through a
        # conductor: only when a member seems to be lost.
        nova_objects = sys.modules.get('nova.objects.base')
        return nova_objects and nova_objects.NovaObject.indirection_api


def _members_of(services):
    return [(service['topic'], service['host'], False)
            for service in services]
