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

"""The one policy: three answers in, a boolean or an exception out."""

import logging
import time
import types

import pytest

from nova_servicegroup import exception
from nova_servicegroup import liveness
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State

UP = liveness.Liveness(State.UP, None, Reason.HEARTBEAT)
SILENT = liveness.Liveness(State.DOWN, None, Reason.SILENT)
GONE = liveness.Liveness(State.DOWN, None, Reason.GONE)
LEFT = liveness.Liveness(State.DOWN, None, Reason.LEFT)
UNREADABLE = liveness.Liveness(State.DOWN, None, Reason.UNREADABLE)
OUTAGE = liveness.Liveness(State.UNKNOWN, None, Reason.OUTAGE)


@pytest.fixture
def clock():
    return types.SimpleNamespace(now=0.0)


@pytest.fixture
def settings():
    return types.SimpleNamespace(
        service_down_time=60, outage_grace=30, outage_policy='raise',
        mass_failure_threshold=0.5)


@pytest.fixture
def policy(settings, clock):
    return liveness.Policy('xy', settings, lambda: clock.now)


def ask(policy, answers):
    """Return the verdict on each host, 'unknown' where it raises."""
    verdicts = {}
    for host, answer in answers.items():
        try:
            verdicts[host] = policy.verdict('compute', host, answer)
        except exception.ServiceGroupUnavailable:
            verdicts[host] = 'unknown'
    return verdicts


def fleet(size, answer, start=0):
    return {'host%d' % n: answer for n in range(start, size)}


def test_up_and_down_are_plain_booleans(policy):
    assert policy.verdict('compute', 'a', UP) is True
    assert policy.verdict('compute', 'a', SILENT) is False
    assert policy.verdict('compute', 'a', GONE) is False


@pytest.mark.parametrize('name, verdict', [('up', True), ('down', False)])
def test_unknown_is_what_the_operator_chose(policy, settings, name, verdict):
    settings.outage_policy = name
    assert policy.verdict('compute', 'a', OUTAGE) is verdict


def test_unknown_raises_by_default_and_says_why(policy):
    with pytest.raises(exception.ServiceGroupUnavailable) as caught:
        policy.verdict('compute', 'a', OUTAGE)
    text = str(caught.value)
    assert text.startswith('The service from servicegroup driver xy is '
                           'temporarily unavailable')
    assert 'a of the group compute' in text
    assert 'the store cannot be reached' in text


def test_nova_takes_it_for_an_unavailable_compute_service(policy):
    from nova import exception as nova_exception
    with pytest.raises(nova_exception.ComputeServiceUnavailable):
        policy.verdict('compute', 'a', OUTAGE)


class TestMassFailure:

    def test_half_of_a_group_is_believed(self, policy):
        ask(policy, fleet(10, UP))
        assert set(ask(policy, fleet(5, SILENT)).values()) == {False}

    def test_more_than_half_is_held_then_unknown(self, policy, clock, caplog):
        ask(policy, fleet(10, UP))
        first = ask(policy, fleet(5, SILENT))
        assert set(first.values()) == {False}
        # The sixth is one too many; from there on all of them are doubted.
        assert ask(policy, fleet(10, SILENT, start=5)) == fleet(
            10, True, start=5)
        assert ask(policy, fleet(10, SILENT)) == fleet(10, True)
        clock.now += 30
        assert ask(policy, fleet(10, SILENT)) == fleet(10, True)
        clock.now += 1
        assert ask(policy, fleet(10, SILENT)) == fleet(10, 'unknown')
        told = [r for r in caplog.records if r.levelno == logging.ERROR]
        assert len(told) == 1
        assert 'fell silent within' in told[0].getMessage()

    def test_it_ends_when_enough_are_back(self, policy, clock, caplog):
        ask(policy, fleet(10, UP))
        for _ in range(2):
            ask(policy, fleet(10, SILENT))
        clock.now += 300
        ask(policy, fleet(5, UP))
        assert ask(policy, fleet(10, SILENT, start=5)) == fleet(
            10, False, start=5)
        told = [r.getMessage() for r in caplog.records]
        assert len([t for t in told if 'ended after 300.0 s' in t]) == 1

    def test_what_cannot_be_read_is_silence(self, policy):
        # As when the format of heartbeats changes, which kills nobody.
        ask(policy, fleet(10, UP))
        ask(policy, fleet(6, UNREADABLE))
        assert ask(policy, fleet(6, UNREADABLE)) == fleet(6, True)

    def test_a_small_group_is_believed(self, policy):
        ask(policy, fleet(9, UP))
        for _ in range(2):
            verdicts = ask(policy, fleet(9, SILENT))
        assert verdicts == fleet(9, False)

    def test_losses_far_apart_are_believed(self, policy, clock):
        ask(policy, fleet(10, UP))
        for n in range(10):
            clock.now += 40
            ask(policy, fleet(10, UP, start=n + 1))
            assert ask(policy, {'host%d' % n: SILENT}) == {
                'host%d' % n: False}

    @pytest.mark.parametrize('evidence', [LEFT, GONE])
    def test_evidence_of_an_end_is_believed(self, policy, evidence):
        ask(policy, fleet(20, UP))
        for _ in range(2):
            verdicts = ask(policy, fleet(20, evidence))
        assert verdicts == fleet(20, False)

    def test_hosts_never_seen_up_do_not_count(self, policy):
        assert ask(policy, fleet(50, SILENT)) == fleet(50, False)
        assert ask(policy, fleet(50, SILENT)) == fleet(50, False)

    def test_hosts_not_asked_about_for_long_do_not_count(self, policy, clock):
        ask(policy, fleet(100, UP))
        clock.now += 601
        ask(policy, fleet(10, UP))
        for _ in range(2):
            verdicts = ask(policy, fleet(10, SILENT))
        assert verdicts == fleet(10, True)

    @pytest.mark.parametrize('wait, verdict', [(590, 'unknown'),
                                               (670, False)])
    def test_who_nobody_asks_about_any_more_does_not_count(
            self, policy, clock, wait, verdict):
        ask(policy, fleet(20, UP))
        ask(policy, fleet(12, SILENT))
        # Their records were deleted.
        for _ in range(wait // 10):
            clock.now += 10
            ask(policy, fleet(20, UP, start=12))
        assert ask(policy, {'host12': SILENT}) == {'host12': verdict}

    def test_many_dead_cost_no_look_at_all_others_each(self, policy, clock):
        ask(policy, fleet(10000, UP))
        began = time.thread_time()
        for _ in range(2):
            ask(policy, fleet(6000, SILENT))
            ask(policy, fleet(10000, UP, start=6000))
            clock.now += 65
        # 0.03 s; with a look at all others for each it is 6 s.
        assert time.thread_time() - began < 1

    def test_one_turns_it_off(self, policy, settings):
        settings.mass_failure_threshold = 1
        ask(policy, fleet(20, UP))
        for _ in range(2):
            verdicts = ask(policy, fleet(20, SILENT))
        assert verdicts == fleet(20, False)

    def test_groups_are_told_apart(self, policy):
        ask(policy, fleet(20, UP))
        policy.verdict('conductor', 'a', UP)
        for _ in range(2):
            ask(policy, fleet(20, SILENT))
        assert policy.verdict('conductor', 'a', SILENT) is False
