# SPDX-License-Identifier: Apache-2.0

"""What a keeper reads of a group, and when it judges, against a fake client.

How ZooKeeper answers is shown in the fault tests; here are thousands of
records, and a clock that the test moves.
"""

import types

from kazoo import exceptions as kazoo_exc
import pytest

from nova_servicegroup.keeper import group
from nova_servicegroup.keeper import group_records
from nova_servicegroup.keeper import lookback
from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import record as records
from nova_servicegroup.keeper import watches

SIZE = 2000
AHEAD = 1700000000
NODES, RECORDS = '/g', '/last'


class Ensemble:
    """Nodes and records in memory, and the Registrar of one reader."""

    DISCONNECTED = kazoo_exc.ConnectionLoss,
    timeout, retry_interval = 4, 5

    def __init__(self):
        self.now = 1000
        self.nodes = {'host%d' % number: '%016x' % number
                      for number in range(SIZE)}
        self.records = {}
        for host, token in self.nodes.items():
            self.write(host, records.joined(token, None))
        self.read = []          # hosts
        self.watched = []       # hosts whose records were read with a watch
        self.callbacks = set()  # of these watches
        self.calls = 0          # of submit
        self.listings = self.views = 0
        self.absences = {}      # what was posted to the parent
        self.client = self.watches = self.rights = self
        self.supported = True
        self.slow = False

    # The Registrar.

    def monotonic(self):
        return self.now

    def time(self, now):
        return AHEAD + now

    def jitter(self, low, high):
        return high

    def submit(self, what, *args):
        self.calls += 1
        what(*args)

    def post(self, op, **fields):
        self.views += op == 'view'
        self.absences.update(fields.get('absences', {}))

    def reason(self, path, error):
        return str(error)

    def get(self, request):
        if isinstance(request, Exception):
            raise request
        return request

    # The client: what it returns is the answer already.

    def add_async(self, path, watch):
        self.tell = watch

    def sync_async(self, path):
        pass

    def exists_async(self, path):
        if self.slow:
            return kazoo_exc.ConnectionLoss()
        return types.SimpleNamespace(ephemeralOwner=1)

    def get_children_async(self, path, watch=None, include_data=False):
        if path == NODES:
            self.listings += 1
            return [names.node(*item) for item in self.nodes.items()]
        return list(self.records), types.SimpleNamespace(ctime=1)

    def get_async(self, path, watch=None):
        host = path.rpartition('/')[2]
        self.read.append(host)
        if watch is not None:
            self.watched.append(host)
            self.callbacks.add(watch)
        if host not in self.records:
            return kazoo_exc.NoNodeError()
        data, written = self.records[host]
        return data, types.SimpleNamespace(
            mtime=int((AHEAD + written) * 1000), version=1, czxid=1)

    def set_async(self, path, data, version):
        self.write(path.rpartition('/')[2], data)
        return types.SimpleNamespace(czxid=1)

    # The members.

    def write(self, host, data):
        self.records[host] = data, self.now

    def lose(self, host, end=None):
        """Delete a host's node, with or without a word how it ended."""
        token = self.nodes.pop(host)
        if end:
            self.write(host, records.ended(token, end, 0, None))
        self.tell(watches.DELETED, '%s/%s' % (NODES, names.node(host, token)))

    def back(self, host, gap):
        """Write a record as of one that was silent, and is back."""
        self.write(host, records.joined(self.nodes[host], None, gap))


@pytest.fixture
def ensemble():
    return Ensemble()


@pytest.fixture
def reader(ensemble):
    reader = group.Group(ensemble, NODES, '', RECORDS, 600, ())
    reader.connected(ensemble.now)
    run(ensemble, reader, 1)
    ensemble.read.clear()
    return reader


def run(ensemble, reader, seconds):
    """Let time pass, and the reader do all that is due."""
    end = ensemble.now + seconds
    while reader.due(ensemble.now) <= end:
        ensemble.now = max(ensemble.now, reader.due(ensemble.now))
        reader.refresh()
    ensemble.now = end


