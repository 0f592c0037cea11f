# SPDX-License-Identifier: Apache-2.0

"""What readers of zk say of a fleet that falls silent, whenever they ask.

The keeper's part that needs no ZooKeeper (keeper.absences), the monitor and
the driver, over nodes and records in memory, with one clock that the test
moves. What ZooKeeper itself does is in the fault tests.
"""

import types

import pytest

from nova_servicegroup import conf as sg_conf
from nova_servicegroup.drivers import zk
from nova_servicegroup.evzookeeper import membership
from nova_servicegroup.keeper import absences
from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import record as records
from nova_servicegroup.keeper import returns
from nova_servicegroup.liveness import Question
from nova_servicegroup.liveness import State
from nova_servicegroup.tests.fixtures import answers

SIZE, DOWN_TIME = 1000, 60
SESSION, REJOIN = 4, 2
EPOCH = 1700000000


class Ensemble:
    """Nodes, records, and the members that they are of."""

    def __init__(self):
        self.now = 0
        self.readers = []
        self.hosts = ['host%d' % number for number in range(SIZE)]
        self.nodes = {}         # host -> name of its node
        self.records = {}       # host -> (data, seconds of the last write)
        self._tokens = 0
        for host in self.hosts:
            self.join(host)
        self.run(1)

    def record(self, host):
        """Return a host's record as a reader reads it."""
        data, written = self.records[host]
        return records.parse(data, types.SimpleNamespace(
            mtime=int((EPOCH + written) * 1000), version=1, czxid=1))

    def write(self, host, data):
        self.records[host] = data, self.now

    def join(self, host, silent=None):
        self._tokens += 1
        token = '%016x' % self._tokens
        before = self.record(host) if host in self.records else None
        self.nodes[host] = names.node(host, token)
        self.write(host, records.joined(token, before, silent))

    def expire(self, hosts):
        """Let sessions run out, with no word from their keepers."""
        for host in hosts:
            del self.nodes[host]

    def kill(self, host):
        self.write(host, records.ended(
            self.nodes.pop(host).partition('@')[2], 'killed', 0,
            self.record(host)))

    def run(self, seconds):
        """Let time pass; who watches gets what changes."""
        for _ in range(seconds):
            self.now += 1
            for reader in self.readers:
                reader.look()


class Session:
    """What a monitor and a driver want of one."""

    ahead = EPOCH

    def add_monitor(self, monitor):
        pass


class Reader:
    """A process that asks, and its keeper.

    :param writes: it writes down who is missed
    """

    def __init__(self, ensemble, conf, writes=True):
        self._writes = writes
        self.ensemble = ensemble
        self.watching = True
        waits = returns.Returns(REJOIN, SESSION, 600)
        waits.connected(ensemble.now)
        self._absences = absences.Absences(waits, True)
        self._listed = set()
        self._recorded = False
        session = Session()
        monitor = membership.MembershipMonitor(session, '/compute')
        self.monitor = monitor
        self.driver = zk.ZooKeeperDriver(
            conf=conf, monotonic=lambda: ensemble.now, store=session)
        # What is found on the first look, nobody waits for here.
        monitor._created_at = float('-inf')
        shared = {('view', 'compute'): monitor}
        self.driver.shared = lambda kind, make: (
            shared[kind] if kind in shared else shared.setdefault(
                kind, make()))
        ensemble.readers.append(self)
        self.look()

    def look(self):
        """Do what a keeper does once a second."""
        if not self.watching:
            return
        ensemble, now = self.ensemble, self.ensemble.now
        listed = set(ensemble.nodes.values())
        joined, left = listed - self._listed, self._listed - listed
        self._absences.changed(joined, left, now, EPOCH + now)
        self._absences.confirm(now)
        if not self._recorded:
            self._absences.records_listed(ensemble.records, now, EPOCH + now)
            self._recorded = True
            # And who is there may tell of a silence that is over.
            for host in self._absences.present():
                self._absences.record_read(
                    host, ensemble.record(host), now, EPOCH + now)
        for host in self._absences.unread(SIZE):
            self._absences.record_read(
                host, ensemble.record(host), now, EPOCH + now)
        self._absences.confirm(now)
        unwritten = self._absences.unwritten if self._writes else {}
        for host, record in list(unwritten.items()):
            ensemble.write(host, records.missed(record))
            for reader in ensemble.readers:
                reader._absences.record_changed(host)
        unwritten.clear()
        self._listed = listed
        self.monitor.seen(sorted(joined), sorted(left),
                          self._absences.changes(), EPOCH - 1000)

    def states(self, hosts=None):
        """Return {host: State}, as one pass of a process sees them."""
        self.driver.groups._loaded.clear()      # a second later
        return {host: self.driver.verdict(answers.record(host)).state
                for host in hosts or self.ensemble.hosts}

    def down(self, hosts=None):
        return {host for host, state in self.states(hosts).items()
                if state is State.DOWN}


