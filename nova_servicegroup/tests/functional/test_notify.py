# SPDX-License-Identifier: Apache-2.0

"""Notifications that arrive over a real RabbitMQ, once for three watchers."""

import contextlib
import http.server
import json
import os
import queue
import signal
import socket
import sys
import threading
import time
import uuid

from oslo_config import cfg
import oslo_messaging as messaging
import pytest

from nova_servicegroup.cmd import election
from nova_servicegroup.cmd import notify
from nova_servicegroup.keeper import security
from nova_servicegroup.memcached import servers
from nova_servicegroup.tests.fixtures import mariadb
from nova_servicegroup.tests.fixtures import member
from nova_servicegroup.tests.fixtures import memcached
from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import rabbitmq
from nova_servicegroup.tests.fixtures import reporter
from nova_servicegroup.tests.fixtures import texts
from nova_servicegroup.tests.fixtures import zookeeper

HANDLER = texts.ROOT / 'contrib/masakari/nova-servicegroup-masakari'
SENDS = 'This watcher sends the notifications.'
WATCHES = 'Watching '
RECV_TIMEOUT = 2000


@pytest.fixture(scope='module')
def rabbit(tmp_path_factory):
    with rabbitmq.RabbitMQ(tmp_path_factory.mktemp('rabbitmq')) as server:
        yield server


@pytest.fixture(scope='module')
def ensemble(tmp_path_factory):
    with zookeeper.Ensemble(tmp_path_factory.mktemp('ensemble')) as ensemble:
        yield ensemble


class Listener:
    """Whoever wants to know: keeps what arrives on a topic."""

    def __init__(self, url, topic):
        conf = cfg.ConfigOpts()
        conf([])
        self.arrived = queue.Queue()
        self._listener = messaging.get_notification_listener(
            messaging.get_notification_transport(conf, url),
            [messaging.Target(topic=topic)], [self], executor='threading')
        self._listener.start()

    def info(self, context, publisher_id, event_type, payload, metadata):
        assert event_type == 'servicegroup.transition'
        assert publisher_id.startswith('nova-servicegroup:')
        self.arrived.put(payload)

    def next(self, timeout):
        return self.arrived.get(timeout=timeout)

    def nothing(self, seconds):
        """Check that nothing arrives for some seconds."""
        with pytest.raises(queue.Empty):
            raise AssertionError(self.arrived.get(timeout=seconds))

    def close(self):
        self._listener.stop()
        self._listener.wait()


@pytest.fixture
def listener(rabbit, request):
    made = Listener(rabbit.url, request.node.name)
    yield made
    made.close()


def watcher(directory, name, config, topic, *arguments):
    return process.Process(
        name, [nova.BIN / 'nova-servicegroup', '-v', '--config-file', config,
               'watch', '--notify', '--topic', topic, *arguments],
        directory, env=nova.environment())


def test_what_is_sent_before_the_bus_is_there_arrives(tmp_path):
    bus = rabbitmq.RabbitMQ(tmp_path)
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(nova.write_config(
        tmp_path / 'nova.conf', {'DEFAULT': {'transport_url': bus.url}}))])
    sender = notify.Sender(conf, 'early')
    sender.send({'host': 'a'})
    assert sender.wait(2) == 1
    with bus:
        listener = Listener(bus.url, 'early')
        # Attempts are up to half a minute apart.
        assert listener.next(60) == {'host': 'a'}
        listener.close()
        # Or it would try to reach this bus until the end of all tests.
        sender._notifier.transport.cleanup()


def leader(watchers):
    """Return the one that says that it sends, None if there is none."""
    found = [one for one in watchers if one.running and SENDS in one.log()]
    assert len(found) <= 1
    return found[0] if found else None


