# SPDX-License-Identifier: Apache-2.0

"""From evidence to a verdict, and to the answer for Nova."""

import math
import random
import time

import pytest

from nova_servicegroup import liveness
from nova_servicegroup.liveness import End
from nova_servicegroup.liveness import Gap
from nova_servicegroup.liveness import Question
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State

RULES = liveness.Rules(down_time=60, restart_grace=60, threshold=0.5,
                       window=300, outage_grace=600)
NOW = 100000.0


def member(host, age, **how):
    how.setdefault('alive', age <= 60)
    return liveness.Member(host, NOW - age, **how)


def fleet(*parts):
    """Return members; each part is (how many, age of the last sign, more)."""
    members = []
    for count, age, *how in parts:
        members += [member('host%d' % (len(members) + n), age, **dict(*how))
                    for n in range(count)]
    return members


def judge(members, which=0, rules=RULES, now=NOW, **how):
    group = liveness.Group(members, 40, **how)
    return liveness.judge(members[which], lambda: group, now, rules)


def state(members, which=0, **how):
    return judge(members, which, **how).state


class TestOneMember:

    def test_a_living_one_is_up_and_its_group_is_not_looked_at(self):
        assert liveness.judge(member('a', 60), None, NOW,
                              RULES).state is State.UP

    def test_what_the_reader_cannot_tell_is_unknown(self):
        verdict = liveness.judge(
            member('a', 5, doubt=Reason.OUTAGE), None, NOW, RULES)
        assert (verdict.state, verdict.reason) == (
            State.UNKNOWN, Reason.OUTAGE)

    @pytest.mark.parametrize('end', [End.STOPPED, End.KILLED, End.HUNG])
    @pytest.mark.parametrize('age, expected', [
        (0, State.ENDED), (59, State.ENDED), (60, State.DOWN)])
    def test_an_ended_process_is_no_lost_host_for_a_while(
            self, end, age, expected):
        verdict = liveness.judge(member('a', age, end=end), None, NOW, RULES)
        assert (verdict.state, verdict.reason) == (expected, Reason[end.name])

    def test_the_grace_may_be_nothing(self):
        assert liveness.judge(
            member('a', 0, end=End.KILLED), None, NOW,
            RULES._replace(restart_grace=0)).state is State.DOWN

    def test_who_was_taken_out_is_down_at_once(self):
        assert liveness.judge(member('a', 0, end=End.LEFT), None, NOW,
                              RULES).state is State.DOWN

    def test_nobody_evacuates_other_groups(self):
        assert liveness.judge(member('a', 61), None, NOW,
                              RULES).state is State.DOWN

    def test_who_was_never_seen_is_down(self):
        verdict = liveness.judge(
            liveness.Member('a', None, reason=Reason.NEVER),
            lambda: liveness.Group([], 40), NOW, RULES)
        assert (verdict.state, verdict.reason) == (State.DOWN, Reason.NEVER)

    def test_a_record_that_is_old_does_not_make_a_member_old(self):
        # It beat after the caller had read its record.
        members = fleet((1, 1), (2, 0))
        assert liveness.judge(
            member('host0', 61), lambda: liveness.Group(members, 40), NOW,
            RULES).state is State.UP