def test_a_kill_costs_one_read_and_nobody_elses_record(ensemble, reader):
    ensemble.lose('host7', 'killed')
    run(ensemble, reader, group.SHORTEST_PAUSE)
    assert ensemble.read == ['host7']
    assert ensemble.absences['host7'][0] == 'killed'


def test_the_record_of_an_end_is_not_watched(ensemble, reader):
    """Only a new node can follow it."""
    ensemble.lose('host7', 'killed')
    run(ensemble, reader, 1)
    assert (ensemble.read, ensemble.watched) == (['host7'], [])
    # Others are missed, or their ends are not written yet.
    ensemble.lose('host8')
    run(ensemble, reader, 1)
    assert ensemble.read[1:3] == ['host8'] * 2
    assert ensemble.watched == ['host8']
    ensemble.read.clear()
    change(ensemble, 'host8')
    run(ensemble, reader, 1)
    assert ensemble.read == ['host8']
    assert ensemble.watched == ['host8'] * 2
    # kazoo keeps each callback of a path until it is called.
    assert len(ensemble.callbacks) == 1


def test_who_hung_may_still_stop(ensemble, reader):
    token = ensemble.nodes['host7']
    ensemble.lose('host7', 'hung')
    run(ensemble, reader, 1)
    assert ensemble.absences['host7'][0] == 'hung'
    ensemble.write('host7', records.ended(token, 'stopped', 0, None))
    change(ensemble, 'host7')
    run(ensemble, reader, 1)
    assert ensemble.absences['host7'][0] == 'stopped'


def test_who_is_lost_while_its_record_is_in_the_sample_is_watched(
        ensemble, reader):
    reader._look_back.silent(1, ['host7'])
    ensemble.lose('host7')
    run(ensemble, reader, 1)
    assert ensemble.read[:2] == ['host7'] * 2
    assert ensemble.watched == ['host7']


@pytest.mark.parametrize('data', [b'{}', None])
def test_who_has_an_invalid_record_was_seen(ensemble, data):
    """It may just be between two sessions."""
    del ensemble.nodes['host7'], ensemble.nodes['host8']
    ensemble.records['host7'] = data, 1000
    del ensemble.records['host8']
    reader = group.Group(ensemble, NODES, '', RECORDS, 600, ())
    reader.connected(ensemble.now)
    run(ensemble, reader, 1)
    assert ensemble.absences['host7'] == ['missed', AHEAD + 1000, False]
    assert 'host8' not in ensemble.absences
    run(ensemble, reader, 60)
    assert ensemble.absences['host7'][2]


def test_who_is_gone_before_its_owner_is_checked_is_forgotten(
        ensemble, reader, monkeypatch):
    checked, new = [], NODES + '/new@' + 'f' * 16
    run(ensemble, reader, 100)      # All others were checked.
    monkeypatch.setattr(ensemble, 'exists_async', checked.append)
    ensemble.tell(watches.CREATED, new)
    run(ensemble, reader, 10)
    assert checked == [new]


def change(ensemble, host):
    """Report that a record was changed."""
    callback, = ensemble.callbacks
    callback(types.SimpleNamespace(
        type='CHANGED', path='%s/%s' % (RECORDS, host)))


def test_who_is_lost_among_ends_is_watched(ensemble, reader):
    for number in range(3):
        ensemble.lose('host%d' % number, 'killed')
    ensemble.lose('host3')
    run(ensemble, reader, 1)
    assert ensemble.watched == ['host3']
    assert ensemble.read.count('host3') == 2


def test_without_a_persistent_watch_each_record_is_watched(ensemble):
    """A member may have joined and ended between two listings."""
    ensemble.supported = False
    reader = group.Group(ensemble, NODES, '', RECORDS, 600, ())
    reader.connected(ensemble.now)
    ensemble.log = ensemble.tell = lambda *args: None
    run(ensemble, reader, 1)
    ensemble.lose('host7', 'killed')
    reader._directory_changed(types.SimpleNamespace(type='CHILD'))
    run(ensemble, reader, 1)
    assert ensemble.absences['host7'][0] == 'killed'
    assert ensemble.watched == ['host7']


