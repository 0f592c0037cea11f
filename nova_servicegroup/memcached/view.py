# SPDX-License-Identifier: Apache-2.0

"""The ``View``: what one process knows of the heartbeats in memcached.

Each member has a ``MemberState``: its values on the servers, and the newest
heartbeat among these. Its time is from this reader's monotonic clock if this
reader saw the value change, otherwise from the writer's wall clock.

A missing value doesn't mean a lost host: memcached may have been flushed or
restarted. So the last observed heartbeat still counts, and a member that was
never seen is down only after a server has answered for ``service_down_time``.
"""

import typing

from oslo_log import log as logging

from nova_servicegroup import exception
from nova_servicegroup import liveness
from nova_servicegroup.liveness import End
from nova_servicegroup.liveness import Gap
from nova_servicegroup.liveness import Member
from nova_servicegroup.liveness import Reason
from nova_servicegroup.memcached import observation
from nova_servicegroup.memcached import polling
from nova_servicegroup.memcached.polling import LATE
from nova_servicegroup.memcached import wire

LOG = logging.getLogger(__name__)


class Clocks(typing.NamedTuple):
    """The differences of other hosts' clocks from this one, in seconds.

    :param low: the lowest known difference, 0 at most
    :param high: the highest known difference, 0 at least
    :param plausible: at least one heartbeat looks recent
    """

    low: float
    high: float
    plausible: bool

    def may_hide(self, age, down_time):
        """Return whether a wrong clock may hide that a heartbeat is recent.

        :param age: of the heartbeat by this reader's clock, seconds
        """
        return (not self.plausible or age < 0
                or self.low - down_time <= age <= self.high + down_time)


class View(polling.Poller):
    """The evidence of the members, from the polled values.

    :param servers: a configured.Servers
    :param settings: a conf.Settings
    :param monotonic: clock for ages, seconds as float
    :param utcnow: wall clock, naive UTC datetime
    :param guarded: the topic whose absent members are doubted if few report
    :param doubted: true while a group is in doubt; only kept for the driver
    """

    def __init__(self, servers, settings, monotonic, utcnow, guarded=None,
                 doubted=()):
        super().__init__(servers, settings, monotonic, utcnow)
        self.doubted = doubted
        self._guarded = guarded
        self._few_logged = False       # logged that few members report

    def member(self, member, list_members):
        """Return the MemberState of a member, at most ``view_refresh`` old.

        Blocks for a poll if it is older, and for a listing of Nova's services
        (LISTING_WAIT at most) if the member is new. Doesn't block if another
        thread is polling and the state is recent.

        :param member: (topic, host)
        :param list_members: returns (topic, host, whether it is deleted) of
            all services; called in its own thread. None: don't list
        """
        state = self.members.get(member)
        if state is None:
            if list_members is not None:
                self._list(list_members)
            state = self._add(member)
        if state.pending or self._monotonic() >= self.due:
            state.queried_at = self._monotonic()
            self._refresh(state)
        # About the time of this query; saves a clock reading.
        state.queried_at = self.due
        return state

    def group(self, topic, list_members):
        """Return the liveness.Group of a topic, with deleted services.

        Blocks as ``member`` does.

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
                # This reader doesn't know whether it is silent.
                continue
            member = self.observe(state)
            if state.topic == topic:
                members.append(member)
            elif member.last is not None and (
                    member.gap is None
                    or member.last - member.gap.end >= down_time):
                # A member just back doesn't prove that others had the time to.
                path_seen = max(member.last, path_seen or member.last)
        return liveness.Group(members, down_time * LATE, path_seen)

    def renew(self, list_members):
        """List Nova's services and poll; blocks as ``member`` does."""
        self._list(list_members)
        self._refresh()

    def now(self):
        """Return the time of the evidence; it stops while no server answers.

        So the state at the loss of the last server stays valid.
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
        """Return the liveness.Member of a state, as of the last poll.

        Never blocks. If none of a member's servers can be read, its last
        state stays valid for ``service_down_time`` seconds, then it is
        doubted.
        """
        changes = state.changes
        down_time = self._settings.service_down_time
        now, doubt = self.now(), None
        if self._is_lost(state):
            polled = [self._status[i].polled_at for i in state.held
                      if state.held[i] is not observation.NOT_POLLED]
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
            # A heartbeat is not written after it was seen.
            last, alive = state.first_seen, False
        reason = Reason.HEARTBEAT if alive else Reason.SILENT
        if alive and state.end is None:
            if doubt is None:
                # Even if the server is lost; _poll_one resets it on changes.
                state.up_until = min(last, now) + down_time
                if state.changes != changes:
                    # Another thread has seen a change meanwhile.
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
        """Return (the Reason for DOWN, the Reason for doubt or None).

        :param state: of a member without any heartbeat
        """
        if state.garbled_at is not None:
            return Reason.UNREADABLE, (
                Reason.UNREADABLE if self._garbled(state, now) else None)
        down_time = self._settings.service_down_time
        # A live member would have reported to such a server by now.
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
        """Return whether an unreadable value was read recently."""
        return state.garbled_at is not None and (
            now - state.garbled_at <= self._settings.service_down_time)

    def _may_return(self, state, now):
        """Return whether a silent member had no time to report.

        True shortly after this reader was cut off from all of its servers, if
        it was alive until then.
        """
        down_time = self._settings.service_down_time
        return all(
            cut_off is not None and now - cut_off[1] <= down_time
            and cut_off[0] - state.last <= down_time
            for cut_off in (self._status[i].cut_off for i in state.held))

    def _most_report(self, topic):
        """Return whether at least half of a topic's services have reported.

        If not, this reader probably reads another memcached than they write
        to.
        """
        return self._once_a_poll(topic, lambda: self._count_reporting(topic))

    def _count_reporting(self, topic):
        if not self.listed:
            return False
        states = list(self.members.values())
        listed = [s for s in states if s.topic == topic and s.listed]
        reporting = sum(state.last is not None for state in listed)
        if len(listed) == 1:
            # Other groups show whether this is the right memcached.
            reporting = any(state.last is not None for state in states)
        most = 2 * reporting >= len(listed)
        if not most and not self._few_logged:
            LOG.error('Only %(reporting)d of %(listed)d services %(topic)s '
                      'have ever reported to the memcached servers that are '
                      'asked here, so nothing can be told of the others. Is '
                      '[cache] memcache_servers the same on all nodes?',
                      {'topic': topic, 'reporting': reporting,
                       'listed': len(listed)})
        self._few_logged = not most
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
