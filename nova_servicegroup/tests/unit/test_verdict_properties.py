# SPDX-License-Identifier: Apache-2.0

"""The verdict against a simple model of a cell, in random histories.

The model knows what is true: which host lives, which process runs, whether
the message bus carries heartbeats. The rows of the services table know what
arrived. Readers judge by the rows.
"""

import random

import hypothesis
from hypothesis import strategies

from nova_servicegroup.integration import report_count
from nova_servicegroup import liveness
from nova_servicegroup.liveness import End
from nova_servicegroup.liveness import Question

INTERVAL, DOWN_TIME, GRACE = 10, 60, 600
LATE = DOWN_TIME * 2 / 3
RULES = liveness.Rules(down_time=DOWN_TIME, restart_grace=DOWN_TIME,
                       threshold=0.5, window=300, outage_grace=GRACE)
#: seconds between two questions of a reader to everybody
LOOK = 3


class Host:
    """One nova-compute and its row."""

    def __init__(self, name, phase):
        self.name = name
        self.beats_at = phase
        self.runs = True
        self.powered = True
        self.cut_off_until = float('-inf')
        self.row = (0, 0)            # (time of the stamp, report_count)
        self.died_at = None
        self._counter = None

    def start(self, now):
        self.runs = True
        last, count = self.row
        self._counter = report_count.Counter(
            count, now - last if count else None, LATE, now)
        self.beat(now)

    def beat(self, now):
        self.beats_at = now + INTERVAL
        if self.runs and self.powered and now >= self.cut_off_until:
            self.row = now, self._counter.heartbeat(now)
            self._counter.stored(now)

    def stop(self, now):
        if self.runs and self.powered and now >= self.cut_off_until:
            self.row = now, self._counter.last(End.STOPPED)
        self.runs = False

    def member(self, now):
        last, count = self.row
        end, gap = report_count.decode(count, last)
        return liveness.Member(self.name, last, abs(now - last) <= DOWN_TIME,
                               end, gap)


