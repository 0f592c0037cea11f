# SPDX-License-Identifier: Apache-2.0

"""A whole Nova under the db driver: who is up, for whom, and when.

One Nova per concurrency mode serves all tests. A test leaves the controllers
and the shared compute running and reporting, and stops what else it started.
"""

import os
import re
import signal
import subprocess
import time

import pytest

from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process

# What a busy machine may add to a time that the driver promises, seconds.
MARGIN = 6

LOST = 'Lost connection to nova-conductor'
RECOVERED = 'Recovered from being unable to report status'
LEFT = 'Left the '
# Nova's warning when it runs in green threads.
PATCHED = 'Eventlet based concurrency mode is deprecated'

# option: the value that can't be, and what the operator reads beside its name
BAD = {
    'servicegroup_driver': ('zookeeper', 'zookeeper'),
    'report_interval': (0, 'at least 1 second'),
    'service_down_time': (0, 'at least 1 second'),
}


@pytest.fixture(scope='module', params=[nova.THREADING, nova.EVENTLET])
def mode(request):
    """The concurrency mode of conductor, scheduler and computes."""
    return request.param


@pytest.fixture(scope='module')
def cloud(mode, make_cloud):
    """A running Cloud on the db driver."""
    with make_cloud(mode=mode, report_interval=2,
                    service_down_time=10) as cloud:
        for binary in 'nova-conductor', 'nova-scheduler':
            service = cloud.services[binary, 'controller']
            assert bool(service.lines(PATCHED)) == (mode == nova.EVENTLET)
        yield cloud


@pytest.fixture(scope='module')
def shared_compute(cloud):
    return cloud.start_compute('compute')


@pytest.fixture
def compute(cloud, shared_compute):
    """A nova-compute that reports, for tests that leave it so."""
    cloud.wait_beats(60, shared_compute)
    return shared_compute


def test_nothing_here_listens_for_other_machines(cloud):
    ours = {one.pid for one in process.Process.started if one.running}
    listening = {}
    for line in subprocess.run(
            ['ss', '-Hltnp'], capture_output=True, text=True,
            check=True).stdout.splitlines():
        for pid in map(int, re.findall(r'pid=(\d+)', line)):
            try:
                group = os.getpgid(pid)
            except ProcessLookupError:
                continue
            if group in ours:
                listening.setdefault(group, set()).add(line.split()[3])
    # RabbitMQ, epmd, MariaDB, placement, the API.
    assert len(listening) >= 5
    for address in set.union(*listening.values()):
        assert address.startswith(('127.0.0.1:', '[::1]:')), address


def _listed(cloud):
    """Return {(binary, host): is up} of all listings, which must agree."""
    by_api = {(row['binary'], row['host']): row['state'] == 'up'
              for row in cloud.os_services()}
    by_manage = {(row['Binary'], row['Host']): row['State'] == ':-)'
                 for row in cloud.service_list()}
    by_command = {(row['Binary'], row['Host']): row['Answer to Nova'] == 'up'
                  for row in cloud.command('list', '--long')}
    assert by_manage == by_command == by_api
    return by_api


def test_killed_is_down_and_back_at_once(cloud, compute):
    doomed = [cloud.start_compute('doomed', wait=False),
              cloud.start_conductor('doomed', wait=False),
              cloud.start_scheduler('doomed', wait=False)]
    for service in doomed:
        service.wait_started()
    cloud.wait_beats(30, *doomed)
    for service in doomed:
        service.kill_all()
    killed_at = time.monotonic()

    # The row holds whole seconds, and the last beat may be an interval old.
    time.sleep(max(0, cloud.service_down_time - cloud.report_interval - 2
                   - (time.monotonic() - killed_at)))
    assert cloud.state('doomed') == 'up'
    for service in doomed:
        cloud.wait_state(
            'doomed', 'down', killed_at - time.monotonic()
            + cloud.service_down_time + cloud.report_interval + MARGIN,
            service.binary)

    listed = _listed(cloud)
    for service in doomed:
        assert listed[service.binary, 'doomed'] is False
    for service in _reporters(cloud, compute):
        assert listed[service.binary, service.host] is True

    for service in doomed:
        cloud.restart(service, wait=False)
    for service in doomed:
        service.wait_started()
        cloud.wait_state('doomed', 'up', 2, service.binary)
    assert set(_listed(cloud).values()) == {True}
    for service in doomed:
        service.kill_all()


