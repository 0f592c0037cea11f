# SPDX-License-Identifier: Apache-2.0


"""The keeper's registrar against a fake client, one pass at a time.

For what real servers don't do when a test wants it. The rest is shown on real
ones, by the functional and fault tests.
"""

import types

from kazoo import exceptions as kazoo_exc
from kazoo.protocol import states
import pytest

from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import own_record
from nova_servicegroup.keeper import record
from nova_servicegroup.keeper import registrar
from nova_servicegroup.keeper import session

GROUP = '/servicegroups/compute'
RECORDS = '/servicegroups/@last/compute'


class Client:
    """Answers each request at once, from a dictionary of nodes."""

    def __init__(self):
        self.client_id = None
        self.client_state = states.KeeperState.CONNECTED
        self.last_zxid = 7
        self.nodes = {'/': 0, '/servicegroups': 0, GROUP: 0}  # path -> owner
        self.data = {}          # path of a record -> (content, version)
        self.watches = {}       # path of a record -> callable
        self.requests = []
        self.failing = {}       # name of a request -> exception
        self.before = None      # called with the name of each request
        self._connection = None
        self.handler = types.SimpleNamespace()

    def __getattr__(self, name):
        if not name.endswith('_async'):
            raise AttributeError(name)
        request = name.removesuffix('_async')

        def ask(path, *args, **kwargs):
            self.requests.append(request)
            if self.before is not None:
                self.before(request)
            try:
                if request in self.failing:
                    raise self.failing[request]
                result = getattr(self, '_' + request)(path, *args, **kwargs)
            except Exception as e:
                return types.SimpleNamespace(get=_raising(e))
            return types.SimpleNamespace(get=lambda timeout: result)
        return ask

    def _exists(self, path, watch=None):
        owner = self.nodes.get(path)
        return None if owner is None else types.SimpleNamespace(
            ephemeralOwner=owner, numChildren=0)

    def _create(self, path, data, acl, ephemeral=False):
        if path in self.nodes:
            raise kazoo_exc.NodeExistsError
        self.nodes[path] = self.client_id[0] if ephemeral else 0
        self.data[path] = data, 0

    def _delete(self, path):
        if path not in self.nodes:
            raise kazoo_exc.NoNodeError
        del self.nodes[path]

    def _get(self, path, watch=None):
        if path not in self.data:
            raise kazoo_exc.NoNodeError
        if watch is not None:
            self.watches[path] = watch
        data, version = self.data[path]
        return data, types.SimpleNamespace(version=version, mtime=0, czxid=1)

    def _set(self, path, data, version):
        if self.data[path][1] != version:
            raise kazoo_exc.BadVersionError
        self.data[path] = data, version + 1
        if path in self.watches:
            self.watches.pop(path)(types.SimpleNamespace(
                path=path, type=states.EventType.CHANGED))
        return types.SimpleNamespace(czxid=1)

    def transaction(self):
        return Transaction(self)

    def _sync(self, path):
        return path

    def _get_children(self, path, watch=None):
        return [node.rpartition('/')[2] for node in self.nodes
                if node.startswith(path + '/')]

    def add_listener(self, listener):
        self.change = lambda state: listener(state)

    def start_async(self):
        pass

    def stop(self):
        raise AssertionError('that ends a session')


class Transaction:
    """Its requests succeed, or it fails with the first error."""

    def __init__(self, client):
        self._client = client
        self._requests = []

    def __getattr__(self, name):
        return lambda path, *args, **kwargs: self._requests.append(
            (name.removesuffix('_data'), path, args, kwargs))

    def commit_async(self):
        results = []
        for name, path, *_ in self._requests:
            if name == 'create' and path in self._client.nodes:
                results = [kazoo_exc.NodeExistsError()] * 2
            if name == 'delete' and path not in self._client.nodes:
                results = [kazoo_exc.NoNodeError()] * 2
        if not results:
            results = [
                getattr(self._client, name + '_async')(
                    path, *args, **kwargs).get(0)
                for name, path, args, kwargs in self._requests]
        return types.SimpleNamespace(get=lambda timeout: results)


