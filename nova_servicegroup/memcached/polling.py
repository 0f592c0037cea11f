# SPDX-License-Identifier: Apache-2.0

"""Reads the heartbeats of all members from the memcached servers.

One thread at a time polls the servers for all members, at most once every
``[servicegroup] view_refresh`` seconds; other threads use the last result. The
servers' timeout limits a poll.
"""

import collections
import math
import threading
import time

from oslo_log import log as logging

from nova_servicegroup.memcached import observation
from nova_servicegroup.memcached.servers import ServerLost
from nova_servicegroup.memcached import wire

LOG = logging.getLogger(__name__)

#: share of the time for repeated listings of Nova's services, for new members:
#: a listing of ten thousand takes about a second
LISTING_SHARE = 0.02
#: members without a query for so many service_down_times are dropped
FORGET_AFTER = 10
#: seconds that queries for new members wait for the same listing: a cell whose
#: database is unreachable delays it by a minute
LISTING_WAIT = 2.0
#: seconds that a thread waits for another thread's first read, at most
FIRST_READ = 30
#: part of service_down_time after which a silent member is late
LATE = 2 / 3


class Poller:
    """Polls the members that this process has queried. Thread-safe.

    :param servers: a configured.Servers
    :param settings: a conf.Settings
    :param monotonic: clock for ages, seconds as float
    :param utcnow: wall clock, naive UTC datetime
    """

    def __init__(self, servers, settings, monotonic, utcnow):
        self.members = {}        # (topic, host) -> MemberState
        self.due = float('-inf')
        self.listed = False      # Nova's services were listed once
        self._servers = servers
        self._settings = settings
        self._monotonic = monotonic
        self._utcnow = utcnow
        self._status = [observation.ServerStatus() for _ in servers]
        self._lost_servers = 0
        self._polling = threading.Lock()
        self._began = float('inf')         # start of the current poll
        self._polls = 0
        self._cached = {}                  # valid until the next poll
        self._warned_of_clocks = False
        self._listing_lock = threading.Lock()
        self._listing = None               # the thread that lists
        self._listing_until = 0            # end of the wait for it
        self._list_after = float('-inf')
        self._dropped_at = monotonic()

    @property
    def age(self):
        """Seconds since all members were polled; math.inf if never."""
        polled = [status.polled_at for status in self._status
                  if status.polled_at is not None]
        return self._monotonic() - max(polled) if polled else math.inf

    def report(self):
        """Return a dict: name of each server to its state, a text."""
        now = self._monotonic()
        return {
            server.name: 'lost since %.0f s' % (now - status.lost_at)
            if status.lost_at is not None else 'not asked yet'
            if status.polled_at is None else 'answers'
            for server, status in zip(self._servers, self._status)}

    def expect(self, members):
        """Add members that will be queried soon.

        :param members: iterable of (topic, host, whether it is deleted)
        """
        # Deleted ones first: the same host may exist again.
        for topic, host, deleted in sorted(members, key=lambda m: not m[2]):
            if topic and host:
                self._add((topic, host)).listed = not deleted

    def _refresh(self, state=None):
        """Poll the servers if that is due, or for pending members."""
        now, polls = self._monotonic(), self._polls
        if not self._polling.acquire(blocking=False):
            if (state is None or not state.pending) and (
                    self._began < self.due + self._servers.timeout + 1):
                # The state was fresh when the other thread's poll began.
                return
            if not self._polling.acquire(timeout=FIRST_READ):
                return
        self._began = now
        try:
            # Not again after waiting for another thread's poll.
            if self._monotonic() >= self.due and polls == self._polls:
                self._drop_unqueried(now)
                self._poll(list(self.members.values()))
                self.due = self._monotonic() + self._view_refresh
            elif state is None or state.pending:
                self._poll_pending()
        finally:
            self._began = float('inf')
            self._polling.release()

    def _poll_pending(self):
        """Poll only the members that were not polled yet."""
        states = list(self.members.values())
        pending = [state for state in states if state.pending]
        if pending and any(s.lost_at is not None for s in self._status):
            # A server that recovers must be polled for all members.
            self._poll(states)
        elif pending:
            self._poll(pending, renewed=False)

    @property
    def _view_refresh(self):
        return self._settings.conf.servicegroup.view_refresh

    def _add(self, member):
        now = self._monotonic()
        state = self.members.get(member)
        if state is None:
            key = wire.key(*member, prefix=self._servers.prefix)
            state = self.members.setdefault(member, observation.MemberState(
                *member, key, self._servers.of(key), now))
        state.queried_at = now
        return state

    def _list(self, list_members):
        """List Nova's services, so that one poll reads all members."""
        with self._listing_lock:
            listing = self._listing
            if listing is None:
                if self._monotonic() < self._list_after:
                    return
                self._listing_until = time.monotonic() + LISTING_WAIT
                listing = self._listing = threading.Thread(
                    target=self._list_now, args=(list_members,), daemon=True)
                try:
                    listing.start()
                except RuntimeError:
                    # No more threads: each new member costs a request.
                    self._listing = None
                    return
        listing.join(max(0, self._listing_until - time.monotonic()))

    def _list_now(self, list_members):
        start = self._monotonic()
        try:
            self.expect(list_members())
            self.listed = True
        except Exception:
            # Each member costs a request at its first query.
            LOG.debug('Cannot list the services of Nova', exc_info=True)
        end = self._monotonic()
        self._list_after = start + (end - start) / LISTING_SHARE
        self._listing = None

    def _drop_unqueried(self, now):
        if now < self._dropped_at + self._settings.service_down_time:
            return
        self._dropped_at = now
        # Relative to the last poll: the process may have been idle since.
        oldest = self.due - FORGET_AFTER * self._settings.service_down_time
        for member, state in list(self.members.items()):
            if state.queried_at < oldest:
                del self.members[member]

    def _poll(self, states, renewed=True):
        """Poll every server for its members; lost servers last.

        All servers together get the timeout of one, in equal parts; unused
        time is for the next ones. So a server that hangs doesn't keep a new
        reader from those that answer.

        :param renewed: ``states`` are all members
        """
        timeout = self._servers.timeout
        deadline = time.monotonic() + timeout
        by_server = collections.defaultdict(list)
        for state in states:
            for index in state.held:
                by_server[index].append(state)
        now = self._monotonic()
        order = sorted(
            (i for i in by_server if now >= self._status[i].retry_at),
            key=lambda i: (self._status[i].lost_at is not None, i))
        for done, index in enumerate(order):
            share = (deadline - time.monotonic()) / (len(order) - done)
            self._poll_one(index, by_server[index],
                           max(share, timeout / len(order)), renewed)
        for state in states:
            state.pending = False
        self._polls += 1
        self._cached = {}

    def _poll_one(self, index, states, timeout, renewed):
        server, status = self._servers[index], self._status[index]
        try:
            values = server.get([state.key for state in states], timeout)
        except ServerLost as e:
            self._lost(server, status, e)
            return
        now = self._monotonic()
        wall = wire.stamp_of(self._utcnow())
        down_time = self._settings.service_down_time
        vanished = False
        for state in states:
            raw = values.get(state.key)
            if raw == state.held[index]:
                continue
            if raw is None and state.held[index] is not observation.NOT_POLLED:
                # Flushed, restarted or evicted: others may be missing, too.
                vanished = True
            problem = state.update(index, raw, status, now, wall, down_time)
            # In this order: View.observe compares ``changes``.
            state.changes += 1
            state.up_until = 0
            if problem and (state.garbled_at is not None
                            or not self._warned_of_clocks):
                self._warned_of_clocks |= state.garbled_at is None
                self._warn(state, server, problem)
            elif raw is not None:
                state.warned = False
        if status.lost_at is not None:
            LOG.info('The memcached server %(server)s can be read again after '
                     '%(length).1f s.',
                     {'server': server.name, 'length': now - status.lost_at})
        if status.polled_at is not None and (
                status.lost_at is not None or vanished
                and now - status.polled_at > down_time * (1 - LATE)):
            status.cut_off = status.polled_at, now
        if (status.watched_from is None or vanished
                or status.lost_at is not None):
            status.watched_from = now
        if status.lost_at is not None:
            self._lost_servers -= 1
        status.lost_at = None
        if renewed or status.polled_at is None:
            status.polled_at = now
        status.retry_at = float('-inf')

    def _lost(self, server, status, error):
        now = self._monotonic()
        status.retry_at = now + max(self._servers.dead_retry,
                                    self._view_refresh)
        if status.lost_at is None:
            self._lost_servers += 1
            status.lost_at = now
            LOG.warning('The memcached server %(server)s cannot be read: '
                        '%(error)s. What was known of its services stands for '
                        '%(grace)s s; asking again every %(retry)s s.',
                        {'server': server.name, 'error': error,
                         'grace': self._settings.service_down_time,
                         'retry': self._servers.dead_retry})

    @staticmethod
    def _warn(state, server, problem):
        if not state.warned:
            state.warned = True
            LOG.warning('What the memcached server %(server)s holds under the '
                        'key %(key)s for the service %(topic)s:%(host)s '
                        '%(wrong)s.',
                        {'server': server.name, 'key': state.key,
                         'topic': state.topic, 'host': state.host,
                         'wrong': problem})
