# SPDX-License-Identifier: Apache-2.0

"""What is fuzzed, and what must hold for each input.

A target makes an input, which tells all when it is printed, and checks it:
``check`` raises when something is wrong. The times of day are this module's,
so an input is the same on every day.
"""

import contextlib
import datetime
import io
import logging
import math
import os
import pickle
import socket
import struct
import threading
import types
from unittest import mock
import urllib.parse
import zlib

from dogpile.cache import api as dogpile_api
from kazoo import exceptions as kazoo_exc
from kazoo import hosts as kazoo_hosts
from kazoo.protocol import states
# Whose options the drivers read.
import nova.conf  # noqa: F401
from oslo_config import cfg
from oslo_utils import timeutils

from nova_servicegroup import api
from nova_servicegroup import conf as sg_conf
from nova_servicegroup.drivers import db
from nova_servicegroup.drivers import mc
from nova_servicegroup.drivers import zk
from nova_servicegroup import evzookeeper
from nova_servicegroup.evzookeeper import child as keeper_child
from nova_servicegroup.evzookeeper import exceptions as zk_exc
from nova_servicegroup.evzookeeper import membership
from nova_servicegroup.evzookeeper import session as zk_session
from nova_servicegroup.keeper import loop
from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import news
from nova_servicegroup.keeper import protocol
from nova_servicegroup.keeper import record as records
from nova_servicegroup.keeper import registrar
from nova_servicegroup.keeper import watches
from nova_servicegroup import liveness
from nova_servicegroup.liveness import Question
from nova_servicegroup.liveness import State
from nova_servicegroup.memcached import configured
from nova_servicegroup.memcached import servers
from nova_servicegroup.memcached import view
from nova_servicegroup.memcached import wire
from nova_servicegroup import per_process

NOW = datetime.datetime(2026, 2, 3, 10, 9, 8, 7)
NOW_STAMP = wire.stamp_of(NOW)
DOWN_TIME = 60
HOSTS = ('c1', 'compute-0017.rack-4.example.org', 'a/b', '...', 'grüße',
         'a@b', '%41')
TOKEN = '0123456789abcdef'
PATH = '/servicegroups/compute'
RECORDS = '/servicegroups/@last/compute'


class Formatted(logging.Handler):
    """Formats what is logged: that is where odd values raise."""

    def emit(self, record):
        # Without this handler's net, which would print and go on.
        self.format(record).encode('utf-8', 'backslashreplace')


def _conf():
    """Return a configuration as Nova's: nobody's files are read."""
    conf = cfg.ConfigOpts()
    conf.register_opts([cfg.IntOpt('report_interval', default=10),
                        cfg.IntOpt('service_down_time', default=DOWN_TIME)])
    sg_conf.register_opts(conf)
    conf([], project='nova', default_config_files=[])
    return conf


CONF = _conf()


def _zk_conf():
    # Each time: oslo.config keeps an override in what all ConfigOpts share,
    # and the fixtures of other tests take it away.
    CONF.set_override('address', '127.0.0.1:1', group='zookeeper')
    return CONF


def _clocks(now=1000.0):
    """Return a namespace of clocks; its ``now`` is monotonic time."""
    clock = types.SimpleNamespace(now=now)
    clock.monotonic = lambda: clock.now
    clock.utcnow = lambda: NOW + datetime.timedelta(
        seconds=clock.now - now)
    return clock


class Names:
    """Names of znodes: one spelling of a host is ours, nothing else."""

    name = 'names'
    weight = 15
    corpus = [names.node(host, TOKEN) for host in HOSTS] + [
        TOKEN, '@last', 'zookeeper', 'nova-compute', 'c1@@' + TOKEN]

    def make(self, chaos):
        return chaos.text_like(self.corpus)

    def check(self, name):
        host = names.host(name)
        if host is not None:
            quoted, _, token = name.rpartition('@')
            assert len(token) == 16 and int(token, 16) >= 0
            assert urllib.parse.unquote(
                quoted, errors='surrogatepass') == host
            assert names.node(host, token) == name
        quoted = names.quote(name)
        assert quoted.isascii() and '/' not in quoted
        assert names.host(quoted + '@' + TOKEN) == (name or None)


