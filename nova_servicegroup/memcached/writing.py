# SPDX-License-Identifier: Apache-2.0

"""Writes heartbeats; several processes may share one key."""

import os
import time
import uuid

from oslo_log import log as logging

from nova_servicegroup import liveness
from nova_servicegroup.memcached import polling
from nova_servicegroup.memcached import servers
from nova_servicegroup.memcached import wire

LOG = logging.getLogger(__name__)


class NotStored(Exception):
    """No memcached server stored the heartbeat."""


class Writer:
    """Writes the heartbeats of one process. Thread-safe.

    :param servers: a configured.Servers
    :param settings: a conf.Settings
    :param monotonic: clock for ages, seconds as float
    :param utcnow: wall clock, naive UTC datetime
    """

    def __init__(self, servers, settings, monotonic, utcnow):
        self._servers = servers
        self._settings = settings
        self._monotonic = monotonic
        self._utcnow = utcnow
        # Identifies this process among those of the same service and host.
        self._token = '%x-%s' % (os.getpid(), uuid.uuid4().hex[:8])
        # (time of the last stored heartbeat, its Gap), by server and key
        self._stored = {}
        # Names of the servers that failed at the last heartbeat.
        self._failed = set()

    def beat(self, member, limit):
        """Store a heartbeat on at least one server.

        :param member: (topic, host)
        :param limit: seconds for all servers together
        :raises NotStored: every server failed
        """
        moment = self._utcnow()
        self._log_failures(self._on_each_server(
            member, limit, lambda server, key, timeout: self._beat(
                server, key, timeout, moment)))

    def leave(self, member, end, limit):
        """Remove this process from the heartbeat of its service.

        Other workers of the service on this host stay. The last one writes how
        the service ended: a missing value would look like a flushed memcached.

        :param end: a liveness.End
        :raises NotStored: every server failed
        """
        self._on_each_server(
            member, limit, lambda server, key, timeout: self._leave(
                server, key, timeout, end))

    def _on_each_server(self, member, limit, action):
        """Run ``action`` for a member on each of its servers.

        :returns: the exceptions of the servers that failed, by server name
        """
        key = wire.key(*member, self._servers.prefix)
        selected = [self._servers[index] for index in self._servers.of(key)]
        timeout = min(self._servers.timeout, limit / len(selected) / 2)
        failed = {}
        for server in selected:
            try:
                action(server, key, timeout)
            except (servers.ServerLost, servers.ServerRefused,
                    NotStored) as e:
                failed[server.name] = e
        if len(failed) == len(selected):
            raise NotStored('; '.join(str(e) for e in failed.values()))
        return failed

    def _beat(self, server, key, timeout, moment):
        stamp = wire.stamp_of(moment)
        for _ in _until(timeout):
            beat, workers, token = self._read(server, key, timeout, stamp)
            workers[self._token] = stamp
            gap = self._gap(server, key, beat, stamp)
            if server.put(key, wire.encode(stamp, moment, workers, gap),
                          token, timeout):
                self._stored[server.name, key] = self._monotonic(), gap
                return
        raise NotStored('other workers write to the key %s on the memcached '
                        'server %s all the time' % (key, server.name))

    def _gap(self, server, key, beat, stamp):
        """Return the Gap to write with a heartbeat, or None.

        :param beat: the stored Beat, or None
        """
        if beat is not None:
            gap = beat.gap
            silence = 0 if beat.end else stamp - beat.stamp
        elif (server.name, key) in self._stored:
            # Memcached has lost it.
            stored_at, gap = self._stored[server.name, key]
            silence = self._monotonic() - stored_at
        else:
            return None
        if silence > self._settings.service_down_time * polling.LATE:
            return liveness.Gap(stamp - silence, stamp)
        return gap

    def _leave(self, server, key, timeout, end):
        self._stored.pop((server.name, key), None)
        moment = self._utcnow()
        stamp = wire.stamp_of(moment)
        for _ in _until(timeout):
            beat, workers, token = self._read(server, key, timeout, stamp)
            if self._token not in workers:
                # Flushed, or an in-tree service of this name reports too.
                return
            del workers[self._token]
            if workers:
                data = wire.encode(
                    beat.stamp, beat.moment.replace(tzinfo=None), workers,
                    beat.gap)
            elif end is liveness.End.STOPPED:
                data = wire.encode(stamp, moment, {}, beat.gap, stopped=True)
            else:
                data = wire.encode(stamp, None, {})
            if server.put(key, data, token, timeout):
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
            if abs(now - stamp) <= self._settings.service_down_time}, token

    def _log_failures(self, failed):
        """Log once when one of several servers fails, and its recovery."""
        for name, error in failed.items():
            if name not in self._failed:
                LOG.warning('The memcached server %(name)s takes no '
                            'heartbeats, others do: %(error)s',
                            {'name': name, 'error': error})
        for name in self._failed - set(failed):
            LOG.info('The memcached server %s takes heartbeats again.', name)
        self._failed = set(failed)


def _until(timeout):
    """Yield until the timeout, for retries after another worker's write."""
    deadline = time.monotonic() + timeout
    while time.monotonic() < deadline:
        yield
