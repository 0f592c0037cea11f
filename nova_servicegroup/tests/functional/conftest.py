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

"""One whole Nova with the plug-in per concurrency mode, shared by tests.

A test leaves the controllers and the shared compute running and reporting,
and stops what else it started.
"""

import pytest


@pytest.fixture(scope='session', params=['threading', 'eventlet'])
def mode(request):
    """The concurrency mode of conductor, scheduler and computes."""
    return request.param


@pytest.fixture(scope='session')
def cloud(mode, make_cloud):
    """A running Cloud on the db driver."""
    with make_cloud(mode=mode, report_interval=2,
                    service_down_time=8) as cloud:
        yield cloud


@pytest.fixture(scope='session')
def compute(cloud):
    """A nova-compute that reports, for tests that leave it so."""
    service = cloud.start_compute('compute')
    cloud.wait_beats(30, service)
    return service
