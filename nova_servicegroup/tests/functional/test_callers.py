# SPDX-License-Identifier: Apache-2.0

"""No caller in Nova is harmed by doubt: see callers.py for each of them.

The tables in the documentation are what these tests saw. ``make
callers-table`` writes them anew; without it they are compared. Nova's answers
are the same in both of its concurrency modes: each table holds for both.
"""

import contextlib
import csv
import io
import os
import pathlib
import time

import pytest

from nova_servicegroup.tests.fixtures import memcached
from nova_servicegroup.tests.fixtures import neighbours
from nova_servicegroup.tests.fixtures import network
from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import zookeeper
from nova_servicegroup.tests.functional import callers

DOC = pathlib.Path(__file__).parents[3] / 'doc/source/admin'
HEAD = ('Caller', 'What it gets', 'What is saved', 'After the outage')
GRACE = 3
DOWN_TIME = 6
#: Of the group compute, in the two zones.
KVM = callers.ZONES['kvm']


@contextlib.contextmanager
def doubted(cloud, hosts, lose, restore):
    """Let some hosts be in doubt, and end it when the block ends."""
    def states():
        return {row['Host']: row['State'] for row in cloud.service_list()
                if row['Binary'] == 'nova-compute'}
    lose()
    try:
        process.wait_until(
            lambda: all(states()[host] == '???' for host in hosts), 60,
            'doubt')
        # The grace of readers that were there before.
        time.sleep(GRACE + 1)
        yield
    finally:
        restore()
    process.wait_until(
        lambda: '???' not in states().values(), 60, 'the end of doubt')


def frozen(cloud, hosts):
    """Freeze the nova-computes of some hosts."""
    computes = [cloud.services['nova-compute', host] for host in hosts]
    return doubted(
        cloud, hosts,
        lambda: [compute.freeze() for compute in computes],
        lambda: [compute.thaw() for compute in computes])


class Db:
    """Heartbeats in the database: half of the computes fall silent."""

    mode = nova.THREADING
    config = {}
    #: what the nova-computes of the zone kvm are started with
    prefix = ()

    def __init__(self, directory, stack):
        pass

    def some(self, cloud):
        return frozen(cloud, KVM)

    def all(self, cloud):
        return frozen(cloud, callers.HOSTS)


class Mc(Db):
    """Heartbeats in memcached: it is away."""

    mode = nova.EVENTLET

    def __init__(self, directory, stack):
        self._store = stack.enter_context(memcached.Memcached(directory))
        self.config = {'cache': {'memcache_servers': self._store.address}}

    def all(self, cloud):
        return doubted(cloud, callers.HOSTS,
                       self._store.kill, self._store.restart)


class Zk(Db):
    """Sessions with ZooKeeper: it is away, or out of some hosts' reach."""

    mode = nova.THREADING

    def __init__(self, directory, stack):
        self._ensemble = stack.enter_context(
            zookeeper.Ensemble(directory, size=1))
        self._network = stack.enter_context(network.Namespace())
        self.prefix = self._network.prefix
        self.config = {'zookeeper': {'address': self._ensemble.address,
                                     'recv_timeout': 3000}}

    def some(self, cloud):
        ports = [server.port for server in self._ensemble.servers]
        return doubted(cloud, KVM, lambda: self._network.lose(ports),
                       self._network.heal)

    def all(self, cloud):
        return doubted(cloud, callers.HOSTS,
                       self._ensemble.stop, self._ensemble.start)


OTHER = {nova.THREADING: nova.EVENTLET, nova.EVENTLET: nova.THREADING}
STORES = {'db': Db, 'mc': Mc, 'zk': Zk}


#: The drivers, and with 'other' in Nova's other concurrency mode.
PLAYS = ('db', 'db-other', 'mc', 'mc-other', 'zk', 'zk-other')


@pytest.fixture(scope='module', params=[
    PLAYS[0], *(pytest.param(name, marks=pytest.mark.long)
                for name in PLAYS[1:])])
def play(request, make_cloud, plugin_tree, tmp_path_factory):
    """A Nova of three computes and all that it takes to have servers."""
    callers.install_driver(plugin_tree)
    driver, _, other = request.param.partition('-')
    with contextlib.ExitStack() as stack:
        store = STORES[driver](tmp_path_factory.mktemp('store'), stack)
        mode = OTHER[store.mode] if other else store.mode
        around = stack.enter_context(neighbours.Neighbours())
        config = {**callers.config(around), **store.config,
                  'servicegroup': {'outage_grace': GRACE}}
        cloud = stack.enter_context(make_cloud(
            driver=driver, mode=mode, config=config,
            report_interval=1, service_down_time=DOWN_TIME))
        started = [cloud.start_compute(
            host, wait=False, prefix=store.prefix if host in KVM else ())
            for host in callers.HOSTS]
        started.append(cloud.start_api(callers.SOFT, wait=False, config={
            'DEFAULT': {'reclaim_instance_interval': 3600}}))
        for service in started:
            service.wait_started()
        scene = callers.Scene(cloud, around)
        stack.callback(scene.close)
        scene.prepare()
        yield driver, scene, store


def test_no_caller_is_harmed_by_doubt(play):
    driver, scene, store = play
    rows = callers.play(scene, store.some(scene.cloud), callers.SOME)
    rows += callers.play(scene, store.all(scene.cloud), callers.TOGETHER,
                         callers.ALONE)
    for service in scene.cloud.services.values():
        assert not service.lines('ServiceGroupUnavailable'), service.name
    table = io.StringIO()
    csv.writer(table, lineterminator='\n').writerows([HEAD, *rows])
    path = DOC / ('callers-%s.csv' % driver)
    if os.environ.get('WRITE_CALLERS'):
        path.write_text(table.getvalue())
    assert table.getvalue() == path.read_text()


def test_a_death_after_it_is_seen(play):
    """The same cloud, all stores back: a host dies, and is evacuated."""
    _, scene, _ = play
    cloud = scene.cloud
    server = scene.build(callers.KVM_2)
    cloud.services['nova-compute', callers.KVM_2].kill()
    cloud.wait_state(callers.KVM_2, 'down', 4 * DOWN_TIME)
    answer = scene.action(scene.admin, server, 'evacuate', {})
    assert answer.status == 200, answer.text
    scene.wait(server, vm_state='stopped', task_state=None)
    assert scene.server(server)['host'] != callers.KVM_2