class Fleet:
    """Members in ZooKeeper, and the configuration of who watches them."""

    def __init__(self, directory, ensemble, rabbit, prefix):
        self.directory = directory
        self._address = ensemble.address
        self._prefix = prefix
        self.config = nova.write_config(directory / 'nova.conf', {
            'DEFAULT': {'servicegroup_driver': 'zk',
                        'transport_url': rabbit.url},
            'zookeeper': {'address': ensemble.address, 'sg_prefix': prefix,
                          'recv_timeout': RECV_TIMEOUT}})
        self.members = {}

    def join(self, *hosts):
        for host in hosts:
            self.members[host] = member.Member(
                self.directory / host, host, self._address,
                prefix=self._prefix, recv_timeout=RECV_TIMEOUT,
                down_time=60).start()
        for host in hosts:
            self.members[host].wait_joined()

    def close(self):
        for one in self.members.values():
            if one.running:
                one.kill()
            one.stop()


@pytest.fixture
def fleet(tmp_path, ensemble, rabbit, request):
    made = Fleet(tmp_path, ensemble, rabbit, '/' + request.node.name)
    yield made
    made.close()


@pytest.fixture
def watch(tmp_path, request):
    """Starts watchers, as on so many controllers; one of them is the one."""
    watchers = []

    def start(config, number=3):
        for index in range(number):
            watchers.append(watcher(tmp_path, 'watcher%d' % index, config,
                                    request.node.name).start())
        process.wait_until(lambda: leader(watchers), 90, 'one that sends')
        process.wait_until(
            lambda: all(WATCHES in one.log() for one in watchers), 60,
            'a first look of all')
        return watchers

    yield start
    for one in watchers:
        if one.running:
            one.kill()
        one.stop()


def test_three_watchers_tell_once(fleet, watch, listener):
    fleet.join('a', 'b', 'c')
    watchers = watch(fleet.config)
    fleet.members['a'].kill()
    message = listener.next(10)
    assert {name: message[name] for name in (
        'version', 'host', 'service', 'group', 'old_state', 'new_state',
        'evidence', 'reason')} == {
            'version': '1.0', 'host': 'a', 'service': 'nova-compute',
            'group': 'compute', 'old_state': 'up', 'new_state': 'ended',
            'evidence': 'end', 'reason': 'killed'}
    assert message['last_seen'] <= message['at']
    assert message['silence'] is None
    listener.nothing(4)
    # All of them saw it, one of them sent it.
    for one in watchers:
        assert ' a nova-compute up -> ended' in one.log()


def test_who_tells_is_replaced_and_nothing_is_lost(fleet, watch, listener):
    fleet.join('a', 'b', 'c')
    watchers = watch(fleet.config)
    first = leader(watchers)
    # Frozen, it can't tell of what comes, and then it is gone.
    first.freeze()
    fleet.members['a'].kill()
    time.sleep(1)
    first.kill()
    message = listener.next(RECV_TIMEOUT / 1000 * 2 + 10)
    assert (message['host'], message['new_state']) == ('a', 'ended')
    second = process.wait_until(
        lambda: leader([one for one in watchers if one is not first]), 5,
        'another one that sends')
    fleet.members['b'].kill()
    assert listener.next(10)['host'] == 'b'
    listener.nothing(3)
    # One that is stopped in order gives its place up at once.
    second.signal(signal.SIGTERM)
    second.wait(10)
    (third,) = [one for one in watchers if one not in (first, second)]
    process.wait_until(lambda: SENDS in third.log(), 5, 'the third one')
    # It may send again what the second one sent.
    while not listener.arrived.empty():
        assert listener.next(0)['host'] in 'ab'


def test_a_bus_that_is_away_loses_nothing(fleet, listener, rabbit, request):
    fleet.join('a', 'b', 'c')
    alone = watcher(fleet.directory, 'alone', fleet.config, request.node.name,
                    '--alone')
    with alone:
        process.wait_until(lambda: SENDS in alone.log(), 30, 'sending')
        rabbit.freeze()
        fleet.members['a'].kill()
        process.wait_until(lambda: ' a nova-compute' in alone.log(), 10, 'it')
        time.sleep(2)
        fleet.members['b'].kill()
        # It goes on watching.
        process.wait_until(lambda: ' b nova-compute' in alone.log(), 10, 'it')
        rabbit.thaw()
        assert [listener.next(60)['host'] for _ in range(2)] == ['a', 'b']


