# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup watch``: what it prints, and when it ends."""

import datetime
import json
import math
import signal
import time

import pytest

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import deployment
from nova_servicegroup.cmd import watch
from nova_servicegroup.cmd import watcher
from nova_servicegroup import exception
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
        self.listed_cells = {'cell1'}
        self.record_lasts = math.inf
        self.away = False

    def records(self, group=None):
        if self.away:
            raise base.CommandError('The API database does not answer: x')
        return [({'host': host, 'binary': 'nova-compute',
                  'topic': 'compute'}, 'cell1') for host in self.states]

    def service(self, record, cell):
        state, reason, *silence = self.states[record['host']]
        return deployment.Service(
            record, cell, liveness.Verdict(state, reason, None, *silence),
            None)


UP = State.UP, Reason.PRESENT
KILLED = State.ENDED, Reason.KILLED
DOUBT = State.UNKNOWN, Reason.MASS_FAILURE
SILENT = State.DOWN, Reason.SILENT
FORCED = State.DOWN, Reason.FORCED_DOWN
#: the others were checked
FALLEN = *SILENT, liveness.Silence(20, 1, 0, None, None)


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
    made.listed_cells = set()
    records, made.records = made.records, lambda group: []
    clock[0] += watcher.RELOAD
    assert changes(watched) == []
    assert watched.failures == made.failures
    made.states['a'] = KILLED
    assert len(changes(watched)) == 1
    made.records, made.failures = records, []
    made.listed_cells = {'cell1'}
    del made.states['a']
    clock[0] += watcher.RELOAD
    assert changes(watched)[0].endswith('ended -> deleted')


def slow_down(made, clock, seconds):
    """Let each list take that long; return the times since the first one."""
    records, began = made.records, clock[0]
    read = []

    def slowly(group):
        read.append(clock[0] - began)
        clock[0] += seconds
        return records(group)

    made.records = slowly
    return read


def test_a_list_that_takes_long_is_read_less_often(watching, clock):
    made, watched = watching(a=UP)
    read = slow_down(made, clock, 2)
    for _ in range(20):
        watched.check()
        clock[0] += 1
    assert read == [0, 10, 20]


def test_the_first_list_of_a_cell_is_no_change(watching, clock):
    made, watched = watching(a=UP)
    cell2 = [({'host': 'b', 'binary': 'nova-compute', 'topic': 'compute'},
              'cell2')]
    records = made.records
    made.failures = ['cell cell2 does not answer: y']
    assert changes(watched) == []
    made.states['b'] = SILENT
    made.records = lambda group: records()[:1] + cell2
    made.failures, made.listed_cells = [], {'cell1', 'cell2'}
    clock[0] += watcher.RELOAD
    assert changes(watched) == []
    assert len(watched.services) == 2
    # Later, both cells have new services.
    made.states['c'] = UP
    made.records = lambda group: records()[:1] + [
        *cell2, (dict(cell2[0][0], host='c'), 'cell2')]
    clock[0] += watcher.RELOAD
    assert [text.split(' ', 1)[1] for text in changes(watched)] == [
        'c nova-compute absent -> up: its ephemeral node is there']


def test_a_service_deleted_while_another_cell_is_away(watching, clock):
    made, watched = watching(a=UP, b=UP)
    watched.check()
    made.failures = ['cell cell2 does not answer: y']
    del made.states['a']
    clock[0] += watcher.RELOAD
    assert changes(watched)[0].endswith('a nova-compute up -> deleted')


def test_a_record_read_long_ago_makes_nobody_down(watching, clock):
    made, watched = watching(a=UP, b=UP, forced=FORCED)
    made.record_lasts = 50
    slow = [0]
    records = made.records

    def read(group):
        clock[0] += slow[0]
        return records(group)

    made.records = read
    slow[0] = 20
    watched.check()
    # The list is used for a while, and is too old to show who reported.
    made.states.update(a=SILENT, b=FALLEN)
    assert changes(watched) == [
        '2026-11-21T10:00:00.123Z b nova-compute up -> down: no heartbeat '
        'within service_down_time']
    made.states.update(a=UP, b=UP)
    clock[0] += 5
    assert len(changes(watched)) == 1


def test_an_old_record_is_no_evidence(watching, clock):
    made, watched = watching(a=UP, forced=FORCED)
    made.record_lasts = 50
    watched.check()
    records, made.records = made.records, lambda group: []
    made.failures, made.listed_cells = ['cell cell1 does not answer: y'], set()
    made.states['a'] = SILENT
    clock[0] += 50
    assert changes(watched) == []
    clock[0] += 1
    assert [text.split(' ', 1)[1] for text in changes(watched)] == [
        'a nova-compute up -> unknown: the store cannot be reached']
    made.records, made.failures = records, []
    made.listed_cells = {'cell1'}
    clock[0] += watcher.RELOAD
    assert changes(watched)[0].endswith('unknown -> down: no heartbeat '
                                        'within service_down_time')


def test_records_are_read_before_they_are_too_old(watching, clock):
    made, watched = watching(a=UP)
    made.record_lasts = 50
    read = slow_down(made, clock, 12)
    while clock[0] < 1100:
        watched.check()
        clock[0] += 1
    assert read == [0, 25, 50, 75]


def test_a_store_that_is_away_does_not_end_it(watching, clock):
    made, watched = watching(a=UP)
    watched.check()

    def away(group):
        raise exception.ServiceGroupUnavailable('zk', 'no connection')

    made.records = away
    made.states['a'] = DOUBT
    clock[0] += watcher.RELOAD
    assert len(changes(watched)) == 1
    assert 'no connection' in watched.failures[0]


def test_lines_for_programs(watching):
    made, watched = watching(a=UP)
    watched.check()
    made.states['a'] = DOUBT
    change, = watched.check()
    assert watch._fields(change) == {
        'at': '2026-11-21T10:00:00.123Z', 'host': 'a',
        'binary': 'nova-compute', 'cell': 'cell1', 'old': 'up',
        'new': 'unknown', 'reason': Reason.MASS_FAILURE.value}


def test_a_name_of_a_host_controls_no_terminal(watching):
    host = 'a\x1b[2J\nb nova-compute down -> up\udced'
    made, watched = watching(**{host: UP})
    watched.check()
    made.states[host] = KILLED
    change, = watched.check()
    shown = watch.line(change)
    assert r' a\x1b[2J\nb nova-compute down -> up\udced nova' in shown
    assert shown.isprintable()
    assert watch._fields(change)['host'] == host
    assert r'a\x1b[2J\nb' in screen(made)
    assert all(row.isprintable() for row in screen(made).splitlines())


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


def test_until_tells_why_it_cannot_tell(cells):
    (cells.directory / 'api').unlink()
    done = cells.command('watch', '--until', 'up', '--timeout', '1', 'a',
                         code=1)
    assert done.stderr.count('error: The API database') == 1
    assert 'was not found out within 1 s' in done.stderr


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
