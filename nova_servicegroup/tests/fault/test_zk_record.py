# SPDX-License-Identifier: Apache-2.0

"""How a member ended, as every reader finds it, and what may go wrong."""

import os
import signal
import time

from kazoo import security
import pytest

from nova_servicegroup.keeper import record as records
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State
from nova_servicegroup.tests import contract
from nova_servicegroup.tests.fixtures import answers
from nova_servicegroup.tests.fixtures import member
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import zookeeper

GROUP = '/servicegroups/compute'
RECORDS = '/servicegroups/@last/compute'
TOKEN = '0123456789abcdef'
TIMEOUT = 4
#: seconds that a loaded machine may take for what takes milliseconds
SOON = 3
#: what [DEFAULT] service_down_time is for readers here
DOWN_TIME = 60


@pytest.fixture(scope='module')
def ensemble(tmp_path_factory):
    with zookeeper.Ensemble(
            tmp_path_factory.mktemp('zookeeper'), 1) as ensemble:
        yield ensemble


@pytest.fixture
def client(ensemble):
    with ensemble.client() as client:
        yield client
        client.delete('/servicegroups', recursive=True)


@pytest.fixture
def start(tmp_path, ensemble):
    """Start a member process and wait until it joined."""
    started = []

    def start(host, **what):
        one = member.Member(tmp_path / ('%s-%d' % (host, len(started))), host,
                            ensemble.address, **what)
        started.append(one)
        return one.start().wait_joined()

    yield start
    for one in started:
        one.stop()


@pytest.fixture
def ask(begin, config):
    config.config(service_down_time=DOWN_TIME)

    def ask(host, driver=None):
        """Return (state, reason), as a reader that begins now finds it."""
        return (driver or begin()).verdict(answers.record(host))[:2]
    return ask


def read(client, host):
    """Return the Record of a host, None for none."""
    path = '%s/%s' % (RECORDS, host)
    return records.parse(*client.get(path)) if client.exists(path) else None


def wait_state(client, host, state, timeout=SOON):
    def found():
        record = read(client, host)
        return record is not None and record.state == state
    process.wait_until(found, timeout, 'the record %s' % state)
    return read(client, host)


def write(client, host, state, token=TOKEN):
    client.set('%s/%s' % (RECORDS, host),
               ('%s %s' % (token, state)).encode())


# How it ended

def test_a_kill_is_told_to_who_was_not_there(client, start, ask):
    one = start('h')
    joined = read(client, 'h')
    assert joined.state == records.JOINED
    node, = client.get_children(GROUP)
    assert node == 'h@' + joined.token
    killed_at = time.time()
    one.kill()
    record = wait_state(client, 'h', 'killed')
    assert client.get_children(GROUP) == []
    # The servers' clock is this machine's.
    assert abs(record.last - killed_at) < 1
    assert ask('h') == (State.ENDED, Reason.KILLED)


def test_a_stop_a_leave_and_a_crash_are_told_apart(client, start, ask):
    start('stopped').signal(signal.SIGTERM)
    start('crashed', end=(0.1, 'raise'))
    wait_state(client, 'stopped', 'stopped')
    wait_state(client, 'crashed', 'killed')
    assert ask('stopped') == (State.ENDED, Reason.STOPPED)
    assert ask('crashed') == (State.ENDED, Reason.KILLED)


def test_a_leave_is_down_for_all_at_once(client, begin, ask):
    driver = begin()
    service = contract.FakeService('gone', 'compute',
                                   answers.record('gone'))
    driver.join('gone', 'compute', service)
    other = begin()
    process.wait_until(lambda: other.is_up(answers.record('gone')), SOON,
                       'it is up')
    driver.leave('gone', 'compute')
    assert read(client, 'gone').state == 'left'
    assert ask('gone', driver) == (State.DOWN, Reason.LEFT)


def test_a_hung_process_is_told_with_its_last_sign(client, start, ask):
    one = start('hung', down_time=3)
    one.freeze()
    frozen_at = time.time()
    record = wait_state(client, 'hung', 'hung', 8)
    # It beats once a second.
    assert -2 < record.last - frozen_at < 0.5
    assert record.written - record.last > 2.5
    assert ask('hung') == (State.ENDED, Reason.HUNG)
    one.thaw()
    process.wait_until(lambda: client.get_children(GROUP), SOON, 'its node')
    assert read(client, 'hung').state == records.JOINED


# Attacks: reviews have the numbers

def test_a_late_end_does_not_end_a_new_incarnation(client, start, ask):
    """2: the old one's keeper commits after the new one has joined."""
    old = start('h')
    os.kill(old.keeper_pid, signal.SIGSTOP)
    old.kill()
    start('h')
    new = read(client, 'h')
    assert len(client.get_children(GROUP)) == 2
    os.kill(old.keeper_pids[0], signal.SIGCONT)
    process.wait_until(lambda: len(client.get_children(GROUP)) == 1, 8,
                       'the end of the old one')
    assert read(client, 'h')[:2] == (new.token, records.JOINED)
    assert ask('h') == (State.UP, Reason.PRESENT)


def test_an_end_whose_node_is_gone_is_told_later(client, start, ask):
    """8: the transaction fails when the node went before."""
    one = start('h', down_time=3, interval=1)
    record = read(client, 'h')
    one.freeze()
    # Not the first of its reasons to go.
    path = '%s/h@%s' % (GROUP, record.token)
    process.wait_until(lambda: not client.exists(path), 8, 'its end')
    one.thaw()
    process.wait_until(lambda: client.get_children(GROUP), SOON, 'its return')
    # Somebody wrote to the record just now: its version is another one.
    write(client, 'h', token=read(client, 'h').token, state='missed')
    one.kill()
    process.wait_until(lambda: not client.get_children(GROUP), SOON, 'its end')
    wait_state(client, 'h', 'killed')


