# SPDX-License-Identifier: Apache-2.0

"""What happens to the ensemble and to nodes, and what readers see of it."""

import ctypes
import datetime
import os
import signal
import socket
import sys
import threading
import time

from kazoo import exceptions as kazoo_exc
from kazoo import security
import pytest

from nova_servicegroup import evzookeeper
from nova_servicegroup.evzookeeper import child
from nova_servicegroup.evzookeeper import exceptions
from nova_servicegroup.evzookeeper import membership
from nova_servicegroup.keeper import security as keeper_security
from nova_servicegroup.liveness import Question
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State
from nova_servicegroup.tests.fixtures import answers
from nova_servicegroup.tests.fixtures import asker
from nova_servicegroup.tests.fixtures import process

DIRECTORY = '/servicegroups/compute'
RECORDS = '/servicegroups/@last/compute'
HOSTS = ('h0', 'h1', 'h2', 'h3')


def join(session, host, **how):
    return membership.Membership(session, DIRECTORY, host, records=RECORDS,
                                 **how)


def placed(driver, record):
    """Return whether a host is up to the scheduler."""
    return driver.answer(record, Question.MAY_PLACE) is True


@pytest.fixture
def session(ensemble):
    """Make a session of its own, with its own keeper."""
    made = []

    def make(address=None, **options):
        options.setdefault('recv_timeout', 4000)
        one = evzookeeper.ZKSession(address or ensemble.address, **options)
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


@pytest.fixture
def members(session):
    """Four members, each with its own session."""
    made = [join(session(), host, timeout=10)
            for host in HOSTS]
    yield made


@pytest.fixture
def everybody(reader, members, config):
    """A reader's answers about each member; its view may be a minute old."""
    config.config(group='servicegroup', outage_grace=60)
    driver = reader()
    driver.settings.refresh()
    for host in HOSTS:
        process.wait_until(lambda: placed(driver, answers.record(host)), 5,
                           '%s up' % host)
    watches = [answers.Answers(driver, host, interval=0.02)
               for host in HOSTS]
    for watch in watches:
        watch.__enter__()
    yield watches
    for watch in watches:
        watch.__exit__()


def all_back(members, timeout=20):
    process.wait_until(
        lambda: all(one.refresh(timeout=1) for one in members), timeout,
        'all members back')


def test_the_directory_shows_the_members(ensemble, members):
    with ensemble.client() as client:
        names = client.get_children(DIRECTORY)
        assert sorted(name.partition('@')[0] for name in names) == list(HOSTS)
        for name in names:
            stat = client.exists('%s/%s' % (DIRECTORY, name))
            assert stat.ephemeralOwner in {
                one._session.client_id()[0] for one in members}


# The ensemble

@pytest.mark.fault(
    'zk',
    'the leader is killed',
    readers='as before',
    lasts='-',
    logged='WARNING where the connection is lost for a moment',
    ends='the election')
def test_the_leader_is_killed(ensemble, members, everybody):
    leader = ensemble.leader
    leader.kill()
    time.sleep(5)
    leader.start()
    ensemble.wait_serving()
    all_back(members)
    assert [watch.given for watch in everybody] == [[True]] * len(HOSTS)


@pytest.mark.fault(
    'zk',
    'the three servers are restarted one by one',
    readers='as before',
    lasts='-',
    logged='WARNING at the loss, INFO at the return',
    ends='-')
def test_each_server_is_restarted(ensemble, members, everybody):
    ensemble.restart_each()
    all_back(members)
    time.sleep(1)
    assert [watch.given for watch in everybody] == [[True]] * len(HOSTS)


@pytest.mark.fault(
    'zk',
    'one server of three is frozen',
    readers='as before',
    lasts='-',
    logged='WARNING at the loss, INFO at the return',
    ends='another server')
def test_a_server_is_frozen(ensemble, members, everybody):
    server = ensemble.leader
    server.freeze()
    time.sleep(6)
    server.thaw()
    ensemble.wait_serving()
    all_back(members)
    assert [watch.given for watch in everybody] == [[True]] * len(HOSTS)


@pytest.mark.parametrize('away', [2, 9], ids=['shorter', 'longer'])
@pytest.mark.fault(
    'zk',
    'the whole ensemble stopped or killed, for seconds',
    readers='as before',
    lasts='-',
    logged='WARNING at the loss, INFO at the return',
    ends='its return')