@pytest.mark.fault(
    'db',
    'the conductor hangs for less than service_down_time',
    readers='up',
    lasts='-',
    logged='WARNING "Lost connection to nova-conductor", INFO when it '
           'recovers',
    ends='it runs again')
def test_a_hung_conductor_flips_nothing(cloud, compute):
    conductor = cloud.services['nova-conductor', 'controller']
    mark = compute.mark()
    conductor.freeze_all()
    try:
        # With the last beat's age, and whole seconds in its row, that is
        # still less than service_down_time.
        thaw_at = time.monotonic() + cloud.service_down_time - 5
        while time.monotonic() < thaw_at:
            assert cloud.state(compute.host) == 'up'
            time.sleep(0.2)
    finally:
        conductor.thaw_all()
    assert len(compute.lines(LOST, mark)) == 1
    compute.wait_log(RECOVERED, 30, mark)
    cloud.wait_beats(20, compute)

    assert cloud.state(compute.host) == 'up'
    assert len(compute.lines(LOST, mark)) == 1
    assert len(compute.lines(RECOVERED, mark)) == 1


def test_a_conductor_killed_and_started_again(cloud, compute):
    conductor = cloud.services['nova-conductor', 'controller']
    mark = compute.mark()
    conductor.kill_all()
    compute.wait_log(LOST, 30, mark)
    cloud.restart(conductor)
    compute.wait_log(RECOVERED, 30, mark)
    cloud.wait_beats(20, compute)

    cloud.wait_state(compute.host, 'up', 5)
    assert len(compute.lines(LOST, mark)) == 1
    assert len(compute.lines(RECOVERED, mark)) == 1


def test_rabbitmq_restarted(cloud, compute):
    """cubecos#1301: a rebooted RabbitMQ left a heartbeat hanging for ever."""
    services = _reporters(cloud, compute)
    marks = [service.mark() for service in services]
    cloud.rabbit.restart()
    _all_report_again(cloud, services, 60)

    # Every loss has an end, and only a compute reports through RabbitMQ.
    for service, mark in zip(services, marks):
        losses = len(service.lines(LOST, mark))
        assert losses == len(service.lines(RECOVERED, mark))
        assert not losses or service is compute


@pytest.mark.fault(
    'db',
    'RabbitMQ hangs',
    readers='up',
    lasts='-',
    logged='WARNING at the loss, INFO when it recovers',
    ends='it runs again')
def test_rabbitmq_hung(cloud, compute):
    """Its connections stay open, and nobody answers."""
    mark = compute.mark()
    cloud.rabbit.freeze()
    try:
        compute.wait_log(LOST, 30, mark)
        time.sleep(2 * cloud.report_interval)
    finally:
        cloud.rabbit.thaw()
    _all_report_again(cloud, _reporters(cloud, compute), 60)

    losses = len(compute.lines(LOST, mark))
    assert losses == len(compute.lines(RECOVERED, mark))


@pytest.mark.fault(
    'db',
    'MariaDB is restarted',
    readers='requests fail with it; up',
    lasts='-',
    logged='ERROR "the database refused the heartbeat", INFO when it '
           'recovers',
    ends='its return')
def test_mariadb_restarted(cloud, compute):
    services = _reporters(cloud, compute)
    marks = [service.mark() for service in services]
    cloud.database.stop()
    time.sleep(2 * cloud.report_interval)
    cloud.database.start()
    _all_report_again(cloud, services, 60)

    for service, mark in zip(services, marks):
        assert len(service.lines(RECOVERED, mark)) == 1


def _reporters(cloud, compute):
    return [compute, cloud.services['nova-conductor', 'controller'],
            cloud.services['nova-scheduler', 'controller']]


def _all_report_again(cloud, services, timeout):
    cloud.wait_beats(timeout, *services)
    for service in services:
        cloud.wait_state(service.host, 'up', 5, service.binary)