class TestTogether:
    """The rows of what simpler rules get wrong, and the ordinary cases."""

    @pytest.mark.parametrize('silent, living, expected', [
        (1, 1, State.DOWN), (1, 2, State.DOWN), (2, 3, State.DOWN),
        (499, 501, State.DOWN), (12, 988, State.DOWN),
        (500, 500, State.UNKNOWN), (8, 1, State.UNKNOWN),
        (2, 1, State.UNKNOWN), (2, 2, State.UNKNOWN), (2, 0, State.UNKNOWN),
        (1000, 0, State.UNKNOWN), (600, 400, State.UNKNOWN)])
    def test_at_least_two_and_half_of_them_are_doubted(
            self, silent, living, expected):
        members = fleet((silent, 65), (living, 5))
        assert {state(members, n) for n in range(silent)} == {expected}

    def test_a_lone_compute_is_doubted_while_nothing_shows_the_way(self):
        members = fleet((1, 65))
        assert judge(members).reason is Reason.ALONE
        assert state(members, path_seen=NOW - 5) is State.DOWN
        # Whoever was seen before it was late shows nothing.
        assert state(members, path_seen=NOW - 65) is State.UNKNOWN
        # The others have been gone for a month.
        assert state(fleet((1, 65), (9, 30 * 86400))) is State.UNKNOWN

    def test_nobody_is_dead_first(self):
        # They were cut off together, and beat every 10 s: when the first one
        # is 60 s old the last one is 50 s old.
        members = fleet(*[(10, 50 + n) for n in range(11)])
        ages = [NOW - m.last for m in members]
        dead = [n for n, age in enumerate(ages) if age > 59.5]
        assert {state(members, n, now=NOW + 0.6) for n in range(110)
                if NOW + 0.6 - members[n].last > 60} == {State.UP}
        members = [m._replace(alive=False) for m in members]
        assert {state(members, n, now=NOW + 0.6) for n in dead} == {
            State.UNKNOWN}

    def test_forcing_down_does_not_make_the_others_fewer(self):
        # It isn't evidence, so a group looks the same with it; and a group
        # that forgot them would turn from 600 of 1,000 to 400 of 800.
        members = fleet((600, 300), (400, 5))
        assert state(members) is State.UNKNOWN
        for end in (End.LEFT, End.KILLED, End.STOPPED):
            changed = members[:400] + [m._replace(end=end)
                                       for m in members[400:600]]
            assert state(changed + members[600:]) is State.UNKNOWN, end

    def test_hosts_that_died_one_by_one_are_down(self):
        members = fleet(*[(1, 3600 * n) for n in range(1, 700)], (300, 5))
        assert {state(members, n) for n in range(699)} == {State.DOWN}

    def test_seventy_per_cent_switched_off_over_an_hour_are_down(self):
        members = fleet(*[(1, 100 + n * 3600 / 700) for n in range(700)],
                        (300, 5))
        assert {state(members, n) for n in range(700)} == {State.DOWN}

    def test_seventy_per_cent_switched_off_in_a_minute_stay_in_doubt(self):
        members = fleet(*[(1, 86400 + n * 60 / 700) for n in range(700)],
                        (300, 5))
        assert {state(members, n) for n in range(700)} == {State.UNKNOWN}

    def test_an_old_death_stays_one_in_an_outage(self):
        members = fleet((12, 30 * 86400), (988, 90))
        assert state(members) is State.DOWN
        assert state(members, 12) is State.UNKNOWN

    def test_late_is_not_what_the_reader_expects(self):
        # They beat every 39 s; this reader's service reports every 10 s.
        members = fleet((1, 65), *[(25, age) for age in range(40)])
        assert state(members) is State.DOWN

    def test_a_planned_stop_is_no_silence(self):
        members = fleet((600, 90, {'end': End.STOPPED}), (400, 5))
        assert {state(members, n) for n in range(600)} == {State.DOWN}

    def test_decommissioning_leaves_no_doubt_behind(self):
        members = fleet((600, 200, {'end': End.STOPPED}), (1, 65), (399, 5))
        assert state(members, 600) is State.DOWN

    def test_an_own_clock_that_is_wrong_accuses_nobody(self):
        for wrong in (61, -61, 3600, -3600):
            members = [m._replace(alive=abs(wrong) <= 60)
                       for m in fleet(*[(100, age) for age in range(10)])]
            assert {state(members, n, now=NOW + wrong)
                    for n in range(1000)} == {State.UNKNOWN}

    def test_the_guard_can_be_turned_off(self):
        members = fleet((1000, 65))
        assert state(members, rules=RULES._replace(
            threshold=1.01)) is State.DOWN
        assert state(members, rules=RULES._replace(
            threshold=1)) is State.UNKNOWN
        assert state(fleet((1, 65)), rules=RULES._replace(
            threshold=1.01)) is State.DOWN

    def test_a_node_that_lasts_is_never_late(self):
        present = [liveness.Member('up%d' % n, math.inf, True)
                   for n in range(8)]
        missing = [member('gone%d' % n, 3, alive=False) for n in range(12)]
        group = liveness.Group(present + missing, 0, path_seen=math.inf)

        def verdict(one):
            return liveness.judge(one, lambda: group, NOW, RULES).state
        assert {verdict(m) for m in missing} == {State.UNKNOWN}
        group = liveness.Group(present + missing[:7], 0, path_seen=math.inf)
        assert {verdict(m) for m in missing[:7]} == {State.DOWN}
        group = liveness.Group(missing[:1], 0, path_seen=math.inf)
        assert verdict(missing[0]) is State.DOWN