def test_where_many_are_lost_few_records_are_read_twice(ensemble, reader):
    for number in range(1000):
        ensemble.lose('host%d' % number)
    run(ensemble, reader, 10)
    lost = {'host%d' % number for number in range(1000)}
    assert sorted(set(ensemble.watched)) == sorted(lost)
    assert len(ensemble.watched) == len(lost)
    assert len([host for host in ensemble.read if host in lost]) == (
        1000 + group_records.READS)


def test_who_is_back_already_costs_no_listing(ensemble, reader, monkeypatch):
    """Its record says so before the event of its node was applied."""
    token, read = 'f' * 16, ensemble.get_async

    def get_async(path, watch=None):
        if 'host7' not in ensemble.nodes:
            ensemble.nodes['host7'] = token
            ensemble.write('host7', records.joined(token, None))
            ensemble.tell(watches.CREATED, '%s/%s' % (
                NODES, names.node('host7', token)))
        return read(path, watch)

    monkeypatch.setattr(ensemble, 'get_async', get_async)
    listings = ensemble.listings
    ensemble.lose('host7')
    run(ensemble, reader, 1)
    assert ensemble.absences == {'host7': None}
    assert ensemble.listings == listings


def test_of_many_changes_some_are_reported_at_a_time(ensemble, reader):
    ensemble.views = 0
    for number in range(1000):
        ensemble.lose('host%d' % number, 'stopped')
        run(ensemble, reader, 0.001)
    run(ensemble, reader, 5)
    assert ensemble.views < 30
    assert all(ensemble.absences['host%d' % number][0] == 'stopped'
               for number in range(1000))


def test_the_pause_after_many_changes_is_short(ensemble, reader):
    for number in range(1000):
        ensemble.lose('host%d' % number, 'stopped')
    run(ensemble, reader, group.SHORTEST_PAUSE)
    ensemble.lose('host1500', 'killed')
    run(ensemble, reader, group.LONGEST_PAUSE + group_records.URGENT_PAUSE)
    assert ensemble.absences['host1500'][0] == 'killed'


def test_events_that_wait_wake_the_thread_once(ensemble, reader):
    calls = ensemble.calls
    for number in range(100):
        ensemble.lose('host%d' % number, 'stopped')
    assert ensemble.calls == calls + 1
    run(ensemble, reader, 1)
    assert len(ensemble.absences) == 100
    ensemble.lose('host100', 'stopped')
    assert ensemble.calls == calls + 2


def test_one_silent_host_costs_a_sample(ensemble, reader):
    ensemble.lose('host7')
    run(ensemble, reader, 10)
    assert ensemble.absences['host7'][2]
    assert lookback.SAMPLE < len(set(ensemble.read)) < lookback.SAMPLE + 5


def test_who_came_back_unseen_is_read_before_silence_is_judged(
        ensemble, reader):
    for number in range(0, SIZE, 4):
        ensemble.back('host%d' % number, 30)
    ensemble.lose('host7')
    while not ensemble.absences.get('host7', [0, 0, False])[2]:
        ensemble.tell(watches.CREATED, NODES)
        run(ensemble, reader, 0.1)
    told_back = [host for host, about in ensemble.absences.items()
                 if about and about[0] == 'back']
    assert len(told_back) == SIZE / 4


def test_a_reader_that_starts_after_a_long_outage_finds_who_came_back(
        ensemble):
    """A switch was away for two hours: 600 of its 1,000 came back already."""
    for number in range(400):
        host = 'host%d' % number
        record = records.joined(ensemble.nodes.pop(host), None)
        ensemble.records[host] = (
            record.replace(b'joined', b'missed'), ensemble.now - 7200)
    for number in range(400, 1000):
        ensemble.back('host%d' % number, 7200)
    reader = group.Group(ensemble, NODES, '', RECORDS, 600, ())
    reader.connected(ensemble.now)
    run(ensemble, reader, 60)
    assert ensemble.absences['host7'][2]
    assert len([about for about in ensemble.absences.values()
                if about and about[0] == 'back']) == 600


