# SPDX-License-Identifier: Apache-2.0

"""What is known of one member, and of one server."""

import datetime

from nova_servicegroup.liveness import End
from nova_servicegroup.memcached import wire

#: what a server holds that wasn't asked yet
NOT_POLLED = object()


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
        self.held = dict.fromkeys(homes, NOT_POLLED)   # by server index
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
                before is NOT_POLLED or status.lost_at is not None):
            # A server that was away brings back an old one.
            return None
        last = beat.stamp + self.offset
        ahead = min(last - now, beat.stamp - wall)
        wrong = None
        if ahead > tolerance:
            wrong = ('was written %.1f s in the future: keep the clocks of '
                     'all hosts in step; this is told once' % ahead)
        if before is not NOT_POLLED:
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
