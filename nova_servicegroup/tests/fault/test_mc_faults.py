# SPDX-License-Identifier: Apache-2.0

"""The mc driver and real faults: processes, servers and clocks that fail.

Every reporter is a process of its own; the reader is this one. All clocks
run, but a reporter's wall clock may be wrong.
"""

import collections
import contextlib
import datetime
import itertools
import json
import subprocess
import sys
import threading
import time

import pytest

from nova_servicegroup.drivers import mc
from nova_servicegroup.memcached import servers
from nova_servicegroup import per_process
from nova_servicegroup.tests.fixtures import crowd
from nova_servicegroup.tests.fixtures import memcached
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import reporter

INTERVAL = 1
DOWN_TIME = 3
TIMEOUT = 0.5
REFRESH = 0.1
# How much later than it should something may happen on a busy machine.
LATE = 3

CONF = """
[DEFAULT]
report_interval = %d
service_down_time = %d
[cache]
memcache_servers = %%s
memcache_socket_timeout = %s
[servicegroup]
view_refresh = %s
""" % (INTERVAL, DOWN_TIME, TIMEOUT, REFRESH)

COMPUTES = ('c1', 'c2', 'c3')
# Each of them is up, or nobody can tell yet.
RETURNING = [' '.join(states) for states in itertools.product(
    ['up', 'unknown'], repeat=len(COMPUTES))]


@pytest.fixture
def store():
    with memcached.Memcached() as store:
        yield store


@pytest.fixture
def conf_file(tmp_path, store):
    path = tmp_path / 'nova.conf'
    path.write_text(CONF % store.address)
    return path


@pytest.fixture
def report(tmp_path, conf_file):
    """Starts a reporter: ``report('c1')``; ends them all in the end."""
    started = []
    numbers = itertools.count()

    def start(host, conf_file=conf_file, **how):
        made = reporter.Reporter('reporter%d' % next(numbers), tmp_path,
                                 conf_file, host, **how)
        started.append(made)
        return made.start()

    yield start
    for one in started:
        if one.running:
            one.kill()
        one.stop()


