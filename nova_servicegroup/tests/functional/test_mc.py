# SPDX-License-Identifier: Apache-2.0

"""The mc driver in a real Nova, with a real memcached."""

import datetime
import os
import signal
import time

import pytest

from nova_servicegroup.memcached import wire
from nova_servicegroup.tests.fixtures import memcached
from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process

INTERVAL = 1
DOWN_TIME = 6

# Nova's warning when it runs in green threads.
PATCHED = 'Eventlet based concurrency mode is deprecated'

# What a nova-compute can't start with, and what its operator reads.
BAD = {
    'nowhere': ({'enabled': False, 'memcache_servers': ''},
                'Set [cache] memcache_servers = host1:11211'),
    'tls': ({'tls_enabled': True}, '[cache] tls_enabled = true: python-'),
    'sasl': ({'memcache_sasl_enabled': True},
             'Set memcache_sasl_enabled to false'),
    'typo': ({'memcache_servers': '[::1]:11211'}, "'[::1]:11211' cannot be"),
}

SERVICES = {('nova-conductor', 'controller'), ('nova-scheduler', 'controller'),
            ('nova-compute', 'plugin'), ('nova-compute', 'in-tree')}


@pytest.fixture(scope='module')
def store(tmp_path_factory):
    with memcached.Memcached(tmp_path_factory.mktemp('memcached')) as store:
        yield store


@pytest.fixture(scope='module', params=[nova.THREADING, nova.EVENTLET])
def cloud(request, make_cloud, store):
    """A Nova that reports to memcached, and in-tree nodes in it."""
    store.flush()
    config = {'cache': {
        # The in-tree nodes need these; ours read memcache_servers only.
        'enabled': True,
        'backend': {nova.THREADING: 'dogpile.cache.memcached',
                    nova.EVENTLET: 'oslo_cache.memcache_pool'}[request.param],
        'memcache_servers': store.address,
        # In-tree readers cannot read for so long when it was restarted.
        'memcache_dead_retry': 1}}
    with make_cloud(driver='mc', mode=request.param, config=config,
                    report_interval=INTERVAL,
                    service_down_time=DOWN_TIME) as cloud:
        started = [
            cloud.start_compute('plugin', wait=False),
            cloud.start_compute('in-tree', tree=nova.IN_TREE, wait=False),
            cloud.start_api('in-tree', tree=nova.IN_TREE, wait=False)]
        for service in started:
            service.wait_started()
        for binary in 'nova-conductor', 'nova-scheduler':
            assert bool(cloud.services[binary, 'controller'].lines(
                PATCHED)) == (request.param == nova.EVENTLET)
        # The in-tree driver reports for the first time after five seconds.
        # Ours isn't sure until then.
        cloud.wait_state('in-tree', 'up', 15, api='in-tree')
        yield cloud


def _states(cloud, api='controller'):
    return {(row['binary'], row['host']): row['state']
            for row in cloud.os_services(api)}


def _updated_at(cloud, api='controller'):
    return {(row['binary'], row['host']):
            datetime.datetime.fromisoformat(row['updated_at'])
            for row in cloud.os_services(api)}


def test_every_reader_sees_every_writer(cloud):
    everybody = dict.fromkeys(SERVICES, 'up')
    assert _states(cloud) == everybody
    assert _states(cloud, api='in-tree') == everybody
    assert {(row['Binary'], row['Host']): row['State']
            for row in cloud.service_list()} == dict.fromkeys(SERVICES, ':-)')
    assert {(row['Binary'], row['Host']): row['State']
            for row in cloud.command('list')} == everybody


def test_updated_at_is_fresh_and_the_same_for_both_readers(cloud):
    for api in ('controller', 'in-tree'):
        now = datetime.datetime.utcnow()
        for service, moment in _updated_at(cloud, api).items():
            assert abs((now - moment).total_seconds()) < INTERVAL + 2, service
    before = _updated_at(cloud)
    process.wait_until(
        lambda: all(moment > before[service] for service, moment
                    in _updated_at(cloud).items()), 10, 'new beats')


def test_the_services_table_gets_no_heartbeats(cloud, store):
    database = cloud.database
    database.query('nova', 'CREATE TABLE updates (host VARCHAR(255))')
    database.query('nova', 'CREATE TRIGGER count_updates AFTER '
                   'UPDATE ON services FOR EACH ROW '
                   'INSERT INTO updates VALUES (NEW.host)')
    beats = store.counters()['cmd_set']
    time.sleep(4 * INTERVAL)
    assert store.counters()['cmd_set'] >= beats + 3 * len(SERVICES)
    assert database.query('nova', 'SELECT * FROM updates') == []
    for row in database.query(
            'nova', 'SELECT report_count, last_seen_up FROM services'):
        assert row == {'report_count': 0, 'last_seen_up': None}
    # It would have been counted.
    database.query('nova', 'UPDATE services SET report_count = 0 '
                   'WHERE host = %s', 'plugin')
    assert len(database.query('nova', 'SELECT * FROM updates')) == 1