class Cell:
    """A cell in which time passes; every look is checked."""

    def __init__(self, size, seed):
        self.random = random.Random(seed)
        self.now = 1000.0
        self.hosts = [Host('host%d' % n, 1000 + n * INTERVAL / size)
                      for n in range(size)]
        for host in self.hosts:
            host.start(self.now)
        self.outage_until = float('-inf')
        self.last_return = float('-inf')

    def look(self):
        """Let readers ask about everybody; return {host: Verdict}."""
        verdicts = {}
        members = [host.member(self.now) for host in self.hosts]
        group = liveness.Group(members, LATE)
        # Another reader got its rows in another order, and some twice.
        other = members * 2
        self.random.shuffle(other)
        other = liveness.Group(other, LATE)
        for member in members:
            verdict = liveness.judge(member, lambda: group, self.now, RULES)
            assert verdict == liveness.judge(member, lambda: other, self.now,
                                             RULES)
            verdicts[member.host] = verdict
        return verdicts

    def run(self, seconds):
        """Let time pass, and hold what readers say against the truth."""
        end = self.now + seconds
        while self.now < end:
            self.now += 1
            for host in self.hosts:
                if self.now >= host.beats_at:
                    host.beat(self.now)
            if self.now % LOOK == 0:
                self.check(self.look())

    def check(self, verdicts):
        for host in self.hosts:
            verdict = verdicts[host.name]
            not_gone = liveness.answer(verdict, Question.IS_GONE, 'safe')
            place = liveness.answer(verdict, Question.MAY_PLACE, 'safe')
            if host.powered and host.runs:
                assert not_gone, (host.name, self.now, verdict)
            if report_count.decode(host.row[1], 0)[0] and not host.runs:
                assert place is False, (host.name, self.now, verdict)
            if (host.died_at is not None
                    and self.now - host.died_at > DOWN_TIME + INTERVAL
                    and self.now - self.last_return > DOWN_TIME + INTERVAL
                    and self.now > self.outage_until):
                assert not not_gone, (host.name, self.now, verdict)

    # What happens to it

    def lose_bus(self, seconds, spread):
        """Nobody is heard for a while; then they come back one by one.

        The time between two returns is shorter than service_down_time, and
        all are back within the grace: who takes longer is believed dead. So
        is who is away for service_down_time when most were not even late.
        """
        order = list(self.hosts)
        self.random.shuffle(order)
        step = min(spread, DOWN_TIME / 3, (GRACE - 3 * INTERVAL) / len(order))
        if seconds + step * len(order) + INTERVAL > DOWN_TIME:
            seconds = max(seconds, DOWN_TIME)
        back = self.now + seconds
        for number, host in enumerate(order):
            host.cut_off_until = back + number * step
        self.outage_until = max(h.cut_off_until for h in order) + INTERVAL
        self.last_return = self.outage_until
        self.run(self.outage_until - self.now + 1)

    def power_off(self, number):
        """A host dies; only few do, or nobody could tell it from an outage."""
        host = self.hosts[number % len(self.hosts)]
        if host.powered and sum(not h.powered or not h.runs for h in
                                self.hosts) * 3 < len(self.hosts) - 2:
            host.powered = host.runs = False
            host.died_at = self.now

    def power_on(self, number):
        host = self.hosts[number % len(self.hosts)]
        if not host.powered:
            host.powered, host.died_at = True, None
            host.start(self.now)
            # Nobody can tell it from one that was cut off like the others.
            self.last_return = max(self.last_return, self.now)

    def restart(self, number, seconds):
        host = self.hosts[number % len(self.hosts)]
        if host.runs and host.powered:
            host.stop(self.now)
            self.run(seconds)
            host.start(self.now)

    def stop_most(self):
        """A planned stop of 60 %, and their start after a while.

        Not beside a death: who was stopped stays in the counts of those that
        are silent, so that nothing that is done to one host turns another
        one down.
        """
        if not all(host.powered for host in self.hosts):
            return
        stopped = [h for h in self.hosts if h.runs][:len(self.hosts) * 6 // 10]
        for host in stopped:
            host.stop(self.now)
        self.run(2 * DOWN_TIME)
        for host in stopped:
            host.start(self.now)


EVENTS = strategies.one_of(
    strategies.tuples(strategies.just('run'), strategies.integers(1, 300)),
    strategies.tuples(strategies.just('lose_bus'),
                      strategies.integers(1, 1500),
                      strategies.floats(0, DOWN_TIME / 3)),
    strategies.tuples(strategies.just('power_off'),
                      strategies.integers(0, 19)),
    strategies.tuples(strategies.just('power_on'),
                      strategies.integers(0, 19)),
    strategies.tuples(strategies.just('restart'), strategies.integers(0, 19),
                      strategies.integers(1, 40)),
    strategies.tuples(strategies.just('stop_most')))


@hypothesis.settings(max_examples=60, deadline=None,
                     suppress_health_check=list(hypothesis.HealthCheck))
@hypothesis.example(size=6, seed=0, history=[
    ('power_off', 0), ('power_off', 1), ('lose_bus', 1, 8.0), ('run', 11),
    ('power_on', 0)])
@hypothesis.given(size=strategies.integers(3, 20),
                  seed=strategies.integers(0, 2 ** 32),
                  history=strategies.lists(EVENTS, max_size=8))
def test_no_living_member_is_down_and_no_ended_one_is_a_candidate(
        size, seed, history):
    cell = Cell(size, seed)
    cell.run(30)
    for name, *arguments in history:
        getattr(cell, name)(*arguments)
    cell.run(100)


MEMBERS = strategies.lists(
    strategies.builds(
        lambda host, age, end, gap, late: liveness.Member(
            'host%d' % host, 1e6 - age, age <= DOWN_TIME, end,
            gap and liveness.Gap(1e6 - age - gap, 1e6 - age - late)),
        strategies.integers(0, 30), strategies.floats(0, 2000),
        strategies.sampled_from([None, None, None, *End]),
        strategies.none() | strategies.floats(60, 500),
        strategies.floats(0, 59)),
    min_size=1, max_size=30, unique_by=lambda member: member.host)


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(members=MEMBERS, data=strategies.data())
def test_what_is_done_to_one_turns_no_other_down(members, data):
    """Forcing down isn't evidence; leaving, stopping and deleting aren't."""
    touched = data.draw(strategies.sampled_from(members))
    others = [m for m in members if m.host != touched.host]
    before = liveness.Group(members, LATE)
    end = data.draw(strategies.sampled_from(list(End)))
    after = liveness.Group(
        others + [touched._replace(end=end, alive=False)], LATE)
    for one in others:
        assert (liveness.judge(one, lambda: before, 1e6, RULES).state
                is liveness.judge(one, lambda: after, 1e6, RULES).state)


@hypothesis.given(
    count=strategies.one_of(strategies.none(), strategies.integers(),
                            strategies.text(), strategies.floats()),
    last=strategies.floats(-1e12, 1e12))
def test_any_report_count_can_be_read(count, last):
    end, gap = report_count.decode(count, last)
    assert end is None or isinstance(end, End)
    assert gap is None or gap.start < gap.end <= last


@hypothesis.settings(max_examples=300, deadline=None)
@hypothesis.given(
    start=strategies.integers(0, 2 ** 31 - 1),
    silent_for=strategies.none() | strategies.floats(0, 1e6),
    steps=strategies.lists(strategies.floats(0.5, 3000), max_size=40))
def test_a_count_grows_and_says_what_happened(start, silent_for, steps):
    counter = report_count.Counter(start, silent_for, LATE, 0)
    now, value = 0, start
    gap_end = 0 if (silent_for or 0) > LATE and report_count.decode(
        start, 0)[0] is None else None
    for step in [0, *steps]:
        now += step
        if step > LATE:
            gap_end = now
        new = counter.heartbeat(now)
        assert 0 <= new < 2 ** 31
        # It starts again some time; Nova then leaves one stamp out.
        assert new > value or value >= 2 ** 31 - 2 ** 25
        end, gap = report_count.decode(new, now)
        assert end is None
        if gap_end is not None and now - gap_end < 2 ** 19 - 3000:
            assert abs(gap.end - gap_end) <= len(steps) + 1
        counter.stored(now)
        value = new
    assert report_count.decode(counter.last(End.LEFT), now)[0] is End.LEFT
