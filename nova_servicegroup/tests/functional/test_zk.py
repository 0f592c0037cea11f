# SPDX-License-Identifier: Apache-2.0

"""A whole Nova under the zk driver, on a real three-server ensemble."""

import collections
import json
import os
import pathlib
import signal
import subprocess
import time

from kazoo import exceptions as kazoo_exc
import pytest

from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import zookeeper

WORKERS = 2
#: [DEFAULT] service_down_time, and so [servicegroup] restart_grace; seconds
GRACE = 5
PASSWORD = 'hunter2'


@pytest.fixture(scope='module')
def ensemble(tmp_path_factory):
    with zookeeper.Ensemble(tmp_path_factory.mktemp('ensemble')) as ensemble:
        yield ensemble


@pytest.fixture(scope='module', params=['threading', 'eventlet'])
def cloud(request, make_cloud, ensemble):
    """A Nova with several workers; its keepers must end with it."""
    with make_cloud(
            mode=request.param, driver='zk', controllers=('api',),
            report_interval=1, service_down_time=GRACE,
            config={'zookeeper': {
                # With the quotes that Nova's old documentation writes.
                'address': '"%s"' % ensemble.address,
                'sg_prefix': '/' + request.param,
                'auth_scheme': 'digest', 'username': 'nova',
                'password': PASSWORD}}) as cloud:
        started = [cloud.start_conductor(workers=WORKERS, wait=False),
                   cloud.start_scheduler(workers=WORKERS, wait=False)]
        for service in started:
            service.wait_started()
        cloud.start_compute('c1')
        yield cloud
        keepers = all_keepers(cloud)
    assert keepers
    process.wait_until(
        lambda: not [pid for pid in keepers if process.alive(pid)], 2,
        'the end of all keepers')


def keepers_of(pid):
    """Return the keepers of a process, or of its workers together."""
    return [int(word) for word in subprocess.run(
        ['pgrep', '-f', r'nova_servicegroup\.keeper .*\[%d\]' % pid],
        capture_output=True, text=True).stdout.split()]


def processes_of(service):
    """Return the pids of a service and of its workers, without keepers."""
    children = subprocess.run(
        ['pgrep', '-P', str(service.pid)],
        capture_output=True, text=True).stdout.split()
    mine = keepers_of(service.pid)
    return [service.pid] + [int(pid) for pid in children
                            if int(pid) not in mine]


def all_keepers(cloud):
    return [keeper for service in cloud.services.values() if service.running
            for pid in processes_of(service) for keeper in keepers_of(pid)]


def listed(client, cloud):
    """Return {group: {host: number of nodes}} as ZooKeeper has it."""
    prefix = '/' + cloud.mode
    result = {}
    for group in client.get_children(prefix):
        if group.startswith('@'):
            # The records.
            continue
        hosts = []
        for name in client.get_children('%s/%s' % (prefix, group)):
            stat = client.exists('%s/%s/%s' % (prefix, group, name))
            if stat is not None:
                assert stat.ephemeralOwner
                hosts.append(name.rpartition('@')[0])
        result[group] = dict(collections.Counter(hosts))
    return result


EXPECTED = {'compute': {'c1': 1}, 'conductor': {'controller': WORKERS},
            'scheduler': {'controller': WORKERS}}


def wait_expected(client, cloud, timeout=20):
    process.wait_until(
        lambda: listed(client, cloud) == EXPECTED, timeout,
        'one node for each process')


def test_everything_is_up_and_writes_nothing(cloud, ensemble):
    with ensemble.client() as client:
        wait_expected(client, cloud)
    for host, binary in (('c1', 'nova-compute'),
                         ('controller', 'nova-conductor'),
                         ('controller', 'nova-scheduler')):
        cloud.wait_state(host, 'up', 5, binary=binary)
    assert {row['State'] for row in cloud.service_list()} == {':-)'}

    def rows():
        return cloud.database.query(
            'nova', 'SELECT host, `binary`, report_count, updated_at, '
            'last_seen_up FROM services WHERE deleted = 0')
    before = rows()
    time.sleep(4)
    assert rows() == before
    assert [row['report_count'] for row in before] == [0] * len(before)


def test_updated_at_is_now_for_who_is_up(cloud):
    cloud.wait_state('c1', 'up', 5)
    first, = (row['updated_at'] for row in cloud.os_services()
              if row['host'] == 'c1')
    time.sleep(1.1)
    second, = (row['updated_at'] for row in cloud.os_services()
               if row['host'] == 'c1')
    assert second > first


def shown(cloud):
    """Return the state that nova-manage shows of the compute."""
    return next(row['State'] for row in cloud.service_list()
                if row['Host'] == 'c1')


