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

"""Heartbeats in memcached.

Every ``report_interval`` seconds a service writes the time of day under its
key, on every memcached server or on one (``[servicegroup] mc_replicate``).
Key and value are what Nova's in-tree driver writes and reads, so a fleet may
mix the two. A reader keeps a copy of all heartbeats that it was asked about
and renews it in one request, at most every ``view_refresh`` seconds.

For the operator:

* A dead service is noticed ``service_down_time - report_interval`` to
  ``service_down_time`` seconds, and a ``view_refresh``, after its death.
* The clocks of the hosts may differ, once a reader has seen a service beat.
  A reader that has just started, or is asked once an hour, has to compare its
  own clock with the writer's: keep them in step.
* A memcached that is flushed, restarted or lost for less than
  ``outage_grace`` changes no answer; lost for longer, nobody knows.
* A reader that started after a flush calls a service down until its next
  heartbeat. Don't flush on purpose.
* Whoever can write to memcached can keep a dead service up. Nothing that is
  stored there is executed, but let only Nova's hosts reach it.
"""

import os
import sys
import time
import uuid

from oslo_log import log as logging

from nova_servicegroup.drivers import base
from nova_servicegroup import exception
from nova_servicegroup.memcached import servers
from nova_servicegroup.memcached import view
from nova_servicegroup.memcached import wire
from nova_servicegroup import shared

LOG = logging.getLogger(__name__)

#: seconds that "it left" is kept for readers who ask seldom
LEFT_EXPIRES = 86400


class NotStored(Exception):
    """No memcached server took the heartbeat."""


