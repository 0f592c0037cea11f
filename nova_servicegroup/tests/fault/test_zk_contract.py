# SPDX-License-Identifier: Apache-2.0

"""The zk driver, held to the contract on a real ZooKeeper."""

import datetime
import itertools
import time

import pytest

from nova_servicegroup.drivers import zk
from nova_servicegroup.liveness import Question
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State
from nova_servicegroup.tests import contract
from nova_servicegroup.tests.fixtures import member
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import zookeeper

_prefixes = itertools.count()

#: of the contract's seconds; the keeper's clock can't be set, so it is waited
#: for, and no longer than needed
SECOND = 0.6


class ZooKeeperWorld(contract.World):
    """Time is real here, but its seconds are shorter: see SECOND."""

    def __init__(self, config, server, directory):
        self.config = config
        self.server = server
        self.directory = directory
        self._skew = datetime.timedelta()
        self._driver = None
        config.config(
            group='zookeeper', address=server.address, recv_timeout=1500,
            sg_prefix='/contract%d' % next(_prefixes))

    def driver(self, **kwargs):
        kwargs.setdefault('utcnow', lambda: datetime.datetime.now(
            datetime.timezone.utc).replace(tzinfo=None) + self._skew)
        # Nobody is missing.
        kwargs.setdefault('inventory', lambda group: [])
        self._driver = zk.ZooKeeperDriver(**kwargs)
        settings = self._driver.settings
        settings.refresh()
        settings.service_down_time *= SECOND
        settings.rules = settings.rules._replace(
            down_time=settings.rules.down_time * SECOND,
            restart_grace=settings.rules.restart_grace * SECOND,
            # The group is older than this.
            outage_grace=0)
        return self._driver

    def service(self, host, group=None):
        group = group or contract.GROUP
        return contract.FakeService(host, group, self.record(host, group))

    def record(self, host, group=None):
        group = group or contract.GROUP
        return {'host': host, 'topic': group, 'binary': 'nova-' + group,
                'updated_at': None, 'last_seen_up': None, 'created_at': None}

    def advance(self, seconds):
        time.sleep(seconds * SECOND + 0.1)

    def wait_visible(self):
        # A reader is there from the begin.
        self._driver.is_up(self.record('host1'))
        time.sleep(0.2)

    def break_store(self):
        self.server.kill()
        # Until it is noticed, nothing is broken.
        time.sleep(0.3)

    def mend_store(self):
        self.server.start()
        self.server.wait_serving()
        if self._driver is not None:
            process.wait_until(self._driver._session.is_connected, 5,
                               'the session')
        self.wait_visible()

    def set_option(self, name, value):
        self.config.config(group='servicegroup', **{name: value})
        self.driver()

    def skew_writer(self, seconds):
        self._skew = datetime.timedelta(seconds=seconds)

    def close(self):
        if self._driver is not None:
            self._driver._session.close()
        self.server.start()


@pytest.fixture(scope='module')
def server(tmp_path_factory):
    with zookeeper.Ensemble(tmp_path_factory.mktemp('zk'), 1) as server:
        yield server


@pytest.fixture
def world(config, server, tmp_path):
    world = ZooKeeperWorld(config, server, tmp_path)
    yield world
    world.close()


class TestZooKeeperDriver(contract.DriverContract):
    """As computes, whose ends are recorded."""

    @pytest.fixture(autouse=True)
    def _group(self, monkeypatch, world):
        monkeypatch.setattr(contract, 'GROUP', 'compute')
        with world.server.client() as client:
            # A group that nobody is in yet knows nothing.
            client.ensure_path('%s/@last/compute/other' % (
                world.config.conf.zookeeper.sg_prefix))
            client.set('%s/@last/compute/other' % (
                world.config.conf.zookeeper.sg_prefix),
                b'0123456789abcdef left')

    def test_a_killed_process_is_down_within_a_second(self, world):
        driver = world.driver()
        record = world.record('host1')
        assert driver.answer(record, Question.MAY_PLACE) is False
        with member.Member(
                world.directory, 'host1', world.server.address,
                prefix=world.config.conf.zookeeper.sg_prefix) as other:
            other.wait_joined()
            process.wait_until(lambda: driver.is_up(record), 1, 'host1 up')
            other.kill()
            process.wait_until(
                lambda: driver.answer(record, Question.MAY_PLACE) is False,
                1, 'host1 down')
        assert driver.verdict(record)[:2] == (State.ENDED, Reason.KILLED)

    @pytest.mark.parametrize('listed, state', [
        (['host0', 'host1', 'host2', 'host3'], State.UNKNOWN),
        (['host0', 'host3'], State.DOWN), (None, State.UNKNOWN)])
    def test_who_never_joined_is_down_when_most_have(
            self, world, caplog, listed, state):
        """Halfway to this driver nobody is dead; a forgotten node is."""
        def inventory(group):
            if listed is None:
                raise OSError('no database')
            return [world.record(host) for host in listed]

        driver = world.driver(inventory=inventory)
        driver.join('host0', 'compute', world.service('host0'))
        process.wait_until(
            lambda: driver.is_up(world.record('host0')), 5, 'host0 up')
        record = world.record('host3')
        assert driver.verdict(record).state is state
        assert driver.is_up(record) is (state is State.UNKNOWN)
        logged = [one for one in caplog.messages if 'Only 1 of 4' in one]
        assert len(logged) == (listed is not None and len(listed) == 4)
        driver.leave('host0', 'compute')