def test_the_ensemble_is_away(ensemble, members, everybody, away):
    """For shorter and for longer than a session; the grace is longer."""
    ensemble.kill()
    time.sleep(away)
    # Nobody can tell the keepers: their own clocks do.
    expected = (evzookeeper.EXPIRED, True) if away > 4 else (
        evzookeeper.SUSPENDED, False)
    assert {(one._session.state(), one.node is None)
            for one in members} == {expected}
    ensemble.start()
    # kazoo's own pauses would grow with the time that has passed.
    all_back(members, timeout=5)
    time.sleep(7)
    assert [watch.given for watch in everybody] == [[True]] * len(HOSTS)


@pytest.mark.fault(
    'zk',
    'a host dies while the ensemble is away',
    readers='up; down after the return',
    lasts='a rejoin time after the return',
    logged='WARNING at the loss, INFO at the return',
    ends='its start')
def test_who_died_while_the_ensemble_was_away_is_down_in_time(
        ensemble, members, everybody):
    ensemble.kill()
    members[0]._session.close()
    time.sleep(1)
    ensemble.start()
    all_back(members[1:])
    process.wait_until(lambda: everybody[0].given == [True, False], 12,
                       'h0 down')
    assert [watch.given for watch in everybody[1:]] == [[True]] * 3


@pytest.mark.fault(
    'zk',
    'the ensemble is away for longer than service_down_time',
    readers='up (nobody can tell)',
    lasts='from service_down_time on',
    logged='WARNING at the loss, INFO at the return',
    ends='its return')
def test_after_a_while_nobody_knows(ensemble, members, everybody, config):
    config.config(service_down_time=2)
    driver = everybody[0]._driver
    driver.settings.refresh()

    def verdicts():
        return {driver.verdict(answers.record(host))[:2] for host in HOSTS}

    ensemble.kill()
    time.sleep(0.5)
    assert verdicts() == {(State.UP, Reason.PRESENT)}
    process.wait_until(
        lambda: verdicts() == {(State.UNKNOWN, Reason.OUTAGE)}, 5,
        'nobody knows')
    ensemble.start()
    all_back(members)
    process.wait_until(
        lambda: verdicts() == {(State.UP, Reason.PRESENT)}, 10, 'all are up')
    assert [watch.given for watch in everybody] == [[True]] * len(HOSTS)


@pytest.mark.fault(
    'zk',
    'the ensemble is wiped',
    readers='up',
    lasts='-',
    logged='WARNING at the loss, INFO at the return',
    ends='every member joins again')
def test_the_ensemble_is_wiped(ensemble, members, everybody):
    nodes = [one.node for one in members]
    ensemble.wipe()
    process.wait_until(
        lambda: all(one.node and one.node not in nodes for one in members),
        15, 'new nodes')
    # The old ones are held until their time is over.
    time.sleep(8)
    assert [watch.given for watch in everybody] == [[True]] * len(HOSTS)
    with ensemble.client() as client:
        assert len(client.get_children(DIRECTORY)) == len(HOSTS)


# Sessions and nodes

@pytest.mark.fault(
    'zk',
    'a session is ended by force',
    readers='up',
    lasts='-',
    logged='INFO: a new session',
    ends='a new session, within two seconds')
def test_an_expired_session_is_back_within_two_seconds(ensemble, members):
    one = members[0]
    node, old = one.node, one._session.client_id()
    began = time.monotonic()
    ensemble.expire(old)
    process.wait_until(lambda: one.node not in (None, node), 4,
                       'a new node')
    assert time.monotonic() - began < 2
    assert one._session.client_id()[0] != old[0]


@pytest.mark.fault(
    'zk',
    'a node is deleted by somebody else',
    readers='up',
    lasts='-',
    logged='WARNING',
    ends='the keeper makes it again')
def test_a_deleted_node_comes_back_by_itself(ensemble, members, reader):
    driver = reader()
    one = members[0]
    node = one.node
    assert placed(driver, answers.record('h0')) is True
    with ensemble.client() as client:
        client.delete('%s/%s' % (DIRECTORY, node))
    process.wait_until(lambda: one.node not in (None, node), 2,
                       'a new node')
    process.wait_until(lambda: placed(driver, answers.record('h0')), 1, 'up')


