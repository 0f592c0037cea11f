# SPDX-License-Identifier: Apache-2.0

"""A keeper for several processes, without ZooKeeper."""

import importlib.metadata
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from nova_servicegroup import evzookeeper
from nova_servicegroup.evzookeeper import child
from nova_servicegroup.evzookeeper import exceptions
from nova_servicegroup.evzookeeper import sharing as workers
from nova_servicegroup.keeper import loop
from nova_servicegroup.keeper import protocol
from nova_servicegroup.keeper import shared_registrar
from nova_servicegroup.keeper import sharing
from nova_servicegroup.tests.fixtures import process

CONFIG = {'version': protocol.VERSION, 'hosts': '127.0.0.1:1',
          'session_timeout': 4, 'security': {}, 'retry_interval': 5,
          'clock': None}
#: a keeper in which one call of a function fails
LIMITED = """
import itertools, socket, threading
def refuse(error, number):
    import sys
    where, name = {RuntimeError: (threading.Thread, 'start'),
                   OSError: (socket.socket, 'accept')}[error]
    really, calls = getattr(where, name), itertools.count(1)
    def instead(*args):
        if next(calls) == number:
            raise error(24, 'as the test wanted')
        return really(*args)
    return instead
%s
from nova_servicegroup.keeper import __main__
__main__.main()
"""
only_root = pytest.mark.skipif(
    os.geteuid() != 0, reason='only root can become another user')


@pytest.fixture
def name():
    """A name that nobody else has."""
    return b'\0test-%d-%s' % (os.getpid(), os.urandom(8).hex().encode())


@pytest.fixture
def connect(name):
    """Connect to the keeper of that name, or start it."""
    made = []

    def make(config=None, **how):
        one = workers.SharedKeeper(name, **dict({
            'probe_interval': 0.5, 'is_member': lambda: True}, **how))
        made.append(one)
        if config is not None:
            receive(one, 'hello')
            one.send('config', **dict(
                CONFIG, parent=os.getpid(), ident=None, **config))
            receive(one, 'state')
        return one

    yield make
    for one in made:
        one.end()


def receive(one, until):
    """Return the first message of a kind."""
    deadline = time.monotonic() + 20
    while True:
        assert time.monotonic() < deadline, 'no %s' % until
        messages = one.receive()
        assert messages is not None, 'it ended before %s' % until
        for message in messages:
            if message['op'] == until:
                return message


def in_children(count, function):
    """Return the results of a function in forked children, a list."""
    results = []
    for _ in range(count):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            try:
                os.write(writer, json.dumps(function()).encode())
            finally:
                os._exit(0)
        os.close(writer)
        with open(reader) as result:
            results.append(json.loads(result.read()))
        os.waitpid(pid, 0)
    return results


class TestName:

    @staticmethod
    def name(config=CONFIG):
        found = workers.name(config)
        return found and found[1:].decode()

    def test_siblings_have_the_same(self):
        first, second = in_children(2, self.name)
        assert first == second and first is not None
        assert len(first) < 100

    def test_without_siblings_there_is_none(self):
        assert workers.name(CONFIG) is None

    @pytest.mark.parametrize('what', [
        {'hosts': 'other:2181'}, {'session_timeout': 5},
        {'clock': '/other/@last/@clock'}])
    def test_other_configurations_have_others(self, what):
        (first, second), = in_children(1, lambda: [
            self.name(), self.name(dict(CONFIG, **what))])
        assert first != second

    def test_secrets_do_not_go_into_it(self):
        (first, second), = in_children(1, lambda: [
            self.name(), self.name(dict(CONFIG, security={'auth': 'x'}))])
        assert first == second

    def test_other_versions_users_and_parents_have_others(self, monkeypatch):
        def names():
            found = [self.name()]
            for where, what, value in (
                    (importlib.metadata, 'version', lambda name: '0.0.1'),
                    (os, 'geteuid', lambda: 12345),
                    (workers, '_stat', lambda pid: ['1'] * 20),
                    (os, 'readlink', lambda path: 'pid:[1]')):
                with monkeypatch.context() as patch:
                    patch.setattr(where, what, value)
                    found.append(self.name())
            return found

        found, = in_children(1, names)
        assert None not in found and len(set(found)) == 5
        (grandchild, ), = in_children(1, lambda: in_children(1, self.name))
        assert grandchild not in (None, found[0])

    def test_a_name_of_the_process_that_is_no_text_does_no_harm(self):
        def fork_a_worker():
            with open('/proc/self/comm', 'wb') as own_name:
                own_name.write(b'nova-\xc3')
            return in_children(1, self.name)

        assert in_children(1, fork_a_worker) != [[None]]

    @pytest.mark.parametrize('what', ['_image', '_stat'])
    def test_without_proc_there_is_none(self, monkeypatch, what):
        def refuse(*args):
            raise PermissionError(13, 'no')

        monkeypatch.setattr(workers, what, refuse)
        assert in_children(1, self.name) == [None]