class Wire:
    """Values of memcached: what is read is what in-tree would read."""

    name = 'wire'
    weight = 25
    moments = [NOW, NOW - datetime.timedelta(seconds=59, microseconds=10),
               NOW - datetime.timedelta(days=9), datetime.datetime.max]
    tokens = [b'I2\n', b'I01\n', b'I00\n', b'F1e400\n', b'Fnan\n', b'N',
              b'p0\n', b'p99999\n', b'g0\n', b'0', b'.', b'(', b'R', b't',
              b'(dp1\n', b'cos\nsystem\n', b'cdatetime\ndatetime\n', b'Vct\n',
              b'V\xed\xb0\x80\n', b'V\\ud800\n', b'\x80\x04', b'c__builtin__\n'
              b'tuple\n', b'Vworkers\np14\n(dp15\n']

    def __init__(self):
        self.corpus = []
        for moment in self.moments:
            stamp = wire.stamp_of(moment)
            for workers in ({}, {'1f-00aa': stamp},
                            {'%x-00bb' % n: stamp for n in range(40)}):
                self.corpus.append(wire.encode(stamp, moment, workers))
            in_tree = dogpile_api.CachedValue(moment, {'ct': stamp, 'v': 2})
            self.corpus += [pickle.dumps(in_tree, protocol)
                            for protocol in (0, 0, 0, 2, 4)]
        gap = liveness.Gap(NOW_STAMP - 200, NOW_STAMP - 100)
        self.corpus += [
            wire.encode(NOW_STAMP, None, {}),
            wire.encode(NOW_STAMP, NOW, {'1f-00aa': NOW_STAMP}, gap),
            wire.encode(NOW_STAMP, NOW, {}, gap, stopped=True),
            # Of a later release.
            pickle.dumps(dogpile_api.CachedValue(NOW, {
                'ct': NOW_STAMP, 'v': 2, 'end': 'stopped', 'later': 1,
                'text': 'a', 'more': (2.5, None, 2 ** 40, 'b')}), 0)]

    def make(self, chaos):
        flags = 1
        if chaos.often(0.2):
            data = chaos.bytes_like([self._pickled(chaos)], self.tokens)
        else:
            data = chaos.bytes_like(self.corpus, self.tokens)
        if chaos.often(0.1):
            flags, data = 9, zlib.compress(data)
            if chaos.often(0.5):
                data = chaos.bytes_like([data])
        if chaos.often(0.05):
            flags = chaos.choice((None, 0, 2, 3, 8, 9, 10 ** 9))
        return flags, data

    def _pickled(self, chaos):
        """Return a value that is sound as a pickle, and odd inside."""
        metadata = {'ct': NOW_STAMP, 'v': 2,
                    'workers': {'1f-00aa': NOW_STAMP},
                    'gap': (NOW_STAMP - 200, NOW_STAMP - 100),
                    'end': 'stopped', 'later': chaos.thing()}
        if chaos.often(0.5):
            del metadata['end']
        if chaos.often(0.5):
            metadata = chaos.dict_like([metadata])
        if chaos.often(0.5):
            odd = chaos.choice((
                chaos.text_like(['1f-00aa']), 'a' * chaos.randrange(16000),
                None, 7, 1.5, NOW, ('1f-00aa',)))
            metadata['workers'] = {odd: NOW_STAMP, '2f-00bb': NOW_STAMP}
        return pickle.dumps(dogpile_api.CachedValue(
            chaos.choice((NOW, NOW, None, chaos.thing())), metadata), 0)

    def check(self, value):
        try:
            beat = wire.decode(*value)
        except wire.Unreadable:
            return
        moment = in_tree(*value)
        assert beat.moment == moment, (beat, moment)
        assert math.isfinite(beat.stamp)
        # A writer takes the other workers over into its own value.
        workers = {**beat.workers, '2f-00cc': NOW_STAMP + 10 ** 12}
        ours = wire.encode(NOW_STAMP, NOW, workers, beat.gap)
        assert wire.decode(1, ours).gap == beat.gap
        assert wire.decode(1, ours).workers.items() <= workers.items()
        assert in_tree(1, ours).replace(tzinfo=None) == NOW


class _Plain(pickle.Unpickler):
    """Python's own unpickler, with the few classes that may be named."""

    classes = {
        ('copyreg', '_reconstructor'): __import__('copyreg')._reconstructor,
        ('dogpile.cache.api', 'CachedValue'): dogpile_api.CachedValue,
        ('builtins', 'tuple'): tuple,
        ('datetime', 'datetime'): datetime.datetime,
        ('_codecs', 'encode'): __import__('_codecs').encode}

    def find_class(self, module, name):
        return self.classes[module.replace('copy_reg', 'copyreg').replace(
            '__builtin__', 'builtins'), name]


def in_tree(flags, data):
    """Return the time that Nova's in-tree driver reads, aware, or None.

    To be called with nothing but what ``wire.decode`` took.
    """
    if flags & 8:
        data = zlib.decompress(data)
    value = _Plain(io.BytesIO(data)).load()
    assert type(value) is dogpile_api.CachedValue and len(value) == 2
    assert value.metadata['v'] == 2
    if value.payload is None:
        return None
    assert type(value.payload) is datetime.datetime
    return value.payload.replace(tzinfo=datetime.timezone.utc)


