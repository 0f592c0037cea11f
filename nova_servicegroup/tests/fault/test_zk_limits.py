# SPDX-License-Identifier: Apache-2.0

"""What a service says when a server has enough of it."""

import pytest

from nova_servicegroup.tests.fixtures import member
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import zookeeper


@pytest.mark.fault(
    'zk',
    'a server takes no more connections of a host (maxClientCnxns)',
    readers='who has joined is up; a new one is, once it is connected',
    lasts='until there is a connection',
    logged='its nova-compute: WARNING, with kazoo\'s reason',
    ends='another connection ends, or the server is given a higher limit')
def test_more_connections_than_a_server_takes(tmp_path):
    with zookeeper.Ensemble(tmp_path / 'zookeeper', size=1,
                            extra='maxClientCnxns=1') as ensemble:
        first, second = (member.Member(tmp_path, host, ensemble.address)
                         for host in ('host1', 'host2'))
        with first:
            first.wait_joined()
            with second:
                process.wait_until(
                    lambda: 'Connection dropped' in second.log(), 10,
                    'a word of the reason')
                text = second.log().partition('Connection dropped')[0]
                assert 'There is no connection to ZooKeeper' in text
                assert 'joined, keeper' not in second.log()
                first.stop()
                second.wait_joined(10)
