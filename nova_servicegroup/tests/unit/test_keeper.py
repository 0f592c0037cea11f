# SPDX-License-Identifier: Apache-2.0

"""The parts of the keeper that need no ZooKeeper."""

import json
import os
import pathlib
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import time
import types

import pytest

from nova_servicegroup.keeper import ending
from nova_servicegroup.keeper import listing
from nova_servicegroup.keeper import loop
from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import news
from nova_servicegroup.keeper import protocol

ROOT = str(pathlib.Path(__file__).parents[3])
#: runs a keeper, and is its parent
PARENT = ('import subprocess, sys; subprocess.run([sys.executable, "-c", '
          'sys.argv[1]], stdout=subprocess.DEVNULL)')
ANSWER = {'seq': 1, 'error': None, 'result': []}


def frame(body):
    return struct.pack('>I', len(body)) + body


class TestProtocol:

    def test_messages_survive_any_cut(self):
        stream = protocol.encode('answer', **ANSWER) + protocol.encode(
            'log', level=20, text='grüße') + protocol.encode(
                'answer', **ANSWER)
        for size in (1, 2, 3, 5, 64, len(stream)):
            decoder = protocol.Decoder(protocol.FROM_KEEPER)
            messages = []
            for start in range(0, len(stream), size):
                messages += decoder.feed(stream[start:start + size])
            assert messages == [dict(ANSWER, op='answer'),
                                {'op': 'log', 'level': 20, 'text': 'grüße'},
                                dict(ANSWER, op='answer')]

    @pytest.mark.parametrize('body', [
        b'', b'{', b'[]', b'null', b'"answer"', b'{}', b'\xff\xfe',
        b'{"op": 1}', b'{"op": ["answer"]}', b'{"op": "join"}',
        b'{"op": "answer"}', b'[' * 100000,
        json.dumps(dict(ANSWER, op='answer', seq='1')).encode(),
        json.dumps(dict(ANSWER, op='answer', more=1)).encode(),
        json.dumps(dict(ANSWER, op='answer', error=7)).encode()])
    def test_what_is_no_message_is_refused(self, body):
        decoder = protocol.Decoder(protocol.FROM_KEEPER)
        with pytest.raises(protocol.ProtocolError):
            decoder.feed(frame(body))

    def test_a_frame_too_long_is_refused_before_it_comes(self):
        decoder = protocol.Decoder(protocol.FROM_KEEPER)
        with pytest.raises(protocol.ProtocolError, match='frame of'):
            decoder.feed(struct.pack('>I', protocol.MAX_FRAME + 1))
        with pytest.raises(protocol.ProtocolError, match='too long'):
            protocol.encode('log', level=20, text='x' * protocol.MAX_FRAME)

    def test_noise_raises_nothing_else(self):
        noise = random.Random(7)
        for _ in range(500):
            decoder = protocol.Decoder(protocol.FROM_PARENT, max_frame=64)
            try:
                for _ in range(4):
                    decoder.feed(noise.randbytes(40))
            except protocol.ProtocolError:
                pass

    def test_twenty_five_thousand_members_fit_in_a_frame(self):
        members = ['compute-%05d.rack-07.region-one.example.org@%016x' % (n, n)
                   for n in range(25000)]
        encoded = protocol.encode('view', path='/servicegroups/compute',
                                  joined=members, left=[], absences={},
                                  founded=None)
        decoder = protocol.Decoder(protocol.FROM_KEEPER)
        message, = decoder.feed(encoded)
        assert message['joined'] == members


class TestNames:

    @pytest.mark.parametrize('host', [
        'compute1', 'a.b.example', 'a/b', 'a@b', '%', '%2F', 'with space',
        'grüße', '.', '..', '...', '', '\x00', '\u202e', 'x' * 255, '@' * 50,
        'a\udc80b'])
    def test_there_and_back(self, host):
        node = names.node(host, '0123456789abcdef')
        assert node.isascii() and '/' not in node
        assert node.strip('.')
        # An empty name is no member; nobody can join with one.
        assert names.host(node) == (host or None)

    @pytest.mark.parametrize('node', [
        'compute1', 'compute1@', '@0123456789abcdef', 'a@0123456789ABCDEF',
        'a@0123456789abcde', 'a@0123456789abcdef0', 'a b@0123456789abcdef',
        '%41@0123456789abcdef', '%2f@0123456789abcdef', 'a@@0123456789abcdef',
        'a@0123456789abcdef\n', '%zz@0123456789abcdef',
        'ü@0123456789abcdef'])
    def test_other_nodes_are_nobodys(self, node):
        assert names.host(node) is None