# With workers the processes that join are the children, and only they may
# leave; nova-compute joins in the process that was started.


def _pids(lines):
    """Return the sorted process ids of log lines."""
    return sorted(int(line.split()[2]) for line in lines)


def _start(cloud, host):
    """Start a compute and, with two workers each, the controllers."""
    # A periodic task that is due while Nova 34 stops makes it fail before its
    # timers stop (Manager.periodic_tasks returns no interval then).
    how = {'wait': False, 'config': {'DEFAULT': {'periodic_enable': False}}}
    services = [cloud.start_compute(host, **how),
                cloud.start_conductor(host, workers=2, **how),
                cloud.start_scheduler(host, workers=2, **how)]
    for service in services:
        service.wait_started()
    cloud.wait_beats(30, *services)
    return services


def _joined(service):
    """Return the sorted ids of the processes that joined in this run."""
    return _pids(service.lines(nova.JOINED, service.started_at))


def test_sigterm_leaves_once_in_each_process_that_joined(cloud):
    services = _start(cloud, 'leaver')
    for service in services:
        service.sigterm()
    for service in services:
        service.wait(30)

    for service in services:
        assert _pids(service.lines(LEFT)) == _joined(service)
    compute, conductor, scheduler = services
    assert _joined(compute) == [compute.pid]
    for service in conductor, scheduler:
        assert len(set(_joined(service))) == 2
        assert service.pid not in _joined(service)


def test_sighup_never_ends_the_heartbeat(cloud, mode):
    services = _start(cloud, 'hup')
    first = {service.binary: _joined(service) for service in services}
    marks = [service.mark() for service in services]
    for service in services:
        service.sighup()
    compute, conductor, scheduler = services

    if mode == nova.THREADING:
        # Every worker is replaced by a new one; see Nova's oslo.service.
        for service in conductor, scheduler:
            process.wait_until(
                lambda: len(_joined(service)) == 4, 60,
                '%s joined with two new workers' % service.binary)
            process.wait_until(
                lambda: len(service.lines(LEFT)) == 2, 30,
                'the old workers of %s left' % service.binary)
            assert _pids(service.lines(LEFT)) == first[service.binary]
            assert len(set(_joined(service))) == 4
    cloud.wait_beats(30, *services, beats=3)
    for service, mark in zip(services, marks):
        assert service.running
        cloud.wait_state('hup', 'up', 5, service.binary)
        if mode == nova.EVENTLET or service is compute:
            assert not service.lines(LEFT, mark)
            assert _joined(service) == first[service.binary]
    for service in services:
        service.kill_all()


@pytest.mark.fault(
    'db',
    'one of two workers of a service is killed',
    readers='up',
    lasts='-',
    logged='nothing',
    ends='-')
def test_a_killed_worker_takes_nobody_down(cloud):
    service = cloud.start_conductor('pair', workers=2)
    cloud.wait_beats(30, service)
    doomed, other = _joined(service)
    # Else its parent would replace it at once.
    os.kill(service.pid, signal.SIGSTOP)
    try:
        os.kill(doomed, signal.SIGKILL)
        cloud.wait_beats(20, service, beats=1)
        deadline = (time.monotonic() + cloud.service_down_time
                    + 2 * cloud.report_interval)
        while time.monotonic() < deadline:
            assert cloud.state('pair', binary='nova-conductor') == 'up'
            time.sleep(0.2)
    finally:
        os.kill(service.pid, signal.SIGCONT)
    process.wait_until(lambda: len(_joined(service)) == 3, 60,
                       'another worker in its place')
    assert service.lines(LEFT) == []
    service.kill_all()


@pytest.fixture
def refused(cloud):
    services = {option: cloud.start_compute(
        'bad-' + option.replace('_', '-'), wait=False,
        config={'DEFAULT': {option: value}})
        for option, (value, _) in BAD.items()}
    yield services
    for service in services.values():
        service.stop()


def test_bad_options_are_named(refused):
    for option, service in refused.items():
        assert service.wait(60) != 0, option
        assert [line for line in service.lines(option)
                if BAD[option][1] in line], service.log()[-3000:]