def test_a_fork_after_first_use(ensemble, members, reader):
    """The child sees, makes its own session, and harms nobody's."""
    driver = reader()
    assert placed(driver, answers.record('h0')) is True
    keeper, result = driver._session.keeper_pid, os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            up = placed(driver, answers.record('h0')) is True
            own = driver._session.keeper_pid not in (None, keeper)
            driver._session.close()
            os.write(result[1], b'fine' if up and own else b'bad')
        finally:
            os._exit(0)
    os.close(result[1])
    assert os.read(result[0], 10) == b'fine'
    os.close(result[0])
    os.waitpid(pid, 0)
    with answers.Answers(driver, 'h0') as seen:
        time.sleep(5)
    assert seen.given == [True]
    assert driver._session.keeper_pid == keeper
    assert members[0].refresh() is True


def test_a_fork_in_c_freezes_no_view(ensemble, members, reader):
    """As uWSGI forks: without Python's hooks."""
    driver = reader()
    assert placed(driver, answers.record('h0')) is True
    started, result = os.pipe(), os.pipe()
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        signal.alarm(30)
        os.read(started[0], 1)
        up = placed(driver, answers.record('h0'))
        others = placed(driver, answers.record('h1'))
        driver._session.close()
        os.write(result[1], b'%s %s' % (str(up).encode(),
                                        str(others).encode()))
        os._exit(0)
    assert members[0].leave() is True
    os.write(started[1], b'.')
    try:
        assert os.read(result[0], 20) == b'False True'
    finally:
        os.waitpid(pid, 0)
        for end in started + result:
            os.close(end)


@pytest.mark.fault(
    'zk',
    'every server is slow: it hangs for half of each second',
    readers='as before',
    lasts='-',
    logged='nothing, or WARNING and INFO at a lost connection',
    ends='-')
def test_the_servers_are_slow(ensemble, members, everybody):
    for _ in range(10):
        for change in ('freeze', 'thaw'):
            for server in ensemble.servers:
                getattr(server, change)()
            time.sleep(0.5)
    all_back(members)
    assert [watch.given for watch in everybody] == [[True]] * len(HOSTS)


@pytest.mark.fault(
    'zk',
    'a reader and its keeper are paused for longer than a session lasts',
    readers='up for members that run; down for those that ended',
    lasts='-',
    logged='nothing, or WARNING and INFO at a lost connection',
    ends='-')
def test_a_reader_is_paused(ensemble, session):
    stays, dies = session(), session()
    for one, host in ((stays, 'stays'), (dies, 'dies')):
        join(one, host, timeout=5)
    with asker.Asker(ensemble.address, restart_grace=0) as reader:
        keeper = reader.ask('watch', hosts=['stays', 'dies'])['keeper']
        for pid in (reader.pid, keeper):
            os.kill(pid, signal.SIGSTOP)
        dies.close()
        time.sleep(8)
        for pid in (reader.pid, keeper):
            os.kill(pid, signal.SIGCONT)
        seen = set()

        def down():
            seen.update(reader.ask('report')['not_up'])
            return 'dies' in seen

        process.wait_until(down, 20, 'the end of who died')
        assert seen == {'dies'}


@pytest.mark.fault(
    'zk',
    'two clouds with the same host names use one ensemble',
    readers='as if each had its own, with [zookeeper] sg_prefix or a path '
            'after the addresses',
    lasts='-',
    logged='nothing',
    ends='-')
def test_two_clouds_on_one_ensemble(ensemble, session, begin):
    host = answers.record('h')
    clouds = {'/east': session(), '/west': session()}
    readers = {}
    for prefix, one in clouds.items():
        membership.Membership(one, prefix + '/compute', 'h', timeout=5,
                              records=prefix + '/@last/compute')
        readers[prefix] = begin(sg_prefix=prefix)
        # A reader reads its options when it first asks.
        process.wait_until(lambda: placed(readers[prefix], host), 10, 'h')
    clouds['/west'].close()
    process.wait_until(lambda: not placed(readers['/west'], host), 5,
                       'its end')
    assert placed(readers['/east'], host)


# Reading