def _raising(error):
    def get(timeout):
        raise error
    return get


class World:
    """A registrar without its thread, and a clock that stands."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        self._posted = []
        self.registrar = registrar.Registrar({
            'hosts': 'h:1', 'session_timeout': 4, 'retry_interval': 5,
            'security': {}, 'ident': None, 'clock': None},
            lambda op, **fields: self._posted.append(dict(fields, op=op)),
            lambda: self.now, lambda low, high: high)
        self.client = Client()
        monkeypatch.setattr(self.registrar.security, 'client',
                            lambda *args: self.client)
        self.registrar._connect()

    def turn(self, seconds=0):
        """Let time pass; do what was submitted and then one pass."""
        self.now += seconds
        self.registrar._take(self.now)
        self.registrar._pass()

    def connect(self, session):
        self.client.client_id = (session, b'secret')
        self.client.change(states.KazooState.CONNECTED)
        self.turn()

    def lose(self):
        self.client.change(states.KazooState.SUSPENDED)
        self.turn()

    def join(self, host='host1', number=1, records=None, node=None, **more):
        self.registrar.submit(lambda: self.registrar.join(
            number, GROUP, records, host, {}, node, **more))
        self.turn()

    def call(self, name, *args):
        self.registrar.submit(getattr(self.registrar, name), *args)
        self.turn()

    def part(self, number, how):
        self.call('part', [number], how, lambda: None)

    def node(self, number=1):
        return self.registrar._members[number].node

    def record(self, host='host1'):
        return record.parse(*self.client._get(RECORDS + '/' + host))

    def watch(self):
        self.registrar.submit(self.registrar.watch, GROUP, None, 600,
                              [])
        self.turn()

    def posted(self, op):
        """Return the messages of a kind since the last time."""
        found = [m for m in self._posted if m['op'] == op]
        self._posted.clear()
        return found

    def owners(self, host='host1'):
        """Return the sessions that have a node for a host."""
        return [owner for path, owner in self.client.nodes.items()
                if names.host(path.rpartition('/')[2]) == host]


@pytest.fixture
def world(monkeypatch):
    return World(monkeypatch)


def test_a_session_that_does_not_answer_is_none(world):
    world.client.failing['exists'] = kazoo_exc.ConnectionLoss()
    world.connect(1)
    assert 'connected' not in [m['state'] for m in world.posted('state')]
    del world.client.failing['exists']
    world.turn(session.RETRY)
    assert [m['state'] for m in world.posted('state')] == ['connected']


def test_each_connection_is_synced_before_it_is_believed(world):
    world.connect(1)
    world.watch()
    listing = [r for r in world.client.requests
               if r in ('sync', 'get_children')]
    assert listing == ['sync', 'get_children']
    for _ in range(2):
        world.lose()
        world.client.requests.clear()
        world.connect(1)
        world.turn(1)
        listing = [r for r in world.client.requests
                   if r in ('sync', 'get_children')]
        assert listing == ['sync', 'get_children']


def test_a_change_that_nobody_told_of_is_seen_in_two_minutes(world):
    world.connect(1)
    world.watch()
    world.posted('view')
    node = names.node('host1', '%016x' % 1)
    world.client.nodes['%s/%s' % (GROUP, node)] = 1
    assert world.registrar._next_event() <= world.now + 120
    world.turn(120)
    seen, = world.posted('view')
    assert seen['nodes'] == [(node, True)]


def test_a_session_that_changes_while_it_joins_gets_one_node(world):
    world.connect(1)

    def another_session(request):
        if request == 'create':
            world.client.client_id = (2, b'secret')

    world.client.before = another_session
    world.join()
    assert world.owners() == [2]
    # Before its news come, it is made by nobody's session again.
    world.turn(session.RETRY)
    assert world.owners() == [2]
    world.client.change(states.KazooState.LOST)
    world.client.change(states.KazooState.CONNECTED)
    world.turn()
    world.turn(1)
    assert world.owners() == [2]
    assert world.posted('member')[-1]['node'] is not None
    world.registrar.submit(world.registrar.leave, 1, 'left', 9)
    world.turn()
    assert world.owners() == []


def test_who_deletes_a_node_at_once_is_not_fought(world):
    world.connect(1)

    def delete(request):
        if request == 'exists':
            for path in list(world.client.nodes):
                if '@' in path:
                    del world.client.nodes[path]

    world.client.before = delete
    world.join()
    assert world.client.requests.count('create') == own_record.ATTEMPTS
    world.client.before = None
    world.turn(session.RETRY)
    assert world.owners() == [1]


def test_who_is_away_for_too_long_keeps_its_session_if_it_can(world):
    world.connect(1)
    world.join()
    world.lose()
    world.posted('state')
    # The old client would end the session that another one takes over.
    world.turn(5)
    assert [m['state'] for m in world.posted('state')] == ['expired']
    # A wiped ensemble refuses who has seen more than it holds.
    assert world.client.last_zxid == 0
    world.connect(1)
    world.turn(1)
    assert world.owners() == [1]


def test_who_reads_a_group_is_back_before_the_others(world):
    assert not vars(world.client.handler)
    world.watch()
    assert world.client.handler.share_of_pause < 1
    # So is a client that takes its place.
    world.client.handler = types.SimpleNamespace()
    world.registrar._connect()
    assert world.client.handler.share_of_pause < 1


def test_a_process_that_hung_before_it_was_killed_has_hung(world):
    world.connect(1)
    world.join(records=RECORDS)
    world.call('hang', 1, 60)
    assert (world.record().state, world.owners()) == ('hung', [])
    before = world.client.data[RECORDS + '/host1']
    world.turn(600)
    # What it did is known: nobody waits once more for its return.
    world.part(1, 'killed')
    assert world.client.data[RECORDS + '/host1'] == before


@pytest.mark.parametrize('how', ['killed', 'left', None, 'hung'])
def test_no_node_of_an_earlier_session_is_left(world, how):
    """The session of the keeper before lasts until it times out."""
    world.connect(1)
    world.join(records=RECORDS)
    old = world.node()
    del world.registrar._members[1]
    world.connect(2)
    world.join(records=RECORDS, node=old)
    assert sorted(world.owners()) == [1, 2]
    if how == 'hung':
        world.call('hang', 1, 60)
    else:
        world.part(1, how)
    assert world.owners() == []
    if how is not None:
        assert world.record().state == how


def test_no_node_of_the_own_session_before_is_left(world):
    world.connect(1)
    world.join()
    world.lose()
    world.client.change(states.KazooState.LOST)
    world.connect(2)
    world.turn(1)
    assert sorted(world.owners()) == [1, 2]
    world.part(1, 'left')
    assert world.owners() == []


def test_who_has_another_keeper_now_has_its_record_there(world):
    world.connect(1)
    world.join(records=RECORDS)
    world.call('release', [1])
    raw, version = world.client.data[RECORDS + '/host1']
    world.client.set_async(RECORDS + '/host1', raw.replace(
        b'joined', b'left'), version)
    left = world.client.data[RECORDS + '/host1']
    assert left[0] != raw
    world.turn(1)
    world.lose()
    world.connect(1)
    world.turn(1)
    assert world.client.data[RECORDS + '/host1'] == left
    world.part(1, None)
    assert (world.owners(), world.client.data[RECORDS + '/host1']) == (
        [], left)


def test_who_is_back_at_its_keeper_has_a_node_of_its_own(world):
    world.connect(1)
    world.join(records=RECORDS)
    world.call('release', [1])
    world.join(number=2, records=RECORDS, node=world.node(1))
    own = world.node(2)
    world.part(1, None)
    assert '%s/%s' % (GROUP, own) in world.client.nodes
    assert world.owners() == [1]


def test_who_hangs_gets_no_node_at_all(world):
    world.connect(1)
    world.client.requests.clear()
    world.join(node='host1@%016x' % 1, silent=60)
    assert 'create' not in world.client.requests
    world.call('live', 1)
    assert world.owners() == [1]