def test_a_flushed_and_restarted_memcached_flips_nobody(cloud, store):
    for hurt in (store.flush, store.restart):
        hurt()
        deadline = time.monotonic() + DOWN_TIME / 2
        while time.monotonic() < deadline:
            states = _states(cloud)
            assert set(states.values()) == {'up'}, (hurt, states)
            time.sleep(0.2)
    # In-tree readers see it again, too, once everybody has reported.
    cloud.wait_state('plugin', 'up', 15, api='in-tree')


def test_the_dead_are_seen_dead_by_all(cloud):
    # One after the other: two of two would be doubted.
    plugin = cloud.services['nova-compute', 'plugin']
    plugin.kill()
    for api in ('controller', 'in-tree'):
        cloud.wait_state('plugin', 'down', DOWN_TIME + 5, api=api)
    cloud.restart(plugin)
    for api in ('controller', 'in-tree'):
        cloud.wait_state('plugin', 'up', 3, api=api)
    cloud.services['nova-compute', 'in-tree'].kill()
    for api in ('controller', 'in-tree'):
        cloud.wait_state('in-tree', 'down', DOWN_TIME + 5, api=api)


def _shown(cloud, host):
    """Return what nova-manage shows as the state of a nova-compute."""
    return [row['State'] for row in cloud.service_list()
            if row['Host'] == host]


def test_a_stop_in_order(cloud):
    compute = cloud.start_compute('leaver')
    for api in ('controller', 'in-tree'):
        cloud.wait_state('leaver', 'up', 10, api=api)
    compute.sigterm()
    compute.wait_log('Left the compute group as leaver', 30)
    # A restart would be seen by nobody but tools.
    for api in ('controller', 'in-tree'):
        assert cloud.state('leaver', api=api) == 'up'
    assert _shown(cloud, 'leaver') == ['XXX']
    for api in ('controller', 'in-tree'):
        cloud.wait_state('leaver', 'down', DOWN_TIME + 3, api=api)
    why = cloud.command('explain', 'leaver')
    assert (why['state'], why['reason']) == ('down', 'it was stopped')
    assert 'reported by the service itself' in why['evidence'][0]


def test_loss_and_recovery_are_told_once(cloud, store):
    api = cloud.services['nova-api', 'controller']
    writers = [cloud.services[service] for service in sorted(SERVICES)
               if service != ('nova-compute', 'in-tree')]
    marks = {service: service.mark() for service in [api, *writers]}
    before = _states(cloud)
    store.kill()
    try:
        for service in writers:
            service.wait_log('Lost connection to memcache server', 10,
                             since=marks[service])
        process.wait_until(lambda: _states(cloud) != before or api.lines(
            'cannot be read', marks[api]), 10, 'loss seen by the API')
        # Who was down may have come back since, for all that is known.
        assert {service for service, state in _states(cloud).items()
                if state == 'down'} <= {
                    service for service, state in before.items()
                    if state == 'down'}
    finally:
        store.start()
    for service in writers:
        service.wait_log('Recovered connection to memcache server', 10,
                         since=marks[service])
    process.wait_until(lambda: _states(cloud) == before and api.lines(
        'can be read again', marks[api]), 10, 'all as before')
    for service in writers:
        mark = marks[service]
        assert len(service.lines('Lost connection', mark)) == 1
        assert len(service.lines('Recovered connection', mark)) == 1
    assert len(api.lines('cannot be read', marks[api])) == 1
    assert len(api.lines('can be read again', marks[api])) == 1


def _workers(store):
    """Return when each worker of the crew's conductor reported, by token."""
    value = store.raw_get(wire.key('conductor', 'crew'))
    return wire.decode(*value).workers if value else {}


def test_workers_of_one_service_do_not_take_each_other_down(cloud, store):
    crew = cloud.start_conductor('crew', workers=3)
    process.wait_until(lambda: len(_workers(store)) == 3, 30, 'three workers')
    pids = {int(token.partition('-')[0], 16) for token in _workers(store)}
    assert len(pids - {crew.pid}) == 3
    os.kill(min(pids), signal.SIGKILL)
    deadline = time.monotonic() + DOWN_TIME + 2 * INTERVAL
    while time.monotonic() < deadline:
        assert cloud.state('crew', 'nova-conductor') == 'up'
        time.sleep(0.2)
    # An in-tree reader calls it down once for each connection that broke when
    # memcached was restarted.
    cloud.wait_state('crew', 'up', 10, 'nova-conductor', 'in-tree')
    crew.sigterm()
    crew.wait(60)
    for api in ('controller', 'in-tree'):
        cloud.wait_state('crew', 'down', DOWN_TIME + 3, 'nova-conductor', api)


@pytest.fixture
def refused(cloud):
    services = {host: cloud.start_compute(host, wait=False,
                                          config={'cache': options})
                for host, (options, _) in BAD.items()}
    yield services
    for service in services.values():
        service.stop()


def test_what_cannot_work_is_refused_at_start(cloud, refused):
    for host, service in refused.items():
        assert service.wait(60) != 0, host
        assert service.lines(BAD[host][1]), service.log()[-3000:]