def test_readers_see_a_change_among_a_thousand(ensemble, session, reader):
    driver = reader()
    path = DIRECTORY + '/%s@%016x'
    with ensemble.client() as client:
        client.ensure_path(DIRECTORY)
        for request in [
                client.create_async(path % ('m%d' % number, number),
                                    ephemeral=True)
                for number in range(1000)]:
            request.get(30)
        others = [membership.MembershipMonitor(session(), DIRECTORY)
                  for _ in range(3)]
        process.wait_until(
            lambda: placed(driver, answers.record('m999')) and all(
                len(other.members) == 1000 for other in others), 10,
            'all know all')
        times = []
        for number in range(20):
            host = 'm%d' % number
            one = answers.record(host)
            assert placed(driver, one) is True
            began = time.monotonic()
            client.delete(path % (host, number))
            process.wait_until(
                lambda: not (placed(driver, one) or any(
                    host in other.members for other in others)),
                2, 'down for all', interval=0.001)
            times.append(time.monotonic() - began)
            assert placed(driver, answers.record('m500')) is True
            # Longer than the pause between listings.
            time.sleep(0.1)
    # Of those that met no other load on this machine.
    assert sorted(times)[5] < 0.05, times
    process.wait_until(
        lambda: not placed(driver, answers.record('m500')), 3, 'm500 down')


def test_updated_time_is_now_or_when_it_went(reader, session):
    driver = reader()
    one = join(session(), 'timely', timeout=10)
    record = answers.record('timely')
    process.wait_until(lambda: placed(driver, record), 5, 'up')
    first = driver.updated_time(record)
    time.sleep(0.2)
    second = driver.updated_time(record)
    assert second > first
    one.leave()
    process.wait_until(lambda: not placed(driver, record), 5, 'down')
    went = driver.updated_time(record)
    # ZooKeeper counts milliseconds.
    assert went > second - datetime.timedelta(milliseconds=1)
    time.sleep(0.2)
    assert driver.updated_time(record) == went
    record['updated_at'] = '2100-01-01T00:00:00.000000'
    assert driver.updated_time(record).year == 2100


def test_monitors_tell_of_changes(session):
    seen = []
    monitor = membership.MembershipMonitor(session(), '/groups/new',
                                           cb_func=seen.append)
    assert monitor.wait(5) is True
    assert monitor.get_all() == set()
    one = membership.Membership(session(), '/groups/new', 'a', timeout=5)
    process.wait_until(lambda: monitor.get_all() == {'a'}, 2, 'a joined')
    one.leave()
    process.wait_until(lambda: monitor.get_all() == set(), 2, 'a left')
    assert one.refresh() is False
    with pytest.raises(exceptions.NotJoined, match='left'):
        one.refresh(quiet=False)
    one.rejoin()
    assert one.refresh() is True
    process.wait_until(lambda: monitor.get_all() == {'a'}, 2, 'a is back')
    assert seen == [set(), {'a'}, set(), {'a'}]


def test_a_chroot_and_a_prefix_are_made(ensemble, session):
    membership.Membership(
        session(ensemble.address + '/region/one'), '/deep/er/compute', 'a',
        timeout=5)
    with ensemble.client() as client:
        name, = client.get_children('/region/one/deep/er/compute')
        assert name.startswith('a@')


# Two machines under one name

@pytest.mark.fault(
    'zk',
    'two machines under one host name',
    readers='up',
    lasts='-',
    logged='ERROR on both',
    ends='stop one of them')
def test_two_machines_under_one_name_are_both_told(session, reader, caplog):
    driver = reader()

    def twin(boot_id):
        return join(
            session(recv_timeout=1000), 'twin', timeout=5,
            data={'host': 'twin', 'boot_id': boot_id, 'pid': 7})

    one = [twin('boot-a')]
    # Its own search finds nobody: who comes later must answer it.
    time.sleep(4)
    one += [twin('boot-b'), twin('boot-a')]
    boot_ids = sorted(data['boot_id'] for _, data, _ in
                      driver.member_details(answers.record('twin')))
    assert boot_ids == ['boot-a', 'boot-a', 'boot-b']

    def reported(mine, other):
        return [r.getMessage() for r in caplog.records
                if 'Two machines report as the host twin' in r.getMessage()
                and 'this one (boot id %s)' % mine in r.getMessage()
                and 'another (boot id %s' % other in r.getMessage()]

    process.wait_until(
        lambda: reported('boot-a', 'boot-b') and reported('boot-b', 'boot-a'),
        10, 'both sides reported')
    time.sleep(4)
    # Each of the three says it of each other machine's node, once.
    assert len(reported('boot-a', 'boot-b')) == 2
    assert len(reported('boot-b', 'boot-a')) == 2
    assert not reported('boot-a', 'boot-a')
    assert all(each.refresh() for each in one)


# Bad input

@pytest.mark.parametrize('host', [
    'a/b', 'a@b', '100%', 'with space', 'grüße', '計算', '..', '.', '@',
    '%2E', 'x' * 255, 'ü' * 127, '-', '\u202e', 'a\tb'])
