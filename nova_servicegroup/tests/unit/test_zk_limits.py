# SPDX-License-Identifier: Apache-2.0

"""The figures of admin/zookeeper-limits.rst that can be computed."""

import re

import pytest

from nova_servicegroup import conf
from nova_servicegroup.keeper import handler
from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import protocol
from nova_servicegroup.tests.fixtures import zookeeper

PAGE = zookeeper.PAGE.with_name('zookeeper-limits.rst').read_text()
#: what Java clients refuse, unless their jute.maxbuffer says otherwise
PACKET = 0xfffff
#: of an answer to getChildren: its header, the number of names, a Stat
AROUND = 16 + 4 + 68
#: seconds; the page's tables are for this session timeout, the default
TIMEOUT = 4.0
ZOO_CFG = {name: int(value) for name, value in re.findall(
    r'^(\w+)=(\d+)$', zookeeper.documented_settings(), re.MULTILINE)}
TICK = ZOO_CFG['tickTime'] / 1000


def most(host):
    """Return how many members with such names a Java client lists."""
    name = names.node(host, '0123456789abcdef')
    return (PACKET - 1 - AROUND) // (4 + len(name))


def test_what_was_measured_agrees():
    """23,800 names of 40 bytes were listed, 23,900 were not."""
    host = 'x' * (40 - len(names.node('', '0123456789abcdef')))
    assert 23800 < most(host) < 23900


@pytest.mark.parametrize('host, members', re.findall(
    r'^ +``(compute-\S+)`` +([\d,]+)$', PAGE, re.MULTILINE))
def test_members_of_a_group(host, members):
    assert most(host) == int(members.replace(',', ''))


def test_there_are_such_figures():
    assert len(re.findall(r'^ +``compute-', PAGE, re.MULTILINE)) == 3


def test_nova_has_no_such_limit():
    """At the largest group of the page, with the longest names of it."""
    host = 'compute-0123.rack42.region1.cloud.example.org'
    frame = protocol.encode(
        'view', path='/servicegroups/compute', left=[], absences={},
        founded=None, joined=[
            names.node(host, '%016x' % number) for number in range(31772)])
    assert len(frame) < protocol.MAX_FRAME / 4


def test_who_is_cut_off_is_down_within_one_and_a_half_timeouts():
    for lost, least, longest in (
            ('all, or those to the servers',
             2 / 3 * TIMEOUT, TIMEOUT + 1.5 * TICK),
            ('only those from the servers',
             TIMEOUT, 4 / 3 * TIMEOUT + 1.5 * TICK)):
        seconds = re.search(lost + r'.*? ([\d.]+) to ([\d.]+) s$', PAGE,
                            re.DOTALL | re.MULTILINE).groups()
        assert [float(number) for number in seconds] == pytest.approx(
            [least, longest], abs=0.05)
        assert longest <= 1.5 * TIMEOUT
    # The page tells it of ticks that are a ninth.
    assert 4 / 3 * TIMEOUT + 1.5 * TIMEOUT / 9 == pytest.approx(6)


def test_the_settings_are_for_the_default_timeout():
    default, = (option.default for _, options in conf.list_opts()
                for option in options if option.name == 'recv_timeout')
    assert default == TIMEOUT * 1000
    assert (ZOO_CFG['minSessionTimeout'] <= default
            <= ZOO_CFG['maxSessionTimeout'])


def test_a_server_gives_up_before_its_clients_sessions_run_out():
    rows = [[float(number) for number in re.findall(r'[\d.]+', row)]
            for row in re.findall(
                r'^(\d+ +\d+ +\d+ \(\S+ s\) +\d+ \(\d+ s\) +\d+)$', PAGE,
                re.MULTILINE)]
    assert len(rows) == 4
    for timeout, tick, sync, seconds, init, init_seconds, least in rows:
        assert least == timeout
        assert tick <= timeout / 9
        assert sync * tick == pytest.approx(seconds * 1000)
        assert init * tick == pytest.approx(init_seconds * 1000, rel=0.05)
        assert sync * tick <= 0.4 * timeout
    assert rows[0] == [TIMEOUT * 1000, ZOO_CFG['tickTime'],
                       ZOO_CFG['syncLimit'],
                       ZOO_CFG['tickTime'] * ZOO_CFG['syncLimit'] / 1000,
                       ZOO_CFG['initLimit'],
                       ZOO_CFG['tickTime'] * ZOO_CFG['initLimit'] / 1000,
                       ZOO_CFG['minSessionTimeout']]


def test_what_has_to_fit_into_a_timeout():
    """A ping's period, its way to the leader, and the follower's patience."""
    parts = [TIMEOUT / 3, TICK / 2, ZOO_CFG['syncLimit'] * TICK]
    parts.append(TIMEOUT - sum(parts))
    table = PAGE[PAGE.index('What must fit into a session timeout'):
                 PAGE.index('*Measured*, on 900 members')]
    assert [float(seconds) for seconds in re.findall(r'([\d.]+) s$', table,
                                                     re.MULTILINE)
            ] == pytest.approx(parts, abs=0.005)


def test_the_tests_do_not_hide_it():
    """Their own ensembles hold the rule, too, with sessions of 4 s."""
    tick, sync = (int(re.search(name + r'=(\d+)', zookeeper.SETTINGS)[1])
                  for name in ('tickTime', 'syncLimit'))
    assert sync * tick <= TIMEOUT * 1000 / 2


def test_a_server_that_does_not_answer_has_a_sixth():
    assert 'a sixth of' in ' '.join(PAGE.split())
    assert handler.SHARE == 1 / 6
