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

A service's heartbeat on one server is a ``Sight``. It is judged by when this
reader saw it change, on this reader's monotonic clock; only at first sight,
and after a time in which nobody looked, do wall clocks have a say.

Missing is not dead: memcached may have been flushed or restarted. So a key
that was seen and is gone is judged as it was when it was last there, and time
in which the server could not be asked makes nobody older.
"""

import collections
import datetime
import threading
import time

from oslo_log import log as logging

from nova_servicegroup import liveness
from nova_servicegroup.liveness import End
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


class Sight:
    """The heartbeat of one member on one server, as this reader saw it.

    Times are this reader's monotonic clock but for ``stamp`` and ``moment``,
    which are the writer's wall clock.
    """

    __slots__ = ('server', 'raw', 'looked', 'missing', 'changed', 'offset',
                 'stamp', 'moment', 'left', 'unreadable')

    def __init__(self, server):
        self.server = server     # index
        self.raw = None          # what is stored, None for nothing
        self.looked = None       # when the server was last asked, and answered
        self.missing = None      # since when it answers that nothing is stored
        self.changed = None      # when the last heartbeat was written
        self.offset = None       # this clock minus the writer's
        self.stamp = None        # seconds since 1970 of the last heartbeat
        self.moment = None       # the same, aware; None for none
        self.left = False
        self.unreadable = False

    def see(self, raw, now, wall, tolerance, blind):
        """Take in what the server holds now.

        :param now: monotonic
        :param wall: this reader's wall clock, seconds since 1970
        :param tolerance: seconds that the writer's clock may be ahead at
            first sight
        :param blind: the server couldn't be asked since the last look
        :returns: what is wrong with the value, str, or None
        """
        before, self.looked = self.looked, now
        vanished = raw is None and self.raw is not None
        if (blind or vanished) and self.changed is not None:
            # Nobody could see a beat meanwhile, or the beats were lost.
            self.changed += now - before
        if raw is None and (blind or vanished or self.missing is None):
            self.missing = now
        if raw == self.raw:
            return None
        self.raw = raw
        if raw is None:
            return None
        self.missing = None
        return self._read(raw, before, now, wall, tolerance)

    def _read(self, raw, before, now, wall, tolerance):
        try:
            beat = wire.decode(*raw)
        except wire.Unreadable as e:
            self.unreadable = True
            return 'is not a heartbeat: %s' % e
        self.unreadable = False
        self.left = beat.moment is None
        if beat.stamp == self.stamp and not self.left:
            # Another worker of the same service has left.
            return None
        self.stamp = beat.stamp
        if self.offset is None:
            self.offset = now - wall
        written = beat.stamp + self.offset
        ahead = min(written - now, beat.stamp - wall)
        if ahead > tolerance:
            # Nobody beats in the future. If it is the writer's clock that is
            # wrong, its next beat is in time by what is learned here.
            self.offset = now - beat.stamp
            return ('was written %.1f s in the future: the clocks of the two '
                    'hosts differ' % ahead)
        if before is None:
            # First sight: as far from now as it says, ahead or behind.
            self.changed = min(written, 2 * now - written)
        elif before <= written <= now:
            self.changed = written
        else:
            # It changed between two looks, whatever the writer's clock says.
            self.changed = now
            self.offset = now - beat.stamp
        if not self.left:
            # Nothing was written later than it was seen.
            self.moment = beat.moment if beat.stamp - wall <= tolerance else (
                datetime.datetime.fromtimestamp(wall, datetime.timezone.utc))
        return None


class Entry:
    """One member: its sights, and who asked for it when."""

    __slots__ = ('host', 'name', 'key', 'sights', 'asked', 'pending', 'warned',
                 'moment', 'changes', 'up_until')

    def __init__(self, host, name, key, sights, asked):
        self.host = host
        self.name = name
        self.key = key
        self.sights = sights
        self.asked = asked       # monotonic
        self.pending = True      # no server has been asked yet
        self.warned = False      # about what the store holds of it
        self.moment = None       # of the last heartbeat; aware, UTC
        self.changes = 0         # of what was seen of it
        self.up_until = 0        # "up" for certain before that; monotonic


class _Status:
    """Whether a server answers this reader."""

    __slots__ = ('lost_at', 'failed_at', 'retry_at')

    def __init__(self):
        self.lost_at = None                # None while it answers
        self.failed_at = float('-inf')     # when it last didn't
        self.retry_at = float('-inf')


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
    """

    def __init__(self, servers, settings, monotonic, utcnow):
        self.entries = {}        # (topic, host) -> Entry
        self.due = float('-inf')
        self._servers = servers
        self._settings = settings
        self._monotonic = monotonic
        self._utcnow = utcnow
        self._status = [_Status() for _ in servers]
        self._asking = threading.Lock()
        self._began = float('inf')         # when the one who asks did
        self._looks = 0
        self._listing_lock = threading.Lock()
        self._listing = None               # the thread that lists
        self._listing_until = 0            # who waits for it goes on then
        self._list_after = float('-inf')
        self._dropped_at = monotonic()

    # Asking

    def entry(self, member, list_services):
        """Return the Entry of a member, no older than ``view_refresh``.

        Blocks for a request when it is, and for a listing of Nova's services
        (LISTING_WAIT at most) when the member was never asked about; never
        when another thread is at it already and something recent is known.

        :param member: (topic, host)
        :param list_services: returns Nova's records of all services when
            called with None; called in a thread of its own
        """
        entry = self.entries.get(member)
        if entry is None:
            self._list(list_services)
            entry = self.entries.get(member)
        if entry is None or entry.pending or self._monotonic() >= self.due:
            entry = self._look(member, entry)
        # When it was asked for: about, and for less than a clock reading.
        entry.asked = self.due
        return entry

    def expect(self, services):
        """Take in service records that will be asked about soon."""
        now = self._monotonic()
        for service in services:
            if service['topic'] and service['host']:
                self._add((service['topic'], service['host']), now)

    def _look(self, member, entry):
        now, looks = self._monotonic(), self._looks
        if not self._asking.acquire(blocking=False):
            if entry is not None and not entry.pending and (
                    self._began < self.due + self._servers.timeout + 1):
                # It was fresh when somebody else set out to renew it.
                return entry
            if not self._asking.acquire(timeout=FIRST_READ):
                return entry or self._add(member, now)
        self._began = now
        try:
            entry = self._add(member, now)
            # Who waited for somebody's look need not look again.
            if self._monotonic() >= self.due and looks == self._looks:
                self._drop_unasked(now)
                self._ask(list(self.entries.values()))
                self._looks += 1
                self.due = self._monotonic() + self._refresh
            elif entry.pending:
                self._ask([e for e in list(self.entries.values())
                           if e.pending])
        finally:
            self._began = float('inf')
            self._asking.release()
        return entry

    @property
    def _refresh(self):
        return self._settings.conf.servicegroup.view_refresh

    def _add(self, member, now):
        try:
            return self.entries[member]
        except KeyError:
            key = wire.key(*member, prefix=self._servers.prefix)
            return self.entries.setdefault(member, Entry(
                member[1], '%s:%s' % member, key,
                [Sight(index) for index in self._servers.of(key)], now))

    def _list(self, list_services):
        """Take in who else will be asked about, to ask for all at once."""
        with self._listing_lock:
            listing = self._listing
            if listing is None:
                if self._monotonic() < self._list_after:
                    return
                self._listing_until = time.monotonic() + LISTING_WAIT
                listing = self._listing = threading.Thread(
                    target=self._list_now, args=(list_services,), daemon=True)
                try:
                    listing.start()
                except RuntimeError:
                    # No more threads. Each member costs a request then.
                    self._listing = None
                    return
        listing.join(max(0, self._listing_until - time.monotonic()))

    def _list_now(self, list_services):
        start = self._monotonic()
        try:
            self.expect(list_services(None))
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
        oldest = now - FORGET_AFTER * self._settings.service_down_time
        for member, entry in list(self.entries.items()):
            if entry.asked < oldest:
                del self.entries[member]

    def _ask(self, entries):
        """Ask every server for its part of the members, the well ones first.

        All of them together have the timeout of one: as much each, and what
        the first ones leave is for the others. A server that hangs doesn't
        keep a new reader from those that answer.
        """
        timeout = self._servers.timeout
        deadline = time.monotonic() + timeout
        by_server = collections.defaultdict(list)
        for entry in entries:
            for sight in entry.sights:
                by_server[sight.server].append((entry, sight))
        now = self._monotonic()
        order = sorted(
            (i for i in by_server if now >= self._status[i].retry_at),
            key=lambda i: (self._status[i].lost_at is not None, i))
        for done, index in enumerate(order):
            left = (deadline - time.monotonic()) / (len(order) - done)
            self._ask_one(index, by_server[index],
                          max(left, timeout / len(order)))
        for entry in entries:
            entry.pending = False

    def _ask_one(self, index, watched, timeout):
        server, status = self._servers[index], self._status[index]
        try:
            values = server.get([entry.key for entry, _ in watched], timeout)
        except servers.ServerLost as e:
            self._lost(server, status, e)
            return
        now = self._monotonic()
        wall = wire.stamp_of(self._utcnow())
        for entry, sight in watched:
            raw = values.get(entry.key)
            blind = (sight.looked is not None
                     and sight.looked < status.failed_at)
            if raw == sight.raw and raw is not None and not blind:
                sight.looked = now
                continue
            wrong = sight.see(raw, now, wall,
                              self._settings.service_down_time, blind)
            entry.moment = max((s.moment for s in entry.sights
                                if s.moment is not None), default=None)
            # In this order: see liveness.
            entry.changes += 1
            entry.up_until = 0
            if wrong:
                self._warn(entry, server, wrong)
            elif raw is not None:
                entry.warned = False
        status.retry_at = float('-inf')
        if status.lost_at is not None:
            LOG.info('The memcached server %(server)s can be read again after '
                     '%(length).1f s.',
                     {'server': server.name, 'length': now - status.lost_at})
            status.lost_at = None

    def _lost(self, server, status, error):
        now = self._monotonic()
        status.failed_at = now
        status.retry_at = now + max(self._servers.dead_retry, self._refresh)
        if status.lost_at is None:
            status.lost_at = now
            LOG.warning('The memcached server %(server)s cannot be read: '
                        '%(error)s. What was known of its services stands for '
                        '%(grace)s s; asking again every %(retry)s s.',
                        {'server': server.name, 'error': error,
                         'grace': self._settings.service_down_time,
                         'retry': self._servers.dead_retry})

    @staticmethod
    def _warn(entry, server, wrong):
        if not entry.warned:
            entry.warned = True
            LOG.warning('What the memcached server %(server)s holds under the '
                        'key %(key)s for the service %(name)s %(wrong)s. It '
                        'is passed over.',
                        {'server': server.name, 'key': entry.key,
                         'name': entry.name, 'wrong': wrong})

    # Answering

    def observe(self, entry):
        """Return the liveness.Member of an entry as the last look has it.

        Never blocks. A server that can't be read is judged by its last
        answer for ``service_down_time`` seconds and not at all after that.
        """
        now, changes = self._monotonic(), entry.changes
        down_time = self._settings.service_down_time
        blind = told = unreadable = False
        alive = newest = None
        for sight in self._telling(entry.sights):
            lost = self._status[sight.server].lost_at is not None
            if sight.looked is None or (
                    lost and now - sight.looked > down_time):
                blind = True
                continue
            unreadable |= sight.unreadable
            # Somebody alive would have written to it meanwhile.
            told |= not lost and (sight.missing is None or
                                  sight.looked - sight.missing > down_time)
            if sight.changed is None:
                continue
            if newest is None or sight.stamp > newest.stamp:
                newest = sight
            if not sight.left and sight.looked - sight.changed <= down_time:
                alive = sight
        host = entry.host
        if newest is None:
            doubt = None
            if not told:
                doubt = Reason.OUTAGE if blind else Reason.UNSEEN
            return Member(host, None, doubt=doubt, reason=Reason.UNREADABLE
                          if unreadable else Reason.NEVER)
        if newest.left:
            return Member(host, newest.changed, end=End.LEFT,
                          seen_at=newest.moment)
        if alive is not None:
            # Whatever becomes of the server; a change is seen by _ask_one.
            entry.up_until = min(alive.changed, alive.looked) + down_time
            if entry.changes != changes:
                # Another thread has seen something else meanwhile.
                entry.up_until = 0
            return Member(host, alive.changed, True, reason=Reason.HEARTBEAT,
                          seen_at=alive.moment)
        return Member(host, newest.changed, seen_at=newest.moment,
                      doubt=Reason.OUTAGE if blind and not told else None,
                      reason=Reason.UNREADABLE if unreadable
                      else Reason.SILENT)

    def group(self, group):
        """Return the liveness.Group of a topic as the last look has it."""
        members, others = [], []
        for (topic, _), entry in list(self.entries.items()):
            (members if topic == group else others).append(
                self.observe(entry))
        return liveness.Group(
            members, self._settings.service_down_time * 2 / 3,
            max((m.last for m in others if m.last is not None),
                default=None))

    def _telling(self, sights):
        """Return the sights that tell something which no other one does.

        What a lost server held is nothing to go by when a server that
        answers has that heartbeat, or a later one.
        """
        lost = [s for s in sights
                if self._status[s.server].lost_at is not None]
        if not lost or len(lost) == len(sights):
            return sights
        newest = max((s.stamp for s in sights if s not in lost
                      and s.raw is not None and s.stamp is not None),
                     default=None)
        if newest is None:
            return sights
        return [s for s in sights if s not in lost or (
            s.stamp is not None and s.stamp > newest)]
