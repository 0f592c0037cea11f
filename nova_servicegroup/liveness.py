# SPDX-License-Identifier: Apache-2.0

"""From evidence to a verdict, and from a verdict to Nova's boolean.

Drivers deliver evidence: a ``Member`` for the service that somebody asks
about, and on demand its ``Group``, all members with their last sign of life.
``judge`` turns evidence into a verdict. It keeps nothing in mind, so every
reader of the same evidence comes to the same verdict, also a reader that
started this second. ``answer`` turns the verdict into what a caller is told.

Nothing in here blocks, logs or reads a clock. Times are seconds on any one
clock, the same for all members of a group.
"""

from __future__ import annotations

import bisect
import enum
import itertools
import math
import typing

#: the group whose members are evacuated, so that its silence is doubted
GUARDED = 'compute'
#: the groups that services of Nova join
GROUPS = (GUARDED, 'conductor', 'scheduler')


class State(enum.Enum):
    """What is known of a service.

    ``ENDED``: its process ended a short time ago. That is proof that its host
    lives, so it is no place for new instances, and nothing more.
    """

    UP = 'up'
    ENDED = 'ended'
    DOWN = 'down'
    UNKNOWN = 'unknown'


class End(enum.Enum):
    """How a process ended, as its own keeper or its last heartbeat says."""

    STOPPED = 'it was stopped'
    KILLED = 'its process was killed or has crashed'
    HUNG = 'its process hangs'
    LEFT = 'it was taken out of the group'
    #: for groups whose hosts nobody evacuates, and so nobody needs proof
    GONE = 'its session ended and nothing tells why'


class Reason(enum.Enum):
    """Why the verdict is what it is. The text is for people."""

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
    """The last time in which a member that is back gave no sign of life."""

    start: float
    end: float


class Member(typing.NamedTuple):
    """The evidence of one member.

    :param host: name of the host, str
    :param last: time of the last sign of life; None: there never was one.
        ``math.inf`` for a sign that lasts, such as a node of ZooKeeper
    :param alive: the last sign of life is proof of life now
    :param end: an End that is proven and came after the last sign of life
    :param gap: a Gap, if the last one is known
    :param doubt: a Reason why this reader cannot tell, whatever the rest says
    :param reason: the Reason to give if it is up, or down and not ended
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
    """The times and shares to judge by. Seconds, but for ``threshold``."""

    down_time: float        # [DEFAULT] service_down_time
    restart_grace: float    # [servicegroup] restart_grace
    threshold: float        # [servicegroup] mass_failure_threshold
    window: float           # [servicegroup] mass_failure_window
    outage_grace: float     # [servicegroup] outage_grace


class Silence(typing.NamedTuple):
    """How many members are silent together with one of them.

    :param base: members that gave a sign of life shortly before it fell
        silent, or later; itself included
    :param silent: those of them that fell silent with it and are late now
    :param returned: those that were silent with it and are back
    :param first_return: when the first one came back, None if nobody did
    :param last_return: when the last one did
    :param before: those that were silent, too, and were back shortly before
        it fell silent, or before it was late; or that came back after it from
        a silence that began long before
    :param last_before: when the last one of these was back
    """

    base: int
    silent: int
    returned: int
    first_return: float | None
    last_return: float | None
    before: int = 0
    last_before: float | None = None

    def is_massive(self, threshold):
        """Return whether so many at once are more than some lost hosts."""
        together = self.silent + self.returned
        return together >= max(2, threshold * self.base)

    def with_before(self):
        """Return the Silence that counts those who were back before, too.

        Theirs is the word on whether it had the time to come back only if
        nobody came back later.
        """
        if not self.returned:
            return self._replace(
                returned=self.before, before=0,
                first_return=self.last_before, last_return=self.last_before)
        return self._replace(returned=self.returned + self.before, before=0)


class Verdict(typing.NamedTuple):
    """A State, its Reason, and the evidence that people want to see.

    :param seen_at: the last sign of life, aware UTC datetime or None
    :param silence: the Silence that was looked at, None if there was no need
    """

    state: State
    reason: Reason
    seen_at: typing.Any = None
    silence: Silence | None = None


class Group:
    """All members of a group that report by one path, in the order of time.

    Who left, ended, or whose record was deleted is among them: counts that
    forget somebody change the verdict on somebody else.

    :param members: the Members; of several with one host the latest counts
    :param late_after: age of the last sign of life from which on a member
        is late, in seconds
    :param path_seen: when somebody outside of the group last reported by the
        same path, None if nobody did
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
        # Late is who is too old, or comes from the future by as much: then
        # it is this reader's clock that is wrong.
        silent = self._count(oldest, min(youngest, now - self.late_after))
        silent += self._count(max(oldest, now + self.late_after), youngest)
        if self._gaps is None:
            self._gaps = _Gaps([
                m.gap for m in self.members.values() if m.gap is not None
                and (m.last == math.inf
                     or abs(now - m.last) < self.late_after)])
        # Who fell silent with it can't be back before both are late. Whoever
        # was, came back from a silence of its own, maybe just before a switch
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
    """The gaps of those that are back, for thousands of questions."""

    def __init__(self, gaps):
        gaps.sort()
        self._starts = [gap.start for gap in gaps]
        # The latest end of this gap and of all that began before it.
        self._latest = list(itertools.accumulate(
            (gap.end for gap in gaps), max))
        self._by_end = sorted(gaps, key=lambda gap: gap.end)
        self._ends = [gap.end for gap in self._by_end]

    def ended(self, oldest, last):
        """Return (how many, last end) of gaps that ended in between."""
        first = bisect.bisect_right(self._ends, oldest)
        after = bisect.bisect_right(self._ends, last)
        return after - first, self._ends[after - 1] if after > first else None

    def over(self, oldest, last, youngest):
        """Return (how many, first end, last end) of gaps over a moment.

        Those that began until ``youngest`` and ended after ``last``. The first
        end is that of one that may have begun at ``oldest`` or later, None
        without: a gap may be told as twice as long as it was (db).
        """
        began = bisect.bisect_right(self._starts, youngest)
        ended = bisect.bisect_right(self._ends, last)
        # Whatever ended until then had begun, too.
        if began <= ended:
            return 0, None, None
        first = next((gap.end for gap in self._by_end[ended:]
                      if gap.start <= youngest
                      and gap.start + gap.end >= 2 * oldest), None)
        return began - ended, first, self._latest[began - 1]


def judge(member, group, now, rules):
    """Return the Verdict on a member.

    :param member: its Member
    :param group: called without arguments for its Group, and only if it is
        silent; None for a group whose members nobody evacuates
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
        # The caller's record is old; the member was heard of since.
        return judge(latest, lambda: group, now, rules)
    silence = group.silence(member.last, now, rules)
    if not silence.is_massive(rules.threshold):
        # It may be one of the last of an outage. Only then do returns from
        # before it fell silent say anything about its own.
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
        # The others came back, and it had the time to.
        return None
    return Reason.MASS_FAILURE


class Question(enum.Enum):
    """What a caller wants to know by ``service_is_up``."""

    MAY_PLACE = 'may I place work there?'
    IS_GONE = 'may I act as if the host were gone?'


def answer(verdict, question, policy):
    """Return what a caller is told: True, False, or None.

    None is for MAY_PLACE only: take this host if there is no better one.

    :param policy: the value of ``[servicegroup] outage_policy``
    """
    if verdict.state is State.UNKNOWN:
        if policy == 'safe' and question is Question.MAY_PLACE:
            return None
        return policy != 'down'
    if verdict.state is State.ENDED:
        return question is Question.IS_GONE
    return verdict.state is State.UP