class TestPace:

    def test_ten_thousand_are_listed_twice_a_second(self):
        pace = listing.Pace()
        assert pace.pause(10000, 0) == pytest.approx(0.5)
        assert pace.pause(3, 1) == pytest.approx(0.5)

    def test_a_small_group_is_listed_at_once(self):
        assert listing.Pace().pause(100, 0) <= 0.005

    def test_it_forgets_how_large_the_group_was(self):
        pace = listing.Pace()
        pace.pause(10000, 0)
        assert pace.pause(100, 61) <= 0.005
        assert pace.pause(10000, 62) == pytest.approx(0.5)


def node_names(count, host='c'):
    return frozenset(names.node('%s%d' % (host, n), '%016x' % n)
                     for n in range(count))


class TestOwnerCheck:

    @pytest.fixture
    def owners(self):
        return listing.OwnerCheck()

    @staticmethod
    def look(owners, now, leftovers=frozenset()):
        chosen = frozenset(owners.next(now))
        owners.checked(chosen - leftovers, chosen & leftovers)
        return len(chosen)

    def test_few_new_nodes_are_looked_at_at_once_and_once(self, owners):
        owners.changed(node_names(3), set())
        assert self.look(owners, 1) == 3
        owners.changed(node_names(5) - node_names(3), set())
        assert self.look(owners, 1) == 2
        assert owners.due(1) is None

    def test_a_name_that_is_no_members_is_foreign_unseen(self, owners):
        owners.changed({'lock'}, set())
        assert owners.non_members == {'lock'}
        assert owners.due(1) is None

    def test_many_are_looked_at_bit_by_bit(self, owners):
        owners.changed(node_names(10000), set())
        assert self.look(owners, 1) == 200
        assert self.look(owners, 1) == 0
        now, looks = 1, 200
        while owners.due(now) is not None:
            assert owners.due(now) > now
            now = owners.due(now)
            looks += self.look(owners, now)
        assert looks == 10000
        assert 450 < now < 550

    def test_whoever_comes_meanwhile_does_not_wait_for_more(self, owners):
        owners.changed(node_names(200), set())
        assert self.look(owners, 1) == 200
        owners.changed(node_names(201) - node_names(200), set())
        assert self.look(owners, owners.due(1)) == 1
        assert owners.due(1) is None

    def test_new_nodes_are_checked_before_the_many(self, owners):
        owners.changed(node_names(10000), set())
        assert self.look(owners, 1) == 200
        new = node_names(2, 'new')
        owners.changed(new, set())
        assert owners.next(1, new) == set()
        assert owners.next(1.1, new) == new
        owners.checked(new, frozenset())
        # The others wait until there are enough requests for a batch.
        assert owners.next(1.5, frozenset()) == set()
        assert owners.due(1.5) == pytest.approx(2.1)
        assert len(owners.next(2.2)) == 22

    def test_where_there_is_a_leftover_all_are_looked_at_now(self, owners):
        every = node_names(1000)
        owners.changed(every, set())
        looks = 0
        while owners.due(1) == 1:
            looks += self.look(owners, 1, leftovers=every)
        assert looks == 1000
        assert owners.non_members == every
        owners.changed(set(), every)
        assert owners.non_members == set()

    def test_who_went_before_the_look_is_forgotten(self, owners):
        owners.changed(node_names(1), set())
        assert len(owners.next(1)) == 1
        owners.checked(frozenset(), frozenset())
        owners.changed(set(), node_names(1))
        assert owners.due(1) is None


