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

"""What a service's signals do to its membership, in both modes.

With workers the processes that join are the children, and only they may
leave; nova-compute joins in the process that was started.
"""

from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process

LEFT = 'Left the '


def _pids(lines):
    """Return the sorted process ids of log lines."""
    return sorted(int(line.split()[2]) for line in lines)


def _start(cloud, host):
    """Start a compute and, with two workers each, the controllers."""
    services = [cloud.start_compute(host, wait=False),
                cloud.start_conductor(host, workers=2, wait=False),
                cloud.start_scheduler(host, workers=2, wait=False)]
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