def test_watchers_of_the_database_tell_once(make_cloud, request, watch,
                                            tmp_path):
    with make_cloud(driver='db', controllers=('conductor',)) as cloud:
        compute = cloud.start_compute('a')
        config = nova.write_config(tmp_path / 'nova.conf',
                                   cloud.nova_conf('controller'))
        with contextlib.closing(
                Listener(cloud.rabbit.url, request.node.name)) as heard:
            watch(config, 2)
            compute.stop()
            message = heard.next(20)
            assert (message['host'], message['cell'], message['new_state'],
                    message['evidence'], message['reason']) == (
                        'a', 'cell1', 'ended', 'end', 'stopped')
            assert message['disabled'] is False
            assert message['forced_down'] is False
            message = heard.next(20)
            assert (message['host'], message['new_state']) == ('a', 'down')
            heard.nothing(3)


@pytest.fixture
def reporters(tmp_path, database_template, rabbit):
    """Members that report to a memcached, by host, and their nova.conf."""
    with contextlib.ExitStack() as stack:
        database = stack.enter_context(
            mariadb.MariaDB(tmp_path / 'db', database_template))
        store = stack.enter_context(memcached.Memcached(tmp_path))
        config = nova.write_config(tmp_path / 'nova.conf', {
            'DEFAULT': {'servicegroup_driver': 'mc', 'report_interval': 1,
                        'service_down_time': 5, 'transport_url': rabbit.url},
            'cache': {'memcache_servers': store.address},
            'database': {'connection': database.url('nova')},
            'api_database': {'connection': database.url('nova_api')}})
        members = {}
        for host in 'abc':
            database.query(
                'nova', 'INSERT INTO services (created_at, host, `binary`, '
                'topic, uuid, report_count, disabled, forced_down, version, '
                "deleted) VALUES (UTC_TIMESTAMP(), %s, 'nova-compute', "
                "'compute', %s, 0, 0, 0, 70, 0)", host, str(uuid.uuid4()))
            members[host] = stack.enter_context(
                reporter.Reporter(host, tmp_path, config, host))
        yield members, config


def test_watchers_of_memcached_tell_once(reporters, watch, listener):
    members, config = reporters
    watchers = watch(config)
    members['a'].kill()
    message = listener.next(15)
    assert {name: message[name] for name in (
        'host', 'cell', 'service', 'old_state', 'new_state', 'evidence',
        'reason')} == {
            'host': 'a', 'cell': 'cell1', 'service': 'nova-compute',
            'old_state': 'up', 'new_state': 'down', 'evidence': 'silence',
            'reason': 'silent'}
    assert message['last_seen'] < message['at']
    listener.nothing(3)
    for one in watchers:
        assert ' a nova-compute up -> down' in one.log()


# Elections

class ByZooKeeper:
    def __init__(self, ensemble, auth=None):
        self._ensemble = ensemble
        self._path = '/%s/@notify' % ('closed' if auth else 'open')
        self._ours = security.Security(auth=auth)

    def make(self):
        return election.ZooKeeper(
            self._ours.client(self._ensemble.address, 2), self._ours.acl,
            self._path, 2)

    def lose(self, one):
        """Lose a candidate, as with its host."""
        one._client.stop()

    def close(self):
        pass


class ByMemcached:
    """Two servers, of which one may be away."""

    def __init__(self):
        self.servers = [memcached.Memcached(), memcached.Memcached()]
        for server in self.servers:
            server.start()

    def make(self):
        return election.Memcached(
            [servers.Server(server.address) for server in self.servers],
            'nova-servicegroup:notify', 1)

    def lose(self, one):
        pass

    def close(self):
        for server in self.servers:
            server.stop()


class ByDatabase:
    def __init__(self, directory, template):
        import sqlalchemy
        self._database = mariadb.MariaDB(directory, template)
        self._database.start()
        self._engine = sqlalchemy.create_engine(self._database.url('nova_api'))

    def make(self):
        return election.Database(self._engine)

    def lose(self, one):
        # Its process is gone, and so the connection.
        one._connection.connection.driver_connection._force_close()

    def close(self):
        self._engine.dispose()
        self._database.stop()


