# SPDX-License-Identifier: Apache-2.0

"""The memcached servers: configuration, and requests to a real one."""

import contextlib
import socket
import threading
import time
import types

from oslo_config import cfg
import pytest

from nova_servicegroup import conf as sg_conf
from nova_servicegroup.drivers import mc
from nova_servicegroup import exception
from nova_servicegroup.memcached import configured
from nova_servicegroup.memcached import connection
from nova_servicegroup.memcached import servers
from nova_servicegroup.memcached import wire
from nova_servicegroup.tests.fixtures import memcached
from nova_servicegroup.tests.fixtures import process

DATA = wire.encode(1.0, None, {})


@pytest.fixture(scope='module')
def memcache():
    with memcached.Memcached() as memcache:
        yield memcache


@pytest.fixture
def server(memcache):
    memcache.thaw()
    memcache.flush()
    yield servers.Server(memcache.address)
    memcache.thaw()


# Configuration

def servers_of(config, text):
    """Return the Servers of a nova.conf with these lines."""
    return configured.Servers(_conf(config, text))


def _conf(path, text):
    import nova.conf  # noqa: F401, for the options it registers
    path.write_text(text)
    conf = cfg.ConfigOpts()
    conf.register_opts([cfg.IntOpt('report_interval', default=10),
                        cfg.IntOpt('service_down_time', default=60)])
    sg_conf.register_opts(conf)
    conf(['--config-file', str(path)], project='nova')
    return conf


@pytest.fixture
def nova_conf(tmp_path):
    return tmp_path / 'nova.conf'


def test_servers_and_limits_come_from_the_cache_section(nova_conf):
    found = servers_of(nova_conf, """
[cache]
memcache_servers = a:11211, inet6:[fd00::1]:11212,unix:/run/m.sock
memcache_dead_retry = 7
memcache_socket_timeout = 0.25
""")
    assert [s.name for s in found] == [
        'a:11211', 'inet6:[fd00::1]:11212', 'unix:/run/m.sock']
    assert found.timeout == 0.25
    assert found.dead_retry == 7
    assert found.replicate is True
    assert found.prefix == ''


def test_the_default_retry_suits_heartbeats(nova_conf):
    text = '[cache]\nmemcache_servers = a:1\n'
    assert servers_of(nova_conf, text).dead_retry == 10
    text += 'memcache_dead_retry = 300\n'
    assert servers_of(nova_conf, text).dead_retry == 300


def test_the_option_of_old_is_taken(nova_conf):
    found = servers_of(
        nova_conf, '[DEFAULT]\nmemcached_servers = a:1,b:2\n')
    assert [s.name for s in found] == ['a:1', 'b:2']


def test_localhost_counts_when_caching_in_memcached_is_on(nova_conf):
    found = servers_of(nova_conf, """
[cache]
enabled = true
backend = oslo_cache.memcache_pool
""")
    assert [s.name for s in found] == ['localhost:11211']


@pytest.mark.parametrize('text', [
    '', '[cache]\nenabled = true\n', '[cache]\nmemcache_servers =\n',
    '[DEFAULT]\nmemcached_servers =\n',
    '[cache]\nenabled = true\nbackend = dogpile.cache.redis\n'])
def test_no_server_is_refused_with_the_fix(nova_conf, text):
    with pytest.raises(exception.ConfigurationError,
                       match=r'Set \[cache\] memcache_servers = host1'):
        servers_of(nova_conf, text)


def test_the_driver_refuses_it_when_nova_starts(nova_conf):
    conf = _conf(nova_conf, '')
    with pytest.raises(exception.ConfigurationError,
                       match='memcache_servers'):
        mc.MemcachedDriver(conf=conf)


@pytest.mark.parametrize('entry', [
    'a:', 'a:b', ':11211', '::1:11211', '[::1]:11211', 'a:99999', 'a:0',
    'http://a:11211', 'a:11211:b'])
def test_malformed_servers_are_lost_ones(nova_conf, entry):
    found = servers_of(
        nova_conf, '[cache]\nmemcache_servers = %s,ok:1' % entry)
    assert [s.name for s in found] == [entry, 'ok:1']
    for use in (lambda: found[0].get(['a'], 1), lambda: found[0].gets('a', 1),
                lambda: found[0].put('a', DATA, None, 1)):
        with pytest.raises(servers.ServerLost,
                           match=r'Write host:port, inet6:\[address\]:port'):
            use()
    # With nothing else there is nothing to report to.
    with pytest.raises(exception.ConfigurationError) as refused:
        servers_of(nova_conf, '[cache]\nmemcache_servers = b:b,%s' % entry)
    assert "'b:b'" in str(refused.value)
    assert 'inet6:[address]:port' in str(refused.value)