def test_any_host_name_will_do(session, reader, host):
    driver = reader()
    one = join(session(), host, timeout=5)
    process.wait_until(lambda: placed(driver, answers.record(host)), 5, 'up')
    one.leave()
    process.wait_until(lambda: not placed(driver, answers.record(host)), 5,
                       'down')


def test_foreign_nodes_are_no_members(ensemble, session, reader, caplog):
    driver = reader()
    with ensemble.client() as client:
        client.ensure_path(DIRECTORY)
        for name, ephemeral in [
                ('stale@0123456789abcdef', False), ('stale', True),
                ('stale@x', True), ('stale@0123456789ABCDEF', True),
                ('%73tale@0123456789abcdef', True), ('@', True)]:
            client.create('%s/%s' % (DIRECTORY, name), b'\xff\x00{',
                          ephemeral=ephemeral)
        # Garbage for data makes no difference: the session counts.
        client.create(DIRECTORY + '/odd@0123456789abcdef', b'\xff\x00{',
                      ephemeral=True)
        process.wait_until(lambda: placed(driver, answers.record('odd')), 5,
                           'odd up')
        for host in ('stale', '', 'stale@x', '@'):
            if host:
                assert placed(driver, answers.record(host)) is False
        (_, data, _), = driver.member_details(answers.record('odd'))
        assert data == {}
        assert driver.member_details(answers.record('stale')) == []
        client.delete(DIRECTORY + '/stale@0123456789abcdef')
    warnings = [r for r in caplog.records
                if 'no memberships' in r.getMessage()]
    assert len(warnings) == 1


def test_a_restored_backup_is_no_fleet(ensemble, session, reader):
    # More nodes than a reader looks at before its first answer.
    hosts = ['restored%d' % number for number in range(500)]
    with ensemble.client() as client:
        client.ensure_path(DIRECTORY)
        for request in [client.create_async(
                '%s/%s@0123456789abcdef' % (DIRECTORY, host))
                for host in hosts]:
            request.get(10)
        join(session(), 'real', timeout=5)
        driver = reader()
        assert placed(driver, answers.record('real'))
        process.wait_until(
            lambda: not any(placed(driver, answers.record(host))
                            for host in hosts), 5, 'all down')
        assert placed(driver, answers.record('real'))


def test_an_acl_that_forbids_us(ensemble, session, reader, config):
    with ensemble.client(auth_data=[('digest', 'other:pw')]) as client:
        client.create('/locked', acl=security.CREATOR_ALL_ACL)
        with pytest.raises(exceptions.NotJoined, match='NoAuth'):
            membership.Membership(session(), '/locked/compute', 'a',
                                  timeout=3)
        driver = reader(sg_prefix='/locked', first_listing_timeout=1.0)
        assert driver.verdict(answers.record('a'))[:2] == (
            State.UNKNOWN, Reason.OUTAGE)
        with pytest.raises(kazoo_exc.NoNodeError):
            client.get_children('/locked/compute')
        # It is tried again now and then, not over and over.
        before = process.cpu_seconds(driver._session.keeper_pid)
        time.sleep(2)
        after = process.cpu_seconds(driver._session.keeper_pid)
        assert after - before < 0.2


def test_an_acl_that_lets_us_join_and_not_read(ensemble, session, caplog):
    with ensemble.client() as client:
        client.create('/blind', acl=[security.make_acl(
            'world', 'anyone', create=True, delete=True, write=True)])
        one = session(recv_timeout=1000)
        keeper = process.wait_until(lambda: one.keeper_pid, 5, 'a keeper')
        membership.Membership(one, '/blind', 'a', timeout=5)
        process.wait_until(
            lambda: 'Cannot see whether another machine' in caplog.text, 10,
            'the word that its twin cannot be seen')
        time.sleep(1)
        assert one.keeper_pid == keeper


def test_who_leaves_under_a_new_keeper_has_left(ensemble, session):
    """Before that keeper knows the node of the one that was killed."""
    one = session()
    member = join(one, 'quick', timeout=5)
    before = one.keeper_pid
    os.kill(before, signal.SIGKILL)
    process.wait_until(lambda: one.keeper_pid not in (None, before)
                       and one._ready, 5, 'another keeper',
                       interval=0.0005)
    assert member.leave(timeout=5) is True
    with ensemble.client() as client:
        assert not [name for name in client.get_children(DIRECTORY)
                    if name.startswith('quick@')]


