# SPDX-License-Identifier: Apache-2.0

"""What happens to processes, and what readers see of it.

Time limits here are what an operator may rely on even on a loaded machine;
bench/ measures what is usual.
"""

import functools
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import time

import pytest

from nova_servicegroup.liveness import Question
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State
from nova_servicegroup.tests.fixtures import answers
from nova_servicegroup.tests.fixtures import member
from nova_servicegroup.tests.fixtures import process

MODES = [member.THREADING, member.EVENTLET]

#: the answers to the scheduler's question, asked again and again
Answers = functools.partial(answers.Answers, question=Question.MAY_PLACE)

#: seconds: much less than a session lasts, even on a loaded machine
SOON = 2


@pytest.fixture
def start(tmp_path, ensemble):
    """Start a member process and wait until it joined."""
    started = []

    def start(host, **what):
        path = tmp_path / ('%s-%d' % (host, len(started)))
        one = member.Member(path, host, ensemble.address, **what)
        started.append(one)
        return one.start().wait_joined()

    yield start
    for one in started:
        one.stop()


def owner(driver, host):
    """Return the session that holds the only node of a host."""
    (_, _, about), = driver.member_details(answers.record(host))
    return about['owner']


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.fault(
    'zk',
    'a process is killed (SIGKILL, out of memory)',
    readers='no candidate of the scheduler within a second; up until '
            'restart_grace, then down',
    lasts='until its start',
    logged='nothing',
    ends='its start')
def test_a_killed_process_is_down_at_once(start, reader, mode):
    driver = reader()
    times = []
    for _ in range(5):
        one = start('killed', mode=mode)
        answers.wait_answer(driver, 'killed', True, 5)
        began = time.monotonic()
        one.kill()
        answers.wait_answer(driver, 'killed', False, SOON)
        times.append(time.monotonic() - began)
        process.wait_until(lambda: not process.alive(one.keeper_pids[0]), SOON,
                           'the end of the keeper')
        assert answers.verdict(driver, 'killed') == (
            State.ENDED, Reason.KILLED)
        # Nobody evacuates its host for that.
        assert driver.is_up(answers.record('killed')) is True
    assert statistics.median(times) < 0.5, times


@pytest.mark.parametrize('end', ['_exit', 'raise', 'exit'])
def test_every_end_of_a_process_is_seen_at_once(start, reader, end):
    driver = reader()
    one = start('ending', end=(1.0, end))
    answers.wait_answer(driver, 'ending', True, 5)
    one.wait(10)
    answers.wait_answer(driver, 'ending', False, SOON)
    process.wait_until(lambda: not process.alive(one.keeper_pids[0]), SOON,
                       'the end of the keeper')


@pytest.mark.parametrize('how', ['python', 'libc'])
@pytest.mark.parametrize('mode', MODES)
def test_a_forked_child_does_not_keep_its_parent_up(start, reader, mode,
                                                    how):
    driver = reader()
    one = start('forked', mode=mode, fork=(30, how))
    answers.wait_answer(driver, 'forked', True, 5)
    time.sleep(0.5)
    one.kill()
    answers.wait_answer(driver, 'forked', False, SOON)


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.fault(
    'zk',
    'a writer is frozen for less than service_down_time',
    readers='up',
    lasts='-',
    logged='nothing',
    ends='-')
def test_a_short_freeze_is_invisible(start, reader, mode):
    driver = reader()
    one = start('frozen', mode=mode, down_time=9, recv_timeout=2000)
    answers.wait_answer(driver, 'frozen', True, 5)
    session = owner(driver, 'frozen')
    with Answers(driver, 'frozen') as seen:
        one.freeze()
        time.sleep(4)
        one.thaw()
        time.sleep(1)
    assert seen.given == [True]
    assert owner(driver, 'frozen') == session


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.fault(
    'zk',
    'a writer hangs',
    readers='down when its last sign of life is service_down_time old',
    lasts='until it runs again',
    logged='its keeper: ERROR "No heartbeat from", WARNING when it is back',
    ends='its next heartbeat')