class Heartbeats:
    """What the mc driver makes of values that change from look to look."""

    name = 'heartbeats'
    weight = 10

    def __init__(self):
        self._wire = Wire()

    def make(self, chaos):
        looks = []
        for _ in range(chaos.randint(1, 4)):
            values = [None if chaos.often(0.2) else
                      self._wire.make(chaos) for _ in range(2)]
            if chaos.often(0.1):
                values[0] = 'lost'
            looks.append((chaos.choice((0, 1, 10, 59, 61, 1000)), values))
        return looks

    def check(self, looks):
        clock = _clocks()
        store = _Dictionaries()
        driver = mc.MemcachedDriver(
            conf=CONF, store=store, inventory=lambda group: [],
            monotonic=clock.monotonic, utcnow=clock.utcnow)
        reader = view.View(store, driver.settings, clock.monotonic,
                           clock.utcnow)
        seen = {}
        evidence = False
        for passed, values in looks:
            clock.now += passed
            # So that this look is one.
            reader.due = float('-inf')
            store.hold(values)
            for index, value in enumerate(values):
                if value == 'lost':
                    continue
                first, before = index not in seen, seen.get(index)
                seen[index] = value
                if value == before:
                    continue
                with contextlib.suppress(wire.Unreadable, TypeError):
                    beat = wire.decode(*value)
                    if beat.end is None:
                        age = (beat.moment.replace(tzinfo=None)
                               - clock.utcnow()).total_seconds()
                        # What comes later is judged by when it came.
                        evidence |= not first or abs(age) <= DOWN_TIME
            found = reader.observe(
                reader.member(('compute', 'c1'), list))
            verdict = liveness.judge(
                found, lambda: reader.group('compute', list), reader.now(),
                driver.settings.rules)
            if verdict.state is State.UP:
                assert evidence, verdict
            assert verdict.seen_at is None or verdict.seen_at.tzinfo


class _Dictionaries(list):
    """Two servers that hold one value each."""

    timeout = 1.0
    dead_retry = 0
    prefix = ''

    def __init__(self):
        super().__init__([_Dictionary(), _Dictionary()])

    def of(self, key):
        return range(2)

    def hold(self, values):
        for server, value in zip(self, values):
            server.value = value


class _Dictionary:

    name = 'a dictionary'

    def get(self, keys, timeout):
        if self.value == 'lost':
            raise servers.ServerLost('it is lost')
        return {} if self.value is None else dict.fromkeys(keys, self.value)


class Talk:
    """What a memcached server may answer, in pieces, until it hangs up."""

    name = 'talk'
    weight = 10
    keys = [wire.key('compute', host) for host in HOSTS]
    tokens = [b'VALUE ', b'\r\n', b'\n', b'END\r\n', b' 1 ', b'ERROR\r\n',
              b'SERVER_ERROR out of memory\r\n', b'STORED\r\n', b'EXISTS\r\n',
              b' 99999999999', b' 4294967295', b' -1', b'\x80\x81']

    def __init__(self):
        data = wire.encode(NOW_STAMP, NOW, {})

        def value(key, *token):
            return b'VALUE %s %s\r\n%s\r\n' % (key.encode(), b' '.join(
                str(n).encode() for n in (1, len(data), *token)), data)

        self.corpus = {
            'get': [b''.join(map(value, self.keys)) + b'END\r\n',
                    value(self.keys[0]) + b'END\r\n', b'END\r\n',
                    b'VALUE %s 1 20000\r\n%s\r\nEND\r\n' % (
                        self.keys[0].encode(), b'x' * 20000)],
            'gets': [value(self.keys[0], 77) + b'END\r\n', b'END\r\n',
                     value(self.keys[0], 2 ** 64 - 1) + b'END\r\n'],
            'put': [b'STORED\r\n', b'EXISTS\r\n', b'NOT_FOUND\r\n',
                    b'SERVER_ERROR out of memory storing object\r\n']}

    def make(self, chaos):
        verb = chaos.choice(('get', 'get', 'gets', 'put'))
        corpus = self.corpus[chaos.choice((verb, verb, verb, 'get'))]
        answers = [chaos.bytes_like(corpus, self.tokens)
                   for _ in range(chaos.randint(1, 2))]
        return verb, answers, chaos.choice((
            1 if len(answers[0]) < 1000 else 60, 7, 100, 10 ** 6))

    def check(self, value):
        verb, answers, piece = value
        server = servers.Server('127.0.0.1:1')
        pieces = [[answer[start:start + piece]
                   for start in range(0, len(answer), piece)]
                  for answer in answers]
        host = _Host(pieces)
        server._reading._host = server._writing._host = host
        try:
            for _ in answers:
                self._ask(server, verb)
        except (servers.ServerLost, servers.ServerRefused) as e:
            str(e).encode('utf-8')
            # What wasn't read must not answer the next question.
            assert isinstance(e, servers.ServerRefused) or not host.socket

    def _ask(self, server, verb):
        if verb == 'get':
            found = server.get(self.keys, 5)
            assert set(found) <= set(self.keys)
            for flags, data in found.values():
                assert flags is None or flags >= 0
                assert len(data) <= wire.MAX_SIZE
        elif verb == 'gets':
            found = server.gets(self.keys[0], 5)
            if found is not None:
                flags, data, token = found
                assert token >= 0
        else:
            assert server.put(self.keys[0], b'x', 5, 5) in (True, False)