@pytest.fixture(params=['zk', 'zk-digest', 'mc', 'db'])
def store(request, tmp_path):
    value = request.getfixturevalue
    made = {'zk': lambda: ByZooKeeper(value('ensemble')),
            'zk-digest': lambda: ByZooKeeper(value('ensemble'),
                                             ('digest', 'nova:secret')),
            'mc': ByMemcached,
            'db': lambda: ByDatabase(tmp_path / 'db',
                                     value('database_template'))
            }[request.param]()
    made.candidates = [made.make() for _ in range(3)]
    yield made
    for one in made.candidates:
        one.close()
    made.close()


def turn(candidates):
    return [one for one in candidates if one.leads()]


def test_one_leads_until_it_gives_up_or_is_lost(store):
    (first,) = process.wait_until(lambda: turn(store.candidates), 10, 'one')
    for _ in range(3):
        assert turn(store.candidates) == [first]
    first.close()
    others = [one for one in store.candidates if one is not first]
    (second,) = process.wait_until(lambda: turn(others), 2, 'another')
    assert turn(others) == [second]
    store.lose(second)
    (third,) = [one for one in others if one is not second]
    process.wait_until(third.leads, second.gap + 3, 'the third', interval=0.5)


def test_a_zookeeper_that_hangs_does_not_delay_the_end():
    with socket.create_server(('127.0.0.1', 0)) as hangs:
        one = election.ZooKeeper(
            security.Security().client(
                '127.0.0.1:%d' % hangs.getsockname()[1], 30), None, '/x', 30)
        connection, _ = hangs.accept()
        began = time.monotonic()
        one.close()
        assert time.monotonic() - began < election.LIMIT + 1
        connection.close()


def test_one_memcached_of_two_is_enough():
    store = ByMemcached()
    try:
        one, other = store.make(), store.make()
        assert one.leads() and not other.leads()
        store.servers[0].stop()
        assert one.leads() and not other.leads()
        store.servers[0].start()
        # It is empty now. Whoever comes first has it, and soon the other.
        process.wait_until(
            lambda: [other.leads(), one.leads()] == [True, False],
            election.LEASE + 3, 'an end of the dispute', interval=0.5)
        assert turn([one, other]) == [other]
    finally:
        store.close()


def test_a_store_that_is_away_is_told_once(tmp_path, caplog):
    away = servers.Server('127.0.0.1:%d' % process.free_port())
    one = election.Memcached([away], 'key', 0.2)
    assert [one.leads() for _ in range(3)] == [None] * 3
    logged = [r for r in caplog.records if r.name == election.__name__
              and r.levelname == 'ERROR']
    assert len(logged) == 1
    assert 'This one sends none until they can' in logged[0].getMessage()


# Masakari

#: what a Masakari 22.0.0 answered: of a host twice, of one in no segment; and
#: what its server answers after an error of its own
TROUBLE = {
    409: {'conflictingRequest': {
        'code': 409, 'message': 'Notification received from host a of type '
        'COMPUTE_HOST is duplicate.'}},
    400: {'badRequest': {
        'code': 400, 'message': 'Host with name a could not be found.'}},
    500: {'computeFault': {
        'code': 500, 'message': 'Unexpected API Error.'}},
}


class Api(http.server.ThreadingHTTPServer):
    """Answers as the APIs of Masakari and Nova do, and records what it did."""

    def __init__(self):
        super().__init__(('127.0.0.1', 0), Request)
        self.done = queue.Queue()
        #: host -> its states, one for each question; the last one stays
        self.states = {}
        #: codes to answer with before all is well
        self.trouble = []
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self):
        return 'http://127.0.0.1:%d' % self.server_port

    def state(self, host):
        states = self.states.get(host, ['down'])
        return states.pop(0) if len(states) > 1 else states[0]


