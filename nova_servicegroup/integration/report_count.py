# SPDX-License-Identifier: Apache-2.0

"""What the db driver encodes in ``services.report_count``.

Nova updates ``last_seen_up`` when this number grows, and reads nothing else
from it. Readers also need to know since when heartbeats have arrived without a
gap, and whether one is the last. The table has no other column for that, so
the db driver encodes it in the number:

* bit 30 is set: the number was written by this driver;
* bits 24 to 29: a counter, so that every new state is a larger number;
* bits 0 to 23: below 0x800000, the member was silent and came back: four bits
  for the length of the gap, 19 for the seconds since its end, for six days.
  From 0x800000 on, there was no gap for longer than that. 0xFFFFFE is the last
  heartbeat of a service that was stopped, 0xFFFFFF of one that left.

Numbers without bit 30 are Nova's own. Nothing here blocks.
"""

from nova_servicegroup.liveness import End
from nova_servicegroup.liveness import Gap

_OURS = 1 << 30
_STEP = 1 << 24
_STEADY = 0x800000
_STOPPED = 0xFFFFFE
_LEFT = 0xFFFFFF
_ENDS = {_STOPPED: End.STOPPED, _LEFT: End.LEFT}
_END_CODES = {end: code for code, end in _ENDS.items()}
#: seconds since its end for which a gap is encoded
_SHOWN = 1 << 19
#: seconds; the shortest length of a gap, which can double 15 times
_UNIT = 32


def decode(count, last):
    """Return (End or None, Gap or None) of a row's number.

    :param count: the row's report_count, int or None
    :param last: time of the heartbeat that wrote it, seconds
    """
    if not isinstance(count, int) or count < _OURS:
        return None, None
    low = count % _STEP
    if low >= _STEADY:
        return _ENDS.get(low), None
    end = last - low % _SHOWN
    return None, Gap(end - (_UNIT << low // _SHOWN), end)


def is_last(count):
    """Return whether a number marks the last heartbeat of a service."""
    return count >= _OURS and count % _STEP in _ENDS


class Counter:
    """The number of one member, from one heartbeat to the next.

    :param count: the row's current number
    :param silent_for: seconds since the row's last heartbeat, None if there
        was none
    :param late_after: seconds of silence that make a gap
    :param now: monotonic time
    """

    def __init__(self, count, silent_for, late_after, now):
        self.value = count or 0
        self._late_after = late_after
        self._stored_at = now
        self._back_at = None        # when the last gap ended
        self._base = _STEADY        # low bits of the first heartbeat after it
        ended, _ = decode(self.value, 0)
        self._new_step = self.value < _OURS or ended is not None
        if ended is None and silent_for is not None:
            self._stored_at = now - silent_for
        low = self.value % _STEP
        if not self._new_step and low < _STEADY:
            # A process that was killed left a gap that still counts.
            self._base = low // _SHOWN * _SHOWN
            self._back_at = self._stored_at - low % _SHOWN

    def heartbeat(self, now):
        """Return the number to store with a heartbeat."""
        self._note_gap(now - self._stored_at, now)
        low = self.value % _STEP + 1
        if self._new_step:
            low = self._base
        elif self._back_at is not None and (
                now - self._back_at < _SHOWN and low < self._base + _SHOWN):
            low = max(low, self._base + int(now - self._back_at))
        else:
            self._back_at = None
            low = max(low, _STEADY)
            if low == _STOPPED:
                self._new_step, low = True, _STEADY
        self._set(low)
        return self.value

    def stored(self, now):
        """Note that a heartbeat is in the table."""
        self._stored_at = now

    def last(self, end):
        """Return the number of the last heartbeat; end: STOPPED or LEFT."""
        self._set(_END_CODES[end])
        return self.value

    def _note_gap(self, seconds, now):
        if seconds <= self._late_after:
            return
        code = 0
        while _UNIT << code < seconds and code < 15:
            code += 1
        # At each attempt until one is stored, as the gap grows.
        self._base = code * _SHOWN
        self._back_at = now
        self._new_step = True

    def _set(self, low):
        step = self.value // _STEP
        if self._new_step:
            # The first step follows the last one. Nova stores a smaller number
            # without updating last_seen_up, and updates it with the next one.
            self._new_step = False
            step += 1
        self.value = _OURS + step * _STEP % _OURS + low