def test_a_grace_of_hours_needs_older_returns(ensemble):
    """Half came back two hours ago, and others still do."""
    for number in range(1, SIZE, 2):
        ensemble.back('host%d' % number, 30)
    ensemble.now += 7200
    reader = group.Group(ensemble, NODES, '', RECORDS, 3 * 3600, ())
    reader.connected(ensemble.now)
    run(ensemble, reader, 1)
    ensemble.lose('host0')
    run(ensemble, reader, 60)
    assert ensemble.absences['host0'][2]
    assert len(ensemble.absences) == SIZE / 2 + 1


def test_who_is_connected_for_long_has_nothing_to_look_back_for(
        ensemble, reader):
    run(ensemble, reader, lookback.RECENT)
    ensemble.read.clear()
    for number in range(30):
        ensemble.lose('host%d' % number)
    run(ensemble, reader, 15)
    assert ensemble.absences['host7'][2]
    assert set(ensemble.read) == {'host%d' % number for number in range(30)}


def test_records_that_could_not_be_read_are_read_later(
        ensemble, reader, monkeypatch):
    for number in range(0, SIZE, 4):
        ensemble.back('host%d' % number, 30)
    answer, refused = ensemble.get_async, []

    def refuse(path, watch=None):
        if watch is None and len(refused) < 5:
            refused.append(path)
            return kazoo_exc.MarshallingError()
        return answer(path, watch)

    monkeypatch.setattr(ensemble, 'get_async', refuse)
    ensemble.lose('host7')
    run(ensemble, reader, 60)
    assert len(refused) == 5
    assert len([host for host, about in ensemble.absences.items()
                if about and about[0] == 'back']) >= SIZE / 4 - len(refused)


def test_where_many_are_silent_one_who_came_back_unseen_is_found(
        ensemble, reader):
    """With 999 of 2,000 silent, one that is back makes it massive."""
    for host in ('host1997', 'host1998', 'host1999'):
        ensemble.back(host, 30)
    for number in range(30):
        ensemble.lose('host%d' % number)
    run(ensemble, reader, 15)
    assert ensemble.absences['host7'][2]
    for host in ('host1997', 'host1998', 'host1999'):
        assert ensemble.absences[host][0] == 'back'


def test_nothing_is_listed_until_they_are_read(ensemble, reader):
    for number in range(0, SIZE, 4):
        ensemble.back('host%d' % number, 30)
    ensemble.lose('host7')
    before = ensemble.listings
    run(ensemble, reader, 15)
    assert ensemble.absences['host7'][2]
    assert ensemble.listings - before <= 3


def test_what_happened_while_the_connection_was_away_is_read(
        ensemble, reader):
    ensemble.lose('host7')
    run(ensemble, reader, 10)
    reader.disconnected(ensemble.now)
    for number in range(0, SIZE, 4):
        ensemble.back('host%d' % number, 30)
    ensemble.now += 30
    reader.connected(ensemble.now)
    ensemble.lose('host9')
    run(ensemble, reader, 30)
    assert len(set(ensemble.read)) == SIZE


def test_of_two_outages_that_were_not_seen_the_later_one_counts(
        ensemble, reader):
    """Else a reader that knows of the earlier one calls the living down."""
    for lost in ('host0', 'host2'):
        reader.disconnected(ensemble.now)
        ensemble.now += 1000
        for number in range(1, SIZE, 4):
            ensemble.back('host%d' % number, 30)
        back_at = AHEAD + ensemble.now
        ensemble.now += 1
        reader.connected(ensemble.now)
        ensemble.lose(lost)
        run(ensemble, reader, 30)
        assert ensemble.absences[lost][2]
        assert all(
            ensemble.absences['host%d' % number] == [
                'back', back_at - 30, back_at]
            for number in range(1, SIZE, 4))


