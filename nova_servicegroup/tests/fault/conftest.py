# SPDX-License-Identifier: Apache-2.0

"""The servers that fault tests hurt."""

import pytest

from nova_servicegroup.drivers import zk
from nova_servicegroup.tests.fixtures import zookeeper
from nova_servicegroup.tests.unit import conftest

config = conftest.config
process = conftest.process


@pytest.fixture(scope='module')
def ensemble(tmp_path_factory):
    """A running three-server ZooKeeper ensemble."""
    with zookeeper.Ensemble(tmp_path_factory.mktemp('ensemble')) as ensemble:
        yield ensemble


@pytest.fixture
def reader(config, ensemble):
    """Make a driver that reads from the ensemble, as nova-api has one.

    ``reader(option=value)``: options of [zookeeper].
    """
    made = []

    def make(**options):
        config.config(group='zookeeper', address=ensemble.address, **options)
        driver = zk.ZooKeeperDriver()
        made.append(driver)
        return driver

    yield make
    for driver in made:
        driver._session.close()


@pytest.fixture
def begin(reader):
    """Make a reader as another process has one: it shares nothing.

    ``begin(option=value)``: options of [zookeeper].
    """
    def make(**options):
        driver, own = reader(**options), {}
        driver.settings.refresh()

        def shared(kind, make):
            if kind not in own:
                own[kind] = make()
            return own[kind]

        driver.shared = shared
        return driver

    return make
