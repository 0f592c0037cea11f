# SPDX-License-Identifier: Apache-2.0

"""Workers of one service, with one keeper for all of them."""

import contextlib
import os
import pathlib
import signal
import threading
import time

import pytest

from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State
from nova_servicegroup.tests.fixtures import answers
from nova_servicegroup.tests.fixtures import member
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import workers
from nova_servicegroup.tests.fixtures import wsgi

MODES = [member.THREADING, member.EVENTLET]
GROUP = '/servicegroups/compute'
#: seconds: much less than a session lasts, even on a loaded machine
SOON = 2
COUNT = 4


@pytest.fixture
def start(tmp_path, ensemble):
    """Start a service and wait until its workers have joined."""
    started = []

    def start(count=COUNT, wait=True, **what):
        one = workers.Workers(tmp_path / str(len(started)), ensemble.address,
                              count, **what)
        started.append(one)
        one.start()
        return one.wait_joined() if wait else one

    yield start
    for one in started:
        keepers = one.all_keepers
        one.stop()
        process.wait_until(lambda: not any(map(process.alive, keepers)), 8,
                           'the end of the keepers')


@contextlib.contextmanager
def always_up(driver, hosts):
    """Fail unless hosts have a node all the time: not even in doubt."""
    gaps, stop = set(), threading.Event()
    # A question may wait until who is missed is back.
    members = driver._view('compute').members

    def look():
        while not stop.wait(0.002):
            gaps.update(host for host in hosts if host not in members)

    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield
        time.sleep(0.1)
    finally:
        stop.set()
        thread.join(10)
    assert gaps == set()


def hosts(service, without=()):
    return ['w%d' % number for number in range(service.count)
            if number not in without]


def sessions(ensemble):
    """Return {host: session that owns its node}."""
    with ensemble.client() as client:
        owners = {}
        for name in client.get_children(GROUP):
            stat = client.exists('%s/%s' % (GROUP, name))
            if stat is not None:
                owners.setdefault(name.partition('@')[0], set()).add(
                    stat.ephemeralOwner)
        return owners


def wait_up(driver, service):
    for host in hosts(service):
        answers.wait_answer(driver, host, True, 10)


def wait_replaced(service, keeper, timeout):
    """Wait until each worker has another keeper."""
    process.wait_until(lambda: keeper not in service.keepers.values(),
                       timeout, 'another keeper')


@pytest.mark.parametrize('mode', MODES)
def test_all_have_one_keeper_and_one_session(start, reader, ensemble, mode):
    driver = reader()
    service = start(mode=mode)
    wait_up(driver, service)
    keeper = service.keeper()
    assert process.alive(keeper)
    owners = sessions(ensemble)
    assert sorted(owners) == sorted(hosts(service))
    assert len(set.union(*owners.values())) == 1
    # Who looks at it sees whose it is.
    arguments = pathlib.Path('/proc/%d/cmdline' % keeper).read_bytes()
    assert arguments.endswith(b'[%d]\0shared\0' % service.pid)
    # It is nobody's child, so nobody has to reap it.
    assert int(process.stat(keeper)[1]) not in (
        service.pid, *service.workers.values())


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.fault(
    'zk',
    'one of the workers that share a keeper is killed',
    readers='that worker is gone within a second, no other one',
    lasts='until another one starts',
    logged='nothing',
    ends='another worker starts')
def test_a_killed_worker_leaves_alone_and_the_keeper_after_the_last(
        start, reader, mode):
    driver = reader()
    service = start(mode=mode)
    wait_up(driver, service)
    keeper = service.keeper()
    # One of them has started it.
    for number in range(COUNT):
        assert process.alive(keeper)
        others = hosts(service, without=range(number + 1))
        with always_up(driver, others):
            service.kill_worker(number)
            answers.wait_answer(driver, 'w%d' % number, False, SOON)
            assert answers.verdict(driver, 'w%d' % number) == (
                State.ENDED, Reason.KILLED)
            # The next to come finds the same keeper.
            time.sleep(0.3)
    process.wait_until(lambda: not process.alive(keeper), SOON,
                       'the end of the keeper')
    assert service.all_keepers == {keeper}


def test_a_new_worker_finds_the_keeper_and_the_view(start, reader):
    driver = reader()
    service = start()
    wait_up(driver, service)
    keeper = service.keeper()
    service.kill_worker(0)
    service.add_worker()
    process.wait_until(lambda: COUNT in service.workers, 10, 'the new one')
    assert service.keepers[COUNT] == keeper
    process.wait_until(lambda: service.given(COUNT, 'w1') == ['True'], 5,
                       'its answer')
    answers.wait_answer(driver, 'w%d' % COUNT, True, 5)
    # Of who was killed before it came, too.
    assert service.given(COUNT, 'w0') == ['False']


