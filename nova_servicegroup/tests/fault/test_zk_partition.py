# SPDX-License-Identifier: Apache-2.0

"""What becomes of a service's packets to the ensemble, and what readers see.

Members are in network namespaces, their readers are not. The settings of the
servers are those that doc/source/admin/zookeeper-ensemble.rst asks for. Needs
root.
"""

import contextlib
import datetime
import os
import pathlib
import re
import statistics
import subprocess
import sys
import time

import pytest

from nova_servicegroup.liveness import Question
from nova_servicegroup.tests.fixtures import answers
from nova_servicegroup.tests.fixtures import member
from nova_servicegroup.tests.fixtures import network
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import sessions
from nova_servicegroup.tests.fixtures import zookeeper

#: session timeout, milliseconds: the default
RECV_TIMEOUT = 4000
#: how long a member that is cut off may be up, seconds: what is promised
PROMISE = 1.5 * RECV_TIMEOUT / 1000
#: and until its host is down to everybody
LOST_PROMISE = 2 * RECV_TIMEOUT / 1000
#: seconds that a loaded machine may add: timers of the servers and threads of
#: the reader get their turn late. The usual is half a second below PROMISE.
LOADED = 1.0

#: per cent of the packets that are lost, to the servers and from them
CUTS = {'both-ways': (100, 100), 'there': (100, 0), 'back': (0, 100)}
LOSSES = {'both-ways': (30, 30), 'there': (30, 0), 'back': (0, 30)}

LOST = 'There is no connection to ZooKeeper'
BACK = re.compile(r'The session with ZooKeeper is back after ([\d.]+) s')
RECOVERED = re.compile(r'Recovered connection to ZooKeeper for reporting '
                       r'service status. The outage lasted ([\d.]+) s')


@pytest.fixture(scope='module')
def ensemble(tmp_path_factory):
    with zookeeper.Ensemble(
            tmp_path_factory.mktemp('ensemble'),
            settings=zookeeper.documented_settings()) as ensemble:
        yield ensemble


@pytest.fixture
def namespace():
    """Make a network.Namespace."""
    with contextlib.ExitStack() as stack:
        yield lambda: stack.enter_context(network.Namespace())


@pytest.fixture
def start(namespace, tmp_path, ensemble):
    """Start members in a namespace; return them when they have joined."""
    with contextlib.ExitStack() as stack:
        def start(where, *hosts):
            members = []
            for host in hosts:
                one = member.Member(tmp_path, host, ensemble.address,
                                    recv_timeout=RECV_TIMEOUT)
                one.command[:0] = where.prefix
                members.append(stack.enter_context(one))
            for one in members:
                one.wait_joined()
            return members
        yield start


@pytest.fixture
def watch(reader):
    """Ask for members ten times a second or oftener; each is up first."""
    with contextlib.ExitStack() as stack:
        driver = reader()

        def watch(members, interval):
            for one in members:
                process.wait_until(
                    lambda: driver.is_up(answers.record(one.host)), 10,
                    '%s up' % one.host)
            return {one: stack.enter_context(answers.Answers(
                driver, one.host, interval=interval,
                question=Question.MAY_PLACE)) for one in members}
        yield watch


def ports(ensemble):
    return [server.port for server in ensemble.servers]


def logged_at(line):
    """Return when a line was logged, on the clock of time.monotonic()."""
    logged = datetime.datetime.strptime(
        line[:23].replace(',', '.'), '%Y-%m-%d %H:%M:%S.%f').timestamp()
    return logged - time.time() + time.monotonic()


def test_nothing_is_left_of_a_run_that_was_killed(tmp_path):
    killed = process.Process('killed', [sys.executable, '-c', (
        'import subprocess, time\n'
        'from nova_servicegroup.tests.fixtures import network\n'
        'namespace = network.Namespace().__enter__()\n'
        'subprocess.Popen(namespace.prefix + ["sleep", "600"])\n'
        'print(namespace.name, flush=True)\n'
        'time.sleep(600)')], tmp_path)
    with killed:
        killed.wait_ready(lambda: killed.log().endswith('\n'), 20)
        name = killed.log().strip()
        assert pathlib.Path('/run/netns', name).exists()
        killed.kill()
        with network.Namespace():
            assert not pathlib.Path('/run/netns', name).exists()
    links = subprocess.run(['ip', '-brief', 'link'], capture_output=True,
                           text=True, check=True).stdout
    assert 'sgt%x-' % killed.pid not in links


def test_without_root_it_fails_and_says_so(monkeypatch):
    monkeypatch.setattr(os, 'geteuid', lambda: 1000)
    with pytest.raises(process.NotReady, match='run it as root'):
        network.Namespace()


