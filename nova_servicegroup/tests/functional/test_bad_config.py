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

"""A configuration that can't work ends a real nova-compute, and says why."""

import pytest

# option: the value that can't be, and what the operator reads beside its name
BAD = {
    'servicegroup_driver': ('zookeeper', 'zookeeper'),
    'report_interval': (0, 'at least 1 second'),
    'service_down_time': (0, 'at least 1 second'),
}


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