@pytest.mark.parametrize('answer', [
    kazoo_exc.BadVersionError(), kazoo_exc.NoNodeError(),
    # Deleted and created again, so that the versions are the same.
    types.SimpleNamespace(czxid=2)])
def test_a_record_that_changed_before_it_was_marked_is_read_again(
        ensemble, reader, monkeypatch, answer):
    token = ensemble.nodes['host7']

    def set_async(path, data, version):
        ensemble.write('host7', records.ended(token, 'killed', 0, None))
        return answer

    monkeypatch.setattr(ensemble, 'set_async', set_async)
    ensemble.lose('host7')
    run(ensemble, reader, 30)
    assert ensemble.absences['host7'][0] == 'killed'


def test_silence_counts_only_after_a_sync(ensemble, reader, monkeypatch):
    """A server that lost its leader still answers, and shows no return."""
    monkeypatch.setattr(ensemble, 'sync_async',
                        lambda path: kazoo_exc.ConnectionLoss())
    ensemble.lose('host7')
    with pytest.raises(kazoo_exc.ConnectionLoss):
        run(ensemble, reader, 60)
    assert ensemble.absences['host7'][0] == 'missed'
    assert not ensemble.absences['host7'][2]


def test_a_kill_among_many_that_are_lost_is_read_at_once(ensemble, reader):
    for number in range(1000):
        ensemble.lose('host%d' % number)
    run(ensemble, reader, 2 * group.LONGEST_PAUSE)
    assert len(ensemble.read) == group_records.READS
    ensemble.lose('host1500', 'killed')
    run(ensemble, reader, group.SHORTEST_PAUSE)
    assert ensemble.absences['host1500'][0] == 'killed'
    ensemble.lose('host1501', 'killed')
    run(ensemble, reader, group.SHORTEST_PAUSE)
    assert ensemble.absences['host1501'][0] == 'missed'
    run(ensemble, reader, group_records.URGENT_PAUSE)
    assert ensemble.absences['host1501'][0] == 'killed'
    assert len(ensemble.read) == (
        group_records.READS + 2 * group_records.URGENT_READS)


def test_many_records_are_read_bit_by_bit(ensemble, reader):
    for number in range(1000):
        ensemble.lose('host%d' % number)
    run(ensemble, reader, 2 * group_records.READ_PAUSE)
    assert len(ensemble.read) <= 4 * group_records.READS
    run(ensemble, reader, 30)
    assert {'host%d' % number for number in range(1000)} <= set(ensemble.read)


@pytest.mark.parametrize('listed', [False, True])
def test_who_was_back_and_was_killed_at_once_is_read(
        ensemble, reader, listed):
    """After a loss of all data there is no record yet, and so no watch."""
    del ensemble.records['host7']
    ensemble.lose('host7')
    run(ensemble, reader, 1)
    ensemble.nodes['host7'] = token = 'f' * 16
    ensemble.tell(watches.CREATED, '%s/%s' % (
        NODES, names.node('host7', token)))
    ensemble.lose('host7', 'killed')
    if listed:
        ensemble.tell(watches.CREATED, NODES)
    run(ensemble, reader, group.SHORTEST_PAUSE)
    assert ensemble.absences['host7'][0] == 'killed'


def test_who_was_killed_while_the_servers_are_slow_is_read(ensemble, reader):
    del ensemble.records['host7']
    ensemble.lose('host7')
    run(ensemble, reader, 1)
    ensemble.nodes['host7'] = token = 'f' * 16
    ensemble.tell(watches.CREATED, '%s/%s' % (
        NODES, names.node('host7', token)))
    ensemble.slow = True
    ensemble.now += 1
    with pytest.raises(kazoo_exc.ConnectionLoss):
        reader.refresh()
    ensemble.slow = False
    ensemble.lose('host7', 'killed')
    run(ensemble, reader, 1)
    assert ensemble.absences['host7'][0] == 'killed'