def test_a_hung_process_goes_and_comes_back(start, reader, mode):
    driver = reader()
    one = start('hung', mode=mode, down_time=3)
    answers.wait_answer(driver, 'hung', True, 5)
    session = owner(driver, 'hung')
    one.freeze()
    began = time.monotonic()
    answers.wait_answer(driver, 'hung', False, 6)
    # The last pulse may be an interval old, and on a loaded machine more.
    assert 1.5 < time.monotonic() - began < 5
    one.thaw()
    answers.wait_answer(driver, 'hung', True, 2)
    assert owner(driver, 'hung') == session
    assert 'No heartbeat from' in one.log()
    process.wait_until(lambda: 'sends heartbeats again' in one.log(), 5,
                       'the word of its return')


def test_a_hung_process_that_is_killed_leaves_nothing(start, reader):
    driver = reader()
    one = start('stuck')
    answers.wait_answer(driver, 'stuck', True, 5)
    one.freeze()
    one.kill()
    answers.wait_answer(driver, 'stuck', False, SOON)


def test_a_hung_process_gains_nothing_by_another_keeper(start, reader):
    driver = reader()
    # Its main thread hangs, and not the one that minds the keeper.
    one = start('revived', block=(0.5, 8), down_time=3)
    answers.wait_answer(driver, 'revived', True, 5)
    answers.wait_answer(driver, 'revived', False, 6)
    before = one.keeper_pid
    os.kill(before, signal.SIGKILL)
    with Answers(driver, 'revived') as seen:
        process.wait_until(lambda: one.keeper_pid not in (None, before), 3,
                           'another keeper')
        time.sleep(1)
        assert seen.given == [False]
        answers.wait_answer(driver, 'revived', True, 10)


@pytest.mark.fault(
    'zk',
    'a writer is busy',
    readers='up',
    lasts='-',
    logged='nothing',
    ends='-')
def test_a_busy_hub_is_invisible(start, reader):
    driver = reader()
    # In-process clients lose a session of four seconds at such turns.
    one = start('busy', mode=member.EVENTLET, busy=1.5, down_time=10)
    answers.wait_answer(driver, 'busy', True, 5)
    session = owner(driver, 'busy')
    with Answers(driver, 'busy') as seen:
        time.sleep(8)
    assert seen.given == [True]
    assert owner(driver, 'busy') == session
    assert one.running


def test_a_blocked_hub_is_invisible(start, reader):
    driver = reader()
    start('blocked', mode=member.EVENTLET, block=(0.5, 4), down_time=9,
          recv_timeout=2000)
    answers.wait_answer(driver, 'blocked', True, 5)
    with Answers(driver, 'blocked') as seen:
        time.sleep(5.5)
    assert seen.given == [True]


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.fault(
    'zk',
    'a keeper is killed',
    readers='up',
    lasts='-',
    logged='WARNING',
    ends='another keeper takes the session over')
def test_a_killed_keeper_is_replaced_unseen(start, reader, mode):
    driver = reader()
    one = start('kept', mode=mode, recv_timeout=2000)
    answers.wait_answer(driver, 'kept', True, 5)
    session = owner(driver, 'kept')
    with Answers(driver, 'kept') as seen:
        for _ in range(3):
            before = one.keeper_pid
            os.kill(before, signal.SIGKILL)
            process.wait_until(
                lambda: one.keeper_pid not in (None, before), 5,
                'another keeper')
            time.sleep(0.5)
        # Longer than the session.
        time.sleep(2)
    assert seen.given == [True]
    assert owner(driver, 'kept') == session
    children = subprocess.run(['ps', '-o', 'pid=', '--ppid', str(one.pid)],
                              capture_output=True, text=True).stdout.split()
    assert children == [str(one.keeper_pid)], 'a zombie was left'
    assert 'Starting another one' in one.log()


def test_a_keeper_is_deaf_to_signals_meant_for_its_process(start, reader):
    driver = reader()
    one = start('deaf')
    keeper = one.keeper_pid
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP,
                   signal.SIGQUIT):
        os.kill(keeper, number)
    time.sleep(0.5)
    assert one.keeper_pid == keeper
    answers.wait_answer(driver, 'deaf', True, 1)
    assert os.getsid(keeper) == keeper