class _Host:
    """Stands for python-memcached's connection: speaks, then hangs up."""

    def __init__(self, connections):
        self.family = socket.AF_INET
        self.socket = None
        self._connections = iter(connections)

    def connect(self):
        if self.socket is None:
            pieces = next(self._connections, None)
            if pieces is not None:
                self.socket = _Socket(pieces)
        return self.socket is not None

    def close_socket(self):
        self.socket = None


class _Socket:

    def __init__(self, pieces):
        self._pieces = iter(pieces)

    def settimeout(self, timeout):
        assert 0 < timeout < 60

    def sendall(self, data):
        assert data.endswith(b'\r\n')

    def recv(self, size):
        return next(self._pieces, b'')


class _Record(dict):
    """A service record with the two ways to ask that Nova's objects have."""

    def __getattr__(self, name):
        try:
            return self[name]
        except KeyError as e:
            raise AttributeError(name) from e


class Records:
    """Service records with odd types and times, asked of each driver."""

    name = 'records'
    weight = 15
    fields = ('host', 'topic', 'binary', 'created_at', 'updated_at',
              'last_seen_up', 'forced_down', 'disabled', 'report_count')
    #: Nova's rows have them, whatever they hold
    always = ('host', 'topic', 'created_at', 'updated_at')

    def __init__(self):
        clock = _clocks()
        common = {'conf': CONF, 'monotonic': clock.monotonic,
                  'utcnow': clock.utcnow, 'inventory': lambda group: []}
        self._drivers = [
            _DbDriver(**common),
            mc.MemcachedDriver(store=_Empty(), **common),
            zk.ZooKeeperDriver(**dict(common, store=_Session(),
                                      conf=_zk_conf()))]

    def make(self, chaos):
        record = _Record()
        for name in self.fields:
            if chaos.often(0.03) and name not in self.always:
                continue
            if chaos.often(0.1) and name in ('host', 'topic'):
                record[name] = chaos.choice((None, '', b'c1', 5, object))
            elif chaos.often(0.08) and name not in ('host', 'topic'):
                record[name] = chaos.choice((
                    chaos.thing(), b'c1', datetime.date(2026, 2, 3),
                    datetime.time(1, 2), datetime.timedelta(1), object))
            elif name.endswith(('_at', '_up')):
                record[name] = self._time(chaos)
            elif name == 'host':
                record[name] = chaos.text_like(HOSTS)
            elif name == 'topic':
                record[name] = 'compute' if chaos.often(0.9) else (
                    chaos.text_like(['conductor']))
            elif name == 'report_count':
                record[name] = chaos.choice((
                    0, 5, 2 ** 30, 2 ** 30 + 0xffff, 2 ** 30 + 0x3fffffff,
                    2 ** 30 + chaos.randrange(2 ** 30), chaos.thing()))
            elif name in ('forced_down', 'disabled'):
                record[name] = chaos.often(0.1)
            else:
                record[name] = 'nova-compute'
        return record

    def _time(self, chaos):
        if chaos.often(0.2):
            return None
        moment = chaos.moment(NOW)
        if chaos.often(0.3):
            return chaos.text_like([
                moment.isoformat(), moment.strftime('%Y-%m-%dT%H:%M:%SZ')])
        return moment

    def check(self, record):
        for driver in self._drivers:
            # Nobody else's, and nothing from an earlier input.
            per_process.forget()
            driver.rows = [record]
            asked = _api(driver)
            up = asked.service_is_up(record)
            state = asked.verdict(record).state
            asked.get_updated_time(record)
            asked.last_sign_of_life(record)
            assert up in (True, False)
            assert asked.answer(record, Question.MAY_PLACE) in (
                True, False, None)
            assert up or state in (State.DOWN, State.UNKNOWN)
            if state is State.UP:
                assert driver.name == 'db' and in_time(record), driver.name
                count = record.get('report_count')
                assert not (isinstance(count, int) and count >= 2 ** 30
                            and count % 2 ** 24 >= 0xfffffe)


class _DbDriver(db.DbDriver):
    """Lists the one record that it is asked about."""

    rows = ()

    def list_heartbeats(self, record, topic):
        return [types.SimpleNamespace(
            **{name: row.get(name) for name in Records.fields})
            for row in self.rows]


def _api(driver):
    """Return Nova's API on a driver that is there already."""
    asked = api.API.__new__(api.API)
    asked._driver = driver
    return asked


def in_time(record):
    """Tell whether a record's last sign of life is recent."""
    for name in ('last_seen_up', 'created_at'):
        moment = record.get(name)
        if isinstance(moment, str) and moment:
            moment = timeutils.parse_isotime(moment)
        if moment:
            return abs(timeutils.normalize_time(moment)
                       - NOW).total_seconds() <= DOWN_TIME
    return False


class _Empty(_Dictionaries):

    def __init__(self):
        super().__init__()
        self.hold([None, None])