def test_a_killed_compute_is_down_and_back(cloud):
    compute = cloud.services['nova-compute', 'c1']
    cloud.wait_state('c1', 'up', 5)
    compute.kill()
    killed_at = time.monotonic()
    # Proof that the process ended is proof that its host lives.
    assert cloud.state('c1') == 'up'
    assert shown(cloud) == 'XXX'
    cloud.wait_state('c1', 'down', GRACE + 5)
    assert time.monotonic() - killed_at > GRACE - 1
    why = cloud.command('explain', 'c1')
    assert (why['state'], why['reason']) == (
        'down', 'its process was killed or has crashed')
    assert 'reported by its keeper' in why['evidence'][0]
    compute.stop()
    cloud.restart(compute)
    cloud.wait_state('c1', 'up', 3)


def test_a_quick_restart_is_invisible_to_who_fences(cloud):
    compute = cloud.services['nova-compute', 'c1']
    cloud.wait_state('c1', 'up', 5)
    compute.kill()
    killed_at = time.monotonic()
    compute.stop()
    cloud.restart(compute, wait=False)
    while time.monotonic() - killed_at < GRACE - 1:
        assert cloud.state('c1') == 'up'
    compute.wait_started()
    process.wait_until(lambda: shown(cloud) == ':-)', 20, 'its return',
                       interval=0.5)


def test_a_hung_compute_goes_and_comes_back(cloud):
    compute = cloud.services['nova-compute', 'c1']
    cloud.wait_state('c1', 'up', 5)
    compute.freeze()
    time.sleep(2)
    assert cloud.state('c1') == 'up'
    cloud.wait_state('c1', 'down', GRACE + 3)
    compute.thaw()
    cloud.wait_state('c1', 'up', 3)


def test_a_killed_worker_leaves_its_siblings(cloud, ensemble):
    conductor = cloud.services['nova-conductor', 'controller']
    with ensemble.client() as client:
        wait_expected(client, cloud)
        path = '/%s/conductor/' % cloud.mode
        workers = [json.loads(client.get(path + name)[0])['pid']
                   for name in client.get_children(path)]
        assert set(workers) < set(processes_of(conductor))
        keeper, = keepers_of(conductor.pid)
        os.kill(workers[0], signal.SIGKILL)
        process.wait_until(
            lambda: listed(client, cloud)['conductor'] == {'controller': 1},
            2, 'one node less')
        assert cloud.state('controller', 'nova-conductor') == 'up'
        # Its parent starts another one.
        wait_expected(client, cloud)
        assert keepers_of(conductor.pid) == [keeper]


def test_a_reload_leaves_no_keeper_behind(cloud, ensemble):
    conductor = cloud.services['nova-conductor', 'controller']
    with ensemble.client() as client:
        wait_expected(client, cloud)
        conductor.sighup()
        time.sleep(3)
        wait_expected(client, cloud)
    cloud.wait_state('controller', 'up', 3, binary='nova-conductor')
    # The workers have one for all.
    mine = processes_of(conductor)
    assert len([k for pid in mine for k in keepers_of(pid)]) == 1


def test_a_stop_in_order_leaves_at_once(cloud, ensemble):
    compute = cloud.services['nova-compute', 'c1']
    keepers = keepers_of(compute.pid)
    mark = compute.mark()
    compute.sigterm()
    compute.wait(60)
    assert shown(cloud) == 'XXX'
    cloud.wait_state('c1', 'down', GRACE + 3)
    assert compute.lines('Left the compute group as c1', mark)
    assert not [pid for pid in keepers if process.alive(pid)]
    cloud.restart(compute)
    cloud.wait_state('c1', 'up', 3)
    with ensemble.client() as client:
        wait_expected(client, cloud)


def test_nothing_was_logged_as_an_error(cloud):
    for service in cloud.services.values():
        errors = [line for line in service.lines('nova_servicegroup')
                  if ' ERROR ' in line
                  and 'No heartbeat from' not in line]
        assert errors == []


def test_nobody_else_adds_a_host_and_nothing_tells_the_password(cloud,
                                                                ensemble):
    with ensemble.client() as stranger:
        wait_expected(stranger, cloud)
        for group in EXPECTED:
            with pytest.raises(kazoo_exc.NoAuthError):
                stranger.create('/%s/%s/dead@0123456789abcdef' % (
                    cloud.mode, group), ephemeral=True)
    for service in cloud.services.values():
        assert PASSWORD not in service.log()
        for pid in processes_of(service) + keepers_of(service.pid):
            for name in ('cmdline', 'environ'):
                content = pathlib.Path('/proc/%d/%s' % (pid, name))
                assert PASSWORD.encode() not in content.read_bytes()
