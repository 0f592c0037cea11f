# SPDX-License-Identifier: Apache-2.0

"""bench/soak.py finds what it is there to find."""

import pathlib
import sys

import pytest

BENCH = pathlib.Path(__file__).resolve().parents[3] / 'bench'
SLACK, DOWN_TIME = 5, 60
UP, DOWN, DOUBT = ('up', True), ('down', False), ('unknown', True)

pytestmark = pytest.mark.skipif(sys.version_info < (3, 10),
                                reason='the benches need Python 3.10')


@pytest.fixture(scope='module')
def soak():
    sys.path.insert(0, str(BENCH))
    try:
        import soak
        yield soak
    finally:
        sys.path.remove(str(BENCH))
        sys.modules.pop('soak', None)


def judged(soak, history, answers, driver='mc', began=0, ended=1000):
    """Return what is false about the one member of a driver.

    :param history: (at, what) of the member
    :param answers: (at, (state, answer)) of the reader
    """
    members = soak.Members(driver, ['a'])
    members.history['a'] = history
    heard = {'a': [(at, *answer) for at, answer in answers]}
    return [(entry['expected'], entry['state'])
            for entry in soak.judge(
                members, heard, began, ended, SLACK, DOWN_TIME)]


@pytest.mark.parametrize('answers, false', [
    ([(1, UP)], []),
    # A short doubt, a death, a living member that is down.
    ([(1, UP), (500, DOUBT), (501, UP)], [('up', 'unknown')]),
    ([(1, UP), (500, DOWN)], [('up', 'down')]),
    ([(1, UP), (500, ('up', False))], [('up', 'up')]),
    # Known in time, and too late.
    ([(0, DOWN), (4, UP)], []),
    ([(0, DOWN), (6, UP)], [('up', 'down')]),
    ([], [('up', 'never asked')])])
def test_a_member_that_is_there_is_up(soak, answers, false):
    if not answers:
        members = soak.Members('mc', ['a'])
        members.history['a'] = [(0, 'joined')]
        found = soak.judge(members, {}, 0, 1000, SLACK, DOWN_TIME)
        assert found[0]['state'] == 'never asked'
        return
    assert judged(soak, [(0, 'joined')], answers) == false


@pytest.mark.parametrize('what, driver, known_at, false', [
    ('leave', 'mc', 104, 0), ('leave', 'mc', 106, 1),
    ('stop', 'db', 104, 0), ('stop', 'db', 106, 1),
    ('kill', 'db', 164, 0), ('kill', 'mc', 166, 1),
    ('kill', 'zk', 104, 0), ('kill', 'zk', 106, 1)])
def test_one_that_ended_is_not_up_when_it_is_promised(
        soak, what, driver, known_at, false):
    history = [(0, 'joined'), (100, what), (300, 'joined')]
    answers = [(1, UP), (known_at, DOWN), (301, UP)]
    assert len(judged(soak, history, answers, driver)) == false
    # Back before anybody had to notice: nobody has to.
    history[2] = (103, 'joined')
    assert judged(soak, history, [(1, UP)], driver) == []


def test_what_a_reader_said_before_it_began_does_not_count(soak):
    answers = [(50, DOUBT), (70, UP)]
    assert judged(soak, [(0, 'joined')], answers) == [('up', 'unknown')]
    assert judged(soak, [(0, 'joined')], answers, began=80) == []
    # If it still stands then, it does.
    assert judged(soak, [(0, 'joined')], answers, began=60) == [
        ('up', 'unknown')]


def test_growth_is_told_from_noise_and_from_a_warm_up(soak):
    seconds = 1200

    def rows(memory):
        return [(at, memory(at), 5, 9) for at in range(5, seconds, 5)]

    found = soak.judge_usage({
        'flat': rows(lambda at: 50),
        'warm': rows(lambda at: 20 + min(at, 250) / 8),
        'noisy': rows(lambda at: 50 + at % 35),
        'jumps once': rows(lambda at: 50 + 40 * (at == 700)),
        'leaks': rows(lambda at: 50 + at / 100),
        'gone': rows(lambda at: 50)[:100]}, seconds)
    assert {name: figures['bad'] for name, figures in found.items()} == {
        'flat': [], 'warm': [], 'noisy': [], 'jumps once': [],
        'leaks': ['memory'], 'gone': ['ended']}
    assert found['leaks']['growth_mb'] == pytest.approx(9, abs=0.2)


def test_one_thread_or_descriptor_more_is_growth(soak):
    rows = [(at, 50, 5 + at // 900, 9 + at // 300)
            for at in range(5, 1200, 5)]
    assert 'descriptors' in soak.judge_usage({'a': rows}, 1200)['a']['bad']