class _Session:
    """Stands for a ZKSession: an empty listing of everything."""

    ahead = 0

    def add_monitor(self, monitor):
        self.monitor = monitor
        monitor._listed.set()
        monitor.seen([], [], {}, None)


class Addresses:
    """Addresses of servers, of both kinds."""

    name = 'addresses'
    weight = 10
    zookeeper = ['h1', 'h1:2181,h2:2181,h3:2181', '[fd00::1]:2181',
                 'h1:1,h2:2/region/one', ' h1:1 , h2:2 ', 'h1:1/',
                 'h1:%s' % ('9' * 5000)]
    memcached = ['h1:11211', 'h1', 'inet6:[fd00::1]:11211', 'inet:h1:1',
                 'unix:/run/memcached.sock', '<None>']

    def make(self, chaos):
        if chaos.often(0.5):
            return 'zookeeper', chaos.text_like(self.zookeeper)
        return 'memcached', chaos.text_like(self.memcached)

    def check(self, value):
        what, address = value
        if what == 'memcached':
            server = configured.Servers._open(address)
            assert server.name == address
            if isinstance(server, servers.InvalidServer):
                str(server.problem)
            return
        try:
            checked = evzookeeper.check_address(address)
        except zk_exc.BadAddress as e:
            str(e)
            return
        assert evzookeeper.check_address(checked) == checked
        found, chroot = kazoo_hosts.collect_hosts(checked)
        assert found and all(host and 0 < port < 65536
                             for host, port in found)
        assert not chroot or chroot.startswith('/')
        registrar.Registrar(dict(CONFIG, hosts=checked), None)


CONFIG = {'version': protocol.VERSION, 'parent': os.getppid(),
          'hosts': 'h1:2181', 'session_timeout': 4.0, 'ident': None,
          'security': {'auth': None, 'tls': None, 'open_reading': True},
          'retry_interval': 5, 'clock': None}
_QUOTED = [names.quote(host) for host in HOSTS] + ['@clock', 'c9']
_NODES = [names.node(host, TOKEN) for host in HOSTS]
_FROM_PARENT = [
    dict(CONFIG, op='config'),
    dict(CONFIG, op='config', ident=[2 ** 62, '00ff' * 8]),
    {'op': 'join', 'id': 1, 'path': PATH, 'records': None, 'host': 'c1',
     'data': {'host': 'c1', 'pid': 7}, 'pulse_timeout': 60, 'silent': 0.5,
     'node': None},
    {'op': 'join', 'id': 1, 'path': PATH, 'records': '/r', 'host': 'c1',
     'data': {}, 'pulse_timeout': None, 'silent': 0, 'node': _NODES[0]},
    {'op': 'pulse', 'id': 1, 'seq': 3},
    {'op': 'leave', 'id': 1, 'seq': 4, 'how': 'stopped'},
    {'op': 'watch', 'path': PATH, 'records': '/r', 'bound': 600,
     'known': _NODES},
    {'op': 'details', 'seq': 5, 'path': PATH, 'host': 'c1'},
    {'op': 'ping'}, {'op': 'close'}]
_FROM_KEEPER = [
    {'op': 'hello', 'version': protocol.VERSION}, {'op': 'pong'},
    {'op': 'failed', 'reason': 'for a reason'},
    {'op': 'state', 'state': 'connected', 'ident': [5, '00ff'],
     'reason': ''},
    {'op': 'state', 'state': 'suspended', 'ident': None, 'reason': 'lost'},
    {'op': 'member', 'id': 1, 'node': _NODES[0], 'reason': ''},
    {'op': 'view', 'path': PATH, 'joined': _NODES, 'left': [], 'absences': {
        'c9': ['killed', 10 ** 9, True], 'c1': ['back', 1, 2.5]},
     'founded': 10 ** 9},
    {'op': 'view', 'path': PATH, 'joined': [], 'left': _NODES[:2],
     'absences': {
        'c9': None, 'c1': ['missed', 10 ** 9, False]}, 'founded': None},
    {'op': 'clock', 'ahead': 10 ** 9},
    {'op': 'unreadable', 'path': PATH, 'reason': 'NoAuthError'},
    {'op': 'answer', 'seq': 1, 'error': None, 'result': [
        [_NODES[0], {'pid': 7}, {'owner': 5, 'created_ms': 10 ** 12}]]},
    {'op': 'log', 'level': 30, 'text': 'grüße'}]


def _stream(chaos, corpus):
    """Return pieces of a stream of frames, most of them sound."""
    data = b''
    for _ in range(chaos.randint(1, 5)):
        if chaos.often(0.5):
            body = protocol.encode(**chaos.choice(corpus))[4:]
        else:
            body = chaos.json_like(corpus)
        length = len(body)
        if chaos.often(0.05):
            length = chaos.choice((0, 1, length + 1, protocol.MAX_FRAME,
                                   2 ** 32 - 1))
        data += struct.pack('>I', length) + body
    cut = chaos.randrange(len(data))
    return [data[:cut], data[cut:]]