class TestReturn:
    """An outage of 1,000 members that began 200 s ago and ends."""

    def members(self, back, ended_ago, still=None):
        """Return the fleet; ``back`` members came back, one at each time."""
        still = 1000 - back if still is None else still
        return fleet(*[(1, 5, {'gap': Gap(NOW - 200, NOW - ended_ago - n / 50),
                               'alive': True}) for n in range(back)],
                     (still, 200))

    @pytest.mark.parametrize('back', [0, 1, 500, 900, 998, 999])
    def test_who_is_not_back_yet_is_doubted(self, back):
        assert state(self.members(back, 1), back) is State.UNKNOWN

    @pytest.mark.parametrize('back', [1, 500, 999])
    def test_when_nobody_came_back_for_long_they_are_down(self, back):
        assert state(self.members(back, 59), back) is State.UNKNOWN
        assert state(self.members(back, 60), back) is State.DOWN

    def test_returns_end_some_time(self):
        # One comes back every half minute, for hours.
        members = fleet(*[(1, 5, {'gap': Gap(NOW - 700, NOW - 30 * n)})
                          for n in range(1, 20)], (19, 700))
        assert state(members, 30) is State.UNKNOWN
        members = fleet(*[(1, 5, {'gap': Gap(NOW - 700, NOW - 30 * n)})
                          for n in range(1, 21)], (20, 700))
        assert state(members, 30) is State.DOWN

    def test_who_is_silent_again_did_not_come_back(self):
        members = fleet((5, 100, {'gap': Gap(NOW - 300, NOW - 120)}),
                        (95, 300))
        assert state(members, 5) is State.UNKNOWN

    def test_an_old_death_is_not_doubted_again(self):
        members = self.members(999, 1, 0) + [member('old', 86400)]
        assert state(members, 999) is State.DOWN

    def test_few_that_come_back_are_no_outage(self):
        # A crash-looping host, a rolling restart: nothing was silent at once.
        members = fleet((100, 5, {'gap': Gap(NOW - 80, NOW - 1)}), (899, 5),
                        (1, 70))
        assert state(members, 999) is State.DOWN

    def test_a_new_host_came_back_from_nowhere(self):
        members = fleet((600, 5), (1, 70))
        assert state(members, 600) is State.DOWN