class Reader:
    """Asks as Nova does, and remembers each answer and its time."""

    def __init__(self, conf_file, hosts=COMPUTES):
        self.hosts = hosts
        self.driver = mc.MemcachedDriver(
            conf=reporter.load(conf_file), inventory=lambda group: [
                reporter.record(host) for host in hosts])
        self.longest = 0
        self.asked = collections.Counter()

    def states(self):
        """Return the state of each host, as one string."""
        answers = []
        for host in self.hosts:
            start = time.monotonic()
            verdict = self.driver.verdict(reporter.record(host))
            answers.append(verdict.state.value)
            took = time.monotonic() - start
            self.longest = max(self.longest, took)
            self.asked[took >= TIMEOUT] += 1
        return ' '.join(answers)

    def watch(self, seconds, *expected):
        """Ask again and again, and accept these answers only."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self.states() in expected
            time.sleep(REFRESH)

    def wait(self, expected, seconds):
        process.wait_until(lambda: self.states() == expected,
                           seconds + LATE, expected)


@pytest.fixture
def reader(conf_file):
    return Reader(conf_file)


@pytest.fixture
def fleet(report, reader):
    """Three reporters, seen up."""
    reporters = [report(host) for host in COMPUTES]
    reader.wait('up up up', 1)
    return reporters


def lines(log, *parts):
    return [line for line in log.splitlines()
            if all(part in line for part in parts)]


def assert_told_once(reporters, caplog, server):
    """Loss and recovery: one line each in every process, and no other."""
    for one in reporters:
        lost, recovered = lines(one.log(), 'nova_servicegroup')
        assert lost.startswith('WARNING ')
        assert ('Lost connection to memcache server for reporting service '
                'status.' in lost)
        assert recovered.startswith('INFO ')
        assert ('Recovered connection to memcache server for reporting '
                'service status. The outage lasted' in recovered)
    logged = [text for text in caplog.messages if server in text]
    assert ['cannot be read' in text for text in logged] == [True, False]
    assert 'can be read again after' in logged[1]


@pytest.mark.fault(
    'mc',
    'a writer is killed',
    readers='down',
    lasts='from service_down_time after its last heartbeat on',
    logged='DEBUG, at each question',
    ends='its next heartbeat')
def test_a_killed_reporter_goes_down_in_time(fleet, reader):
    fleet[1].kill()
    start = time.monotonic()
    reader.watch(DOWN_TIME - INTERVAL - 2 * REFRESH, 'up up up')
    reader.wait('up down up', DOWN_TIME)
    assert time.monotonic() - start < DOWN_TIME + 1 + LATE
    reader.watch(1, 'up down up')


@pytest.mark.fault(
    'mc',
    "the writer's clock is two minutes wrong",
    readers='up',
    lasts='-',
    logged='WARNING, once, if it is ahead',
    ends='nothing; the next heartbeat counts')
def test_clocks_two_minutes_apart(report, conf_file):
    ahead = (0, 0, 0, -120, 120)
    hosts = ['c%d' % number for number in range(len(ahead))]
    reader = Reader(conf_file, hosts)
    behind, early = [
        report(host, ahead=seconds) for host, seconds in zip(hosts, ahead)][3:]
    # At first sight the clocks decide; the second beat is seen to happen.
    reader.wait('up up up up up', 2 * INTERVAL)
    reader.watch(DOWN_TIME + 1, 'up up up up up')
    behind.kill()
    early.kill()
    reader.watch(DOWN_TIME - INTERVAL - 2 * REFRESH, 'up up up up up')
    reader.wait('up up up down down', DOWN_TIME)


def test_workers_of_one_host(report, conf_file):
    reader = Reader(conf_file, ['c1'])
    first, second, third = (report('c1') for _ in range(3))
    reader.wait('up', 1)
    first.kill()
    reader.watch(1, 'up')
    second.stop()
    reader.watch(DOWN_TIME + 1, 'up')
    third.stop()
    process.wait_until(lambda: reader.states() == 'ended',
                       DOWN_TIME - 2 * INTERVAL, 'ended at once')
    reader.wait('down', DOWN_TIME)


@pytest.mark.fault(
    'mc',
    'memcached killed for less than service_down_time',
    readers='as before',
    lasts='-',
    logged='reader and writer: WARNING at the loss, INFO at the return',
    ends='its return')
def test_memcached_killed_for_a_moment(fleet, reader, store,
                                                  caplog):
    caplog.set_level('INFO')
    store.kill()
    reader.watch(DOWN_TIME - 1, 'up up up')
    store.start()
    # Its first beat may come later than it was late already.
    reader.watch(DOWN_TIME, *RETURNING)
    reader.wait('up up up', 0)
    assert_told_once(fleet, caplog, store.address)


@pytest.mark.fault(
    'mc',
    'memcached killed for longer than service_down_time',
    readers='up (nobody can tell)',
    lasts='from service_down_time on',
    logged='WARNING at the loss, INFO at the return',
    ends='its return')
def test_memcached_killed_for_longer(fleet, reader, store, caplog):
    caplog.set_level('INFO')
    store.kill()
    reader.watch(DOWN_TIME - 2 * REFRESH, 'up up up')
    reader.wait('unknown unknown unknown', 1)
    fleet[2].kill()
    reader.watch(1, 'unknown unknown unknown')
    store.start()
    # Nobody is taken for dead who had no chance to report.
    reader.wait('up up unknown', 2 * INTERVAL)
    reader.wait('up up down', DOWN_TIME)
    assert_told_once(fleet[:2], caplog, store.address)


@pytest.mark.fault(
    'mc',
    'memcached restarted empty',
    readers='up',
    lasts='-',
    logged='WARNING at the loss, INFO at the return',
    ends='the next heartbeats')
def test_memcached_restarted_empty(fleet, reader, store):
    for _ in range(2):
        store.restart()
        reader.watch(DOWN_TIME / 2, 'up up up')
    for one in fleet:
        # A beat that met the gap says so; the next one says that it is over.
        losses = ['Lost' in line
                  for line in lines(one.log(), 'nova_servicegroup')]
        assert losses in ([], [True, False], [True, False] * 2)


@pytest.mark.fault(
    'mc',
    'memcached flushed',
    readers='up',
    lasts='-',
    logged='nothing',
    ends='the next heartbeats')
def test_memcached_flushed(fleet, reader, store):
    for _ in range(5):
        store.flush()
        reader.watch(DOWN_TIME / 4, 'up up up')
    fleet[0].kill()
    store.flush()
    reader.wait('down up up', DOWN_TIME)


@pytest.mark.fault(
    'mc',
    'memcached frozen',
    readers='as before, then up (nobody can tell)',
    lasts='service_down_time; a question takes the timeout of the server at'
          ' most',
    logged='WARNING at the loss, INFO at the return',
    ends='its return')
def test_memcached_stopped_so_that_connections_hang(fleet, reader, store,
                                                    caplog):
    caplog.set_level('INFO')
    reader.asked.clear()
    store.freeze()
    reader.watch(DOWN_TIME - TIMEOUT - 2 * REFRESH, 'up up up')
    assert reader.longest < TIMEOUT + 1
    # Asked once a second at most, and held up once each time.
    assert reader.asked[True] <= DOWN_TIME + 1
    assert reader.asked[False] > reader.asked[True]
    reader.wait('unknown unknown unknown', 1 + TIMEOUT)
    assert reader.longest < TIMEOUT + 1
    store.thaw()
    reader.wait('up up up', 2 * INTERVAL)
    reader.watch(DOWN_TIME, 'up up up')
    assert_told_once(fleet, caplog, store.address)


def test_a_reader_that_starts_after_a_restart(fleet, conf_file, store):
    store.restart()
    per_process.forget()
    late = Reader(conf_file, [*COMPUTES, 'c9'])
    # It may come between two beats, but it calls nobody down for that.
    assert set(late.states().split()) <= {'up', 'unknown'}
    late.wait('up up up unknown', 2 * INTERVAL)
    late.wait('up up up down', DOWN_TIME)


@pytest.mark.fault(
    'mc',
    'memcached cannot be reached by half of the computes',
    readers='up (nobody can tell)',
    lasts='until they reach it again, or are forced down',
    logged='ERROR with the numbers when it begins, WARNING at the end; '
           'WARNING on those computes',
    ends='their next heartbeats')
def test_memcached_cannot_be_reached_by_half(report, conf_file, store):
    hosts = ['c%d' % number for number in range(8)]
    reader = Reader(conf_file, hosts)
    reporters = [report(host) for host in hosts]
    reader.wait(' '.join(['up'] * 8), 1)
    for one in reporters[:4]:
        # Like a network that is cut: they live, and nothing comes.
        one.freeze()
    expected = ' '.join(['unknown'] * 4 + ['up'] * 4)
    reader.wait(expected, DOWN_TIME)
    per_process.forget()
    # A process that has just started says the same.
    assert Reader(conf_file, hosts).states() == expected
    reader.watch(DOWN_TIME, expected)
    reporters[7].kill()
    reader.wait(expected[:-2] + 'down', DOWN_TIME)
    reporters[0].thaw()
    reader.wait('up' + expected[7:-2] + 'down', INTERVAL)
    # Nobody else comes back.
    reader.wait('up down down down up up up down', DOWN_TIME)


@pytest.mark.parametrize('mode', ['native', 'green'])
def test_twenty_threads_ask_at_once(conf_file, store, tmp_path, mode):
    # So long that twice the timeout can't be met by chance.
    timeout = 3
    conf_file.write_text(conf_file.read_text().replace(
        'socket_timeout = %s' % TIMEOUT,
        'socket_timeout = %s\nmemcache_dead_retry = 60' % timeout).replace(
            'service_down_time = %d' % DOWN_TIME, 'service_down_time = 20'))
    done = subprocess.run(
        [sys.executable, '-m', crowd.__name__, conf_file,
         str(store.process.pid), mode], stdout=subprocess.PIPE,
        cwd=reporter.ROOT, timeout=60)
    store.thaw()
    seen = json.loads(done.stdout)
    ticker = seen.pop('ticker')
    expected = {'new': ('up', 1), 'known': ('up', 1), 'stopped': ('up', 1),
                'stopped, others': ('unknown', 0),
                'stopped, new': ('unknown', 1)}
    assert {situation: (*what['answers'], what['requests'])
            for situation, what in seen.items()} == expected
    assert {what['threads'] for what in seen.values()} == {crowd.THREADS}
    # Each thread for all that it asks about.
    assert max(what['longest'] for what in seen.values()) < 2 * timeout
    # The others go on meanwhile.
    assert ticker < timeout


@pytest.mark.parametrize('lost, how', [(0, 'freeze'), (1, 'kill')])
@pytest.mark.fault(
    'mc',
    'one of two memcached servers killed or frozen',
    readers='as before',
    lasts='-',
    logged='WARNING at the loss, INFO at the return',
    ends='not needed; its return')
def test_one_of_two_servers_lost(report, conf_file, store, lost, how):
    with memcached.Memcached() as second:
        conf_file.write_text(CONF % ','.join([store.address, second.address]))
        reader = Reader(conf_file)
        for host in COMPUTES:
            report(host)
        reader.wait('up up up', 1)
        getattr([store, second][lost], how)()
        reader.watch(DOWN_TIME + 1, 'up up up')
        # A new process needs the other one only, too.
        per_process.forget()
        assert Reader(conf_file).states() == 'up up up'


@contextlib.contextmanager
def repeatedly(action, pause):
    """Do something over and over while the block runs."""
    done = threading.Event()

    def run():
        while not done.wait(pause):
            action()

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


@pytest.mark.fault(
    'mc',
    'memcached is full, and started so that it evicts nothing (-M)',
    readers='as before, then up (nobody can tell)',
    lasts='service_down_time',
    logged='ERROR with the numbers when it begins, WARNING at the end; each '
           'service: WARNING "Lost connection to memcache server", INFO when '
           'it recovers',
    ends='memory for the next heartbeats')
def test_memcached_is_full(report, conf_file):
    with memcached.Memcached(options=['-M', '-m', '2']) as full:
        conf_file.write_text(CONF % full.address)
        reader = Reader(conf_file)
        fleet = [report(host) for host in COMPUTES]
        reader.wait('up up up', 1)
        key = full.keys()[0].decode()
        # Of the size of a heartbeat: they share their memory.
        value = b'x' * (
            len(key) + len(full.raw_get(key)[1]) - len('fill0000'))
        client = servers.Server(full.address)
        numbers = itertools.count()

        def fill():
            with contextlib.suppress(servers.ServerRefused):
                while True:
                    client.put('fill%04d' % next(numbers), value, None, 1)

        fill()
        with repeatedly(fill, 0.001):
            reader.wait('unknown unknown unknown', DOWN_TIME + 2 * INTERVAL)
            reader.watch(DOWN_TIME, 'unknown unknown unknown')
        full.flush()
        reader.wait('up up up', 2 * INTERVAL)
        for one in fleet:
            assert 'out of memory' in one.log()


@pytest.mark.fault(
    'mc',
    'memcached is slow: it hangs for half of each second',
    readers='as before',
    lasts='-',
    logged='nothing, or WARNING and INFO at a timeout',
    ends='-')
def test_memcached_is_slow(fleet, reader, store):
    def hang():
        store.freeze()
        time.sleep(TIMEOUT * 0.8)
        store.thaw()

    with repeatedly(hang, 0.5):
        reader.watch(3 * DOWN_TIME, 'up up up')
    assert reader.longest > TIMEOUT / 2


@pytest.mark.fault(
    'mc',
    'two clouds with the same host names use one memcached',
    readers='as if each had its own, with [servicegroup] mc_key_prefix',
    lasts='-',
    logged='nothing',
    ends='-')
def test_two_clouds_on_one_memcached(tmp_path, report, conf_file):
    reporters, readers = {}, {}
    for cloud in ('east', 'west'):
        own = tmp_path / cloud
        own.write_text('%smc_key_prefix = %s-\n' % (
            conf_file.read_text(), cloud))
        readers[cloud] = Reader(own)
        reporters[cloud] = [report(host, conf_file=own) for host in COMPUTES]
    for reader in readers.values():
        reader.wait('up up up', 1)
    reporters['west'][0].kill()
    readers['west'].wait('down up up', DOWN_TIME)
    readers['east'].watch(1, 'up up up')


@pytest.mark.fault(
    'mc',
    'a reader is paused, or asks nothing, for longer than service_down_time',
    readers='up for members that run, from the first answer on; down for '
            'those that ended',
    lasts='-',
    logged='nothing',
    ends='-')
def test_a_reader_is_paused(fleet, reader):
    for killed, expected in (((), 'up up up'), ((0,), 'down up up')):
        for number in killed:
            fleet[number].kill()
        time.sleep(2 * DOWN_TIME)
        reader.watch(1, expected)


@pytest.mark.parametrize('step', [3600, -3600])
@pytest.mark.fault(
    'mc',
    "a reader's clock is set by an hour",
    readers='as before',
    lasts='-',
    logged='nothing',
    ends='-')
def test_a_readers_clock_is_set(fleet, reader, step):
    before = reader.driver._view._utcnow
    reader.driver._view._utcnow = lambda: before() + datetime.timedelta(
        seconds=step)
    reader.watch(DOWN_TIME, 'up up up')
    fleet[0].kill()
    reader.wait('down up up', DOWN_TIME)
