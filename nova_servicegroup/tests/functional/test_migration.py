# SPDX-License-Identifier: Apache-2.0

"""A fleet moves to another driver and back, and no reader notices.

The steps are those of doc/source/admin/migration.rst. Two readers, one on each
driver, are asked ten times a second all the while.
"""

import threading
import time

import pytest

from nova_servicegroup.tests.fixtures import memcached
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import zookeeper

DOWN_TIME = 40
PERIOD = 0.1

#: the members of the fleet: what is restarted at every step
FLEET = [('compute', 'c1'), ('compute', 'c2'), ('conductor', 'controller'),
         ('scheduler', 'controller')]
MEMBERS = {('nova-' + binary, host) for binary, host in FLEET}


class Reader(threading.Thread):
    """Asks one API for all states, ten times a second, until stopped."""

    def __init__(self, cloud, api):
        super().__init__(daemon=True)
        self._cloud = cloud
        self._api = api
        self._stopped = threading.Event()
        self.answers = 0
        self.wrong = []

    def run(self):
        due = time.monotonic()
        while not self._stopped.wait(max(0, due - time.monotonic())):
            due = max(due + PERIOD, time.monotonic())
            try:
                seen = {(row['binary'], row['host']): row['state']
                        for row in self._cloud.os_services(self._api)}
            except Exception as e:
                self.wrong.append((time.time(), repr(e)))
                continue
            self.answers += 1
            if seen != dict.fromkeys(MEMBERS, 'up'):
                self.wrong.append((time.time(), seen))

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *exc_info):
        self.stop()

    def stop(self):
        self._stopped.set()
        self.join(60)


@pytest.fixture(scope='module', params=['zk', 'mc'])
def moving(request, make_cloud, tmp_path_factory):
    """(the other driver, a cloud that can reach both drivers' stores)."""
    directory = tmp_path_factory.mktemp('store')
    if request.param == 'zk':
        store = zookeeper.Ensemble(directory)
        config = {'zookeeper': {'address': store.address}}
    else:
        store = memcached.Memcached(directory)
        config = {'cache': {'memcache_servers': store.address}}
    with store, make_cloud(service_down_time=DOWN_TIME, config=config,
                           controllers=('api',)) as cloud:
        cloud.fleet = []
        yield request.param, cloud


def restart_fleet(cloud, driver, also=()):
    """Stop all services in order and start them with another driver."""
    for service in cloud.fleet:
        service.sigterm()
    for service in cloud.fleet:
        service.wait(40)
    cloud.fleet = [
        getattr(cloud, 'start_' + binary)(
            host, driver=driver, wait=False,
            config={'servicegroup': {'also_report': ','.join(also)}})
        for binary, host in FLEET]
    for service in cloud.fleet:
        service.wait_started()


def told_to_database(cloud):
    """Return the members that report to the database at this time."""
    def beats():
        return {(row['binary'], row['host']): row['report_count']
                for row in cloud.database.query(
                    'nova', 'SELECT host, `binary`, report_count FROM '
                    'services WHERE deleted = 0')}
    before = beats()
    time.sleep(3 * cloud.report_interval)
    return {member for member, count in beats().items()
            if count > before[member]}


def test_there_and_back_without_a_gap(moving):
    other, cloud = moving
    restart_fleet(cloud, 'db')
    on_db, on_other = Reader(cloud, 'controller'), Reader(cloud, 'new')
    back_on_db = Reader(cloud, 'controller')
    with on_db:
        # 1. Every node reports through both; all readers still ask db.
        restart_fleet(cloud, 'db', also=[other])
        # 2. The readers change over; the database is kept for those that
        # haven't.
        cloud.start_api('new', driver=other)
        on_other.start()
        restart_fleet(cloud, other, also=['db'])
        assert told_to_database(cloud) == MEMBERS
    # 3. Nobody asks db any more: services no longer report to it.
    restart_fleet(cloud, other)
    assert told_to_database(cloud) == set()
    # And back: services report to db again before anybody asks it.
    restart_fleet(cloud, other, also=['db'])
    process.wait_until(lambda: told_to_database(cloud) == MEMBERS, 20,
                       'heartbeats of everybody in the database')
    with back_on_db:
        restart_fleet(cloud, 'db', also=[other])
        on_other.stop()
        restart_fleet(cloud, 'db')
        assert told_to_database(cloud) == MEMBERS
    readers = [on_db, on_other, back_on_db]
    assert [reader.wrong for reader in readers] == [[], [], []]
    assert all(reader.answers > 20 for reader in readers)