class TestProperties:

    SITUATIONS = {
        'half': fleet((500, 70), (500, 5)),
        'nearly half': fleet((499, 70), (501, 5)),
        'two of three': fleet((2, 70), (1, 5)),
        'one of two': fleet((1, 70), (1, 5)),
        'alone': fleet((1, 70)),
        'returning': TestReturn().members(60, 1, 40),
        'switched off in a minute': fleet((7, 300), (3, 5)),
    }

    @pytest.mark.parametrize('name', SITUATIONS)
    def test_what_happens_to_one_changes_no_other(self, name):
        members = self.SITUATIONS[name]
        silent = [n for n, m in enumerate(members) if not m.alive][:20]
        before = {n: state(members, n) for n in silent}
        for touched in range(0, len(members), max(1, len(members) // 50)):
            for end in (End.LEFT, End.STOPPED, End.KILLED):
                changed = list(members)
                changed[touched] = changed[touched]._replace(
                    end=end, alive=False)
                for n in silent:
                    if n != touched:
                        assert state(changed, n) is before[n]


class TestAnswer:

    ANSWERS = {
        # state: policy -> (may place, is it not gone)
        State.UP: dict.fromkeys(('safe', 'up', 'down'), (True, True)),
        State.ENDED: dict.fromkeys(('safe', 'up', 'down'), (False, True)),
        State.DOWN: dict.fromkeys(('safe', 'up', 'down'), (False, False)),
        State.UNKNOWN: {'safe': (None, True), 'up': (True, True),
                        'down': (False, False)},
    }

    @pytest.mark.parametrize('given', State)
    @pytest.mark.parametrize('policy', ['safe', 'up', 'down'])
    def test_what_a_caller_is_told(self, given, policy):
        verdict = liveness.Verdict(given, Reason.PRESENT)
        assert (liveness.answer(verdict, Question.MAY_PLACE, policy),
                liveness.answer(verdict, Question.IS_GONE, policy)
                ) == self.ANSWERS[given][policy]


def test_many_dead_cost_no_look_at_all_others_each():
    members = fleet((6000, 65), (4000, 5))
    group = liveness.Group(members, 40)
    began = time.thread_time()
    for one in members[:6000]:
        liveness.judge(one, lambda: group, NOW, RULES)
    # 0.03 s; with a look at all the others it is half a minute.
    assert time.thread_time() - began < 3


def test_many_that_are_not_back_cost_no_look_at_all_that_are():
    members = fleet(*[(1, 5, {'gap': Gap(NOW - 200, NOW - 1 - n / 1000)})
                      for n in range(6000)], (4000, 200))
    group = liveness.Group(members, 40)
    began = time.thread_time()
    for one in members[6000:]:
        assert liveness.judge(
            one, lambda: group, NOW, RULES).state is State.UNKNOWN
    # 0.03 s; with a look at all the others it is half a minute.
    assert time.thread_time() - began < 3


def test_who_falls_silent_when_others_are_back_is_of_the_same_outage():
    """Sessions that run out one after the other on a server that is slow."""
    def members(back):
        return fleet(
            (1, 70), *[(1, 0, {'gap': Gap(NOW - back - 99 + n, NOW - back)})
                       for n in range(60)], (39, 0))
    assert judge(members(75)).silence == (
        100, 1, 60, NOW - 75, NOW - 75, 0, NOW - 75)
    assert state(members(75)) is State.DOWN
    assert state(members(50)) is State.UNKNOWN
    # When the others were back for so long, it is another story.
    assert judge([member('host0', 61), *members(125)[1:]]).silence == (
        100, 1, 0, None, None, 0, None)


def test_who_was_back_before_it_ends_no_doubt_about_many():
    """A host comes back from some trouble of its own; then a switch fails."""
    def members(silent):
        return fleet((silent, 100), (1, 0, {'gap': Gap(NOW - 200, NOW - 110)}),
                     (99 - silent, 0))
    for silent in (60, 49):
        assert state(members(silent)) is (
            State.UNKNOWN if silent == 60 else State.DOWN)
    # Nor do the many of another room.
    assert state(fleet(
        (50, 100), (50, 0, {'gap': Gap(NOW - 200, NOW - 110)}))
    ) is State.UNKNOWN
    # Who comes back later does, as ever.
    assert state(fleet(
        (59, 110), (1, 0, {'gap': Gap(NOW - 110, NOW - 65)}), (40, 0))
    ) is State.DOWN


def test_who_was_back_since_their_last_heartbeat_ends_no_doubt():
    """The switch failed after that, within a heartbeat interval."""
    assert state(fleet(
        (59, 110), (1, 0, {'gap': Gap(NOW - 170, NOW - 105)}), (40, 0))
    ) is State.UNKNOWN


def test_who_had_been_silent_for_long_ends_no_doubt_about_many():
    """A host is switched on after a week, while a switch is broken."""
    def members(start):
        return fleet((59, 400), (1, 0, {'gap': Gap(start, NOW - 200)}),
                     (40, 0))
    assert state(members(NOW - 7 * 86400)) is State.UNKNOWN
    # A gap may be reported as twice as long as it was.
    assert state(members(NOW - 721)) is State.UNKNOWN
    assert state(members(NOW - 719)) is State.DOWN


def test_gaps_are_counted_as_if_one_looked_at_each():
    random.seed(1)
    for _ in range(2000):
        gaps = [Gap(start, start + random.randint(1, 20))
                for start in random.choices(range(40), k=random.randint(0, 9))]
        last = random.randint(0, 60)
        youngest = last + random.randint(0, 20)
        oldest = last - random.randint(0, 20)
        over = [gap for gap in gaps
                if gap.start <= youngest and gap.end > last]
        assert liveness._Gaps(gaps).over(oldest, last, youngest) == (
            len(over),
            min((gap.end for gap in over if gap.start + gap.end >= 2 * oldest),
                default=None),
            max((gap.end for gap in over), default=None))
