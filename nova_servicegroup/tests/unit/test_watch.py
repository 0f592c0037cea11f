# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup watch``: what it prints, and when it ends."""

import datetime
import json
import signal
import time

import pytest

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import deployment
from nova_servicegroup.cmd import watch
from nova_servicegroup.cmd import watcher
from nova_servicegroup import liveness
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State
from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process

AT = datetime.datetime(2026, 11, 21, 10, 0, 0, 123456,
                       datetime.timezone.utc)


class Deployment:
    """What a Watcher needs of one; the test sets the verdicts."""

    def __init__(self, **states):
        self.states = states
        self.failures = []
        self.away = False

    def records(self, group=None):
        if self.away:
            raise base.CommandError('The API database does not answer: x')
        return [({'host': host, 'binary': 'nova-compute',
                  'topic': 'compute'}, 'cell1') for host in self.states]

    def service(self, record, cell):
        state, reason = self.states[record['host']]
        return deployment.Service(
            record, cell, liveness.Verdict(state, reason), None)


UP = State.UP, Reason.PRESENT
KILLED = State.ENDED, Reason.KILLED
DOUBT = State.UNKNOWN, Reason.MASS_FAILURE


@pytest.fixture
def clock():
    return [1000.0]


@pytest.fixture
def watching(clock):
    def make(**states):
        made = Deployment(**states)
        return made, watcher.Watcher(made, monotonic=lambda: clock[0],
                                     utcnow=lambda: AT)
    return make


def changes(watched):
    return [watch.line(change) for change in watched.check()]


def test_each_change_is_told_once(watching, clock):
    made, watched = watching(a=UP, b=UP)
    assert changes(watched) == []
    made.states['a'] = KILLED
    assert changes(watched) == [
        '2026-11-21T10:00:00.123Z a nova-compute up -> ended: its process '
        'was killed or has crashed']
    assert changes(watched) == []
    made.states['a'] = UP
    assert len(changes(watched)) == 1


def test_who_comes_and_who_is_deleted(watching, clock):
    made, watched = watching(a=UP)
    watched.check()
    del made.states['a']
    made.states['b'] = UP
    # Nova is asked once a second.
    with pytest.raises(KeyError):
        watched.check()
    clock[0] += watcher.RELOAD
    assert [text.split(' ', 1)[1] for text in changes(watched)] == [
        'b nova-compute absent -> up: its ephemeral node is there',
        'a nova-compute up -> deleted']


def test_a_database_that_is_away_deletes_nobody(watching, clock):
    made, watched = watching(a=UP)
    watched.check()
    made.away = True
    made.states['a'] = KILLED
    clock[0] += watcher.RELOAD
    assert len(changes(watched)) == 1
    assert watched.failures == ['The API database does not answer: x']


def test_a_cell_that_is_away_deletes_nobody(watching, clock):
    made, watched = watching(a=UP)
    watched.check()
    made.failures = ['cell cell1 does not answer: y']
    records, made.records = made.records, lambda group: []
    clock[0] += watcher.RELOAD
    assert changes(watched) == []
    assert watched.failures == made.failures
    made.states['a'] = KILLED
    assert len(changes(watched)) == 1
    made.records, made.failures = records, []
    del made.states['a']
    clock[0] += watcher.RELOAD
    assert changes(watched)[0].endswith('ended -> deleted')


def test_a_list_that_takes_long_is_read_less_often(watching, clock):
    made, watched = watching(a=UP)
    records, read = made.records, []

    def slowly(group):
        read.append(clock[0])
        clock[0] += 2
        return records(group)

    made.records = slowly
    for _ in range(20):
        watched.check()
        clock[0] += 1
    assert [moment - read[0] for moment in read] == [0, 10, 20]


def test_lines_for_programs(watching):
    made, watched = watching(a=UP)
    watched.check()
    made.states['a'] = DOUBT
    change, = watched.check()
    assert watch._fields(change) == {
        'at': '2026-11-21T10:00:00.123Z', 'host': 'a',
        'binary': 'nova-compute', 'cell': 'cell1', 'old': 'up',
        'new': 'unknown', 'reason': Reason.MASS_FAILURE.value}


