# SPDX-License-Identifier: Apache-2.0

"""The observed state of one member, and of one server."""

import datetime

from nova_servicegroup.liveness import End
from nova_servicegroup.memcached import wire

#: the value on a server that was not polled yet
NOT_POLLED = object()


class MemberState:
    """What this reader has observed of one member.

    ``stamp`` and ``moment`` are times of the writer's wall clock, all others
    of this reader's monotonic clock.
    """

    __slots__ = ('topic', 'host', 'key', 'held', 'queried_at', 'first_seen',
                 'listed', 'pending', 'warned', 'stamp', 'moment', 'offset',
                 'last', 'confirmed', 'gap', 'end', 'garbled_at', 'changes',
                 'up_until')

    def __init__(self, topic, host, key, indices, now):
        self.topic = topic
        self.host = host
        self.key = key
        self.held = dict.fromkeys(indices, NOT_POLLED)  # by server index
        self.queried_at = now    # when it was last queried
        self.listed = False      # it is in Nova's list of services
        self.pending = True      # it was not polled yet
        self.warned = False      # a problem with its value was logged
        self.stamp = None        # of the last heartbeat, seconds since 1970
        self.moment = None       # the same, aware UTC, or None
        self.offset = None       # this clock minus the writer's
        self.first_seen = None   # when its first heartbeat was seen
        self.last = None         # when the last heartbeat was written
        self.confirmed = False   # this reader saw a new heartbeat arrive
        self.gap = None          # the last liveness.Gap, writer's clock
        self.end = None          # its liveness.End, or None
        self.garbled_at = None   # when an unreadable value was read
        self.changes = 0         # number of observed changes
        self.up_until = 0        # certainly up before this time

    def update(self, index, raw, status, now, wall, tolerance):
        """Process a changed value of one server.

        :param raw: (flags, bytes), or None if the value is missing
        :param status: the ServerStatus of that server
        :param now: monotonic
        :param wall: this reader's wall clock, seconds since 1970
        :param tolerance: seconds by which clocks may differ without a warning
        :returns: a problem with the value, str, or None
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
            # A copy on another server, or another worker has left.
            self.gap = self.gap and beat.gap
            return None
        elif beat.stamp == self.stamp and beat.end is End.LEFT:
            # The operator removed it: this is not a sign of life.
            self.end = End.LEFT
            return None
        elif beat.stamp < self.stamp and (
                before is NOT_POLLED or status.lost_at is not None):
            # An old heartbeat, on a server that was not readable before.
            return None
        last = beat.stamp + self.offset
        ahead = min(last - now, beat.stamp - wall)
        problem = None
        if ahead > tolerance:
            problem = ('was written %.1f s in the future: keep the clocks of '
                       'all hosts in step; this is told once' % ahead)
        if before is not NOT_POLLED:
            self.confirmed = True
            if not status.polled_at <= last <= now:
                # The writer's clock is off: it changed between two polls.
                last, self.offset = now, now - beat.stamp
        elif self.confirmed:
            if problem:
                return problem
            last = min(last, now)
        self.last, self.stamp = last, beat.stamp
        self.gap, self.end = beat.gap, beat.end
        if beat.moment is not None and (self.confirmed or not problem):
            # A heartbeat is not written after it was seen.
            self.moment = min(beat.moment, datetime.datetime.fromtimestamp(
                wall, datetime.timezone.utc))
        return problem


class ServerStatus:
    """Whether a server answers this reader. Times are monotonic.

    ``polled_at``: when it last answered for all members, or None.
    ``lost_at``: since when it doesn't answer, or None.
    ``retry_at``: when it is asked again.
    ``watched_from``: since when no poll failed and no value vanished.
    ``cut_off``: (start, end) of the last time in which this reader may have
    missed heartbeats on it, or None.
    """

    __slots__ = ('polled_at', 'lost_at', 'retry_at', 'watched_from', 'cut_off')

    def __init__(self):
        self.polled_at = None
        self.lost_at = None
        self.retry_at = float('-inf')
        self.watched_from = None
        self.cut_off = None