@pytest.mark.parametrize('lines, named', [
    ('tls_enabled = true', 'tls_enabled'),
    ('memcache_sasl_enabled = true', 'memcache_sasl_enabled'),
    pytest.param(
        'username = nova\npassword = secret', 'username',
        marks=pytest.mark.skipif('username' not in cfg.CONF.cache,
                                 reason='a name of oslo.cache 4')),
    ('memcache_username = nova\nmemcache_password = secret', 'username'),
    ('memcache_socket_timeout = 0', 'memcache_socket_timeout'),
    ('memcache_socket_timeout = -1', 'memcache_socket_timeout')])
def test_what_cannot_be_kept_is_refused(nova_conf, lines, named):
    with pytest.raises(exception.ConfigurationError, match=named) as refused:
        servers_of(nova_conf, '[cache]\nmemcache_servers = a:1\n' + lines)
    assert 'secret' not in str(refused.value)


def test_the_password_of_another_cache_is_none_of_ours(nova_conf):
    assert servers_of(nova_conf, """
[DEFAULT]
memcached_servers = a:1
[cache]
enabled = true
backend = dogpile.cache.redis
username = nova
password = secret
""")


def test_two_lists_that_differ_are_refused(nova_conf):
    text = ('[DEFAULT]\nmemcached_servers = a:1\n'
            '[cache]\nmemcache_servers = %s\n')
    assert len(servers_of(nova_conf, text % 'a:1')) == 1
    with pytest.raises(exception.ConfigurationError, match='contradict'):
        servers_of(nova_conf, text % 'b:1')


def test_none_is_a_cache_of_the_process_and_stands_alone(nova_conf):
    found = servers_of(nova_conf, '[DEFAULT]\nmemcached_servers = <None>\n')
    assert [s.name for s in found] == ['<None>']
    assert found[0].put('key', DATA, None, 1)
    assert found[0].get(['key', 'other'], 1) == {'key': (1, DATA)}
    token = found[0].gets('key', 1)[2]
    assert found[0].put('key', DATA + b'2', token, 1)
    assert not found[0].put('key', DATA, token, 1)
    assert not found[0].put('key', DATA, None, 1)
    with pytest.raises(exception.ConfigurationError, match='mixed'):
        servers_of(nova_conf, '[DEFAULT]\nmemcached_servers = <None>,a:1\n')


@pytest.mark.parametrize('prefix', ['with space', 'x' * 201, 'h\xf6', 'a\tb'])
def test_prefixes_that_memcached_would_not_take_are_refused(nova_conf, prefix):
    text = '[servicegroup]\nmc_key_prefix = %s\n[cache]\nmemcache_servers=a:1'
    assert servers_of(nova_conf, text % 'east:').prefix == 'east:'
    with pytest.raises(exception.ConfigurationError, match='mc_key_prefix'):
        servers_of(nova_conf, text % prefix)


def test_keys_live_where_python_memcached_puts_them(nova_conf):
    import memcache
    addresses = ['127.0.0.1:%d' % port for port in (1, 2, 3)]
    found = servers_of(nova_conf, """
[cache]
memcache_servers = %s
[servicegroup]
mc_replicate = false
""" % ','.join(addresses))
    client = memcache.Client(addresses)
    for host in client.servers:
        host.connect = lambda: 1
    for number in range(50):
        key = wire.key('compute', 'host%d' % number)
        home, _ = client._get_server(key.encode())
        assert [addresses[i] for i in found.of(key)] == [
            '127.0.0.1:%d' % home.port]


# Talk

def test_values_come_back_whole(server, memcache):
    assert server.get(['a', 'b'], 1) == {}
    assert server.put('a', DATA, None, 1)
    memcache.raw_set('b', b'any\r\nEND\r\nbytes\0', flags=77)
    assert server.get(['b', 'a', 'c'], 1) == {
        'a': (1, DATA), 'b': (77, b'any\r\nEND\r\nbytes\0')}
    assert memcache.raw_get('a') == (1, DATA)


def test_many_keys_are_one_request(server, memcache):
    keys = [wire.key('compute', 'host%d' % i) for i in range(20000)]
    server.put(keys[0], DATA, None, 1)
    server.put(keys[-1], DATA, None, 1)
    assert set(server.get(keys, 10)) == {keys[0], keys[-1]}
    assert memcache.counters()['cmd_get'] >= 20000


def test_writers_do_not_undo_each_other(server):
    assert server.put('a', DATA, None, 1) is True
    assert server.put('a', DATA, None, 1) is False
    flags, data, token = server.gets('a', 1)
    assert (flags, data) == (1, DATA)
    assert server.put('a', DATA, token, 1) is True
    assert server.put('a', DATA, token, 1) is False
    assert server.put('gone', DATA, token, 1) is False
    assert server.gets('gone', 1) is None