class ToKeeper:
    """Frames to a keeper: it ends in order, and says why."""

    name = 'to-keeper'
    weight = 5

    def make(self, chaos):
        pieces = _stream(chaos, _FROM_PARENT)
        if chaos.often(0.8):
            # Without a config nothing else is heard.
            pieces.insert(0, protocol.encode(**_FROM_PARENT[0]))
        return pieces

    def check(self, pieces):
        ours, theirs = socket.socketpair()
        with ours:
            with theirs:
                keeper = _Keeper(ours, theirs, pieces)
                try:
                    with mock.patch.object(registrar, 'Registrar',
                                           _Registrar):
                        keeper.run()
                finally:
                    keeper.free()
            decoder = protocol.Decoder(protocol.FROM_KEEPER)
            said = []
            while data := ours.recv(65536):
                said += decoder.feed(data)
        assert said[0]['op'] == 'hello'
        assert (not keeper.pieces or said[-1]['op'] == 'failed'
                or _was_closed(pieces))


def _was_closed(pieces):
    decoder = protocol.Decoder(protocol.FROM_PARENT)
    with contextlib.suppress(protocol.ProtocolError):
        return any(message['op'] == 'close' for piece in pieces
                   for message in decoder.feed(piece))


class _Keeper(loop.Keeper):
    """A keeper in this process; its parent's words come one by one."""

    def __init__(self, ours, theirs, pieces):
        self._clock = _clocks()
        super().__init__(theirs, monotonic=self._clock.monotonic)
        self._ours = ours
        self.pieces = list(pieces) + [b'']

    def _serve(self):
        self._clock.now += 7
        if self.pieces:
            self._ours.sendall(self.pieces.pop(0))
        else:
            self._ours.shutdown(socket.SHUT_WR)
        # Not to wait.
        os.write(self._waker, b'.')
        return super()._serve()

    def _wait_for_end(self):
        return None

    def _close(self):
        """Without the alarm that would end this process."""

    def free(self):
        os.close(self._wake)
        os.close(self._waker)
        if self._pidfd is not None:
            os.close(self._pidfd)


class _Registrar(registrar.Registrar):
    """A registrar in this thread, and a ZooKeeper that only it sees."""

    def __init__(self, config, post, **clocks):
        super().__init__(config, post, **clocks)
        self.ensemble = _Ensemble()

    def start(self):
        self._connect()
        self._state_changed(self.client, states.KazooState.CONNECTED,
                            states.KeeperState.CONNECTED, (5, b'x'))
        self._pass()

    def _connect(self):
        self.client = self.ensemble
        self.watches = watches.Watches(self.client)

    def submit(self, method, *args):
        method(*args)
        self._next_event()
        self._pass()


class _Ensemble:
    """What a registrar asks of a KazooClient; the nodes are a dictionary."""

    def __init__(self):
        self.nodes = {}     # path -> (data, stat)
        self.handler = types.SimpleNamespace()
        self.closed = False

    def stop(self):
        pass

    close = stop

    def _stat(self, owner):
        return types.SimpleNamespace(
            ephemeralOwner=owner, version=0, ctime=10 ** 12, mtime=10 ** 12,
            czxid=1, mzxid=1, numChildren=3)

    def put(self, path, data, owner):
        self.nodes[path] = data, self._stat(owner)

    def exists_async(self, path, watch=None):
        return _Result(self.nodes.get(path, (None, None))[1])

    def get_async(self, path, watch=None):
        return _Result(self.nodes.get(path, kazoo_exc.NoNodeError()))

    def get_children_async(self, path, watch=None, include_data=False):
        found = [name[len(path) + 1:] for name in self.nodes
                 if name.startswith(path + '/')]
        return _Result((found, self._stat(0)) if include_data else found)

    def transaction(self):
        return _Transaction(self)

    def sync_async(self, path):
        return _Result(path)

    def create_async(self, path, data, acl=None, ephemeral=False):
        if path in self.nodes:
            return _Result(kazoo_exc.NodeExistsError())
        self.put(path, data, 5 if ephemeral else 0)
        return _Result(path)

    def delete_async(self, path, version=-1):
        if self.nodes.pop(path, None) is None:
            return _Result(kazoo_exc.NoNodeError())
        return _Result(True)

    def set_async(self, path, data, version=-1):
        if path not in self.nodes:
            return _Result(kazoo_exc.NoNodeError())
        self.put(path, data, self.nodes[path][1].ephemeralOwner)
        return _Result(self.nodes[path][1])


class _Transaction:
    """Requests that are made together; here, one after the other."""

    def __init__(self, ensemble):
        self._ensemble = ensemble
        self._made = []

    def create(self, path, data, acl=None, ephemeral=False):
        self._made.append(self._ensemble.create_async(path, data, acl,
                                                      ephemeral))

    def set_data(self, path, data, version=-1):
        self._made.append(self._ensemble.set_async(path, data, version))

    def delete(self, path):
        self._made.append(self._ensemble.delete_async(path))

    def commit_async(self):
        return _Result([request._value for request in self._made])


