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

"""What one process knows of the heartbeats in memcached: the ``View``.

Each member has a ``MemberState``: what the servers hold of it, and the newest
heartbeat among that. When it was written is taken from this reader's monotonic
clock if it saw the value change, and from the writer's wall clock otherwise.

A missing value is no death: memcached may have been flushed or restarted. So
the last heartbeat that was seen counts, also when it is gone from there, and
somebody who was never seen is down only when a server has answered for
``service_down_time`` since.
"""

import collections
import datetime
import threading
import time
import typing

from oslo_log import log as logging

from nova_servicegroup import exception
from nova_servicegroup import liveness
from nova_servicegroup.liveness import End
from nova_servicegroup.liveness import Gap
from nova_servicegroup.liveness import Member
from nova_servicegroup.liveness import Reason
from nova_servicegroup.memcached import servers
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
#: what a server holds that wasn't asked yet
_NOT_POLLED = object()


class MemberState:
    """What is known of one member.

    Times are this reader's monotonic clock but for ``stamp`` and ``moment``,
    which are the writer's wall clock.
    """

    __slots__ = ('topic', 'host', 'key', 'held', 'queried_at', 'first_seen',
                 'listed', 'pending', 'warned', 'stamp', 'moment', 'offset',
                 'last', 'confirmed', 'gap', 'end', 'garbled_at', 'changes',
                 'up_until')

    def __init__(self, topic, host, key, homes, now):
        self.topic = topic
        self.host = host
        self.key = key
        self.held = dict.fromkeys(homes, _NOT_POLLED)   # by server index
        self.queried_at = now    # when somebody last asked about it
        self.listed = False      # it is in Nova's list of services
        self.pending = True      # no server has been asked yet
        self.warned = False      # about what the store holds of it
        self.stamp = None        # of the last heartbeat, seconds since 1970
        self.moment = None       # the same, aware UTC; None for none
        self.offset = None       # this clock minus the writer's
        self.first_seen = None   # when this reader saw its first heartbeat
        self.last = None         # when the last heartbeat was written
        self.confirmed = False   # this reader saw a heartbeat come
        self.gap = None          # the last liveness.Gap that the writer tells
        self.end = None          # a liveness.End that the writer tells
        self.garbled_at = None   # when what can't be read came
        self.changes = 0         # of what was seen of it
        self.up_until = 0        # "up" for certain before that

    def update(self, index, raw, status, now, wall, tolerance):
        """Take in what a server holds now, which is not what it held.

        :param raw: (flags, bytes), or None for nothing
        :param status: the ServerStatus of that server
        :param now: monotonic
        :param wall: this reader's wall clock, seconds since 1970
        :param tolerance: seconds by which clocks may differ without a word
        :returns: what is wrong with the value, str, or None
        """
        before, self.held[index] = self.held[index], raw
        if raw is None:
            return None
        try:
            beat = wire.decode(*raw)
        except wire.Unreadable as e:
            self.garbled_at = now
            return 'is not a heartbeat: %s' % e
        self.garbled_at = None
        if self.stamp is None:
            self.offset = now - wall
            self.first_seen = now
        elif beat.stamp == self.stamp and beat.end in (None, self.end):
            # Another server has it too, or another worker has left.
            self.gap = self.gap and beat.gap
            return None
        elif beat.stamp == self.stamp and beat.end is End.LEFT:
            # The operator took it out, which is no sign of life of it.
            self.end = End.LEFT
            return None
        elif beat.stamp < self.stamp and (
                before is _NOT_POLLED or status.lost_at is not None):
            # A server that was away brings back an old one.
            return None
        last = beat.stamp + self.offset
        ahead = min(last - now, beat.stamp - wall)
        wrong = None
        if ahead > tolerance:
            wrong = ('was written %.1f s in the future: keep the clocks of '
                     'all hosts in step; this is told once' % ahead)
        if before is not _NOT_POLLED:
            self.confirmed = True
            if not status.polled_at <= last <= now:
                # It changed between two polls, whatever the writer's clock
                # says.
                last, self.offset = now, now - beat.stamp
        elif self.confirmed:
            if wrong:
                return wrong
            last = min(last, now)
        self.last, self.stamp = last, beat.stamp
        self.gap, self.end = beat.gap, beat.end
        if beat.moment is not None and (self.confirmed or not wrong):
            # Nothing was written later than it was seen.
            self.moment = min(beat.moment, datetime.datetime.fromtimestamp(
                wall, datetime.timezone.utc))
        return wrong


class ServerStatus:
    """Whether a server answers this reader. Times are monotonic.

    ``polled_at``: when it last answered for all, None if it never did.
    ``lost_at``: since when it doesn't, None while it does.
    ``retry_at``: when it is asked again.
    ``watched_from``: since when no answer and no value of it was missed.
    ``cut_off``: (start, end) of the last time in which heartbeats may have
    come to it that this reader could not see.
    """

    __slots__ = ('polled_at', 'lost_at', 'retry_at', 'watched_from', 'cut_off')

    def __init__(self):
        self.polled_at = None
        self.lost_at = None
        self.retry_at = float('-inf')
        self.watched_from = None
        self.cut_off = None


