# SPDX-License-Identifier: Apache-2.0

"""From evidence to a verdict, and from a verdict to Nova's boolean.

Drivers deliver evidence: a ``Member`` for the service in question, and on
demand its ``Group``, all members with their last sign of life. ``judge`` turns
evidence into a verdict. It keeps no state, so all readers of the same evidence
reach the same verdict, also a reader that has just started. ``answer`` turns
the verdict into the answer for a caller.

Nothing in here blocks, logs or reads a clock. Times are seconds on any one
clock, the same for all members of a group.
"""

from __future__ import annotations

import bisect
import enum
import itertools
import math
import typing

#: the group whose hosts are evacuated: only its silence is doubted
GUARDED = 'compute'
#: the groups that services of Nova join
GROUPS = (GUARDED, 'conductor', 'scheduler')


class State(enum.Enum):
    """The state of a service.

    ``ENDED``: its process ended a short time ago, which proves that its host
    is alive. The scheduler places nothing there; for others it is up.
    """

    UP = 'up'
    ENDED = 'ended'
    DOWN = 'down'
    UNKNOWN = 'unknown'


class End(enum.Enum):
    """How a process ended, by its keeper's record or its last heartbeat."""

    STOPPED = 'it was stopped'
    KILLED = 'its process was killed or has crashed'
    HUNG = 'its process hangs'
    LEFT = 'it was taken out of the group'
    #: only in groups whose hosts are not evacuated, so proof is not needed
    GONE = 'its session ended, and the reason is not known'


class Reason(enum.Enum):
    """The reason for a verdict. The value is a text for people."""

    HEARTBEAT = 'a heartbeat within service_down_time'
    PRESENT = 'its ephemeral node is there'
    STARTING = 'created within service_down_time, no heartbeat yet'
    STOPPED = End.STOPPED.value
    KILLED = End.KILLED.value
    HUNG = End.HUNG.value
    LEFT = End.LEFT.value
    FORCED_DOWN = 'the operator forced it down'
    SILENT = 'no heartbeat within service_down_time'
    GONE = End.GONE.value
    NEVER = 'it was never seen'
    OUTAGE = 'the store cannot be reached'
    UNREADABLE = 'what the store holds cannot be read'
    RETURNING = 'it may still come back after a loss of the connection'
    UNSEEN = 'the store has lost its heartbeats, or never had one'
    CLOCKS = 'this reader cannot tell yet whether its own clock is right'
    MASS_FAILURE = 'too much of its group is silent at the same time'
    ALONE = 'nothing shows that any compute can report'


class Gap(typing.NamedTuple):
    """The last time without a sign of life of a member that came back."""

    start: float
    end: float


class Member(typing.NamedTuple):
    """The evidence of one member.

    :param host: name of the host, str
    :param last: time of the last sign of life; None if there was none;
        ``math.inf`` for one that lasts, such as a znode
    :param alive: whether the last sign of life proves life now
    :param end: a proven End after the last sign of life, or None
    :param gap: the last Gap, or None
    :param doubt: a Reason for UNKNOWN that overrides the rest, or None
    :param reason: the Reason if it is up, or down and not ended
    :param seen_at: the last sign of life as an aware UTC datetime, or None
    """

    host: str
    last: float | None
    alive: bool = False
    end: End | None = None
    gap: Gap | None = None
    doubt: Reason | None = None
    reason: Reason = Reason.SILENT
    seen_at: typing.Any = None


class Rules(typing.NamedTuple):
    """The options that ``judge`` uses; seconds, except ``threshold``."""

    down_time: float        # [DEFAULT] service_down_time
    restart_grace: float    # [servicegroup] restart_grace
    threshold: float        # [servicegroup] mass_failure_threshold
    window: float           # [servicegroup] mass_failure_window
    outage_grace: float     # [servicegroup] outage_grace


class Silence(typing.NamedTuple):
    """How many members are silent together with one of them.

    :param base: members that gave a sign of life shortly before it fell
        silent, or later; itself included
    :param silent: members of ``base`` that fell silent with it and are late
    :param returned: members that fell silent with it and came back
    :param first_return: when the first of these came back, or None
    :param last_return: when the last of these came back, or None
    :param before: members that came back shortly before it fell silent or was
        late, or later from a silence that began long before
    :param last_before: when the last of these came back, or None
    """

    base: int
    silent: int
    returned: int
    first_return: float | None
    last_return: float | None
    before: int = 0
    last_before: float | None = None

    def is_massive(self, threshold):
        """Return whether a common cause is likelier than lost hosts."""
        together = self.silent + self.returned
        return together >= max(2, threshold * self.base)

    def with_before(self):
        """Return a Silence whose ``returned`` includes ``before``.

        The times of ``before`` are used only if no member came back later.
        """
        if not self.returned:
            return self._replace(
                returned=self.before, before=0,
                first_return=self.last_before, last_return=self.last_before)
        return self._replace(returned=self.returned + self.before, before=0)


class Verdict(typing.NamedTuple):
    """A State, its Reason, and the evidence that people want to see.

    :param seen_at: the last sign of life, aware UTC datetime or None
    :param silence: the Silence that was checked, None if none was needed
    """

    state: State
    reason: Reason
    seen_at: typing.Any = None
    silence: Silence | None = None


