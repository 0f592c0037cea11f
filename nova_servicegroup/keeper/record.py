# SPDX-License-Identifier: Apache-2.0

"""The record of a host: its last incarnation, and how that ended.

Each host of the group ``compute`` has one persistent node besides its
ephemeral one, ``<prefix>/@last/compute/<host>``. A member's keeper writes
that its member joined, was stopped, left, was killed or hangs; readers write
only that it is missed, and the first write sets the time. A member's node
overrides its record. Other clients may write records, too, so the parser is
strict: an invalid record proves nothing.

Times are ZooKeeper's, those of the node's changes, and not those of a host.
"""

from __future__ import annotations

import re
import typing

JOINED = 'joined'
MISSED = 'missed'
#: the process ended; written by its own keeper
ENDS = frozenset(['stopped', 'left', 'killed', 'hung'])
STATES = ENDS | {JOINED, MISSED}
#: ends after which only a new node is followed by another state that matters;
#: a process that hangs may still stop in order
FINAL = ENDS - {'hung'}

# Each reader reads a record after each end, so its data is short.
_DATA = re.compile(
    rb'([0-9a-f]{16}) (%s)(?: age=(\d{1,12}(?:\.\d)?))?'
    rb'(?: gap=(-?\d{1,15}),(-?\d{1,15}))?'
    % '|'.join(sorted(STATES)).encode())
#: milliseconds since 1970, of up to 15 digits; a float tells them all apart
_LATEST = 10 ** 15 - 1


class Record(typing.NamedTuple):
    """A record as read from ZooKeeper.

    :param token: the incarnation's token, as in the name of its node
    :param state: one of STATES
    :param last: the last sign of life: when it ended or was first missed,
        seconds since 1970; for a joined one when that was written
    :param gap: (when it was first missed, when it returned), seconds since
        1970, of its last silence; None if there is none
    :param written: when the node was last changed, seconds since 1970
    :param version: the node's version, for conditional writes
    :param created: zxid of the node's creation: tells a new node of the same
        path, whose versions start again
    """

    token: str
    state: str
    last: float
    gap: tuple | None
    written: float
    version: int
    created: int

    @property
    def ended(self):
        return self.state in ENDS


def parse(raw, stat):
    """Return the Record of a node's data and stat; None if it is invalid."""
    # ZooKeeper has nodes without data, which kazoo returns as None.
    match = _DATA.fullmatch(raw or b'')
    if match is None:
        return None
    token, state, age, *gap = match.groups()
    gap = None if None in gap else list(map(int, gap))
    if gap is not None:
        # Times up to 0 are relative to this write.
        gap = [time + stat.mtime if time <= 0 else time for time in gap]
    if not all(0 <= time <= _LATEST for time in [*(gap or ()), stat.mtime]):
        return None
    return Record(token.decode(), state.decode(),
                  stat.mtime / 1000 - float(age or 0),
                  gap and (gap[0] / 1000, gap[1] / 1000),
                  stat.mtime / 1000, stat.version, stat.czxid)


def joined(token, before, silent=None):
    """Return the data of a record for a member that joins.

    :param before: the previous Record, or None
    :param silent: seconds without a sign of life, for a member that has lost
        its session
    """
    gap = _gap(before)
    if silent is not None:
        gap = [-_ms(silent), 0]
    elif before is not None and before.state == MISSED:
        gap = [_ms(before.last), 0]
    return _encode(token, JOINED, gap)


def ended(token, state, age, before):
    """Return the data for a member whose process ended.

    :param state: one of ENDS
    :param age: seconds since its last sign of life
    """
    return _encode(token, state, _gap(before), age)


def missed(before):
    """Return the data for a member that is missed as of this write."""
    return _encode(before.token, MISSED, _gap(before))


def _gap(before):
    return before and before.gap and [_ms(time) for time in before.gap]


def _ms(seconds):
    return min(_LATEST, max(0, round(seconds * 1000)))


def _encode(token, state, gap, age=0):
    text = '%s %s' % (token, state)
    if age >= 0.05:
        text += ' age=%.1f' % age
    if gap:
        text += ' gap=%d,%d' % tuple(gap)
    return text.encode()
