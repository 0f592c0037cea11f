# SPDX-License-Identifier: Apache-2.0


"""What a service's memberships have in common, whatever the drivers are."""

import logging
import threading
import time

import pytest

from nova_servicegroup.drivers import base
from nova_servicegroup.drivers import common
from nova_servicegroup.drivers import heartbeat
from nova_servicegroup.tests import contract


class StubDriver(common.Driver):
    """Takes as long as it may, and fails when it is told to."""

    name = 'stub'
    failing = False
    hangs = False

    def publish(self, membership):
        if self.hangs:
            time.sleep(10)
        if self.failing:
            raise OSError('%s is away' % self.name)

    def withdraw(self, membership, end, timeout):
        if self.hangs:
            time.sleep(timeout)

    # Nobody reads here.
    observe = load_group = now = recorded_time = None

    def classify_error(self, error, membership):
        return base.Failure(logging.WARNING, 'Lost %s' % self.name)


@pytest.fixture
def service():
    return contract.FakeService('host1', contract.GROUP, None)


@pytest.fixture
def drivers(config, service):
    """Two drivers that the service reports to."""
    made = []
    for name in ('one', 'other'):
        made.append(type(name, (StubDriver,), {'name': name})())
        made[-1].join('host1', contract.GROUP, service)
    return made


@pytest.mark.parametrize('how', ['stop', 'leave'])
def test_all_drivers_together_leave_in_two_seconds(config, drivers, service,
                                                   how):
    config.config(group='servicegroup', leave_on_stop=True)
    for driver in drivers:
        driver.hangs = True
    for timer in service.tg.timers:
        threading.Thread(target=timer.fire, daemon=True).start()
    time.sleep(0.1)
    began = time.monotonic()
    for driver, timer in zip(drivers, service.tg.timers):
        if how == 'stop':
            timer.stop()
        else:
            driver.leave('host1', contract.GROUP)
    assert time.monotonic() - began < heartbeat.LEAVE_TIMEOUT + 0.2


def test_who_joins_again_has_as_long_as_before(drivers, service):
    for _ in range(3):
        for driver in drivers:
            driver.leave('host1', contract.GROUP)
        for driver in drivers:
            driver.join('host1', contract.GROUP, service)
    drivers[0].hangs = True
    began = time.monotonic()
    drivers[0].leave('host1', contract.GROUP)
    assert time.monotonic() - began >= heartbeat.LEAVE_TIMEOUT / 4


def test_one_driver_that_fails_keeps_the_flag(drivers, service, caplog):
    caplog.set_level(logging.INFO)
    one, other = service.tg.timers

    def flags():
        seen = []
        for _ in range(2):
            for timer in (one, other):
                timer.fire()
                seen.append(service.model_disconnected)
        return seen

    def logged():
        texts = [r.getMessage().partition(' The ')[0]
                 for r in caplog.records]
        caplog.clear()
        return texts

    drivers[0].failing = True
    assert flags() == [True] * 4
    assert logged() == ['Lost one']
    drivers[1].failing = True
    assert flags() == [True] * 4
    assert logged() == ['Lost other']
    drivers[0].failing = False
    assert flags() == [True] * 4
    assert logged() == [base.Driver.recovered_text]
    drivers[1].failing = False
    assert flags() == [True, False, False, False]
    assert logged() == [base.Driver.recovered_text]
