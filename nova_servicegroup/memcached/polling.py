# SPDX-License-Identifier: Apache-2.0

"""Reads the heartbeats of all members from the memcached servers.

One thread at a time asks the servers, for all members at once and not more
often than every ``[servicegroup] view_refresh`` seconds; the others go on
with what is known. Its time is bounded by the servers' timeout.
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

#: part of the time that may go into listing Nova's services over again, for
#: members never seen: a listing of ten thousand takes about a second
LISTING_SHARE = 0.02
#: members nobody has asked about for so many service_down_times are dropped
FORGET_AFTER = 10
#: seconds that whoever asks about new members waits for a listing, together:
#: one cell whose database is away holds a listing for a minute
LISTING_WAIT = 2.0
#: seconds that one thread waits for another one's first read, at most
FIRST_READ = 30
#: part of service_down_time after which a silent member is late
LATE = 2 / 3


class Poller:
    """The members that this process was asked about. Safe from any thread.

    :param servers: a configured.Servers
    :param settings: a conf.Settings
    :param monotonic: clock for ages, seconds as float
    :param utcnow: wall clock, naive UTC datetime
    """

    def __init__(self, servers, settings, monotonic, utcnow):
        self.members = {}        # (topic, host) -> MemberState
        self.due = float('-inf')
        self.listed = False      # Nova's services were, once
        self._servers = servers
        self._settings = settings
        self._monotonic = monotonic
        self._utcnow = utcnow
        self._status = [observation.ServerStatus() for _ in servers]
        self._lost_servers = 0
        self._polling = threading.Lock()
        self._began = float('inf')         # when the one who polls did
        self._polls = 0
        self._cached = {}                  # what holds for one poll
        self._warned_of_clocks = False
        self._listing_lock = threading.Lock()
        self._listing = None               # the thread that lists
        self._listing_until = 0            # who waits for it goes on then
        self._list_after = float('-inf')
        self._dropped_at = monotonic()

    @property
    def age(self):
        """Seconds since all members were asked for; math.inf if never."""
        polled = [status.polled_at for status in self._status
                  if status.polled_at is not None]
        return self._monotonic() - max(polled) if polled else math.inf

    def report(self):
        """Return how each server is, as a text by its name."""
        now = self._monotonic()
        return {
            server.name: 'lost since %.0f s' % (now - status.lost_at)
            if status.lost_at is not None else 'not asked yet'
            if status.polled_at is None else 'answers'
            for server, status in zip(self._servers, self._status)}

    def expect(self, members):
        """Take in who will be asked about soon.

        :param members: iterable of (topic, host, whether it is deleted)
        """
        # A host may have been deleted once and be there again.
        for topic, host, deleted in sorted(members, key=lambda m: not m[2]):
            if topic and host:
                self._add((topic, host)).listed = not deleted

    def _refresh(self, state=None):
        """Poll the servers, unless that was done a moment ago."""
        now, polls = self._monotonic(), self._polls
        if not self._polling.acquire(blocking=False):
            if (state is None or not state.pending) and (
                    self._began < self.due + self._servers.timeout + 1):
                # It was fresh when somebody else set out to renew it.
                return
            if not self._polling.acquire(timeout=FIRST_READ):
                return
        self._began = now
        try:
            # Who waited for somebody's poll need not poll again.
            if self._monotonic() >= self.due and polls == self._polls:
                self._drop_unasked(now)
                self._poll(list(self.members.values()))
                self.due = self._monotonic() + self._view_refresh
            elif state is None or state.pending:
                self._poll_pending()
        finally:
            self._began = float('inf')
            self._polling.release()

    def _poll_pending(self):
        """Ask for those only that no server was asked for yet."""
        states = list(self.members.values())
        pending = [state for state in states if state.pending]
        if pending and any(s.lost_at is not None for s in self._status):
            # Who finds a server well again finds it so for all.
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
        """Take in who else will be asked about, to ask for all at once."""
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
                    # No more threads. Each member costs a request then.
                    self._listing = None
                    return
        listing.join(max(0, self._listing_until - time.monotonic()))

    def _list_now(self, list_members):
        start = self._monotonic()
        try:
            self.expect(list_members())
            self.listed = True
        except Exception:
            # Then each member costs a request the first time it is asked
            # about, and is there.
            LOG.debug('Cannot list the services of Nova', exc_info=True)
        end = self._monotonic()
        self._list_after = start + (end - start) / LISTING_SHARE
        self._listing = None

    def _drop_unasked(self, now):
        if now < self._dropped_at + self._settings.service_down_time:
            return
        self._dropped_at = now
        # Before the last poll: nobody may have asked about anything since.
        oldest = self.due - FORGET_AFTER * self._settings.service_down_time
        for member, state in list(self.members.items()):
            if state.queried_at < oldest:
                del self.members[member]

    def _poll(self, states, renewed=True):
        """Ask every server for its part of the members, the well ones first.

        All of them together have the timeout of one: as much each, and what
        the first ones leave is for the others. A server that hangs doesn't
        keep a new reader from those that answer.

        :param renewed: these are all members
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
            left = (deadline - time.monotonic()) / (len(order) - done)
            self._poll_one(index, by_server[index],
                           max(left, timeout / len(order)), renewed)
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
                # Flushed, restarted or evicted; others may be missing, too.
                vanished = True
            wrong = state.update(index, raw, status, now, wall, down_time)
            # In this order: see observe.
            state.changes += 1
            state.up_until = 0
            if wrong and (state.garbled_at is not None
                          or not self._warned_of_clocks):
                self._warned_of_clocks |= state.garbled_at is None
                self._warn(state, server, wrong)
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
    def _warn(state, server, wrong):
        if not state.warned:
            state.warned = True
            LOG.warning('What the memcached server %(server)s holds under the '
                        'key %(key)s for the service %(topic)s:%(host)s '
                        '%(wrong)s.',
                        {'server': server.name, 'key': state.key,
                         'topic': state.topic, 'host': state.host,
                         'wrong': wrong})