class Registrar:
    """Takes what is submitted."""

    def __init__(self):
        self.submitted = []

    def __getattr__(self, name):
        return name

    def submit(self, *args):
        self.submitted.append(args)


class Poll:
    """Waits on a clock of the test's, and ``late`` seconds more."""

    def __init__(self, clock):
        self._clock = clock
        self.late = 0

    def register(self, *args):
        pass

    modify = register

    def poll(self, timeout):
        self._clock.now += timeout / 1000 + self.late
        return []


class TestLoop:

    @pytest.fixture
    def keeper(self):
        ours, theirs = socket.socketpair()
        ours.settimeout(10)
        keeper = loop.Keeper(theirs)
        keeper._news['/g'] = news.News()
        yield keeper, ours
        ours.close()
        theirs.close()

    @staticmethod
    def said(keeper):
        """Return the messages that it hands to its parent now."""
        keeper, ours = keeper
        ours.setblocking(False)
        decoder = protocol.Decoder(protocol.FROM_KEEPER)
        messages = []
        while True:
            keeper._flush()
            try:
                messages += decoder.feed(ours.recv(65536))
            except BlockingIOError:
                return messages

    @pytest.mark.parametrize('event', [
        ('unreadable', {'path': '/g', 'reason': 'NoAuth'}),
        ('state', {'state': 'suspended', 'ident': None, 'reason': ''})])
    def test_a_listing_that_waits_is_no_news_after_a_loss(self, keeper,
                                                          event):
        keeper[0]._from_registrar('view', {
            'path': '/g', 'nodes': [('a', True), ('x', True)],
            'absences': {'b': ['missed', 5, False], 'c': None},
            'founded': None})
        keeper[0]._from_registrar(*event)
        assert [m['op'] for m in self.said(keeper)] == [event[0]]
        # But no change is lost: it comes with the next one.
        keeper[0]._from_registrar('view', {
            'path': '/g',
            'nodes': [('y', True), ('x', False), ('z', False)],
            'absences': {'b': None}, 'founded': None})
        view, = self.said(keeper)
        assert view['joined'] == ['a', 'y']
        assert view['left'] == ['z']
        assert view['absences'] == {'b': None, 'c': None}
        assert self.said(keeper) == []

    def test_what_comes_after_the_parent_hung_up_fails_nothing(self, keeper):
        """Or the keeper would end without a word on how its parent did."""
        keeper, ours = keeper
        ours.close()
        for _ in range(2):
            keeper._from_registrar('view', {
                'path': '/g', 'nodes': [('a', True)], 'absences': {},
                'founded': None})
            keeper._flush()

    def test_a_thousand_messages_wait_for_a_parent(self, keeper):
        for number in range(1500):
            keeper[0]._from_registrar('log', {'level': 20,
                                              'text': str(number)})
        assert [m['text'] for m in self.said(keeper)] == [
            str(number) for number in range(500, 1500)]

    @pytest.fixture
    def hanging(self, keeper, monkeypatch):
        """A keeper that gets no pulse of one membership: (it, clock)."""
        clock = types.SimpleNamespace(now=1000.0)
        keeper, _ = keeper
        monkeypatch.setattr(keeper, '_monotonic', lambda: clock.now)
        monkeypatch.setattr(keeper, '_poll', Poll(clock))
        monkeypatch.setattr(keeper, '_registrar', Registrar())
        keeper._on_join(id=1, path='/g', records=None, host='a', data={},
                        pulse_timeout=6, silent=0, node=None)
        keeper._registrar.submitted.clear()
        return keeper, clock

    def test_a_parent_without_a_pulse_is_taken_away(self, hanging):
        keeper, clock = hanging
        assert keeper._serve() is True
        assert keeper._registrar.submitted == [('hang', 1, 6)]
        assert clock.now == 1006

    @pytest.mark.parametrize('silent, pulse_timeout, expected', [
        (60, 6, 60), (6, 6, 6), (5, 6, None), (60, None, None)])
    def test_who_hangs_when_it_joins_is_never_shown(
            self, hanging, silent, pulse_timeout, expected):
        keeper, _ = hanging
        keeper._on_join(id=2, path='/g', records=None, host='a', data={},
                        pulse_timeout=pulse_timeout, silent=silent, node=None)
        assert keeper._registrar.submitted == [
            ('join', 2, '/g', None, 'a', {}, None, expected)]

    def test_a_keeper_that_was_stopped_blames_nobody(self, hanging):
        keeper, clock = hanging
        keeper._poll.late = 60
        assert keeper._serve() is True
        # The machine was suspended. The parent has as long as it needs to
        # come back, and not for ever.
        assert keeper._registrar.submitted == []
        keeper._poll.late = 0
        stopped = clock.now
        while not keeper._registrar.submitted:
            assert keeper._serve() is True
        assert clock.now - stopped == pytest.approx(3)