@pytest.fixture
def ensemble():
    return Ensemble()


@pytest.fixture
def begin(ensemble, config):
    config.config(service_down_time=DOWN_TIME)
    config.config(group='zookeeper', address='127.0.0.1:1')
    sg_conf.settings(config.conf).refresh()

    def begin(**how):
        return Reader(ensemble, config.conf, **how)

    return begin


def lose_everybody(ensemble, seconds=200):
    ensemble.expire(list(ensemble.nodes))
    ensemble.run(seconds)


def test_the_first_pass_of_a_reader_that_saw_them_up(ensemble, begin):
    reader = begin()
    assert set(reader.states().values()) == {State.UP}
    ensemble.expire(ensemble.hosts)
    for _ in range(10):
        ensemble.run(8)
        assert reader.down() == set()


def test_one_question(ensemble, begin):
    lose_everybody(ensemble)
    for host in ensemble.hosts[::50]:
        reader = begin()
        assert reader.down([host]) == set()
        ensemble.readers.remove(reader)


def test_one_question_in_two_seconds(ensemble, begin):
    reader = begin()
    lose_everybody(ensemble, 1)
    for number in range(100):
        ensemble.run(2)
        assert reader.down([ensemble.hosts[number * 7]]) == set()


def test_a_process_started_this_second_and_a_one_shot_tool(ensemble, begin):
    lose_everybody(ensemble)
    reader = begin()
    assert set(reader.states().values()) == {State.UNKNOWN}
    ensemble.run(30)
    assert set(reader.states().values()) == {State.UNKNOWN}


def test_idle_for_long(ensemble, begin):
    """Its keeper watches meanwhile, and it asks nothing."""
    reader = begin()
    assert reader.down() == set()
    lose_everybody(ensemble, 700)
    assert reader.down() == set()


def test_a_worker_that_listed_and_one_that_did_not(ensemble, begin):
    listed, other = begin(), begin()
    listed.states()
    lose_everybody(ensemble)
    other.down(ensemble.hosts[:40])
    assert listed.states() == other.states()


def test_half_is_back(ensemble, begin):
    readers = [begin(), begin()]
    lose_everybody(ensemble)
    dead = set(ensemble.hosts[:500])
    for host in ensemble.hosts[500:]:
        ensemble.join(host, 200)
    for _ in range(2):
        ensemble.run(25)
        for reader in (*readers, begin()):
            assert reader.down() == set()
    ensemble.run(10)
    late = begin()
    ensemble.run(REJOIN)
    for reader in (*readers, late):
        assert reader.down() == dead


def test_one_was_back_just_before_a_switch_failed(ensemble, begin):
    """That says nothing of those behind the switch."""
    reader = begin()
    ensemble.expire(['host900'])
    ensemble.run(1)
    ensemble.join('host900', 5)
    ensemble.run(20)
    ensemble.expire(ensemble.hosts[:600])
    for _ in range(20):
        ensemble.run(10)
        assert reader.down() == set()
    new = begin()
    ensemble.run(REJOIN)
    assert new.down() == set()