def screen(made, recent=(), width=80, height=24, colour=False):
    found = [made.service(record, cell) for record, cell in made.records()]
    return watch.screen(found, list(recent), [], AT, width, height, colour)


def test_the_table_fits_the_terminal():
    made = Deployment(**{'h%03d' % n: KILLED for n in range(500)}, z=DOUBT,
                      y=UP)
    shown = screen(made).splitlines()
    assert shown[0] == '502 services: 1 up, 500 ended, 0 down, 1 unknown'
    assert shown[2].split()[:2] == ['unknown', 'z']
    assert shown[3].split()[:2] == ['ended', 'h000']
    assert 20 <= len(shown) < 24
    assert all(len(row) <= 80 for row in shown)
    hidden = 501 - (len(shown) - 3)
    assert shown[-1] == '... and %d more that are not up' % hidden
    assert len(screen(made, height=3).splitlines()) <= 5
    assert Reason.KILLED.value in shown[3]


@pytest.mark.parametrize('seconds, shown', [
    (None, 'never'), (-5, '0 s'), (119, '119 s'), (120, '2 min'),
    (7300, '2 h'), (200000, '2 d')])
def test_ages_are_short(seconds, shown):
    moment = None if seconds is None else AT - datetime.timedelta(
        seconds=seconds)
    assert watch._age(moment, AT) == shown


def test_colours_say_nothing_that_words_do_not(watching):
    made, watched = watching(a=KILLED, b=DOUBT, c=UP)
    plain, coloured = screen(made), screen(made, colour=True)
    assert '\033' not in plain and '\033[33m' in coloured
    for code in ('32', '33', '31', '35', '0'):
        coloured = coloured.replace('\033[%sm' % code, '')
    assert coloured == plain


@pytest.mark.parametrize('arguments, message', [
    (['--until', 'up'], '--until needs one HOST'),
    (['--until', 'up', 'a', 'b'], '--until needs one HOST'),
    (['--timeout', '5', 'a'], '--timeout is for --until')])
def test_what_is_wrong_is_told(arguments, message, capsys):
    from nova_servicegroup.cmd import main
    assert main.main(['watch', *arguments]) == 1
    assert message in capsys.readouterr().err


@pytest.mark.parametrize('value', ['0', '-1', 'inf', 'nan', 'soon'])
def test_odd_seconds_are_refused(value, capsys):
    from nova_servicegroup.cmd import main
    with pytest.raises(SystemExit, match='2'):
        main.main(['watch', 'a', '--until', 'up', '--timeout', value])
    assert 'argument --timeout: invalid number of seconds value' in \
        capsys.readouterr().err


def test_until_ends_when_it_is_so_or_when_time_is_up(cells):
    cells.add_service('cell1', 'a')
    cells.command('watch', '--until', 'up', '--timeout', '5', 'a')
    done = cells.command('watch', '--until', 'down', '--timeout', '0.5', 'a',
                         code=124)
    assert done.stderr == ('nova-compute on a is up, and was not down within '
                           '0.5 s.\n')
    done = cells.command('watch', '--until', 'up', '--timeout', '0.1', 'b',
                         code=124)
    assert 'nova-compute on b is not known to Nova' in done.stderr


def test_lines_come_as_it_happens_and_an_interrupt_ends_it(cells):
    cells.add_service('cell1', 'a')
    cells.add_service('cell1', 'b')
    watching = process.Process(
        # A run in the background may have been told to ignore SIGINT.
        'watch', ['env', '--default-signal=INT',
                  nova.BIN / 'nova-servicegroup', '--config-file',
                  cells.config, 'watch', '--json', '--interval', '0.1'],
        cells.directory, env=nova.environment())
    watching.start()
    try:
        deadline = time.monotonic() + 60
        while not watching.log() and time.monotonic() < deadline:
            cells.execute('cell1', 'UPDATE services SET forced_down = NOT '
                          'forced_down WHERE host = ?', 'a')
            time.sleep(2.5)
        change = json.loads(watching.log().splitlines()[0])
        assert (change['host'], {change['old'], change['new']}) == (
            'a', {'up', 'down'})
        watching.signal(signal.SIGINT)
        watching.wait(10)
        assert watching.returncode == 130
        assert 'Traceback' not in watching.log()
    finally:
        watching.stop()