@pytest.mark.parametrize('mode', MODES)
@pytest.mark.fault(
    'zk',
    'a keeper that workers share is killed',
    readers='up',
    lasts='-',
    logged='WARNING by each worker',
    ends='one of the workers starts another one')
def test_a_killed_keeper_is_replaced_by_one(start, reader, ensemble, mode):
    driver = reader()
    service = start(count=8, mode=mode)
    wait_up(driver, service)
    for _ in range(3):
        known, keeper = service.all_keepers, service.keeper()
        with always_up(driver, hosts(service)):
            os.kill(keeper, signal.SIGKILL)
            wait_replaced(service, keeper, 4)
            # Longer than the old session lasts.
            time.sleep(5)
        assert len(service.all_keepers - known) == 1
        owners = sessions(ensemble)
        assert sorted(owners) == sorted(hosts(service))
        assert len(set.union(*owners.values())) == 1
    for number in range(8):
        for host in hosts(service)[:workers.MOST_ASKED]:
            assert service.given(number, host)[-1] == 'True'
            # Before all had joined they may have been away.
            assert service.given(number, host).count('False') <= 1
    # And each of them is seen as before.
    service.kill_worker(3)
    answers.wait_answer(driver, 'w3', False, SOON)
    assert answers.verdict(driver, 'w3') == (State.ENDED, Reason.KILLED)


def test_a_worker_killed_after_its_keeper_is_not_kept_up(
        start, reader, ensemble):
    """The session of the keeper before lasts for seconds."""
    driver = reader()
    service = start(recv_timeout=12000, down_time=30)
    wait_up(driver, service)
    killed = service.keeper()
    before, = set.union(*sessions(ensemble).values())
    os.kill(killed, signal.SIGKILL)
    wait_replaced(service, killed, 10)
    assert before in sessions(ensemble)['w3']
    with always_up(driver, hosts(service, without=[3])):
        service.kill_worker(3)
        answers.wait_answer(driver, 'w3', False, SOON)
        assert answers.verdict(driver, 'w3') == (State.ENDED, Reason.KILLED)
    assert before in sessions(ensemble)['w2']


def test_a_worker_killed_with_the_keeper_is_not_kept_up(start, reader):
    """By a session that is kept for the others."""
    driver = reader()
    service = start()
    wait_up(driver, service)
    with always_up(driver, hosts(service, without=[2])):
        os.kill(service.keeper(), signal.SIGSTOP)
        service.kill_worker(2)
        os.kill(service.keeper(), signal.SIGKILL)
        process.wait_until(
            lambda: answers.verdict(driver, 'w2')[0] is not State.UP, 10,
            'the end of its session')
        time.sleep(1)


@pytest.mark.fault(
    'zk',
    'a keeper that workers share hangs',
    readers='up',
    lasts='-',
    logged='WARNING by each worker',
    ends='one of the workers kills it and starts another one')
def test_a_stuck_keeper_is_killed_and_replaced_by_one(
        start, reader, ensemble):
    driver = reader()
    service = start(interval=30, down_time=90)
    wait_up(driver, service)
    stuck = service.keeper()
    with always_up(driver, hosts(service)):
        os.kill(stuck, signal.SIGSTOP)
        process.wait_until(lambda: not process.alive(stuck), 5, 'its end')
        wait_replaced(service, stuck, 5)
        # Longer than the old session lasts.
        time.sleep(5)
    assert service.all_keepers == {stuck, service.keeper()}
    assert sorted(sessions(ensemble)) == sorted(hosts(service))


@pytest.mark.parametrize('mode', MODES)
def test_a_worker_that_leaves_the_keeper_is_never_missed(
        start, reader, ensemble, mode):
    driver = reader()
    service = start(mode=mode)
    wait_up(driver, service)
    keeper = service.keeper()
    with always_up(driver, hosts(service)):
        service.part(1)
        process.wait_until(lambda: service.keepers[1] != keeper, 5,
                           'a keeper of its own')
        # Longer than the old node is kept.
        time.sleep(5)
    assert list(service.keepers.values()).count(keeper) == COUNT - 1
    assert len(sessions(ensemble)['w1']) == 1


def test_a_keeper_that_was_late_is_kept(start, reader):
    driver = reader()
    service = start()
    wait_up(driver, service)
    keeper = service.keeper()
    with always_up(driver, hosts(service)):
        for _ in range(3):
            os.kill(keeper, signal.SIGSTOP)
            time.sleep(1)
            os.kill(keeper, signal.SIGCONT)
            time.sleep(1)
    assert service.all_keepers == {keeper}