class TestKeeper:
    """A real one, and processes that it serves: all are this one."""

    def test_it_ends_after_the_last_worker(self, connect):
        first = connect({})
        second = connect({})
        assert first.pid == second.pid
        first.send('close')
        process.wait_until(lambda: first.receive() is None, 5, 'its end')
        second.send('ping')
        receive(second, 'pong')
        second.send('close')
        process.wait_until(lambda: not process.alive(second.pid), 5, 'its end')

    def test_only_one_is_started(self, connect, monkeypatch):
        started = []
        start = child.start
        monkeypatch.setattr(workers.child, 'start', lambda *args: (
            started.append(args), start(*args))[1])
        found = []
        threads = [threading.Thread(target=lambda: found.append(
            connect({}).pid)) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert len(found) == 16 and len(set(found)) == 1
        assert len(started) == 1

    @pytest.mark.parametrize('said', [
        b'GET / HTTP/1.1\r\n\r\n', protocol.encode('pulse', id=1, seq=1),
        protocol.encode('config', **dict(CONFIG, parent=1, ident=None)),
        protocol.encode('config', **dict(
            CONFIG, parent=os.getpid(), ident=None, hosts='other:1'))])
    def test_invalid_messages_end_the_conversation(self, connect, said):
        good, bad = connect({}), connect()
        receive(bad, 'hello')
        bad._socket.sendall(said)
        assert receive(bad, 'failed')['reason']
        bad.refuse()
        assert bad.is_unfit()
        good.send('ping')
        receive(good, 'pong')

    def test_nobody_is_served_without_descriptors(self, connect, name):
        good = connect({})
        for handed in (None, [0]):
            stranger = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stranger.settimeout(10)
            stranger.connect(name)
            if handed is None:
                stranger.sendall(b'.')
            else:
                socket.send_fds(stranger, [b'.'], handed)
            try:
                assert stranger.recv(1) == b''
            except ConnectionResetError:
                pass
            stranger.close()
        good.send('ping')
        receive(good, 'pong')

    def test_workers_that_end_leave_no_descriptor_and_no_thread(self, connect):
        first = connect({})
        where = '/proc/%d/' % first.pid

        def count():
            return len(os.listdir(where + 'fd')), len(
                os.listdir(where + 'task'))

        before = count()
        for _ in range(10):
            one = connect({})
            one.send('close')
            process.wait_until(lambda: one.receive() is None, 5, 'its end')
        process.wait_until(lambda: count() == before, 5, 'nothing more')

    @pytest.mark.parametrize('code', [
        # No thread, no descriptor.
        'threading.Thread.start = refuse(RuntimeError, 2)',
        'socket.socket.accept = refuse(OSError, 2)'])
    def test_a_worker_that_it_cannot_serve_does_not_end_it(
            self, connect, monkeypatch, tmp_path, code):
        script = tmp_path / 'keeper.py'
        script.write_text(LIMITED % code)
        start = subprocess.Popen
        monkeypatch.setattr(
            child.subprocess, 'Popen', lambda command, **how: start(
                [sys.executable, script, *command[4:]], **how))
        _, _, last = connect(), connect(), connect()
        receive(last, 'hello')
        used = process.cpu_seconds(last.pid)
        time.sleep(0.5)
        assert process.cpu_seconds(last.pid) - used < 0.3

    def test_it_leaves_no_zombie(self, connect):
        connect({})
        children = subprocess.run(
            ['ps', '-o', 'stat=', '--ppid', str(os.getpid())],
            capture_output=True, text=True).stdout.split()
        assert not [stat for stat in children if stat.startswith('Z')]


class TestDoubt:

    def test_a_sibling_that_stops_before_it_starts_the_keeper(
            self, name, connect, monkeypatch):
        monkeypatch.setattr(workers, 'ATTEMPTS', 40)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as stopped:
            stopped.bind(name)
            began = time.monotonic()
            with pytest.raises(exceptions.KeeperUnavailable,
                               match='no shared one listens'):
                connect()
            assert time.monotonic() - began < 3

    def test_a_keeper_that_never_sends_a_message(self, name, connect,
                                             monkeypatch):
        monkeypatch.setattr(child, 'START_LIMIT', 1)
        ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            stuck = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stuck.bind(name)
            stuck.listen(5)
            os.write(ready[1], b'.')
            time.sleep(20)
            os._exit(0)
        os.read(ready[0], 1)
        one = connect()
        assert one.pid == pid
        with pytest.raises(exceptions.KeeperUnavailable,
                           match='does not answer'):
            one.receive()
        assert os.waitpid(pid, 0)[1] == signal.SIGKILL
        assert one.is_unfit()
        for end in ready:
            os.close(end)

    def test_writing_to_a_closed_connection_kills_nobody(
            self, connect):
        good, bad = connect({}), connect()
        receive(bad, 'hello')
        bad.send('pulse', id=1, seq=1)
        receive(bad, 'failed')
        process.wait_until(lambda: bad.receive() is None, 5, 'its end')
        with pytest.raises(exceptions.KeeperUnavailable):
            bad.send('ping')
        assert bad.is_unfit()
        good.send('ping')
        receive(good, 'pong')

    @pytest.mark.parametrize('where, what', [
        (os, 'pidfd_open'), (socket, 'send_fds'), (socket, 'socket')])
    def test_what_is_refused_here(self, name, connect, monkeypatch, where,
                                  what):
        def refuse(*args):
            raise PermissionError(13, 'no')

        with monkeypatch.context() as patch:
            patch.setattr(where, what, refuse)
            with pytest.raises(exceptions.KeeperUnavailable, match='no'):
                connect()
            if what == 'pidfd_open':
                # This Python hasn't got it.
                patch.delattr(where, what)
                with pytest.raises(exceptions.KeeperUnavailable):
                    connect()

    @only_root
    def test_a_name_of_another_user(self, name, connect):
        squatter = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        squatter.bind(name)
        ready = os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setuid(65534)
            squatter.listen(5)
            os.write(ready[1], b'.')
            time.sleep(20)
            os._exit(0)
        os.read(ready[0], 1)
        try:
            with pytest.raises(exceptions.KeeperUnavailable,
                               match='user 65534'):
                connect()
        finally:
            os.kill(pid, 9)
            os.waitpid(pid, 0)
            squatter.close()
            for end in ready:
                os.close(end)

    @only_root
    def test_a_worker_of_another_user(self, name, connect):
        good = connect({})

        def intrude():
            os.setuid(65534)
            stranger = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            stranger.settimeout(10)
            stranger.connect(name)
            pidfd = os.pidfd_open(os.getpid())
            try:
                socket.send_fds(stranger, [b'.'], [pidfd, pidfd])
                return len(stranger.recv(1))
            except ConnectionError:
                return 0

        assert in_children(1, intrude) == [0]
        good.send('ping')
        receive(good, 'pong')

    @pytest.fixture
    def session(self, name, monkeypatch):
        """Make sessions that share a keeper."""
        made = []
        monkeypatch.setattr(workers, 'name', lambda config: name)

        def make(**options):
            made.append(evzookeeper.ZKSession('127.0.0.1:1', **options))
            return made[-1]

        yield make
        for one in made:
            one.close()

    def test_a_keeper_that_never_starts(self, session, monkeypatch, caplog):
        caplog.set_level(logging.INFO)
        monkeypatch.setattr(workers, 'ATTEMPTS', 40)
        monkeypatch.setattr(
            workers.child, 'start', lambda *args: subprocess.Popen(['true']))
        one = session()
        monkeypatch.setattr(child.Child, '__init__', lambda *args, **how: (
            _ for _ in ()).throw(exceptions.KeeperUnavailable('its own')))
        process.wait_until(lambda: 'its own' in one.why(), 10, 'its own')
        assert 'no shared one listens' in caplog.text

    def test_a_keeper_that_refuses(self, session, caplog):
        caplog.set_level(logging.INFO)
        both = [session(auth=('digest', 'a:b')),
                session(auth=('digest', 'a:c'))]
        # Whoever came first shares it.
        process.wait_until(
            lambda: all(one.keeper_pid for one in both)
            and sorted(one._child.shared for one in both) == [False, True],
            10, 'a shared keeper and an own one')
        assert 'another configuration' in caplog.text

    def test_who_detects_its_end_by_sending_shares_the_next(
            self, session, monkeypatch):
        receive = child.Child.receive

        def fail_at_the_end(one):
            messages = receive(one)
            if messages is None:
                raise exceptions.KeeperUnavailable('it does not listen')
            return messages

        monkeypatch.setattr(child.Child, 'receive', fail_at_the_end)
        both = [session(), session()]
        process.wait_until(
            lambda: all(one.keeper_pid and one._child._heard for one in both),
            10, 'a keeper')
        killed = both[0].keeper_pid
        assert both[1].keeper_pid == killed
        os.kill(killed, signal.SIGKILL)
        process.wait_until(
            lambda: all(one.keeper_pid not in (None, killed)
                        for one in both), 10, 'other keepers')
        assert both[0].keeper_pid == both[1].keeper_pid

    def test_a_refusal_is_known_although_a_message_could_not_be_sent(
            self, session, monkeypatch, caplog):
        caplog.set_level(logging.INFO)
        receive = child.Child.receive

        def send_first(one):
            if one.shared and not one._heard:
                # It waits until the connection is closed.
                messages = receive(one)
                one.send('config', parent=0, ident=None, **dict(
                    CONFIG, version=0))
                time.sleep(0.5)
                return messages
            return receive(one)

        monkeypatch.setattr(child.Child, 'receive', send_first)
        session()
        process.wait_until(lambda: 'restart the service' in caplog.text, 10,
                           'the reason')

    def test_the_keeper_after_the_own_one_is_shared_again(self, session):
        # Whoever takes a session over has a keeper of its own.
        first, second = session(), session(ident=(5, b'x'))
        process.wait_until(
            lambda: first.keeper_pid and second.keeper_pid, 10, 'keepers')
        assert not second._child.shared
        os.kill(second.keeper_pid, signal.SIGKILL)
        process.wait_until(
            lambda: second.keeper_pid == first.keeper_pid, 10, 'one keeper')


class Registrar:
    """Calls at once what is submitted, and notes the rest."""

    def __init__(self, config, post):
        self.noted = []

    def submit(self, method, *args):
        method(*args)

    def start(self):
        pass

    def __getattr__(self, name):
        return lambda *args: self.noted.append((name, *args))


class TestSharedRegistrar:

    @pytest.fixture
    def shared(self, monkeypatch):
        monkeypatch.setattr(loop.registrar, 'Registrar', Registrar)
        return shared_registrar.SharedRegistrar()

    @pytest.fixture
    def open(self, shared):
        """Return a share and what is posted to it."""
        def open(config=None):
            posted = []
            share = shared.open(config or {}, lambda op, **fields:
                                posted.append((op, fields)))
            return share, posted
        return open

    @staticmethod
    def watch(share, known=(), records='/r', bound=600):
        share.watch('/g', records, bound, list(known))

    @staticmethod
    def view(shared, joined=(), left=(), absences=None):
        shared.post('view', path='/g', nodes=[(name, True) for name in joined]
                    + [(name, False) for name in left],
                    absences=absences or {}, founded=7)

    def test_a_later_worker_gets_everything(self, shared, open):
        first, _ = open()
        self.watch(first)
        shared.post('state', state='connected', ident=[1, ''], reason='')
        shared.post('clock', ahead=5)
        self.view(shared, 'abc')
        self.view(shared, left='c', absences={'c': ['missed', 1, False],
                                              'd': ['back', 1, 2]})
        self.view(shared, absences={'d': None})
        second, posted = open()
        self.watch(second, known='bx')
        assert posted == [
            ('state', {'state': 'connected', 'ident': [1, ''], 'reason': ''}),
            ('clock', {'ahead': 5}),
            ('view', {'path': '/g', 'founded': 7,
                      'nodes': [('a', True), ('x', False)],
                      'absences': {'c': ['missed', 1, False]}})]

    @pytest.mark.parametrize('op, fields', [
        ('state', {'state': 'suspended', 'ident': None, 'reason': ''}),
        ('unreadable', {'path': '/g', 'reason': 'NoAuth'})])
    def test_an_outdated_view_is_not_sent(self, shared, open, op,
                                               fields):
        first, _ = open()
        self.watch(first)
        self.view(shared, 'abc')
        shared.post(op, **fields)
        second, posted = open()
        self.watch(second)
        assert [op for op, _ in posted if op == 'view'] == []
        # It comes with the next one, and nothing twice.
        self.view(shared, left='c')
        self.view(shared, 'd')
        views = [fields['nodes'] for op, fields in posted if op == 'view']
        assert [sorted(nodes) for nodes in views] == [
            [('a', True), ('b', True)], [('d', True)]]

    def test_nodes_that_only_one_worker_knew_are_missed(self, shared, open):
        """The last keeper may have sent different views to its workers."""
        first, _ = open()
        self.watch(first, 'ab')
        second, _ = open()
        self.watch(second, 'bc')
        believed = [args for args in shared.registrar.noted
                    if args[0] == 'believe']
        assert believed[-1] == ('believe', '/g', {'b', 'c'})
        self.view(shared, left='c')
        shared.registrar.noted.clear()
        # A later worker with an old view adds no nodes.
        third, _ = open()
        self.watch(third, 'z')
        assert shared.registrar.noted == []

    def test_a_group_watched_in_two_ways_is_refused(self, shared, open):
        first, first_posted = open()
        self.watch(first)
        second, posted = open()
        self.watch(second, bound=1)
        self.view(shared)
        assert [op for op, _ in posted] == ['failed']
        assert [op for op, _ in first_posted] == ['view']

    def test_answers_go_to_the_worker_that_asked(self, shared, open):
        (first, first_posted), (second, posted) = open(), open()
        first.join(1, '/g', None, 'a', {}, None)
        second.join(1, '/g', None, 'b', {}, None)
        (_, one, *_), (_, two, *_) = shared.registrar.noted
        shared.post('member', id=one, node='a@1', reason='')
        second.details(9, '/g', 'a')
        shared.post('answer', seq=shared.registrar.noted[-1][1], error=None,
                    result=[])
        assert first_posted == [
            ('member', {'id': 1, 'node': 'a@1', 'reason': ''})]
        assert posted == [('answer', {'seq': 9, 'error': None,
                                      'result': []})]
        assert one != two

    @pytest.mark.parametrize('ended, noted', [
        (True, [('close', 'killed')]),
        (False, [('release', ), ('close', None)])])
    def test_who_leaves_it_alive_has_its_record_elsewhere(self, ended, noted):
        child = subprocess.Popen(['sleep', '60'])
        ours, its = socket.socketpair()
        with ours, its:
            one = sharing._Conversation(
                None, its, child.pid, os.pidfd_open(child.pid), None)
            one._registrar = Registrar(None, None)
            one._session_timeout = 0.1
            if ended:
                child.kill()
                child.wait()
                one._how = 'killed'
            one._close()
            assert one._registrar.noted == noted
        os.close(one._pidfd)
        child.kill()
        child.wait()

    def test_what_is_released_stays_until_the_end(self, shared, open):
        first, _ = open()
        first.join(1, '/g', None, 'a', {}, None)
        first.release()
        first.close(None)
        assert [call[:2] for call in shared.registrar.noted[-2:]] == [
            ('release', [(first, 1)]), ('part', [(first, 1)])]

    def test_a_line_is_logged_once(self, shared, open):
        (_, first_posted), (_, posted) = open(), open()
        shared.post('log', level=20, text='x')
        assert [len(first_posted), len(posted)] == [1, 0]

    def test_nothing_is_posted_to_a_worker_that_ended(
            self, shared, open):
        (first, first_posted), (_, posted) = open(), open()
        first.join(1, '/g', None, 'a', {}, None)
        self.watch(first)
        first_posted.clear()
        first.close('killed')
        assert shared.registrar.noted[-1][:3] == (
            'part', [(first, 1)], 'killed')
        shared.post('member', id=(first, 1), node=None, reason='')
        self.view(shared, 'abc')
        shared.post('state', state='suspended', ident=None, reason='')
        assert first_posted == []
        assert [op for op, _ in posted] == ['state']

    def test_a_worker_after_a_failure_is_refused(self, shared, open):
        _, posted = open()
        shared.post('failed', reason='a bug')
        assert posted == [('failed', {'reason': 'a bug'})]
        with pytest.raises(protocol.ProtocolError, match='a bug'):
            open()