class _Result:

    def __init__(self, value):
        self._value = value

    def get(self, timeout):
        if isinstance(self._value, Exception):
            raise self._value
        return self._value


class Ends:
    """Records of how a member ended: whatever is no record is none."""

    name = 'ends'
    weight = 10
    corpus = [
        records.joined(TOKEN, None),
        records.joined(TOKEN, records.Record(
            TOKEN, 'missed', 9e8, (8e8, 8.1e8), 1e9, 1, 1)),
        records.ended(TOKEN, 'killed', 3.25, None),
        records.ended(TOKEN, 'hung', 60, None),
        records.missed(records.Record(TOKEN, 'joined', 9e8, None, 1e9, 1, 1)),
    ]
    tokens = [b' killed', b' left', b' joined', b'1' + b'0' * 400, b'1e999',
              b' age=1.5', b' gap=1,2', b' gap=-5,0', b'-', b'\n']

    def make(self, chaos):
        return chaos.bytes_like(self.corpus, self.tokens), chaos.choice((
            0, 1, 10 ** 12, 2 ** 63 - 1))

    def check(self, value):
        raw, mtime = value
        found = records.parse(raw, types.SimpleNamespace(
            mtime=mtime, version=3, czxid=4))
        if found is None:
            return
        assert found.state.encode() in raw and found.token.encode() in raw
        assert math.isfinite(found.last)
        assert found.gap is None or all(map(math.isfinite, found.gap))
        # Whoever takes it over writes what can be read.
        for data in (records.joined(TOKEN, found), records.missed(found),
                     records.ended(TOKEN, 'killed', 1, found)):
            assert records.parse(data, types.SimpleNamespace(
                mtime=10 ** 12, version=3, czxid=4)) is not None, data


class Znodes:
    """Names, owners, data and records of a group, as a reader sees them."""

    name = 'znodes'
    weight = 4
    owners = (0, 1, 5, 2 ** 62, -2 ** 63, -2 ** 62)
    data = [{'host': 'c1', 'binary': 'nova-compute', 'pid': 7,
             'boot_id': '0a-1b', 'joined_at': NOW.isoformat(),
             'version': '1.0'},
            {'boot_id': None}, {}]

    def make(self, chaos):
        looks = []
        for _ in range(chaos.randint(1, 3)):
            looks.append(({
                chaos.text_like(Names.corpus).replace('/', ''): (
                    chaos.json_like(self.data), chaos.choice(self.owners))
                for _ in range(chaos.randrange(5))}, {
                chaos.text_like(_QUOTED).replace('/', ''): (
                    chaos.bytes_like(Ends.corpus, Ends.tokens))
                for _ in range(chaos.randrange(4))}))
        return looks

    def check(self, looks):
        clock = _clocks()
        session = _ParentSession()
        driver = _zk_driver(session, clock)
        monitor = driver.monitor('compute')
        owned = frozenset()
        waiting = news.News()

        def post(op, **fields):
            if op == 'view':
                path = fields.pop('path')
                waiting.view(**fields)
                fields = dict(waiting.take(), path=path)
            decoder = protocol.Decoder(protocol.FROM_KEEPER)
            for message in decoder.feed(protocol.encode(op, **fields)):
                session.take(message)
                if op == 'answer':
                    _details(monitor, message)

        one = _Registrar(dict(CONFIG, clock=RECORDS + '/@clock'), post,
                         monotonic=clock.monotonic,
                         jitter=lambda low, high: low)
        one.start()
        one.submit(one.watch, PATH, RECORDS, 600, [])
        one.submit(one.join, 1, PATH, RECORDS, 'c1', {'boot_id': 'x'}, None)
        own, = (path for path in one.ensemble.nodes
                if path.startswith(PATH + '/'))
        ended = ''
        for listing, ends in looks:
            before = set(one.ensemble.nodes)
            for path in list(one.ensemble.nodes):
                if path.startswith((PATH + '/', RECORDS + '/')) and (
                        path != own):
                    del one.ensemble.nodes[path]
            for name, (data, owner) in listing.items():
                one.ensemble.put('%s/%s' % (PATH, name), data, owner)
            for name, data in ends.items():
                one.ensemble.put('%s/%s' % (RECORDS, name), data, 0)
            ended += repr(ends)
            # A persistent watch tells of them first.
            for path in before ^ set(one.ensemble.nodes):
                if path.startswith(PATH + '/'):
                    one.submit(
                        one._groups[PATH]._node_changed,
                        watches.CREATED if path in one.ensemble.nodes
                        else watches.DELETED, path)
            # Longer than any pause, so everything is looked at anew.
            for _ in range(3):
                clock.now += 300
                one.submit(one._next_event)
            one.submit(one.details, 7, PATH, 'c1')
            # A name that was a session's, and is always there, stays one's:
            # nobody but a forger gives a node that name again.
            owned = {name for name, (_, owner) in listing.items()
                     if name in owned or owner not in (0, -2 ** 63)}
            alive = {'c1', *map(names.host, owned)}
            for host in {*HOSTS, *map(names.host, listing),
                         *map(names.unquote, ends)} - {None, ''}:
                asked = _api(driver)
                record = {'topic': 'compute', 'host': host,
                          'updated_at': None}
                verdict = asked.verdict(record)
                asked.service_is_up(record)
                asked.get_updated_time(record)
                if verdict.state is State.UP:
                    assert host in alive, host
                if verdict.reason.name in liveness.End.__members__ and (
                        verdict.reason is not liveness.Reason.GONE):
                    # Somebody said so. GONE is for who says nothing.
                    assert verdict.reason.name.lower() in ended


