# SPDX-License-Identifier: Apache-2.0

"""How long the missing have to come back, with a clock that is set."""

import pytest

from nova_servicegroup.keeper import returns

REJOIN, TOGETHER, BOUND = 2, 4, 600


@pytest.fixture
def one():
    one = returns.Returns(REJOIN, TOGETHER, BOUND)
    one.present = 10000
    one.connected(0)
    return one


def test_who_is_missed_has_a_rejoin_time(one):
    assert one.due(5) is None
    one.missed('a', 10)
    assert 'a' in one
    assert one.due(11) == 12
    assert one.expired(11.9) == []
    assert one.expired(12) == ['a']
    assert one.due(12) is None
    assert 'a' not in one


def test_who_is_missed_later_gives_the_others_time(one):
    """The sessions of hosts that are cut off together end one by one."""
    one.missed('a', 10)
    one.missed('b', 11.5)
    assert one.expired(13.4) == []
    assert sorted(one.expired(13.5)) == ['a', 'b']


def test_who_dies_later_than_a_session_lasts_changes_nothing(one):
    one.missed('a', 10)
    for number in range(20):
        one.missed('b%d' % number, 11.9 + number)
    assert 'a' in one.expired(17)


def test_a_return_gives_the_others_time(one):
    for host in 'abc':
        one.missed(host, 10)
    one.returned('a', 11.9)
    assert one.expired(12) == []
    assert one.due(12) == pytest.approx(13.9)
    one.returned('b', 13.8)
    assert one.expired(15.7) == []
    assert one.expired(15.8) == ['c']


def test_the_return_of_one_missed_at_another_time_changes_nothing(one):
    one.missed('old', 3)
    one.missed('a', 10)
    one.returned('old', 11.9)
    assert one.expired(12) == ['a']


def test_each_host_prolongs_a_time_once(one):
    one.missed('dead', 10)
    for number in range(40):
        one.missed('flaps', 10.1 + number)
        one.returned('flaps', 10.6 + number)
        if 'dead' in one.expired(10.7 + number):
            break
    assert number < 4


def test_nothing_prolongs_a_time_beyond_the_bound(one):
    now = 10
    for number in range(2000):
        one.missed('h%d' % number, 10)
    for number in range(1, 2000):
        now += 1
        one.returned('h%d' % number, now)
        if 'h0' in one.expired(now):
            break
    assert BOUND < now < BOUND + 20


def test_all_have_a_rejoin_time_after_a_reconnect(one):
    one.missed('a', 10)
    one.disconnected(11.9)
    assert one.due(12) is None
    assert one.expired(70) == []
    one.connected(80)
    assert one.due(80) == 82
    assert one.expired(81.9) == []
    assert one.expired(82) == ['a']


def test_a_flapping_connection_prolongs_it_to_three_times(one):
    one.missed('a', 10)
    now = connected = 10
    while not one.expired(now):
        one.disconnected(now)
        now += 5
        one.connected(now)
        now += 0.9
        connected += 0.9
        assert connected < 30
    assert connected - 10 == pytest.approx(3 * REJOIN, abs=1)


def test_who_need_not_be_waited_for_is_forgotten(one):
    one.missed('a', 10)
    one.missed('b', 10)
    one.forget('a')
    one.forget('a')
    one.returned('a', 11)
    assert one.expired(12) == ['b']


def test_who_is_missed_twice_waits_from_the_first_time(one):
    one.missed('a', 10)
    one.missed('a', 11)
    assert one.expired(12) == ['a']


@pytest.mark.parametrize('present, missed, due', [
    (2, 1, 12), (8, 2, 22), (18, 2, 22), (19, 2, 12), (200, 100, 22),
    (6667, 3333, 22), (10000, 40, 12)])
def test_the_clients_of_one_server_have_its_time_too(
        one, present, missed, due):
    """Of a server that was cut off from its leader, and doesn't know yet."""
    for number in range(missed):
        one.missed('h%d' % number, 10)
    one.present = present
    assert one.due(11) == due
    assert one.expired(due - 0.1) == []
    assert len(one.expired(due)) == missed


def test_who_was_missed_long_ago_was_no_client_of_it(one):
    one.present = 2
    one.missed('a', 10, 3600)
    one.missed('b', 10, 10)
    one.missed('c', 10, 1)
    assert one.due(11) == 12


def test_whose_end_is_known_was_no_client_of_a_server_that_was_cut_off(one):
    one.present = 4
    one.missed('a', 10)
    one.missed('b', 10)
    one.forget('b')
    assert one.expired(12) == ['a']