def test_a_record_that_cannot_be_written_keeps_nobody_out(client, start, ask):
    """7 and 8: the rights on it are somebody else's."""
    client.ensure_path(RECORDS)
    client.create(RECORDS + '/h', TOKEN.encode() + b' left', acl=[security.ACL(
                      security.Permissions.READ, security.ANYONE_ID_UNSAFE)])
    one = start('h')
    assert 'cannot be written' in one.log()
    assert ask('h') == (State.UP, Reason.PRESENT)


def test_an_old_record_is_no_proof_to_who_saw_the_node(
        client, start, ask, begin):
    """7: the reader knows of a later incarnation than the record."""
    client.ensure_path(RECORDS)
    client.create(RECORDS + '/h', TOKEN.encode() + b' left', acl=[security.ACL(
                      security.Permissions.READ, security.ANYONE_ID_UNSAFE)])
    one = start('h')
    driver = begin()
    assert ask('h', driver) == (State.UP, Reason.PRESENT)
    os.kill(one.keeper_pid, signal.SIGSTOP)
    one.kill()
    os.kill(one.keeper_pids[0], signal.SIGKILL)
    process.wait_until(
        lambda: ask('h', driver) != (State.UP, Reason.PRESENT), 3 * TIMEOUT,
        'the end of its session')
    assert ask('h', driver) == (State.UNKNOWN, Reason.RETURNING)
    process.wait_until(
        lambda: ask('h', driver) == (State.DOWN, Reason.GONE), TIMEOUT,
        'the end of its time to return')


def test_exec_is_no_end(client, start):
    """10: it closes the descriptors, and the process lives."""
    one = start('h', end=(0.1, 'exec'))
    process.wait_until(lambda: not client.get_children(GROUP), SOON,
                       'the end of its node')
    time.sleep(1)
    assert one.running
    assert read(client, 'h').state != 'killed'


@pytest.mark.parametrize('how', ['delete', 'garbage', 'missed', 'killed'])
def test_a_living_member_mends_its_record(client, start, how):
    """9 and 11: whatever somebody made of it."""
    start('h')
    token = read(client, 'h').token
    if how == 'delete':
        # At once: it is made again within a moment.
        end = client.transaction()
        end.delete(RECORDS + '/h')
        end.delete(RECORDS)
        assert end.commit() == [True, True]
    elif how == 'garbage':
        client.set(RECORDS + '/h', b'\xff{')
    else:
        write(client, 'h', state=how)
    process.wait_until(
        lambda: (read(client, 'h') or ' ')[:2] == (token, records.JOINED),
        SOON, 'the record mended')
    # Without a word of a silence that there wasn't, and once in a while only.
    written = client.exists(RECORDS + '/h').version
    for _ in range(20):
        write(client, 'h', state='killed', token=token)
        time.sleep(0.05)
    assert client.exists(RECORDS + '/h').version <= written + 21
    process.wait_until(lambda: read(client, 'h').state == records.JOINED,
                       TIMEOUT + SOON, 'the record mended again')


def test_two_machines_of_one_name_do_not_fight(client, start):
    """11: each has the record once, and the host is up while one lives."""
    start('h', boot_id='one')
    other = start('h', boot_id='two')
    time.sleep(1)
    version = client.exists(RECORDS + '/h').version
    time.sleep(2 * TIMEOUT)
    assert client.exists(RECORDS + '/h').version == version
    other.kill()
    # The one that lives says so.
    process.wait_until(lambda: read(client, 'h').state == 'killed' or
                       len(client.get_children(GROUP)) == 1, SOON, 'its end')
    process.wait_until(lambda: read(client, 'h').state == records.JOINED,
                       2 * TIMEOUT, 'the word of the other')


def test_only_computes_have_records(client, start):
    """1: of the others, a host may have sixteen processes."""
    start('h', group='conductor')
    assert client.get_children('/servicegroups/conductor')
    assert not client.exists('/servicegroups/@last/conductor')


def test_old_silences_are_told_from_an_outage(client, start, ask):
    """3: by when each was missed first; a reader gets it at its start."""
    start('living')
    for number in range(1, 6):
        client.create('%s/old-%d' % (RECORDS, number),
                      b'%s missed age=%d' % (TOKEN.encode(), 3600 * number))
        client.create('%s/now-%d' % (RECORDS, number),
                      b'%s missed age=%d' % (TOKEN.encode(), 60 + number))
    assert ask('old-1') == (State.DOWN, Reason.GONE)
    assert ask('now-1') == (State.UNKNOWN, Reason.MASS_FAILURE)


def test_all_readers_agree_since_when_a_host_is_missed(client, start, begin):
    """9: the first one writes it, all others read it, also later ones."""
    hosts = ['s%d' % number for number in range(6)]
    silent = start('h')
    for host in hosts:
        start(host)
    readers = [begin() for _ in range(3)]
    for reader in readers:
        process.wait_until(lambda: reader.verdict(
            answers.record('h')).state is State.UP, SOON, 'it is up')
    version = client.exists(RECORDS + '/h').version
    os.kill(silent.keeper_pid, signal.SIGSTOP)
    silent.kill()
    os.kill(silent.keeper_pids[0], signal.SIGKILL)
    for reader in readers:
        process.wait_until(lambda: reader.verdict(
            answers.record('h')).state is State.DOWN, 3 * TIMEOUT, 'down')
    record = read(client, 'h')
    assert record.state == 'missed'
    assert client.exists(RECORDS + '/h').version == version + 1
    seen = {reader.verdict(answers.record('h')).seen_at.timestamp()
            for reader in readers + [begin()]}
    assert seen == {record.last}