def _zk_driver(session, clock):
    return _Driver(conf=_zk_conf(), store=session, monotonic=clock.monotonic,
                   utcnow=clock.utcnow, inventory=lambda group: [])


class _Driver(zk.ZooKeeperDriver):
    """A driver whose views are its own, made at once."""

    def __init__(self, **how):
        super().__init__(**how)
        self._objects = {}

    def shared(self, kind, make):
        if kind not in self._objects:
            self._objects[kind] = make()
        return self._objects[kind]

    def monitor(self, group):
        found = self.shared(('view', group), lambda: (
            membership.MembershipMonitor(self._session, self._path(group),
                                         records=RECORDS)))
        # Not to wait for a listing that may never come.
        found._created_at = float('-inf')
        return found


class _NoThread:
    """Stands for a session's thread: what it would do, the target does."""

    def __init__(self, **how):
        pass

    def start(self):
        pass


_THREADING = types.SimpleNamespace(
    Thread=_NoThread, Event=threading.Event, RLock=threading.RLock)


class _ParentSession(evzookeeper.ZKSession):
    """A session in this thread; its keeper's words are given to it."""

    def __init__(self):
        with mock.patch.object(zk_session, 'threading', _THREADING):
            super().__init__('h1:1')

    def take(self, message):
        self._child = _NoChild([])
        return self._take(message)

    def listen(self, child):
        """Hear all that a keeper says; return why it ended."""
        with mock.patch.object(keeper_child, 'Child',
                               lambda *args, **kwargs: child):
            failure = self._run_keeper()
        self._keeper_lost(failure, 0)
        return failure


class _NoChild:
    """Stands for a keeper process that says this and that."""

    pid = 1
    shared = False

    def __init__(self, pieces, between=None):
        self._decoder = protocol.Decoder(protocol.FROM_KEEPER)
        self._pieces = iter(pieces)
        self._between = between

    def receive(self):
        if self._between is not None:
            self._between()
        piece = next(self._pieces, None)
        return None if piece is None else self._decoder.feed(piece)

    def send(self, op, **fields):
        decoder = protocol.Decoder(protocol.FROM_PARENT)
        decoder.feed(protocol.encode(op, **fields))

    def refuse(self):
        pass

    def end(self):
        return 0


def _details(monitor, message):
    """Use an answer as a question about a member does."""
    monitor._session = types.SimpleNamespace(
        ask=lambda *args, **kwargs: message['result'])
    try:
        monitor.get_member_details('c1')
    except zk_exc.ZooKeeperException:
        pass


class FromKeeper:
    """Frames from a keeper: Nova gets answers, whatever comes."""

    name = 'from-keeper'
    weight = 6

    def make(self, chaos):
        pieces = _stream(chaos, _FROM_KEEPER)
        if chaos.often(0.8):
            pieces[:0] = [protocol.encode(**_FROM_KEEPER[0]),
                          protocol.encode(**_FROM_KEEPER[3])]
        return pieces

    def check(self, pieces):
        session = _ParentSession()
        driver = _zk_driver(session, _clocks())
        monitor = driver.monitor('compute')
        member = membership.Membership(session, PATH, 'c1', async_mode=True)
        heard = set()
        decoder = protocol.Decoder(protocol.FROM_KEEPER)
        with contextlib.suppress(protocol.ProtocolError):
            for piece in pieces:
                for message in decoder.feed(piece):
                    heard.update(message.get('joined', []))
                    if message['op'] == 'answer':
                        _details(monitor, message)

        def ask():
            for host in HOSTS[:3]:
                record = {'topic': 'compute', 'host': host,
                          'updated_at': None}
                asked = _api(driver)
                asked.service_is_up(record)
                asked.get_updated_time(record)
                if asked.verdict(record).state is State.UP:
                    assert host in set(map(names.host, heard))

        session.listen(_NoChild(pieces, ask))
        ask()
        member.refresh()
        member.leave()


TARGETS = (Names, Wire, Heartbeats, Talk, Records, Addresses, Ends, Znodes,
           ToKeeper, FromKeeper)
