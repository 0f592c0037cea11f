# SPDX-License-Identifier: Apache-2.0

"""The settings of ZooKeeper's servers, and what a bad moment costs with them.

A leader that pauses, and a follower that is cut off from its leader but not
from its clients, on an ensemble of three: with the zoo.cfg of
doc/source/admin/zookeeper-ensemble.rst as it stands there, which lets no
session expire, and with the one that ZooKeeper comes with. Needs root.
"""

import contextlib
import subprocess
import time

import pytest

from nova_servicegroup.tests.fixtures import asker
from nova_servicegroup.tests.fixtures import member
from nova_servicegroup.tests.fixtures import network
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import sessions
from nova_servicegroup.tests.fixtures import zookeeper

PAGE, STOCK = 'page', 'stock'
GROUP = '/servicegroups/compute'
#: members that are sessions only, those that have keepers, and readers
LIGHT, WHOLE, READERS = 300, 4, 3
#: seconds: a pause and a cut, and the time in which a late "down" would come
PAUSE = 6
CUT = {PAGE: 6, STOCK: 13}
AFTERMATH = 6


@pytest.fixture(scope='module', params=[PAGE, STOCK])
def settings(request):
    return request.param


@pytest.fixture(scope='module')
def place():
    with network.Namespace() as place:
        yield place


@pytest.fixture(scope='module')
def ensemble(settings, place, tmp_path_factory):
    """Three servers, the last one in a network of its own."""
    ensemble = zookeeper.Ensemble(
        tmp_path_factory.mktemp(settings), place=place,
        settings=(zookeeper.documented_settings() if settings == PAGE
                  else zookeeper.STOCK_SETTINGS))
    try:
        # Two are enough to choose a leader, and the third one follows it.
        for server in ensemble.servers[:2]:
            server.start()
        ensemble.wait_serving()
        yield ensemble.start()
    finally:
        ensemble.stop()


def connected(pid, server):
    """Tell whether a process has a connection with a server."""
    listed = subprocess.run(['ss', '-tnpHO', 'state', 'established', 'dst',
                             server.address], check=True, text=True,
                            capture_output=True).stdout
    return 'pid=%d,' % pid in listed


class World:
    """Members of both kinds, and readers that believe all of them up."""

    def __init__(self, stack, directory, ensemble):
        self.ensemble = ensemble
        self.follower = ensemble.servers[-1]
        self.whole = [
            stack.enter_context(member.Member(
                directory, 'whole%d' % number, ensemble.address))
            for number in range(WHOLE)]
        for one in self.whole:
            one.wait_joined()
        self.light = stack.enter_context(
            sessions.Fleet(ensemble.address, GROUP))
        self.light.ask('start', members=LIGHT)
        self.hosts = [one.host for one in self.whole] + list(
            map(sessions.host, range(LIGHT)))
        self.readers = []
        while len(self.readers) < READERS:
            reader = stack.enter_context(asker.Asker(ensemble.address))
            keeper = reader.ask('watch', hosts=self.hosts)['keeper']
            # One of them, at least, is a client of the follower.
            if len(self.readers) > 1 or connected(keeper, self.follower):
                self.readers.append(reader)
            else:
                reader.kill()

    def clients(self):
        """Return the members that are clients of the last server."""
        return set(self.light.ask('clients', port=self.follower.port)) | {
            one.host for one in self.whole
            if connected(one.keeper_pid, self.follower)}

    def wait_back(self):
        """Wait until all members have their nodes, and readers their say."""
        process.wait_until(
            lambda: self.light.ask('state')['there'] == LIGHT, 30,
            'the light members are back')
        time.sleep(AFTERMATH)

    def expired(self):
        """Return how many sessions have been lost."""
        return self.light.ask('state')['expired'] + sum(
            'expired' in one.log() for one in self.whole)

    def reports(self):
        found = [reader.ask('report') for reader in self.readers]
        assert all(report['answers'] > 10 * len(self.hosts)
                   and report['longest'] < 5 for report in found)
        return found


@pytest.fixture
def world(tmp_path, ensemble):
    if ensemble.leader is ensemble.servers[-1]:
        ensemble.servers[-1].stop()
        ensemble.start()
    with contextlib.ExitStack() as stack:
        yield World(stack, tmp_path, ensemble)


@pytest.mark.fault(
    'zk',
    'the leader pauses for six seconds, with any settings of the servers',
    readers='as before',
    lasts='-',
    logged='WARNING at the loss, INFO at the return',
    ends='an election, or its return')
def test_the_leader_pauses(world, settings):
    # A leader may read all pings that waited before it expires sessions.
    for _ in range(1 if settings == PAGE else 3):
        leader = world.ensemble.leader
        leader.freeze()
        time.sleep(PAUSE)
        leader.thaw()
        world.ensemble.wait_serving()
        world.wait_back()
        if world.expired() > LIGHT / 4:
            break
    if settings == PAGE:
        # The others didn't wait for it.
        assert world.ensemble.leader is not leader
        assert world.expired() == 0
    else:
        assert world.expired() > LIGHT / 4
    assert [report['not_up'] for report in world.reports()] == [{}] * READERS


@pytest.mark.fault(
    'zk',
    'a follower is cut off from its leader, and not from its clients',
    readers="as before; with the settings of ZooKeeper's sample its "
            'clients are unknown',
    lasts="-; until the follower gives up after ten seconds (sample's)",
    logged='WARNING when the follower gives up',
    ends='another server')
def test_a_follower_is_cut_off_from_its_leader(
        world, settings, place, record_property):
    leader = world.ensemble.leader
    assert leader is not world.follower
    clients = world.clients()
    assert len(clients) > LIGHT / 10
    victim = next(number for number in range(LIGHT)
                  if sessions.host(number) not in clients)
    for reader in world.readers:
        reader.ask('expect', hosts=[sessions.host(victim)])
    ports = world.ensemble.quorum_ports
    place.lose([*ports[leader.number - 1], *ports[-1]])
    try:
        killed = world.light.ask('die', member=victim)['at']
        time.sleep(CUT[settings] / 2)
        still = world.clients()
        time.sleep(CUT[settings] / 2)
        assert place.lost() > 0
        assert world.follower.mode == ''
    finally:
        place.heal()
    world.ensemble.wait_serving()
    world.light.ask('join')
    world.wait_back()
    reports = world.reports()
    assert [report['not_up'] for report in reports] == [{}] * READERS
    if settings == PAGE:
        assert still == set()
        assert world.expired() == 0
        # Whoever reads from the follower is not behind for longer.
        known = [report['refused'][sessions.host(victim)] - killed
                 for report in reports]
        assert max(known) < 4
        record_property('measured', 'documented settings: a kill is known '
                        'after %.1f s at most' % max(known))
    else:
        # They believed that they were connected.
        assert len(still & clients) > LIGHT / 10
        assert world.expired() > LIGHT / 10