class TestEnd:
    """What proves that a process has ended."""

    def test_all_threads_of_who_was_killed_are_ending(self):
        sleeper = subprocess.Popen(['sleep', '60'])
        assert ending.is_ending(sleeper.pid) is False
        sleeper.kill()
        # It isn't reaped yet, so its threads can still be looked at.
        deadline = time.monotonic() + 10
        while not ending.is_ending(sleeper.pid):
            assert time.monotonic() < deadline
        sleeper.wait()
        assert ending.is_ending(sleeper.pid) is False
        assert ending.is_ending(None) is False

    def test_one_thread_that_lives_is_enough(self):
        assert ending.is_ending(os.getpid()) is False


class TestProcess:
    """A real keeper process whose parent is this test."""

    @pytest.fixture
    def keeper(self):
        ours, theirs = socket.socketpair()
        process = subprocess.Popen(
            [sys.executable, '-m', 'nova_servicegroup.keeper', 'test'],
            stdin=theirs.fileno())
        theirs.close()
        ours.settimeout(20)
        yield ours, process
        ours.close()
        process.kill()
        process.wait()

    @pytest.fixture
    def odd_keeper(self):
        """Run a keeper after some code; its parent is another process."""
        started = []

        def start(code):
            ours, theirs = socket.socketpair()
            ours.settimeout(20)
            parent = subprocess.Popen([sys.executable, '-c', PARENT, (
                code + '\nfrom nova_servicegroup.keeper import __main__\n'
                '__main__.main()')], stdin=theirs.fileno())
            theirs.close()
            started.append((ours, parent))
            return ours, parent

        yield start
        for ours, parent in started:
            ours.close()
            parent.kill()
            parent.wait()

    @pytest.mark.parametrize('pidfd', [
        '', 'import os; del os.pidfd_open',
        'import os\ndef refuse(pid):\n    raise PermissionError(13, "no")\n'
        'os.pidfd_open = refuse'])
    def test_it_ends_with_its_parent(self, odd_keeper, pidfd):
        sock, parent = odd_keeper(pidfd)
        sock.sendall(self.config(parent=parent.pid) + protocol.encode('ping'))
        self.heard(sock, until='pong')
        # There is nothing else to tell it: this end stays open.
        began = time.monotonic()
        parent.kill()
        assert 'failed' not in [m['op'] for m in self.heard(sock)]
        assert time.monotonic() - began < loop.POLL_PARENT + 1.5

    @pytest.mark.parametrize('code', [
        # In its main thread, before that, in the registrar, in kazoo.
        'from nova_servicegroup.keeper import loop; '
        'loop.Keeper._on_ping = lambda self: 1 / 0',
        'from nova_servicegroup.keeper import loop; '
        'loop.Keeper.__init__ = lambda *args: 1 / 0',
        'from nova_servicegroup.keeper import registrar; '
        'registrar.Registrar._pass = lambda self: 1 / 0',
        'from kazoo.protocol import connection; '
        'connection.ConnectionHandler.zk_loop = lambda self: 1 / 0'])
    def test_what_ends_it_is_told(self, odd_keeper, code):
        sock, parent = odd_keeper(code)
        last, = protocol.Decoder(protocol.FROM_KEEPER).feed(sock.recv(65536))
        if last['op'] == 'hello':
            sock.sendall(self.config(parent=parent.pid)
                         + protocol.encode('ping'))
            *_, last = self.heard(sock)
        assert last['op'] == 'failed'
        assert 'ZeroDivisionError' in last['reason']

    def test_old_copies_of_pythons_modules_are_not_taken(self, tmp_path):
        (tmp_path / 'json.py').write_text('raise SystemExit')
        ours, theirs = socket.socketpair()
        ours.settimeout(20)
        process = subprocess.Popen(
            [sys.executable, '-m', 'nova_servicegroup.keeper', 'test'],
            stdin=theirs.fileno(), env=dict(os.environ, PYTHONPATH=(
                os.pathsep.join([str(tmp_path), ROOT]))))
        theirs.close()
        assert ours.recv(1)
        ours.close()
        process.kill()
        process.wait()

    @staticmethod
    def config(**changes):
        return protocol.encode('config', **dict({
            'version': protocol.VERSION, 'parent': os.getpid(),
            'hosts': '127.0.0.1:1', 'session_timeout': 4, 'ident': None,
            'security': {}, 'retry_interval': 5,
            'clock': None}, **changes))

    @staticmethod
    def heard(sock, until=None):
        """Return what it says before it ends, or up to an op."""
        decoder = protocol.Decoder(protocol.FROM_KEEPER)
        messages = []
        while until is None or until not in [m['op'] for m in messages]:
            data = sock.recv(65536)
            if not data:
                assert until is None, messages
                break
            messages += decoder.feed(data)
        return messages

    @pytest.mark.parametrize('said', [
        b'GET / HTTP/1.1\r\n\r\n', frame(b'{'), frame(b'{"op": "nonsense"}'),
        protocol.encode('pulse', id=1, seq=1)])
    def test_nonsense_ends_it(self, keeper, said):
        sock, process = keeper
        sock.sendall(said)
        *_, last = self.heard(sock)
        assert last['op'] == 'failed'
        assert process.wait(5) == 0

    def test_nonsense_ends_it_later_too(self, keeper):
        sock, process = keeper
        sock.sendall(self.config() + self.config())
        *_, last = self.heard(sock)
        assert last['op'] == 'failed' and 'out of turn' in last['reason']
        assert process.wait(5) == 0

    def test_another_version_of_the_protocol_is_named(self, keeper):
        sock, process = keeper
        sock.sendall(self.config(version=99))
        *_, last = self.heard(sock)
        assert 'restart the service' in last['reason']

    def test_a_parent_that_is_none_ends_it(self, keeper):
        sock, process = keeper
        sock.sendall(self.config(parent=1))
        *_, last = self.heard(sock)
        assert last['op'] == 'failed'

    def test_it_says_that_it_lives(self, keeper):
        sock, process = keeper
        sock.sendall(self.config() + protocol.encode('ping'))
        assert self.heard(sock, until='pong')[0]['op'] == 'hello'

    def test_it_hears_signals_that_its_parent_does_not(self):
        # The alarm that ends an orphan, for one.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        try:
            ours, theirs = socket.socketpair()
            process = subprocess.Popen(
                [sys.executable, '-m', 'nova_servicegroup.keeper', 'test'],
                stdin=theirs.fileno())
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        try:
            assert ours.recv(1)
            status = pathlib.Path('/proc/%d/status' % process.pid).read_text()
            assert int(re.search(r'SigBlk:\s(\w+)', status)[1], 16) == 0
        finally:
            process.kill()
            process.wait()

    def test_the_end_of_the_socket_ends_it(self, keeper):
        sock, process = keeper
        sock.sendall(self.config())
        sock.recv(1)
        sock.shutdown(socket.SHUT_RDWR)
        assert process.wait(5) == 0

    def test_it_imports_nothing_of_nova(self):
        code = ('import sys; import nova_servicegroup.keeper.loop; '
                'print(*sorted(sys.modules))')
        modules = set(subprocess.run(
            [sys.executable, '-c', code], check=True, capture_output=True,
            text=True).stdout.split())
        assert 'kazoo.client' in modules
        assert not modules & {'nova', 'eventlet', 'oslo_config',
                              'oslo_messaging', 'gevent'}