def test_a_restart_in_the_middle_of_it_ends_no_doubt(ensemble, begin):
    reader = begin()
    ensemble.expire(ensemble.hosts[:600])
    ensemble.run(20)
    # Within a second: its record is that of the new one by then.
    ensemble.kill('host900')
    ensemble.join('host900')
    ensemble.run(1)
    ensemble.kill('host901')
    ensemble.run(1)
    ensemble.join('host901')
    for _ in range(20):
        ensemble.run(10)
        assert reader.down() == set()
    new = begin()
    ensemble.run(REJOIN)
    assert new.down() == set()


def test_a_restart_of_those_who_are_back_ends_no_doubt(ensemble, begin):
    """An operator restarts what has come back, while the rest still does."""
    reader = begin()
    lose_everybody(ensemble)
    for host in ensemble.hosts[400:]:
        ensemble.join(host, 200)
    ensemble.run(10)
    for host in ensemble.hosts[400:]:
        ensemble.kill(host)
    ensemble.run(2)
    for host in ensemble.hosts[400:]:
        ensemble.join(host)
    ensemble.run(10)
    new = begin()
    ensemble.run(REJOIN)
    for one in (reader, new):
        assert one.down() == set()
    assert reader.states() == new.states()


def test_most_are_back_before_anybody_wrote_that_they_were_missed(
        ensemble, begin):
    reader = begin(writes=False)
    lose_everybody(ensemble, 5)
    for host in ensemble.hosts[300:]:
        ensemble.join(host, 5)
    for _ in range(5):
        ensemble.run(10)
        for one in (reader, begin(writes=False)):
            assert one.down() == set()
    ensemble.run(11)
    assert reader.down() == set(ensemble.hosts[:300])


def test_they_come_back_at_fifty_a_second(ensemble, begin):
    reader = begin()
    lose_everybody(ensemble)
    for second in range(20):
        for host in ensemble.hosts[50 * second:50 * second + 50]:
            ensemble.join(host, 200 + second)
        ensemble.run(1)
        assert reader.down() == set()
        if second % 5 == 0:
            assert begin().down() == set()


def test_they_come_back_slowly_and_the_last_one_after_nine_minutes(
        ensemble, begin):
    lose_everybody(ensemble)
    reader = begin()
    for done in range(0, SIZE, 100):
        for host in ensemble.hosts[done:done + 100]:
            ensemble.join(host, 200 + done / 2)
        ensemble.run(50)
        assert reader.down() == set()


def test_sessions_that_run_out_over_half_a_minute(ensemble, begin):
    """A server that is slow; some are back before the last ones are lost."""
    reader = begin()
    lost = ensemble.hosts[:900]
    for second in range(45):
        ensemble.expire(lost[20 * second:20 * second + 20])
        if second >= 10:
            for host in lost[20 * second - 200:20 * second - 180]:
                ensemble.join(host, 10)
        ensemble.run(1)
        assert reader.down() == set()
    # The last two hundred need longer than all rejoin times.
    for _ in range(5):
        ensemble.run(10)
        assert reader.down() == set()
        assert begin().down() == set()


def test_real_deaths_are_seen_by_everybody(ensemble, begin):
    reader = begin()
    dead = set(ensemble.hosts[3:15])
    ensemble.expire(dead)
    ensemble.run(REJOIN + 1)
    new = begin()
    ensemble.run(REJOIN)
    assert reader.down() == new.down() == dead


def test_a_kill_in_the_middle_of_it_is_seen(ensemble, begin):
    reader = begin()
    ensemble.expire(ensemble.hosts[:600])
    ensemble.run(100)
    ensemble.kill('host700')
    ensemble.run(1)
    for one in (reader, begin()):
        assert one.states(['host700']) == {'host700': State.ENDED}
        assert one.driver.answer(answers.record('host700'),
                                 Question.MAY_PLACE) is False
        assert one.down() == set()


def test_a_death_before_the_outage_is_one_in_the_outage(ensemble, begin):
    begin()
    dead = set(ensemble.hosts[:12])
    ensemble.expire(dead)
    ensemble.run(400)
    lose_everybody(ensemble)
    new = begin()
    ensemble.run(REJOIN)
    assert new.down() == dead