class Group:
    """All members of a group that report by one path.

    Includes members that left, ended or were deleted: a missing one would
    change the verdict on others.

    :param members: the Members; of several with one host the latest is used
    :param late_after: seconds since the last sign of life after which a
        member is late
    :param path_seen: when a service outside the group last reported by the
        same path, or None
    """

    def __init__(self, members, late_after, path_seen=None):
        self.late_after = late_after
        self.path_seen = path_seen
        latest = {}
        for member in members:
            known = latest.get(member.host)
            if member.last is not None and (
                    known is None or member.last > known.last):
                latest[member.host] = member
        self.members = latest
        self._lasts = sorted(m.last for m in latest.values())
        self._gaps = None

    def silence(self, last, now, rules):
        """Return the Silence of a member whose last sign of life is given."""
        oldest, youngest = last - rules.down_time, last + rules.window
        base = len(self._lasts) - bisect.bisect_left(self._lasts, oldest)
        # A time in the future counts as late, too: then the clock of this
        # reader is wrong.
        silent = self._count(oldest, min(youngest, now - self.late_after))
        silent += self._count(max(oldest, now + self.late_after), youngest)
        if self._gaps is None:
            self._gaps = _Gaps([
                m.gap for m in self.members.values() if m.gap is not None
                and (m.last == math.inf
                     or abs(now - m.last) < self.late_after)])
        # A member that fell silent with it can't be back before both are late.
        # An earlier return is from another silence, maybe just before a switch
        # failed: the last heartbeat is older than the failure.
        late = last + self.late_after
        returned, first, latest = self._gaps.over(oldest, late, youngest)
        before, last_before = self._gaps.ended(oldest, late)
        if returned and first is None:
            # All of them had been silent for longer.
            before, last_before = before + returned, latest
            returned, latest = 0, None
        return Silence(base, silent, returned, first, latest,
                       before, last_before)

    def _count(self, start, end):
        """Return how many last signs are in start <= last <= end."""
        return max(0, bisect.bisect_right(self._lasts, end) -
                   bisect.bisect_left(self._lasts, start))


class _Gaps:
    """The gaps of returned members, sorted for fast lookups."""

    def __init__(self, gaps):
        gaps.sort()
        self._starts = [gap.start for gap in gaps]
        # The latest end of this gap and of all that began before it.
        self._latest = list(itertools.accumulate(
            (gap.end for gap in gaps), max))
        self._by_end = sorted(gaps, key=lambda gap: gap.end)
        self._ends = [gap.end for gap in self._by_end]

    def ended(self, oldest, last):
        """Return (count, last end) of the gaps that ended in between."""
        first = bisect.bisect_right(self._ends, oldest)
        after = bisect.bisect_right(self._ends, last)
        return after - first, self._ends[after - 1] if after > first else None

    def over(self, oldest, last, youngest):
        """Return (count, first end, last end) of the gaps over a moment.

        They began until ``youngest`` and ended after ``last``. The first end
        is of a gap that may have begun at ``oldest`` or later, or None: db may
        report a gap as twice as long as it was.
        """
        began = bisect.bisect_right(self._starts, youngest)
        ended = bisect.bisect_right(self._ends, last)
        # Gaps that ended by then also began by then.
        if began <= ended:
            return 0, None, None
        first = next((gap.end for gap in self._by_end[ended:]
                      if gap.start <= youngest
                      and gap.start + gap.end >= 2 * oldest), None)
        return began - ended, first, self._latest[began - 1]


def judge(member, group, now, rules):
    """Return the Verdict on a member.

    :param member: its Member
    :param group: returns its Group, called only if it is silent; None for a
        group whose hosts are not evacuated
    :param now: the time, on the clock of the evidence
    :param rules: Rules
    """
    if member.doubt is not None:
        return Verdict(State.UNKNOWN, member.doubt, member.seen_at)
    if member.end is End.LEFT:
        return Verdict(State.DOWN, Reason.LEFT, member.seen_at)
    if member.end is not None:
        recent = abs(now - member.last) < rules.restart_grace
        return Verdict(State.ENDED if recent else State.DOWN,
                       Reason[member.end.name], member.seen_at)
    if member.alive:
        return Verdict(State.UP, member.reason, member.seen_at)
    if member.last is None or group is None:
        return Verdict(State.DOWN, member.reason, member.seen_at)
    group = group()
    latest = group.members.get(member.host)
    if latest is not None and latest.last > member.last:
        # The caller's record is outdated.
        return judge(latest, lambda: group, now, rules)
    silence = group.silence(member.last, now, rules)
    if not silence.is_massive(rules.threshold):
        # It may be one of the last members of an outage. Only then do earlier
        # returns count.
        silence = silence.with_before()
    doubt = _doubt(group, member, silence, now, rules)
    if doubt is None:
        return Verdict(State.DOWN, member.reason, member.seen_at, silence)
    return Verdict(State.UNKNOWN, doubt, member.seen_at, silence)


def _doubt(group, member, silence, now, rules):
    """Return the Reason to doubt that a silent member is lost, or None."""
    if rules.threshold > 1:
        return None
    if silence.base <= 1:
        shown = group.path_seen is not None and (
            group.path_seen > member.last + group.late_after)
        return None if shown else Reason.ALONE
    if not silence.is_massive(rules.threshold):
        return None
    if silence.returned and (
            now - silence.last_return >= rules.down_time
            or now - silence.first_return >= rules.outage_grace):
        # The others came back, and it had the time to do so.
        return None
    return Reason.MASS_FAILURE


class Question(enum.Enum):
    """The question that a caller asks with ``service_is_up``."""

    MAY_PLACE = 'may I place work there?'
    IS_GONE = 'may I act as if the host were gone?'


def answer(verdict, question, policy):
    """Return the answer for a caller: True, False, or None.

    None (MAY_PLACE only): use this host if there is no better one.

    :param policy: the value of ``[servicegroup] outage_policy``
    """
    if verdict.state is State.UNKNOWN:
        if policy == 'safe' and question is Question.MAY_PLACE:
            return None
        return policy != 'down'
    if verdict.state is State.ENDED:
        return question is Question.IS_GONE
    return verdict.state is State.UP