def test_a_keeper_knows_only_what_it_should(start, monkeypatch):
    monkeypatch.setenv('OS_PASSWORD', 'verysecret')
    one = start('discreet')
    proc = pathlib.Path('/proc/%d' % one.keeper_pid)
    arguments = (proc / 'cmdline').read_bytes().split(b'\0')
    assert b'nova_servicegroup.keeper' in arguments
    assert b'member.py[%d]' % one.pid in arguments
    assert b'verysecret' not in (proc / 'environ').read_bytes()
    mine = {os.readlink(fd) for fd in (proc / 'fd').iterdir()}
    parents = {os.readlink(fd) for fd in pathlib.Path(
        '/proc/%d/fd' % one.pid).iterdir()}
    shared, = (name for name in mine & parents
               if not name.startswith(('/dev/', 'anon_inode:')))
    assert shared.startswith('pipe:'), 'not its exit pipe'
    maps = (proc / 'maps').read_text()
    assert 'greenlet' not in maps


def test_a_keeper_is_small_and_idle(start):
    one = start('idle', down_time=60, interval=10)
    # It has looked for other machines of its name.
    time.sleep(7)
    before = process.cpu_seconds(one.keeper_pid)
    time.sleep(5)
    used = process.cpu_seconds(one.keeper_pid) - before
    assert used <= 0.003 * 5, '%.1f ms a second' % (used * 200)
    status = pathlib.Path('/proc/%d/status' % one.keeper_pid).read_text()
    resident = int(status.partition('VmRSS:')[2].split()[0])
    assert resident <= 30 * 1024, '%d KB' % resident


@pytest.mark.fault(
    'zk',
    'a service is stopped gracefully',
    readers='no candidate of the scheduler at once; up until restart_grace,'
            ' then down',
    lasts='until its start',
    logged='INFO "Left the compute group"',
    ends='its start')
def test_a_stop_in_order_is_seen_at_once(start, reader):
    driver = reader()
    one = start('leaver')
    answers.wait_answer(driver, 'leaver', True, 5)
    # systemd signals all processes of a unit, in any order.
    os.kill(one.keeper_pid, signal.SIGTERM)
    one.signal(signal.SIGTERM)
    answers.wait_answer(driver, 'leaver', False, SOON)
    assert one.wait(5) == 0
    assert 'may still be seen' not in one.log()
    process.wait_until(lambda: not process.alive(one.keeper_pids[0]), SOON,
                       'the end of the keeper')


def test_a_restart_meets_no_ghost(start, reader):
    """Parent and keeper are killed: the node stays until its session ends."""
    driver = reader()
    one = start('reborn')
    answers.wait_answer(driver, 'reborn', True, 5)
    os.kill(one.keeper_pid, signal.SIGSTOP)
    one.kill()
    os.kill(one.keeper_pids[0], signal.SIGKILL)
    with Answers(driver, 'reborn') as seen:
        began = time.monotonic()
        start('reborn')
        process.wait_until(
            lambda: len(driver.member_details(
                answers.record('reborn'))) == 2, 5, 'stale and new node')
        process.wait_until(
            lambda: len(driver.member_details(
                answers.record('reborn'))) == 1, 10, 'the stale one gone')
        assert time.monotonic() - began < 10
    assert seen.given == [True]


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.fault(
    'zk',
    'a keeper hangs',
    readers='up',
    lasts='-',
    logged='WARNING',
    ends='another keeper takes the session over')
def test_a_stuck_keeper_is_replaced_unseen(start, reader, mode):
    driver = reader()
    # However seldom there are heartbeats.
    one = start('doubled', mode=mode, interval=30, down_time=90)
    answers.wait_answer(driver, 'doubled', True, 5)
    stuck, session = one.keeper_pid, owner(driver, 'doubled')
    with Answers(driver, 'doubled') as seen:
        os.kill(stuck, signal.SIGSTOP)
        process.wait_until(lambda: one.keeper_pid not in (None, stuck), 5,
                           'another keeper')
        # Longer than the session.
        time.sleep(5)
    assert seen.given == [True]
    assert owner(driver, 'doubled') == session
    assert 'does not answer' in one.log()