class MemcachedDriver(base.Driver):
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
        self._list_services = self.list_services
        self.list_services = self._list_and_expect
        self._view_key = (self.name, 'view', id(self.conf))
        # Refuses a configuration that can't work.
        self._servers

    @property
    def _servers(self):
        return self.store or self.shared(
            'servers', lambda: servers.Servers(self.conf))

    # Writing

    def publish(self, membership):
        """Store a beat, on one server at least, and have that confirmed.

        :raises NotStored: no server has it
        """
        moment = self.utcnow()
        failed = self._on_each_server(
            membership, membership.interval * 0.9,
            lambda server, key, timeout: self._beat(
                server, key, timeout, moment))
        self._note_failed(failed)

    def withdraw(self, membership, end, timeout):
        """Take this process's part of the heartbeat back.

        Other workers of the service on this host keep theirs. The last one
        writes "it left", which readers can tell from a flushed memcached.
        """
        self._on_each_server(membership, timeout, self._leave)

    def _on_each_server(self, membership, limit, action):
        """Do something for a member on each of its servers.

        :param limit: seconds for all of them together
        :returns: the exceptions of those servers that failed, by name
        :raises NotStored: all of them did
        """
        self._warn_if_in_process()
        key = wire.key(membership.group, membership.member,
                       self._servers.prefix)
        homes = [self._servers[index] for index in self._servers.of(key)]
        timeout = min(self._servers.timeout, limit / len(homes) / 2)
        failed = {}
        for server in homes:
            try:
                action(server, key, timeout)
            except (servers.ServerLost, servers.ServerRefused,
                    NotStored) as e:
                failed[server.name] = e
        if len(failed) == len(homes):
            raise NotStored('; '.join(str(e) for e in failed.values()))
        return failed

    def _beat(self, server, key, timeout, moment):
        stamp = wire.stamp_of(moment)
        for _ in _until(timeout):
            _, workers, token = self._read(server, key, timeout, stamp)
            workers[self._token] = stamp
            if server.put(key, wire.encode(stamp, moment, workers), token,
                          timeout):
                return
        raise NotStored('other workers write to the key %s on the memcached '
                        'server %s all the time' % (key, server.name))

    def _leave(self, server, key, timeout):
        stamp = wire.stamp_of(self.utcnow())
        for _ in _until(timeout):
            beat, workers, token = self._read(server, key, timeout, stamp)
            if self._token not in workers:
                # Flushed, or an in-tree service of this name reports too.
                return
            del workers[self._token]
            if workers:
                data = wire.encode(
                    beat.stamp, beat.moment.replace(tzinfo=None), workers)
                expires = 0
            else:
                data, expires = wire.encode(stamp, None, {}), LEFT_EXPIRES
            if server.put(key, data, token, timeout, expires):
                return

    def _read(self, server, key, timeout, now):
        """Return (Beat or None, living workers, token) of a key."""
        found = server.gets(key, timeout)
        if found is None:
            return None, {}, None
        flags, data, token = found
        try:
            beat = wire.decode(flags, data)
        except wire.Unreadable:
            return None, {}, token
        return beat, {
            worker: stamp for worker, stamp in beat.workers.items()
            if abs(now - stamp) <= self.settings.service_down_time}, token

    @property
    def _token(self):
        """What tells this process from others that report for its host."""
        return self.shared('token', lambda: '%x-%s' % (
            os.getpid(), uuid.uuid4().hex[:8]))

    def _note_failed(self, failed):
        """Log once each when a server of several takes no beats, and again."""
        known = self.shared('failed', dict)
        for name, error in failed.items():
            if name not in known:
                LOG.warning('The memcached server %(name)s takes no '
                            'heartbeats, others do: %(error)s',
                            {'name': name, 'error': error})
        for name in set(known) - set(failed):
            LOG.info('The memcached server %s takes heartbeats again.', name)
        known.clear()
        known.update(failed)

    def _warn_if_in_process(self):
        if self._servers[0].name == servers.IN_PROCESS:
            self.shared('warned', self._warn_in_process)

    @staticmethod
    def _warn_in_process():
        LOG.warning('[DEFAULT] memcached_servers = <None>: heartbeats are '
                    'kept in this process, and no other process sees them. '
                    'Set [cache] memcache_servers for anything but a trial.')
        return True

    def explain(self, error, membership):
        if not isinstance(error, NotStored):
            return super().explain(error, membership)
        return base.Failure(
            logging.WARNING,
            'Lost connection to memcache server for reporting service '
            'status. The %s service on host %s tries again every %s s. (%s)'
            % (membership.group, membership.member, membership.interval,
               error))

    # Reading

    def is_up(self, member):
        known = self._view
        member_key = _key_of(member)
        entry = known.entries.get(member_key)
        now = self.monotonic()
        if entry is not None and now < entry.up_until and now < known.due:
            # The way of a thousand questions in a row.
            return True
        return super().is_up(member)

    def observe(self, record):
        return self._view.observe(self._entry(record))

    def load_group(self, record):
        return self._view.group(record['topic'])

    def now(self):
        return self.monotonic()

    def recorded_time(self, record):
        """Return the later one of the last beat and the record's change.

        Aware, in UTC; None when there is neither.
        """
        recorded = base.changed_at(record)
        try:
            seen = self._entry(record).moment
        except exception.InvalidMember:
            return recorded
        if seen is None or recorded is not None and recorded > seen:
            return recorded
        return seen

    @property
    def _view(self):
        return shared.get(self._view_key, self._make_view)

    def _make_view(self):
        self._warn_if_in_process()
        return view.View(self._servers, self.settings, self.monotonic,
                         self.utcnow)

    def _entry(self, member):
        known = self._view
        entry = known.entries.get(_key_of(member))
        if entry is None or entry.pending or self.monotonic() >= known.due:
            return known.entry(self.key(member), self._list_all)
        entry.asked = known.due
        return entry

    def _list_all(self, group):
        # A nova-compute asks about few members, and would have to get all
        # services through a conductor: each nova-compute, in a big fleet.
        nova_objects = sys.modules.get('nova.objects.base')
        if nova_objects and nova_objects.NovaObject.indirection_api:
            return []
        return self._list_services(group)

    def _list_and_expect(self, group):
        services = self._list_services(group)
        self._view.expect(services)
        return services


def _key_of(member):
    """Return (topic, host) of a record; one or both may be missing."""
    try:
        # Brackets take half as long again, on Nova's objects.
        return member.topic, member.host
    except AttributeError:
        return member['topic'], member['host']


def _until(timeout):
    """Give turns to who has to try again when another worker was faster."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        yield
