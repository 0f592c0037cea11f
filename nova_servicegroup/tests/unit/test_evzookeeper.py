# SPDX-License-Identifier: Apache-2.0

"""The parent's side, against keepers that don't do what they should."""

import errno
import importlib.util
import logging
import os
import subprocess
import sys
import time

import pytest

from nova_servicegroup.drivers import zk
from nova_servicegroup import evzookeeper
from nova_servicegroup.evzookeeper import child
from nova_servicegroup.evzookeeper import exceptions
from nova_servicegroup.evzookeeper import membership
from nova_servicegroup.evzookeeper import supervisor
from nova_servicegroup import exception
from nova_servicegroup.keeper import protocol
from nova_servicegroup import liveness
from nova_servicegroup.tests import contract
from nova_servicegroup.tests.fixtures import answers
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import tree

NOBODY = '127.0.0.1:1'


@pytest.fixture
def session():
    made = []

    def make(**options):
        made.append(evzookeeper.ZKSession(
            NOBODY, recv_timeout=4000, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.fixture
def fake_keeper(tmp_path, monkeypatch):
    """Run a shell script in the place of the keeper; fd 0 is the socket."""
    def make(script):
        path = tmp_path / 'python'
        path.write_text('#!/bin/sh\n%s\n' % script)
        path.chmod(0o755)
        monkeypatch.setattr(child, '_python', lambda: str(path))
    return make


@pytest.mark.parametrize('given, checked', [
    ('h1', 'h1:2181'),
    ('h1:1234', 'h1:1234'),
    (' h1:1 , h2:2 ', 'h1:1,h2:2'),
    ('10.0.0.1:2181,[fd00::1]:2181', '10.0.0.1:2181,[fd00::1]:2181'),
    ('h1:1,h2:2/region/one', 'h1:1,h2:2/region/one'),
    ('h1:1/', 'h1:1')])
def test_good_addresses(given, checked):
    assert evzookeeper.check_address(given) == checked


@pytest.mark.parametrize('address', [
    None, '', ' ', ',', 'h1,', 'h1:', 'h1:0', 'h1:65536', 'h1:port', ':2181',
    'h 1:2181', 'user@h1:2181', 'fd00::1:2181', 'h1:1,,h2:2', 'h1:1/a//b',
    'h1:1/a/../b', 'zk://h1:2181', 'h1:-1', 'h1;h2', 'h1:١'])
def test_bad_addresses_are_named(address, config):
    with pytest.raises(exceptions.BadAddress):
        evzookeeper.check_address(address)
    config.config(group='zookeeper', address=address)
    with pytest.raises(exception.ConfigurationError, match=r'\[zookeeper\]'):
        zk.ZooKeeperDriver()


def test_a_quoted_address_works(config, tmp_path):
    file = tmp_path / 'nova.conf'
    file.write_text('[zookeeper]\naddress="h1:1,h2:2"\n')
    config.conf([], project='nova', default_config_files=[str(file)])
    assert config.conf.zookeeper.address == 'h1:1,h2:2'
    assert zk.ZooKeeperDriver()


def test_a_driver_takes_the_session_that_it_is_given(config):
    config.config(address='127.0.0.1:1', group='zookeeper')
    given = object()
    assert zk.ZooKeeperDriver(store=given)._session is given


def test_the_options_of_old_keep_name_unit_and_default(config):
    options = config.conf.zookeeper
    assert options.recv_timeout == 4000
    assert options.sg_prefix == '/servicegroups'
    assert options.sg_retry_interval == 5


@pytest.mark.parametrize('prefix', [
    '', 'a', '/', '/a/', '//a', '/a//b', '/..', '/a/../b', '/./a', '/a/.'])
def test_bad_prefixes_are_refused(config, prefix):
    with pytest.raises(ValueError):
        config.config(group='zookeeper', sg_prefix=prefix)


@pytest.mark.parametrize('prefix', ['/a', '/a/b', '/.a', '/..a/b..', '/...'])
def test_other_prefixes_are_not(config, prefix):
    config.config(group='zookeeper', sg_prefix=prefix)
    assert config.conf.zookeeper.sg_prefix == prefix


@tree.needs_native_threads
def test_no_client_and_no_eventlet_in_the_process():
    code = ('import sys; from nova_servicegroup.drivers import zk; '
            'print(*sorted(sys.modules))')
    modules = set(subprocess.run(
        [sys.executable, '-c', code], check=True, capture_output=True,
        text=True).stdout.split())
    assert 'nova_servicegroup.evzookeeper.membership' in modules
    assert not modules & {'kazoo', 'eventlet', 'oslo_messaging'}


def test_a_keeper_that_cannot_be_started(session, monkeypatch, config,
                                         caplog):
    monkeypatch.setattr(child, '_python', lambda: '/nonexistent/python')
    one = session(retry_interval=1)
    began = time.monotonic()
    with pytest.raises(exceptions.NotJoined, match='nonexistent'):
        membership.Membership(one, '/g', 'a', timeout=0.5)
    assert time.monotonic() - began < 5
    later = membership.Membership(one, '/g', 'b', async_mode=True)
    with pytest.raises(exceptions.KeeperUnavailable, match='nonexistent'):
        later.refresh(quiet=False)
    assert later.refresh() is False
    assert later.leave() is False
    monitor = membership.MembershipMonitor(one, '/g')
    assert monitor.wait(0.1) is False
    assert monitor.get_all() is None
    with pytest.raises(exceptions.KeeperUnavailable):
        monitor.get_member_details('a')
    # A second one would take the first one's news away.
    with pytest.raises(ValueError, match='already'):
        membership.MembershipMonitor(one, '/g')
    assert 'nonexistent' in caplog.text


@pytest.fixture
def base_python():
    """The Python that this virtual environment was made with."""
    return os.path.realpath(sys.executable)


def test_the_base_python_runs_a_keeper(session, monkeypatch, base_python):
    # Where pyuwsgi was installed into a virtual environment without a python.
    monkeypatch.setattr(child, '_python', lambda: base_python)
    where = importlib.util.find_spec('kazoo').origin
    assert os.path.dirname(os.path.dirname(os.path.realpath(where))) in (
        child._python_path().split(os.pathsep))
    one = session()
    process.wait_until(lambda: 'refused' in one.why(), 15, 'its word')


@pytest.mark.parametrize('executable', [
    'base', None, '', 'python3', '/usr/bin/uwsgi', '/nonexistent/python3'])
def test_the_python_of_the_environment_is_found(monkeypatch, base_python,
                                                executable):
    monkeypatch.setattr(sys, 'executable',
                        base_python if executable == 'base' else executable)
    found = child._python()
    assert os.path.dirname(found) == os.path.join(sys.prefix, 'bin')
    monkeypatch.setattr(sys, 'prefix', '/nonexistent')
    assert os.path.realpath(child._python()) == base_python
    monkeypatch.setattr(sys, 'base_prefix', '/nonexistent')
    if executable != 'base':
        with pytest.raises(exceptions.KeeperUnavailable, match='no Python'):
            child._python()


def test_without_kazoo_the_error_says_so(session, monkeypatch, caplog):
    find_spec = child.importlib.util.find_spec
    monkeypatch.setattr(
        child.importlib.util, 'find_spec',
        lambda name: None if name == 'kazoo' else find_spec(name))
    one = session()
    process.wait_until(lambda: 'kazoo is not installed' in one.why(), 5,
                       'the reason')
    assert 'kazoo is not installed' in caplog.text


def test_readers_without_a_keeper_know_nothing(monkeypatch, config):
    monkeypatch.setattr(child, '_python', lambda: '/nonexistent/python')
    config.config(group='zookeeper', address=NOBODY,
                  first_listing_timeout=0.2)
    driver = zk.ZooKeeperDriver()
    began = time.monotonic()
    for _ in range(100):
        verdict = driver.verdict(answers.record('a'))
        assert verdict.state is liveness.State.UNKNOWN
    # Only the first question waits.
    assert time.monotonic() - began < 5
    driver._session.close()


@pytest.mark.parametrize('script, reason', [
    ('exit 7', 'ended with 7'),
    ('printf "HTTP/1.1 400 Bad Request\r\n" >&0; sleep 60', 'frame of'),
    ('printf "\\000\\000\\000\\002[]" >&0; sleep 60', 'no known kind')])
def test_a_keeper_that_talks_nonsense_is_replaced(session, fake_keeper,
                                                  script, reason, caplog):
    fake_keeper(script)
    one = session(retry_interval=1)
    # The reason of one keeper is soon followed by that of the next.
    process.wait_until(lambda: caplog.text.count(reason) >= 2, 10,
                       'two keepers')
    assert one.state() != evzookeeper.CONNECTED
    children = subprocess.run(['ps', '-o', 'stat=', '--ppid',
                               str(os.getpid())], capture_output=True,
                              text=True).stdout.split()
    assert len([stat for stat in children if stat.startswith('Z')]) <= 1


def test_a_keeper_that_keeps_dying_is_not_started_in_a_loop(
        session, fake_keeper, caplog):
    caplog.set_level(logging.INFO)
    fake_keeper('exit 1')
    session(retry_interval=2)
    time.sleep(3)
    starts = caplog.text.count('Starting another one')
    assert 2 <= starts <= 6


@pytest.fixture
def impatient(monkeypatch):
    monkeypatch.setattr(supervisor, '_PROBE_SHARE', 0)
    monkeypatch.setattr(supervisor, '_LEAST_PROBE_INTERVAL', 0.1)


def greeting(tmp_path):
    """Return a shell command that says what a keeper says first."""
    file = tmp_path / 'hello'
    file.write_bytes(protocol.encode('hello', version=protocol.VERSION))
    return 'cat %s >&0; ' % file


def test_a_stuck_keeper_is_killed(session, fake_keeper, impatient, tmp_path,
                                  caplog):
    fake_keeper(greeting(tmp_path) + 'exec sleep 60')
    one = session()
    process.wait_until(lambda: one._ready, 5, 'a keeper')
    stuck = one.keeper_pid
    # Nobody would be seen as down for it, so there is time.
    time.sleep(1)
    assert one.keeper_pid == stuck
    membership.Membership(one, '/g', 'a', async_mode=True)
    process.wait_until(lambda: one.keeper_pid not in (None, stuck), 1.5,
                       'another one')
    assert '(pid %d) does not answer' % stuck in caplog.text
    with pytest.raises(ProcessLookupError):
        os.kill(stuck, 0)


def test_a_keeper_that_does_not_listen_is_killed(session, fake_keeper,
                                                 impatient, tmp_path, caplog):
    fake_keeper(greeting(tmp_path) + 'exec sleep 60')
    one = session()
    # More than fits between them.
    member = membership.Membership(one, '/g', 'a', async_mode=True,
                                   data={'padding': 'x' * 3000000})
    process.wait_until(lambda: 'does not listen' in caplog.text, 10,
                       'its end')
    assert member.refresh() is False


def test_a_keeper_that_starts_slowly_is_waited_for(
        session, fake_keeper, impatient, monkeypatch, caplog):
    fake_keeper('sleep 1.5; exec %s -s -m nova_servicegroup.keeper slow'
                % sys.executable)
    one = session()
    process.wait_until(lambda: one.keeper_pid, 5, 'a keeper')
    first = one.keeper_pid
    process.wait_until(lambda: 'refused' in one.why(), 15, 'its word')
    assert one.keeper_pid == first
    assert 'Starting another one' not in caplog.text

    monkeypatch.setattr(child, 'START_LIMIT', 0.5)
    fake_keeper('exec sleep 60')
    session()
    process.wait_until(lambda: 'does not answer' in caplog.text, 10,
                       'the end of what never starts')


def test_a_keeper_is_started_once_there_is_a_descriptor(
        session, monkeypatch, caplog):
    def socketpair():
        monkeypatch.undo()
        raise OSError(errno.EMFILE, 'Too many open files')

    monkeypatch.setattr(child.socket, 'socketpair', socketpair)
    one = session()
    process.wait_until(lambda: one.keeper_pid, 5, 'a keeper')
    assert 'Too many open files' in caplog.text


def test_a_keeper_that_cannot_die_is_not_waited_for(session, fake_keeper,
                                                    monkeypatch, tmp_path):
    monkeypatch.setattr(child, 'END_LIMIT', 0.2)
    fake_keeper(greeting(tmp_path) + 'exec sleep 60')
    one = session()
    process.wait_until(lambda: one._ready, 5, 'a keeper')
    first = one._child._popen

    def wait(timeout=None):
        # As for a process in state D; with no limit it would be for ever.
        time.sleep(60 if timeout is None else timeout)
        raise subprocess.TimeoutExpired('keeper', timeout)

    monkeypatch.setattr(first, 'wait', wait)
    first.kill()
    process.wait_until(lambda: one.keeper_pid not in (None, first.pid), 5,
                       'another one')


def test_the_supervisor_outlives_whatever_happens(session, monkeypatch,
                                                  caplog):
    def socketpair():
        monkeypatch.undo()
        raise ZeroDivisionError('nobody thought of this')

    monkeypatch.setattr(child.socket, 'socketpair', socketpair)
    one = session()
    process.wait_until(lambda: one.keeper_pid, 5, 'a keeper')
    assert 'nobody thought of this' in caplog.text


def test_a_view_counts_while_there_is_a_connection(session, fake_keeper,
                                                   tmp_path):
    def view(node):
        return protocol.encode('view', path='/g', joined=[node], left=[],
                               absences={}, founded=None)

    def state(state):
        return protocol.encode('state', state=state, reason='', ident=[
            1, 'ab'] if state == 'connected' else None)

    a, b, c = ('%s@%016x' % (host, 1) for host in 'abc')
    words = tmp_path / 'words'
    words.write_bytes(view(a) + state('connected') + view(b) +
                      state('suspended') + view(c))
    fake_keeper(greeting(tmp_path) + 'sleep 0.5; cat %s >&0; exec sleep 60'
                % words)
    one = session()
    monitor = membership.MembershipMonitor(one, '/g')
    process.wait_until(lambda: one.state() == evzookeeper.SUSPENDED, 5,
                       'all that it says')
    time.sleep(0.2)
    assert set(monitor.members) == {'b'}
    assert monitor.fresh is False


def test_the_beats_of_a_service_without_a_keeper_fail_loudly(
        monkeypatch, config, caplog):
    monkeypatch.setattr(child, '_python', lambda: '/nonexistent/python')
    config.config(group='zookeeper', address=NOBODY)
    driver = zk.ZooKeeperDriver()
    service = contract.FakeService('a', 'compute', None)
    driver.join('a', 'compute', service)
    assert service.model_disconnected is True
    service.timer.fire()
    assert service.model_disconnected is True
    lost, = (r.getMessage() for r in caplog.records
             if r.getMessage().startswith('Lost connection to ZooKeeper'))
    assert 'nonexistent' in lost
    driver._session.close()


def test_close_is_quick_and_final(session):
    one = session()
    process.wait_until(lambda: one.keeper_pid, 5, 'a keeper')
    keeper = one.keeper_pid
    began = time.monotonic()
    one.close()
    assert time.monotonic() - began < 2
    assert one.state() == evzookeeper.CLOSED
    with pytest.raises(ProcessLookupError):
        os.kill(keeper, 0)
    with pytest.raises(exceptions.KeeperUnavailable):
        one.ask('pulse', 1, id=1)
    one.close()


def test_callbacks_hear_of_every_state(session, fake_keeper):
    fake_keeper('sleep 0.3; exit 1')
    heard = []
    one = session()
    one.add_connection_callback(lambda state: 1 / 0)
    one.add_connection_callback(heard.append)
    process.wait_until(lambda: heard, 5, 'a state')
    assert heard[0] == evzookeeper.NO_KEEPER
    one.close()
    assert heard[-1] == evzookeeper.CLOSED