class Clocks(typing.NamedTuple):
    """How other hosts' clocks differ from this one's, in seconds.

    :param low: the lowest difference that is known, 0 at most
    :param high: the highest one, 0 at least
    :param plausible: a heartbeat was written just now, as far as is known
    """

    low: float
    high: float
    plausible: bool

    def may_hide(self, age, down_time):
        """Return whether a heartbeat may be in time for all that is known.

        :param age: by this reader's clock, seconds
        """
        return (not self.plausible or age < 0
                or self.low - down_time <= age <= self.high + down_time)


class View:
    """The members that this process was asked about. Safe from any thread.

    One thread at a time asks the servers, for all members at once and not
    more often than every ``[servicegroup] view_refresh`` seconds; the others
    go on answering from what is known. Its time is bounded by the servers'
    timeout.

    :param servers: a Servers
    :param settings: a conf.Settings
    :param monotonic: clock for ages, seconds as float
    :param utcnow: wall clock, naive UTC datetime
    :param guarded: the topic that is never called dead as a whole
    :param doubted: true while a group is in doubt; for who has this view only
    """

    def __init__(self, servers, settings, monotonic, utcnow, guarded=None,
                 doubted=()):
        self.members = {}        # (topic, host) -> MemberState
        self.due = float('-inf')
        self.listed = False      # Nova's services were, once
        self.doubted = doubted
        self._guarded = guarded
        self._servers = servers
        self._settings = settings
        self._monotonic = monotonic
        self._utcnow = utcnow
        self._status = [ServerStatus() for _ in servers]
        self._lost_servers = 0
        self._polling = threading.Lock()
        self._began = float('inf')         # when the one who polls did
        self._polls = 0
        self._cached = {}                  # what holds for one poll
        self._warned_of_clocks = False
        self._told_most = True             # that most report; see there
        self._listing_lock = threading.Lock()
        self._listing = None               # the thread that lists
        self._listing_until = 0            # who waits for it goes on then
        self._list_after = float('-inf')
        self._dropped_at = monotonic()

    # Asking

    def member(self, member, list_members):
        """Return the MemberState of a member, younger than ``view_refresh``.

        Blocks for a request when it isn't, and for a listing of Nova's
        services (LISTING_WAIT at most) when the member was never asked about;
        never when another thread is at it already and something recent is
        known.

        :param member: (topic, host)
        :param list_members: returns (topic, host, whether it is deleted) of
            all services; called in a thread of its own. None: don't list
        """
        state = self.members.get(member)
        if state is None:
            if list_members is not None:
                self._list(list_members)
            state = self._add(member)
        if state.pending or self._monotonic() >= self.due:
            state.queried_at = self._monotonic()
            self._refresh(state)
        # When it was asked for: about, and for less than a clock reading.
        state.queried_at = self.due
        return state

    def group(self, topic, list_members):
        """Return the liveness.Group of a topic; blocks as ``member`` does.

        Deleted services are among them.

        :raises ServiceGroupUnavailable: Nova's services were never listed
        """
        self.renew(list_members)
        if not self.listed:
            raise exception.ServiceGroupUnavailable(
                'mc', 'Nova\'s services cannot be listed')
        down_time = self._settings.service_down_time
        members, path_seen = [], None
        for state in list(self.members.values()):
            if self._is_lost(state) and not self._all_lost:
                # This reader can't tell whether it is silent.
                continue
            member = self.observe(state)
            if state.topic == topic:
                members.append(member)
            elif member.last is not None and (
                    member.gap is None
                    or member.last - member.gap.end >= down_time):
                # Who is just back doesn't show that others had the time to.
                path_seen = max(member.last, path_seen or member.last)
        return liveness.Group(members, down_time * LATE, path_seen)

    def renew(self, list_members):
        """Take in all of Nova's services; blocks as ``member`` does."""
        self._list(list_members)
        self._refresh()

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
            state = self.members.setdefault(member, MemberState(
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
        except servers.ServerLost as e:
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
            if raw is None and state.held[index] is not _NOT_POLLED:
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

    # Answering

    def now(self):
        """Return the time of the evidence: it stands while no server answers.

        So what was known when the last one was lost goes on being true.
        """
        if self._all_lost:
            return max((status.polled_at for status in self._status
                        if status.polled_at is not None),
                       default=self._monotonic())
        return self._monotonic()

    @property
    def _all_lost(self):
        return self._lost_servers == len(self._status)

    def _is_lost(self, state):
        """Return whether none of a member's servers can be read."""
        return self._lost_servers > 0 and all(
            self._status[index].lost_at is not None for index in state.held)

    def observe(self, state):
        """Return the liveness.Member of a state as the last poll has it.

        Never blocks. While none of its servers can be read, a member is what
        it was at their last answer for ``service_down_time`` seconds, and in
        doubt after that.
        """
        changes = state.changes
        down_time = self._settings.service_down_time
        now, doubt = self.now(), None
        if self._is_lost(state):
            polled = [self._status[i].polled_at for i in state.held
                      if state.held[i] is not _NOT_POLLED]
            if not polled or self._monotonic() - max(polled) > down_time:
                doubt = Reason.OUTAGE
            else:
                now = max(polled)
        if state.last is None:
            reason, absence_doubt = self._absence(state, now)
            return Member(state.host, None, doubt=doubt or absence_doubt,
                          reason=reason)
        last, gap, watched = state.last, state.gap, True
        if gap is not None:
            gap = Gap(gap.start + state.offset, gap.end + state.offset)
        if not state.confirmed:
            watched = now - state.first_seen >= down_time
        alive = abs(now - last) <= down_time
        if watched and not state.confirmed and last > state.first_seen:
            # Nothing was written later than it was seen.
            last, alive = state.first_seen, False
        reason = Reason.HEARTBEAT if alive else Reason.SILENT
        if alive and state.end is None:
            if doubt is None:
                # Whatever becomes of the server; a change is seen by
                # _poll_one.
                state.up_until = min(last, now) + down_time
                if state.changes != changes:
                    # Another thread has seen something else meanwhile.
                    state.up_until = 0
        elif doubt is not None or alive or state.end is End.LEFT:
            pass
        elif self._garbled(state, now):
            doubt = reason = Reason.UNREADABLE
        elif not watched and self._clocks().may_hide(now - last, down_time):
            doubt = Reason.CLOCKS
        elif state.end is None and self._may_return(state, now):
            doubt = Reason.RETURNING
        return Member(state.host, last, alive and state.end is None,
                      state.end, gap, doubt, reason, state.moment)

    def _absence(self, state, now):
        """Return (Reason to be down, Reason to doubt that or None).

        :param state: of a member without any heartbeat
        """
        if state.garbled_at is not None:
            return Reason.UNREADABLE, (
                Reason.UNREADABLE if self._garbled(state, now) else None)
        down_time = self._settings.service_down_time
        # Somebody alive would have written to it meanwhile.
        lost = self._is_lost(state)
        absence_confirmed = any(
            now - status.watched_from > down_time
            for status in (self._status[i] for i in state.held)
            if status.watched_from is not None and (
                lost or status.lost_at is None))
        if absence_confirmed and (state.topic != self._guarded
                                  or self._most_report(state.topic)):
            return Reason.NEVER, None
        return Reason.NEVER, Reason.UNSEEN

    def _garbled(self, state, now):
        """Return whether somebody writes what can't be read."""
        return state.garbled_at is not None and (
            now - state.garbled_at <= self._settings.service_down_time)

    def _may_return(self, state, now):
        """Return whether a silent member had no time to report.

        That is so when this reader was cut off from all of the member's
        servers, and it was alive until then.
        """
        down_time = self._settings.service_down_time
        return all(
            cut_off is not None and now - cut_off[1] <= down_time
            and cut_off[0] - state.last <= down_time
            for cut_off in (self._status[i].cut_off for i in state.held))

    def _most_report(self, topic):
        """Return whether at least half of Nova's list for a topic report.

        If not, it is more likely that this reader looks at another memcached
        than they write to.
        """
        return self._once_a_poll(topic, lambda: self._count_reporting(topic))

    def _count_reporting(self, topic):
        if not self.listed:
            return False
        states = list(self.members.values())
        listed = [s for s in states if s.topic == topic and s.listed]
        reporting = sum(state.last is not None for state in listed)
        if len(listed) == 1:
            # Then others show whether memcached is the right one.
            reporting = any(state.last is not None for state in states)
        most = 2 * reporting >= len(listed)
        if self._told_most and not most:
            LOG.error('Only %(reporting)d of %(listed)d services %(topic)s '
                      'have ever reported to the memcached servers that are '
                      'asked here, so nothing can be told of the others. Is '
                      '[cache] memcache_servers the same on all nodes?',
                      {'topic': topic, 'reporting': reporting,
                       'listed': len(listed)})
        self._told_most = most
        return most

    def _clocks(self):
        return self._once_a_poll('clocks', self._compare_clocks)

    def _compare_clocks(self):
        now = self._monotonic()
        own = now - wire.stamp_of(self._utcnow())
        states = list(self.members.values())
        errors = [0, *(s.offset - own for s in states if s.confirmed)]
        late_after = self._settings.service_down_time * LATE
        return Clocks(min(errors), max(errors), any(
            abs(now - s.last) < late_after
            for s in states if s.last is not None))

    def _once_a_poll(self, name, find):
        cached = self._cached
        if name not in cached:
            cached[name] = find()
        return cached[name]