class Request(http.server.BaseHTTPRequestHandler):

    def log_message(self, *args):
        pass

    def _answer(self, code, body):
        data = json.dumps(body).encode()
        self.send_response(code)
        self.send_header('Content-Type', 'application/json')
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _body(self):
        return json.loads(
            self.rfile.read(int(self.headers['Content-Length'])))

    def do_GET(self):  # noqa: N802
        path, _, query = self.path.partition('?')
        if path == '/compute/v2.1/os-services':
            host = dict(part.split('=') for part in query.split('&'))['host']
            self._answer(200, {'services': [{
                'id': 'b6d5d11e-5a2d-4f4b-bf6b-6e1b0ac9e6f0',
                'binary': 'nova-compute', 'host': host, 'zone': 'nova',
                'status': 'enabled', 'disabled_reason': None,
                'forced_down': False, 'updated_at': None,
                'state': self.server.state(host)}]})
        elif path.startswith('/compute'):
            self._answer(200, {'version': {
                'id': 'v2.1', 'status': 'CURRENT', 'version': '2.95',
                'min_version': '2.1', 'links': [{
                    'rel': 'self', 'href': self.server.url
                    + '/compute/v2.1/'}]}})
        else:
            self._answer(200, {'version': {
                'id': 'v1.0', 'status': 'CURRENT', 'version': '1.3',
                'min_version': '1.0', 'links': [{
                    'rel': 'self', 'href': self.server.url + '/v1/'}]}})

    def do_PUT(self):  # noqa: N802
        body = self._body()
        self.server.done.put(('nova', body))
        self._answer(200, {'service': dict(body, id='1')})

    def do_POST(self):  # noqa: N802
        body = self._body()['notification']
        if self.server.trouble:
            code = self.server.trouble.pop(0)
            self.server.done.put(('masakari', code))
            self._answer(code, TROUBLE[code])
            return
        self.server.done.put(('masakari', body))
        self._answer(202, {'notification': dict(
            body, notification_uuid='43f0f469-1cfb-419b-9621-d78e29980f78',
            source_host_uuid='ce859e23-2d0c-435b-b67d-a12c8a17d385', id=1,
            failover_segment_uuid='d0f9f41e-0d35-403a-8ed7-61c3184d6088',
            generated_time='2026-11-21T10:00:00.000000', status='new',
            message=None, created_at='2026-11-22T05:14:40.000000',
            updated_at=None, deleted_at=None, deleted=False)})


class Masakari:
    """The handler, the APIs that it talks to, and who sends to it."""

    def __init__(self, directory, rabbit, topic):
        self.directory = directory
        self.api = Api()
        self._topic = topic
        self._config = nova.write_config(
            directory / 'nova.conf', {'DEFAULT': {
                'transport_url': rabbit.url}})
        (directory / 'clouds.yaml').write_text(json.dumps({'clouds': {'one': {
            'auth_type': 'none', 'auth': {'endpoint': self.api.url},
            'instance_ha_endpoint_override': self.api.url + '/v1',
            'compute_endpoint_override': self.api.url + '/compute/v2.1'}}}))
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[str(self._config)])
        self._sender = notify.Sender(conf, topic)
        self.fenced = directory / 'fenced'
        self.fence = directory / 'fence'
        self.set_fence(0)
        self.handler = None

    def set_fence(self, code):
        self.fence.write_text(
            '#!/bin/sh\necho "$1" >> %s\n[ "$1" = a ] || exit 0\nexit %d\n' % (
                self.fenced, code))
        self.fence.chmod(0o755)

    def start(self, *arguments):
        self.handler = process.Process(
            'handler', [sys.executable, HANDLER, '--config-file',
                        self._config, '--topic', self._topic, '--pause', '0.5',
                        *(arguments or ('--fence', '%s {host}' % self.fence))],
            self.directory, env=dict(
                nova.environment(), OS_CLOUD='one', OS_CLIENT_CONFIG_FILE=str(
                    self.directory / 'clouds.yaml')))
        self.handler.start()
        self.handler.wait_ready(
            lambda: 'Listening' in self.handler.log(), 30)

    def send(self, **fields):
        self._sender.send(dict({
            'version': '1.0', 'at': '2026-11-21T10:00:00.000Z', 'host': 'a',
            'service': 'nova-compute', 'group': 'compute', 'cell': 'cell1',
            'old_state': 'up', 'new_state': 'down', 'evidence': 'silence',
            'reason': 'silent', 'reason_text': '', 'last_seen': None,
            'silence': None, 'disabled': False, 'forced_down': False},
            **fields))

    def done(self, timeout=10):
        try:
            return self.api.done.get(timeout=timeout)
        except queue.Empty:
            return None

    def close(self):
        if self.handler is not None:
            self.handler.stop()
        # Or it would try to reach the bus until the end of all tests.
        self._sender._notifier.transport.cleanup()
        self.api.shutdown()
        self.api.server_close()