def test_a_frozen_worker_delays_nobody(start, reader, ensemble):
    driver = reader()
    service = start(down_time=4)
    wait_up(driver, service)
    keeper = service.keeper()
    with always_up(driver, hosts(service, without=[0, 1])):
        service.signal_worker(0, signal.SIGSTOP)
        with ensemble.client() as client:
            # More than fits between it and the keeper.
            names = ['%s/%s%03d@%016x' % (GROUP, 'x' * 200, n, n)
                     for n in range(400)]
            for _ in range(10):
                for request in [client.create_async(
                        name, b'{}', ephemeral=True) for name in names]:
                    request.get(timeout=20)
                for request in [client.delete_async(name) for name in names]:
                    request.get(timeout=20)
        process.wait_until(
            lambda: answers.verdict(driver, 'w0')[1] is Reason.HUNG, 10,
            'the frozen one')
        killed = time.monotonic()
        service.kill_worker(1)
        process.wait_until(lambda: service.given(2, 'w1')[-1] == 'False',
                           SOON, 'its sibling knows')
        assert time.monotonic() - killed < SOON
    service.signal_worker(0, signal.SIGCONT)
    answers.wait_answer(driver, 'w0', True, SOON)
    process.wait_until(lambda: service.given(0, 'w1')[-1] == 'False', SOON,
                       'the changes meanwhile')
    assert service.all_keepers == {keeper}


def test_a_worker_that_becomes_another_program_was_not_killed(
        start, reader, ensemble):
    driver = reader()
    service = start(one={'1': {'end': [2, 'exec']}})
    answers.wait_answer(driver, 'w1', True, 5)
    with always_up(driver, hosts(service, without=[1])):
        process.wait_until(lambda: 'w1' not in sessions(ensemble), 12,
                           'the end of its node')
        assert answers.verdict(driver, 'w1')[1] is not Reason.KILLED


def test_other_versions_and_identities_have_their_own(start, reader):
    driver = reader()
    service = start(one={
        '1': {'version': '0.0.1'},
        '2': {'delay': 2, 'zookeeper': {
            'auth_scheme': 'digest', 'username': 'nova',
            'password': 'secret'}}})
    wait_up(driver, service)
    keepers = service.keepers
    assert keepers[0] == keepers[3]
    assert len(set(keepers.values())) == 3
    assert 'another configuration' in service.log()


def test_a_worker_that_stops_while_it_starts_the_keeper(start, reader):
    """Its siblings have their own soon."""
    driver = reader()
    service = start(count=1, one={'0': {'stop_at_start': True}}, wait=False)
    process.wait_until(lambda: 'w0 stops' in service.log(), 20, 'the stop')
    began = time.monotonic()
    for _ in range(2):
        service.add_worker()
        time.sleep(0.2)
    process.wait_until(lambda: len(service.keepers) == 2, 15, 'the others')
    assert time.monotonic() - began < 10
    assert len(service.all_keepers) == 2
    for host in hosts(service, without=[0]):
        answers.wait_answer(driver, host, True, 5)


# Nova's application may be loaded before the fork or after it.
@pytest.mark.parametrize('command', [
    ['gunicorn'], ['gunicorn', '--preload'], ['uwsgi'],
    ['uwsgi', '--lazy-apps']], ids=' '.join)
def test_the_workers_of_a_wsgi_server_share_a_keeper(
        start, ensemble, tmp_path, command):
    service = start(count=1)
    with wsgi.Server(tmp_path, ensemble.address, 'w0', command) as server:
        def wait_all(condition, what):
            """Wait for one answer of all workers, and return it."""
            def given():
                one, *others = set(server.ask_all().values())
                return not others and condition(one) and one

            return process.wait_until(given, 10, what)

        first = wait_all(lambda one: one.up and one.keeper, 'a keeper').keeper
        os.kill(first, signal.SIGKILL)
        second = wait_all(lambda one: one.up and one.keeper not in (
            None, first), 'another keeper').keeper
        killed = next(iter(server.ask_all()))
        os.kill(killed, signal.SIGKILL)
        # The server forks another worker in its place.
        assert wait_all(lambda one: one.up and one.keeper,
                        'all workers').keeper == second
        assert killed not in server.ask_all()
        service.kill_worker(0)
        wait_all(lambda one: not one.up, 'its end')
    process.wait_until(lambda: not process.alive(second), 8,
                       'the end of the keeper')


@pytest.mark.long
def test_many_workers_lose_nothing_with_their_keeper(start, reader, ensemble):
    driver = reader()
    # So long that also a loaded machine has another keeper in time.
    service = start(count=24, interval=5, down_time=60, recv_timeout=12000)
    wait_up(driver, service)
    # After more in half a minute there is a pause, as with one's own.
    for _ in range(3):
        known, keeper = service.all_keepers, service.keeper()
        before, = set.union(*sessions(ensemble).values())
        with always_up(driver, hosts(service)):
            os.kill(keeper, signal.SIGKILL)
            wait_replaced(service, keeper, 15)
            # The nodes of the session before stay until it runs out.
            process.wait_until(
                lambda: all(before not in owners
                            for owners in sessions(ensemble).values()), 20,
                'all nodes in another session')
        assert len(service.all_keepers - known) == 1
        assert sorted(sessions(ensemble)) == sorted(hosts(service))