def test_a_machine_that_slept_too_long_comes_back(start, reader):
    driver = reader()
    one = start('sleeper', recv_timeout=2000, down_time=60, interval=20)
    answers.wait_answer(driver, 'sleeper', True, 5)
    one.freeze()
    os.kill(one.keeper_pid, signal.SIGSTOP)
    # It is missed. Whether it is down or in doubt depends on who else was
    # lost lately, in other tests.
    process.wait_until(
        lambda: answers.verdict(driver, 'sleeper')[0] is not State.UP, 10,
        'the sleeper missed')
    os.kill(one.keeper_pid, signal.SIGCONT)
    one.thaw()
    answers.wait_answer(driver, 'sleeper', True, 5)
    assert one.keeper_pid == one.keeper_pids[0]


def test_who_comes_back_late_after_an_outage_was_never_away(
        start, reader, ensemble):
    """One of thousands, whose session runs out while it waits its turn."""
    driver = reader()
    one = start('late', down_time=60, interval=20)
    answers.wait_answer(driver, 'late', True, 5)
    with answers.Answers(driver, 'late') as seen:
        ensemble.kill()
        one.freeze()
        os.kill(one.keeper_pid, signal.SIGSTOP)
        ensemble.start()
        with ensemble.client() as client:
            path, = client.get_children('/servicegroups/compute')
            path = '/servicegroups/compute/' + path
            process.wait_until(lambda: not client.exists(path), 15,
                               'the end of its session')
            os.kill(one.keeper_pid, signal.SIGCONT)
            one.thaw()
            process.wait_until(
                lambda: client.get_children('/servicegroups/compute'), 10,
                'another node')
        # Longer than anybody is held.
        time.sleep(8)
        assert driver.is_up(answers.record('late'))
    assert seen.given == [True]


def test_no_orphan_waits_for_zookeeper(start, ensemble):
    one = start('orphan')
    for server in ensemble.servers:
        server.freeze()
    try:
        one.kill()
        process.wait_until(lambda: not process.alive(one.keeper_pids[0]), SOON,
                           'the end of the keeper')
    finally:
        for server in ensemble.servers:
            server.thaw()
        ensemble.wait_serving()


READER = """
import eventlet
eventlet.monkey_patch()
import os, signal, sys, time
from oslo_config import cfg
from nova_servicegroup import conf as sg_conf
from nova_servicegroup.drivers import zk
from nova_servicegroup.tests.fixtures import answers, process

conf = cfg.ConfigOpts()
conf([], project='nova', default_config_files=[])
conf.register_opts([cfg.IntOpt('report_interval', default=1),
                    cfg.IntOpt('service_down_time', default=6)])
sg_conf.register_opts(conf)
conf.set_override('address', sys.argv[1], group='zookeeper')
turns = []
def turn():
    while True:
        turns.append(time.monotonic())
        time.sleep(0.01)
eventlet.spawn(turn)
record = answers.record('green')
drivers = [zk.ZooKeeperDriver(conf=conf) for _ in range(50)]
pool = eventlet.GreenPool(50)
given = list(pool.imap(lambda driver: driver.is_up(record), drivers))
assert given == [True] * 50, given
for _ in range(2):
    keeper = drivers[0]._session.keeper_pid
    os.kill(keeper, signal.SIGKILL)
    process.wait_until(lambda: drivers[0]._session.keeper_pid not in (
        None, keeper) and drivers[0]._session.is_connected(), 5, 'another')
    assert drivers[0].is_up(record) is True
children = os.popen('ps -o args= --ppid %d' % os.getpid()).read()
assert children.count('nova_servicegroup.keeper') == 1, children
print('set up', flush=True)
process.wait_until(lambda: not drivers[0].is_up(record), 10, 'down')
# Nothing of all this held the hub.
longest = max(b - a for a, b in zip(turns, turns[1:]))
assert longest < 1, longest
print('fine', flush=True)
"""


def test_a_patched_process_reads(start, ensemble, tmp_path):
    one = start('green')
    script = tmp_path / 'reader.py'
    script.write_text(READER)
    with process.Process('reader', [sys.executable, script,
                                    ensemble.address], tmp_path) as green:
        green.wait_ready(lambda: 'set up' in green.log(), 20)
        one.kill()
        assert green.wait(10) == 0, green.log()