def test_what_is_not_stored_is_refused(server):
    with pytest.raises(servers.ServerRefused, match='too large'):
        server.put('a', b'x' * 2_000_000, None, 5)
    assert server.get(['a'], 1) == {}
    assert server.put('a', DATA, None, 1)


def test_a_memcached_without_memory_for_it_is_refused():
    with memcached.Memcached(options=['-M', '-m', '4']) as full:
        server = servers.Server(full.address)
        with pytest.raises(servers.ServerRefused, match='out of memory'):
            for number in range(1000):
                server.put('key%d' % number, b'x' * 50000, None, 1)
        assert server.get(['key0'], 1)


def test_an_oversized_value_is_passed_over_unseen(server, memcache):
    memcache.raw_set('big', b'x' * 1_000_000, flags=1)
    memcache.raw_set('edge', b'x' * wire.MAX_SIZE, flags=1)
    server.put('small', DATA, None, 1)
    found = server.get(['small', 'big', 'edge'], 5)
    assert found == {'small': (1, DATA), 'big': (None, b''),
                     'edge': (1, b'x' * wire.MAX_SIZE)}


def test_a_restarted_server_is_asked_again_at_once(server, memcache):
    server.put('a', DATA, None, 1)
    memcache.restart()
    assert server.get(['a'], 1) == {}
    memcache.restart()
    assert server.put('a', DATA, None, 1)


def test_a_lost_server_is_no_miss(server, memcache):
    server.put('a', DATA, None, 1)
    memcache.kill()
    try:
        for _ in range(2):
            with pytest.raises(servers.ServerLost, match='cannot connect'):
                server.get(['a'], 1)
            with pytest.raises(servers.ServerLost):
                server.put('a', DATA, None, 1)
    finally:
        memcache.start()
    assert server.get(['a'], 1) == {}


def test_a_clock_that_is_set_back_keeps_no_server_away(server, memcache,
                                                       monkeypatch):
    memcache.kill()
    with pytest.raises(servers.ServerLost):
        server.get(['a'], 1)
    memcache.start()
    monkeypatch.setattr('memcache.time', types.SimpleNamespace(
        time=lambda: 0))
    assert server.get(['a'], 1) == {}


def test_a_host_that_does_not_answer_takes_the_timeout_too():
    with contextlib.ExitStack() as stack:
        listener = stack.enter_context(socket.socket())
        listener.bind((process.LOOPBACK, 0))
        listener.listen(0)
        # Until its queue is full, and the next one's SYN goes unanswered.
        with pytest.raises(socket.timeout):
            while True:
                waiting = stack.enter_context(socket.socket())
                waiting.settimeout(0.2)
                waiting.connect(listener.getsockname())
        server = servers.Server('%s:%d' % listener.getsockname())
        start = time.monotonic()
        with pytest.raises(servers.ServerLost, match='cannot connect'):
            server.get(['a'], 0.3)
        assert time.monotonic() - start < 2


@pytest.mark.parametrize('connected', [True, False])
def test_a_hanging_server_takes_its_timeout_and_no_more(server, memcache,
                                                        connected):
    if connected:
        server.put('a', DATA, None, 1)
    memcache.freeze()
    start = time.monotonic()
    with pytest.raises(servers.ServerLost):
        server.get(['a'], 0.3)
    assert 0.25 < time.monotonic() - start < 2
    memcache.thaw()
    # What the server says late is nobody's answer.
    assert server.get(['b'], 1) == {}


