# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#     http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""A whole Nova under the plug-in's db driver: who is up, and for whom."""

import time

# What a busy machine may add to a time that the driver promises, seconds.
MARGIN = 6

LOST = 'Lost connection to nova-conductor'
RECOVERED = 'Recovered from being unable to report status'


def _listed(cloud):
    """Return {(binary, host): is up} of both listings, which must agree."""
    by_api = {(row['binary'], row['host']): row['state'] == 'up'
              for row in cloud.os_services()}
    by_manage = {(row['Binary'], row['Host']): row['State'] == ':-)'
                 for row in cloud.service_list()}
    assert by_manage == by_api
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
        cloud.restart(service)
        cloud.wait_state('doomed', 'up', 2, service.binary)
    assert set(_listed(cloud).values()) == {True}
    for service in doomed:
        service.kill_all()


def test_a_hung_conductor_flips_nothing(cloud, compute):
    conductor = cloud.services['nova-conductor', 'controller']
    mark = compute.mark()
    conductor.freeze_all()
    try:
        thaw_at = time.monotonic() + cloud.service_down_time - 3
        while time.monotonic() < thaw_at:
            assert cloud.state(compute.host) == 'up'
            time.sleep(0.2)
    finally:
        conductor.thaw_all()
    assert len(compute.lines(LOST, mark)) == 1
    compute.wait_log(RECOVERED, 10, mark)
    cloud.wait_beats(20, compute)

    assert cloud.state(compute.host) == 'up'
    assert len(compute.lines(LOST, mark)) == 1
    assert len(compute.lines(RECOVERED, mark)) == 1


def test_a_conductor_killed_and_started_again(cloud, compute):
    conductor = cloud.services['nova-conductor', 'controller']
    mark = compute.mark()
    conductor.kill_all()
    compute.wait_log(LOST, 15, mark)
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

    # Only a compute reports through RabbitMQ.
    for service, mark in zip(services, marks):
        losses = len(service.lines(LOST, mark))
        assert losses == len(service.lines(RECOVERED, mark))
        assert losses <= (service is compute)


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

    assert len(compute.lines(LOST, mark)) == 1
    assert len(compute.lines(RECOVERED, mark)) == 1


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
