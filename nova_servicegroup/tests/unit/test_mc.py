# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""The mc driver on a real memcached, with clocks that tests set."""

import datetime
import logging
import time
import types

from dogpile.cache import region as dogpile_region
from nova.servicegroup.drivers import mc as in_tree_mc
from nova import objects
from oslo_utils import timeutils
import pytest

from nova_servicegroup import shared
from nova_servicegroup.drivers import mc
from nova_servicegroup.memcached import wire
from nova_servicegroup.tests import contract
from nova_servicegroup.tests.fixtures import database
from nova_servicegroup.tests.fixtures import memcached

VIEW_REFRESH = 0.1


@pytest.fixture(scope='module')
def server():
    with memcached.Memcached() as server:
        yield server


class McWorld(contract.World):
    """Writers and readers in one process, with a clock of each."""

    def __init__(self, config, path, server):
        self.config = config
        self.now = 1000.0
        self.writer_ahead = 0
        self._writing = False
        self.server = server
        self.server.thaw()
        self.server.flush()
        timeutils.set_time_override(datetime.datetime(2026, 1, 1))
        self.database = database.Database(path)
        self.listings = []
        config.config(group='cache', enabled=True,
                      backend='dogpile.cache.memcached',
                      memcache_servers=[server.address],
                      memcache_dead_retry=0, socket_timeout=0.3)
        config.config(group='servicegroup', view_refresh=VIEW_REFRESH)

    def utcnow(self):
        ahead = self.writer_ahead if self._writing else 0
        return timeutils.utcnow() + datetime.timedelta(seconds=ahead)

    def driver(self, **kwargs):
        kwargs.setdefault('monotonic', lambda: self.now)
        kwargs.setdefault('utcnow', self.utcnow)
        driver = mc.MemcachedDriver(**kwargs)
        publish = driver.publish

        def publish_by_the_writers_clock(membership):
            self._writing = True
            try:
                publish(membership)
            finally:
                self._writing = False

        driver.publish = publish_by_the_writers_clock
        return driver

    def service(self, host, group=contract.GROUP):
        if host not in [s.host for s in self.services()]:
            self.database.add(host, group)
        return contract.FakeService(host, group, self.record(host, group))

    def services(self):
        return list(objects.ServiceList.get_all(self.database.context))

    def record(self, host, group=contract.GROUP):
        return self.database.get(host, group)

    def advance(self, seconds):
        self.now += seconds
        timeutils.advance_time_seconds(seconds)

    def settle(self):
        self.advance(VIEW_REFRESH)

    def break_store(self):
        self.server.freeze()

    def mend_store(self):
        self.server.thaw()

    def set_option(self, name, value):
        self.config.config(group='servicegroup', **{name: value})
        self.driver().settings.refresh()

    def in_tree(self):
        # dogpile judges the age by time.time().
        dogpile_region.time = types.SimpleNamespace(
            time=lambda: wire.stamp_of(timeutils.utcnow()))
        return in_tree_mc.MemcachedDriver()

    def skew_writer(self, seconds):
        self.writer_ahead = seconds

    def close(self):
        self.server.thaw()
        self.database.close()
        timeutils.clear_time_override()
        dogpile_region.time = time


@pytest.fixture
def world(config, tmp_path, server):
    world = McWorld(config, tmp_path / 'nova.sqlite', server)
    yield world
    world.close()


class TestMemcachedDriver(contract.DriverContract):
    pass