def test_who_leaves_while_there_is_no_keeper_leaves(ensemble, session,
                                                    monkeypatch, tmp_path):
    one = session()
    member = join(one, 'unkept', timeout=5)
    other = join(one, 'staying', timeout=5)
    slow = tmp_path / 'python'
    slow.write_text('#!/bin/sh\nsleep 1\nexec %s "$@"\n' % sys.executable)
    slow.chmod(0o755)
    monkeypatch.setattr(child, '_python', lambda: str(slow))
    identity = one.client_id()
    os.kill(one.keeper_pid, signal.SIGKILL)
    process.wait_until(lambda: one.state() == evzookeeper.NO_KEEPER, 5,
                       'no keeper')
    assert member.leave(timeout=0.2) is False
    with ensemble.client() as client:
        names = [name.partition('@')[0]
                 for name in client.get_children(DIRECTORY)]
        assert 'unkept' in names
        process.wait_until(lambda: not [
            name for name in client.get_children(DIRECTORY)
            if name.startswith('unkept@')], 3.5, 'the end of its node')
        assert other.node in client.get_children(DIRECTORY)
    assert one.client_id() == identity
    process.wait_until(lambda: not one._leaving, 2, 'the answer')


def test_an_identity_protects_what_is_made(ensemble, session):
    one = membership.Membership(
        session(auth=('digest', 'fleet:secret')), '/guarded/compute', 'a',
        timeout=5)
    with ensemble.client() as stranger:
        with pytest.raises(kazoo_exc.NoAuthError):
            stranger.delete('/guarded/compute/' + one.node)
        with pytest.raises(kazoo_exc.NoAuthError):
            stranger.create('/guarded/compute/b@0123456789abcdef',
                            ephemeral=True)


def test_a_server_that_is_no_zookeeper(session, tmp_path):
    port = process.free_port()
    with process.Process('web', ['python3', '-m', 'http.server', port,
                                 '--bind', process.LOOPBACK],
                         tmp_path) as server:
        server.wait_ready(lambda: process.listening(port), 10)
        one = session('127.0.0.1:%d' % port)
        with pytest.raises(exceptions.NotJoined):
            join(one, 'a', timeout=6)
        assert one.keeper_pid is not None
        assert not one.is_connected()


def test_nobody_listens(session):
    with pytest.raises(exceptions.NotConnected, match='refused'):
        session('127.0.0.1:%d' % process.free_port(), timeout=1.5)


def test_a_name_that_does_not_resolve(session):
    with pytest.raises(exceptions.NotConnected):
        session('nowhere.invalid:2181', timeout=1.5)


@pytest.mark.fault(
    'zk',
    'the name service is slow, and then refuses',
    readers='as before',
    lasts='-',
    logged='WARNING at the loss of a connection, INFO at the return',
    ends='-')
def test_a_slow_name_service_costs_no_session(ensemble, monkeypatch):
    resolve, slow, lost = socket.getaddrinfo, [], threading.Event()

    def getaddrinfo(host, *args, **kwargs):
        if slow and host == 'localhost':
            # As long as a resolver tries, and no answer in the end.
            time.sleep(10)
            raise socket.gaierror(socket.EAI_AGAIN, 'Try again')
        return resolve(host, *args, **kwargs)

    monkeypatch.setattr(socket, 'getaddrinfo', getaddrinfo)
    client = keeper_security.Security().client(
        ensemble.address.replace(process.LOOPBACK, 'localhost'), 10)
    client.start(30)
    try:
        client.create('/slow-names', ephemeral=True)
        session = client.client_id
        client.add_listener(lambda state: state == 'LOST' and lost.set())
        slow.append(True)
        # Names are looked up anew when no server of the list answers.
        ensemble.kill()
        process.wait_until(lambda: not client.connected, 5, 'the loss')
        time.sleep(1)
        ensemble.start()
        process.wait_until(lambda: client.connected, 8, 'its return')
        assert client.client_id == session
        assert client.exists('/slow-names')
        assert not lost.is_set()
        # It isn't asked by one thread after the other.
        assert len([thread for thread in threading.enumerate()
                    if thread.name == 'resolver']) <= 1
    finally:
        slow.clear()
        client.stop()
        client.close()
        ensemble.start()


def test_one_bad_address_among_good_ones(ensemble, session):
    one = session('nowhere.invalid:2181,' + ensemble.address, timeout=10)
    assert one.is_connected()