def test_who_is_cut_off_knows_it_first_and_is_down_in_time(
        namespace, start, watch, ensemble):
    places = {way: namespace() for way in CUTS}
    members = {way: start(place, *('%s-%d' % (way, number)
                                   for number in range(3)))
               for way, place in places.items()}
    everybody = [one for some in members.values() for one in some]
    seen = watch(everybody, 0.02)
    # A tenth of all might be the clients of a server that lost its leader.
    with sessions.Fleet(ensemble.address, '/servicegroups/compute') as others:
        others.ask('start', members=100)
        cut_at = {}
        for way, place in places.items():
            cut_at[way] = time.monotonic()
            place.lose(ports(ensemble), *CUTS[way])
        down = [True, None, False]
        process.wait_until(
            lambda: all(seen[one].given == down for one in everybody),
            PROMISE + 10, 'everybody down')
        healed_at = time.monotonic()
        for place in places.values():
            place.heal()
        process.wait_until(
            lambda: all(seen[one].given == down + [True] and
                        RECOVERED.search(one.log().partition(LOST)[2])
                        for one in everybody), 10,
            'everybody up again')

    for way, some in members.items():
        times = [seen[one].changes[1][0] - cut_at[way] for one in some]
        assert statistics.median(times) <= PROMISE, (way, times)
        assert max(times) <= PROMISE + LOADED, (way, times)
        times = [seen[one].changes[2][0] - cut_at[way] for one in some]
        assert statistics.median(times) <= LOST_PROMISE, (way, times)
        assert max(times) <= LOST_PROMISE + LOADED, (way, times)
    for one in everybody:
        _, (missed_at, _), _, (up_at, _) = seen[one].changes
        message, = (line for line in one.log().splitlines() if LOST in line)
        assert ' WARNING ' in message
        assert 'suspended' in message and 'is seen as down until' in message
        known_at = logged_at(message)
        assert known_at < missed_at, (one.host, missed_at - known_at)
        length, = BACK.findall(one.log())
        # It is as long as it knew of it.
        assert abs(float(length) - (up_at - known_at)) < 1, one.log()
        assert float(length) > healed_at - known_at - 0.1
        assert len(RECOVERED.findall(one.log().partition(LOST)[2])) == 1


@pytest.mark.fault(
    'zk',
    'packets are lost',
    readers='as before',
    lasts='-',
    logged='nothing, or WARNING at a lost connection',
    ends='-')
def test_nobody_flaps(namespace, start, watch, ensemble):
    """Neither at 30 % loss nor when one server after the other is cut off."""
    places = {way: namespace() for way in LOSSES}
    members = [one for way, place in places.items()
               for one in start(place, 'lossy-' + way)]
    other = namespace()
    cut_off = start(other, *('cut-%d' % number for number in range(6)))
    members += cut_off
    seen = watch(members, 0.1)
    for way, place in places.items():
        place.lose(ports(ensemble), *LOSSES[way])
    # Twice: kazoo calls a server again only when it begins its list anew.
    for port in 2 * ports(ensemble):
        other.lose([port])
        time.sleep(2 * RECV_TIMEOUT / 1000)
        other.heal()
        time.sleep(2)
    for place in places.values():
        assert place.lost() > 10
    assert [one for one in cut_off if LOST in one.log()], 'none was cut off'
    assert {one.host: seen[one].given for one in members} == {
        one.host: [True] for one in members}


@pytest.mark.fault(
    'zk',
    'the network of one nova-compute is cut',
    readers='down',
    lasts='from two session timeouts on at the latest',
    logged='its nova-compute: WARNING',
    ends='the return of the network')
def test_a_nova_compute_that_is_cut_off(make_cloud, namespace, ensemble):
    """From the ensemble only: the message bus stays."""
    with make_cloud(
            mode='eventlet', driver='zk', controllers=('conductor', 'api'),
            config={'zookeeper': {
                'address': ensemble.address, 'sg_prefix': '/partition',
                'recv_timeout': RECV_TIMEOUT}}) as cloud:
        place = namespace()
        compute = cloud.start_compute('c1', prefix=place.prefix)
        cloud.wait_state('c1', 'up', 10)
        mark = compute.mark()
        place.lose(ports(ensemble))
        took = cloud.wait_state('c1', 'down', LOST_PROMISE + 10)
        down_at = time.monotonic()
        place.heal()
        cloud.wait_state('c1', 'up', 10)
        compute.wait_log('Recovered connection to ZooKeeper', 10, mark)

        assert took <= LOST_PROMISE + LOADED
        message, = compute.lines(LOST, mark)
        assert ' WARNING ' in message
        assert logged_at(message) < down_at
        assert len(BACK.findall(compute.log())) == 1
        # Nothing else was cut off.
        assert not compute.lines('oslo.messaging', mark)
        assert cloud.state('controller', 'nova-conductor') == 'up'