@pytest.fixture
def masakari(tmp_path, rabbit, request):
    made = Masakari(tmp_path, rabbit, request.node.name)
    yield made
    made.close()


HOST_IS_LOST = ('masakari', {
    'type': 'COMPUTE_HOST', 'hostname': 'a',
    'generated_time': '2026-11-21T10:00:00.000',
    'payload': {'event': 'STOPPED', 'host_status': 'NORMAL',
                'cluster_status': 'OFFLINE'}})


def test_a_silent_host_is_fenced_then_masakari_is_told(masakari):
    masakari.start()
    masakari.send()
    assert masakari.done() == ('nova', {'forced_down': True})
    assert masakari.fenced.read_text() == 'a\n'
    assert masakari.done() == HOST_IS_LOST


def test_nothing_is_told_of_a_host_that_is_not_fenced(masakari):
    masakari.set_fence(1)
    masakari.start()
    masakari.send()
    process.wait_until(
        lambda: masakari.fenced.exists()
        and masakari.fenced.read_text() == 'a\na\na\n', 10, 'three attempts')
    assert masakari.api.done.empty()
    masakari.set_fence(0)
    assert masakari.done() == ('nova', {'forced_down': True})
    assert masakari.done() == HOST_IS_LOST


def test_a_host_that_cannot_be_fenced_holds_up_no_other(masakari):
    masakari.set_fence(1)
    masakari.start()
    masakari.send()
    process.wait_until(masakari.fenced.exists, 10, 'an attempt')
    masakari.send(host='b')
    assert masakari.done() == ('nova', {'forced_down': True})
    assert masakari.done()[1]['hostname'] == 'b'
    assert masakari.api.done.empty()


@pytest.mark.parametrize('evidence', ['silence', 'end'])
def test_who_came_back_meanwhile_is_left_alone(masakari, evidence):
    masakari.start('--processes', '--fence', '%s {host}' % masakari.fence)
    masakari.api.states['a'] = ['up']
    masakari.send(evidence=evidence)
    process.wait_until(lambda: 'a is up again' in masakari.handler.log(), 10,
                       'the handler to see that')
    assert not masakari.fenced.exists() and masakari.api.done.empty()


def test_nova_may_learn_of_a_loss_later_than_the_watcher(masakari):
    masakari.start()
    masakari.api.states['a'] = ['up', 'down']
    masakari.send()
    assert masakari.done() == ('nova', {'forced_down': True})
    assert masakari.done() == HOST_IS_LOST


def test_proof_and_doubt_and_others_move_nobody(masakari):
    masakari.start()
    for fields in (
            {'new_state': 'ended', 'evidence': 'end', 'reason': 'killed'},
            {'evidence': 'end', 'reason': 'killed'},
            {'new_state': 'unknown', 'evidence': 'doubt',
             'reason': 'mass_failure'},
            {'evidence': 'operator', 'reason': 'forced_down'},
            {'new_state': 'up', 'old_state': 'down', 'evidence': 'life'},
            {'service': 'nova-conductor', 'group': 'conductor'},
            {'version': '2.0'}, {'evidence': 'none', 'reason': 'never'}):
        masakari.send(**fields)
    # One more, to know that the handler has had them all.
    masakari.send(host='last')
    assert masakari.done() == ('nova', {'forced_down': True})
    assert masakari.done()[1]['hostname'] == 'last'
    assert masakari.fenced.read_text() == 'last\n'


