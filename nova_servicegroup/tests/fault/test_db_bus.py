# SPDX-License-Identifier: Apache-2.0

"""The db driver's heartbeats over a connection to RabbitMQ that is broken."""

import types

from oslo_config import cfg
import oslo_messaging as messaging
import pytest

from nova_servicegroup.integration import bounded_rpc
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import rabbitmq


class Conductor:
    """The end that saves objects."""

    target = messaging.Target()

    def object_action(self, ctxt, **call):
        return call['objmethod']


@pytest.fixture
def client(config, tmp_path):
    """An RPC client on a real RabbitMQ, with a conductor behind it."""
    with rabbitmq.RabbitMQ(tmp_path) as rabbit:
        transport = messaging.get_rpc_transport(cfg.CONF, url=rabbit.url)
        server = messaging.get_rpc_server(
            transport, messaging.Target(topic='conductor', server='one'),
            [Conductor()], executor='threading')
        server.start()
        try:
            yield messaging.get_rpc_client(
                transport, messaging.Target(topic='conductor'))
        finally:
            server.stop()
            server.wait()
            transport.cleanup()


def break_unseen(client):
    """Leave the connections in the pool looking as if they were there.

    That is what a RabbitMQ that hung leaves behind in green threads: the
    generator that writes the frames has ended.
    """
    def write(*args):
        raise StopIteration

    pool = client.transport._driver._connection_pool
    items = process.wait_until(
        lambda: list(pool._items), 10, 'a connection in the pool')
    # A second one, of the start, would break another heartbeat.
    while len(pool._items) > 1:
        pool._items.popleft()
    for item in items[-1:]:
        held = item[-1] if isinstance(item, tuple) else item
        held.connection._connection.frame_writer = write


@pytest.mark.fault(
    'db', 'a connection to RabbitMQ is dead, but not closed',
    readers='up', lasts='one heartbeat is lost',
    logged='WARNING "Lost connection to nova-conductor", INFO when it '
    'recovers', ends='the next heartbeat')
def test_the_second_heartbeat_gets_through(client):
    conductor = bounded_rpc.BoundedConductor(
        types.SimpleNamespace(client=client), timeout=5)

    def beat():
        return conductor.object_action({}, 'a service', 'save', [], {})

    assert beat() == 'save'
    break_unseen(client)
    with pytest.raises(messaging.MessageDeliveryFailure,
                       match='connection already closed'):
        beat()
    assert [beat(), beat()] == ['save'] * 2