def test_threads_wait_for_each_other_but_not_for_ever(server, memcache):
    server.put('a', DATA, None, 1)
    memcache.freeze()
    failed = []

    def ask():
        with pytest.raises(servers.ServerLost):
            server.get(['a'], 0.5)
        failed.append(time.monotonic())

    start = time.monotonic()
    threads = [threading.Thread(target=ask) for _ in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert len(failed) == 10
    assert max(failed) - start < 3


def test_an_interrupted_request_leaves_no_answer_behind(server, monkeypatch):
    def interrupt(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(connection.Request, '_receive', interrupt)
        with pytest.raises(KeyboardInterrupt):
            server.put('a', DATA, None, 1)
    process.wait_until(lambda: server.get(['a'], 1), 10, 'stored')
    assert server.put('a', DATA, None, 1) is False


class Slow:
    """A memcached on a slow line: bytes come one by one, for seconds."""

    PAUSE = 0.05

    def __init__(self):
        self._listener = socket.create_server((process.LOOPBACK, 0))
        self.address = '127.0.0.1:%d' % self._listener.getsockname()[1]
        self.answers = {b'get': b'VALUE a 1 9\r\nsome data\r\nEND\r\n',
                        b'gets': b'END\r\n', b'add': b'STORED\r\n'}
        self.slow = {b'get'}
        self.talking = threading.Event()
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                threading.Thread(target=self._serve, args=[connection],
                                 daemon=True).start()

    def _serve(self, connection):
        with connection, contextlib.suppress(OSError):
            while True:
                verb = connection.recv(65536).partition(b' ')[0]
                if not verb:
                    return
                step = 1 if verb in self.slow else 1000
                answer = self.answers[verb]
                for start in range(0, len(answer), step):
                    connection.sendall(answer[start:start + step])
                    if step == 1:
                        self.talking.set()
                        time.sleep(self.PAUSE)

    def close(self):
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def slow():
    slow = Slow()
    yield slow
    slow.close()


def test_a_server_that_keeps_answering_is_not_lost(slow):
    server = servers.Server(slow.address)
    start = time.monotonic()
    assert server.get(['a'], 0.5) == {'a': (1, b'some data')}
    assert time.monotonic() - start > 1
    # It can't go on for ever.
    start = time.monotonic()
    slow.answers[b'get'] = slow.answers[b'get'].replace(
        b'9\r\nsome data', b'200\r\n' + b'x' * 200)
    with pytest.raises(servers.ServerLost):
        server.get(['a'], 0.2)
    assert 1.5 < time.monotonic() - start < 6


def test_a_heartbeat_does_not_wait_for_a_long_answer(slow):
    server = servers.Server(slow.address)
    reader = threading.Thread(target=server.get, args=[['a'], 1])
    reader.start()
    assert slow.talking.wait(10)
    assert server.gets('a', 0.3) is None
    assert server.put('a', DATA, None, 0.3)
    assert reader.is_alive()
    reader.join(30)


def test_a_heartbeat_is_over_after_its_timeout(slow):
    slow.slow = {b'gets', b'add'}
    server = servers.Server(slow.address)
    slow.answers[b'gets'] = slow.answers[b'get']
    start = time.monotonic()
    with pytest.raises(servers.ServerLost):
        server.gets('a', 0.5)
    slow.answers[b'add'] = b' ' * 1000
    with pytest.raises(servers.ServerLost):
        server.put('a', DATA, None, 0.5)
    assert time.monotonic() - start < 2.5


@pytest.fixture
def babbler():
    """A server that answers every connection with what it is told to."""
    with socket.create_server((process.LOOPBACK, 0)) as listener:
        answers = []

        def serve():
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection:
                    connection.recv(65536)
                    connection.sendall(answers[0])
                    if len(answers) > 1:
                        answers.pop(0)
                    connection.recv(65536)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield servers.Server('127.0.0.1:%d' % listener.getsockname()[1]), (
            answers)
        listener.shutdown(socket.SHUT_RDWR)


@pytest.mark.parametrize('answer', [
    b'', b'VALUE', b'VALUE a 1\r\nEND\r\n', b'VALUE a 1 x\r\nxx\r\nEND\r\n',
    b'VALUE other 1 1\r\nx\r\nEND\r\n', b'VALUE a 1 1\r\nxxx\r\nEND\r\n',
    b'VALUE a 1 -5\r\nx\r\nEND\r\n', b'VALUE \xff 1 1\r\nx\r\nEND\r\n',
    b'VALUE a 1 2\r\nx', b'ERROR\r\n', b'SERVER_ERROR out of memory\r\n',
    b'STORED\r\n', b'x' * 10000, b'HTTP/1.1 400 Bad Request\r\n\r\n'])
def test_nonsense_is_a_lost_server(babbler, answer):
    server, answers = babbler
    answers.append(answer)
    with pytest.raises(servers.ServerLost):
        server.get(['a'], 0.5)
    # And the next answer is not shifted.
    answers[:] = [b'VALUE b 1 1\r\nb\r\nEND\r\n']
    assert server.get(['b'], 5) == {'b': (1, b'b')}


@pytest.mark.parametrize('answer', [b'', b'STORED\r\nSTORED\r\n', b'x' * 9000])
def test_nonsense_stores_nothing(babbler, answer):
    server, answers = babbler
    answers.append(answer)
    with pytest.raises(servers.ServerLost):
        server.put('a', DATA, None, 0.5)


@pytest.mark.parametrize('answer', [b'ERROR\r\n', b'\r\n', b'END\r\n'])
def test_other_words_than_stored_are_refusals(babbler, answer):
    server, answers = babbler
    answers.append(answer)
    with pytest.raises(servers.ServerRefused):
        server.put('a', DATA, None, 0.5)