def test_ended_processes_for_those_who_want_it(masakari):
    masakari.start('--already-fenced', '--processes')
    masakari.send(evidence='end', reason='killed')
    assert masakari.done() == ('masakari', {
        'type': 'PROCESS', 'hostname': 'a',
        'generated_time': '2026-11-21T10:00:00.000',
        'payload': {'event': 'STOPPED', 'process_name': 'nova-compute'}})
    assert not masakari.fenced.exists()


def test_masakari_that_is_away_is_told_later(masakari):
    masakari.start('--already-fenced')
    masakari.api.trouble = [500]
    masakari.send()
    results = [masakari.done() for _ in range(4)]
    assert results == [('nova', {'forced_down': True}), ('masakari', 500),
                       ('nova', {'forced_down': True}), HOST_IS_LOST]
    # What it knows already is no trouble, and a host that it does not know
    # is logged.
    masakari.api.trouble = [400]
    masakari.send()
    assert [masakari.done() for _ in range(2)] == [
        ('nova', {'forced_down': True}), ('masakari', 400)]
    process.wait_until(lambda: 'is it in a segment?' in
                       masakari.handler.log(), 10, 'the log')
    masakari.api.trouble = [409]
    masakari.send()
    assert [masakari.done() for _ in range(2)] == [
        ('nova', {'forced_down': True}), ('masakari', 409)]
    assert masakari.done(2) is None


@pytest.mark.parametrize('service', ['compute', 'instance_ha'])
def test_an_api_that_refuses_connections_is_asked_later(masakari, service):
    clouds = masakari.directory / 'clouds.yaml'
    away = 'http://127.0.0.1:%d' % process.free_port()
    clouds.write_text(clouds.read_text().replace(
        '"%s_endpoint_override": "%s' % (service, masakari.api.url),
        '"%s_endpoint_override": "%s' % (service, away)))
    masakari.start()
    masakari.send()
    process.wait_until(
        lambda: 'trying again in 0.5 s' in masakari.handler.log(), 20,
        'the pause')
    assert 'Traceback' not in masakari.handler.log()


def test_the_fencing_command_may_have_other_braces(masakari):
    masakari.start('--fence', "sh -c '%s $(echo {host} | awk \"{print}\")'"
                   % masakari.fence)
    masakari.send()
    assert masakari.done() == ('nova', {'forced_down': True})
    assert masakari.fenced.read_text() == 'a\n'


def run_handler(*arguments, **environment):
    return process.subprocess.run(
        [sys.executable, str(HANDLER), *arguments], capture_output=True,
        text=True, env=dict(os.environ, **environment))


def test_the_handler_wants_to_know_who_fences():
    done = run_handler()
    assert done.returncode == 2
    assert '--fence --already-fenced is required' in done.stderr


def test_the_fencing_command_must_name_the_host():
    done = run_handler('--fence', 'fence {hots}')
    assert done.returncode == 2
    assert '--fence: put {host} into "fence {hots}"' in done.stderr


@pytest.mark.parametrize('config, expected', [
    (None, 'Check --config-file'), ('transport_url = nowhere', 'Check --conf'),
    ('transport_url = fake:/', 'Set OS_CLOUD')])
def test_the_handler_says_what_is_missing(tmp_path, config, expected):
    path = tmp_path / 'nova.conf'
    if config is not None:
        path.write_text('[DEFAULT]\n%s\n' % config)
    done = run_handler('--already-fenced', '--config-file', str(path),
                       HOME=str(tmp_path), OS_CLOUD='')
    assert done.returncode == 1
    assert expected in done.stderr.splitlines()[-1]
    assert 'Traceback' not in done.stderr


def test_the_handler_names_the_package_that_is_missing(tmp_path):
    (tmp_path / 'openstack.py').write_text('raise ImportError("No SDK")')
    done = run_handler(PYTHONPATH=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr.startswith('No SDK: install openstacksdk and ')
    assert len(done.stderr.splitlines()) == 1
