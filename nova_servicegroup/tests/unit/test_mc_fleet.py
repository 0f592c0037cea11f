# SPDX-License-Identifier: Apache-2.0

"""What readers make of a fleet when many of its heartbeats stop at once.

Writers and readers are real ones, on servers in this process and on a clock
that tests set. No reader may call a living host down, whenever it started,
whatever it asks and whatever its clock says; and all of them agree.
"""

import datetime
import threading
import types

import pytest

from nova_servicegroup.drivers import mc
from nova_servicegroup import liveness
from nova_servicegroup.liveness import End
from nova_servicegroup.liveness import Question
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State
from nova_servicegroup.memcached import polling
from nova_servicegroup.memcached import servers
from nova_servicegroup.memcached import wire
from nova_servicegroup.memcached import writing

INTERVAL = 10
DOWN_TIME = 60
TOPIC = 'compute'


class Server(servers.InProcess):
    """A server that can be lost, and restarted empty."""

    def __init__(self, name):
        super().__init__()
        self.name = name
        self.lost = False

    def _check(self):
        if self.lost:
            raise servers.ServerLost('%s is away' % self.name)

    def get(self, keys, timeout):
        self._check()
        return super().get(keys, timeout)

    def gets(self, key, timeout):
        self._check()
        return super().gets(key, timeout)

    def put(self, *args):
        self._check()
        return super().put(*args)

    def clear(self):
        self._values.clear()


class Servers(list):

    timeout = 0.5
    dead_retry = INTERVAL
    prefix = ''

    def of(self, key):
        return range(len(self))


class Driver(mc.MemcachedDriver):
    """One that has its process for itself."""

    def __init__(self, *args, **kwargs):
        self._own = {}
        super().__init__(*args, **kwargs)

    def shared(self, kind, make):
        if kind not in self._own:
            self._own[kind] = make()
        return self._own[kind]

    @property
    def _view(self):
        return self.shared('view', self._make_view)


class Fleet:
    """Computes, each with its moment in the interval, and two conductors."""

    def __init__(self, size, stores=1):
        self.now = 100000.0
        self.stores = Servers(Server('mc%d' % n) for n in range(stores))
        self.hosts = ['c%d' % n for n in range(size)]
        self.beating = set(self.hosts)
        self.cut_off = set()
        self.deleted = set()
        self.conductors = ['k1', 'k2']
        self.writer = self.driver()
        self.advance(INTERVAL)

    def driver(self, ahead=0):
        driver = Driver(
            store=self.stores, monotonic=lambda: self.now,
            utcnow=lambda: wire.EPOCH + datetime.timedelta(
                seconds=self.now + ahead))
        driver.list_members = lambda: (
            [(TOPIC, host, host in self.deleted) for host in self.hosts]
            + [('conductor', host, False) for host in self.conductors])
        return driver

    def beat(self, host, topic=TOPIC):
        try:
            self.writer.publish(_membership(host, topic))
        except writing.NotStored:
            pass

    def stop(self, host, end=End.STOPPED):
        self.beating.discard(host)
        self.writer.withdraw(_membership(host), end, 1)

    def advance(self, seconds, after_each=lambda: None):
        for _ in range(seconds):
            self.now += 1
            turn = int(self.now) % INTERVAL
            for number, host in enumerate(self.hosts):
                if number % INTERVAL == turn and (
                        host in self.beating and host not in self.cut_off):
                    self.beat(host)
            for host in self.conductors:
                self.beat(host, 'conductor')
            after_each()

    def lose_stores(self):
        for store in self.stores:
            store.lost = True

    def find_stores(self, empty):
        for store in self.stores:
            store.lost = False
            if empty:
                store.clear()


def _membership(host, topic=TOPIC):
    return types.SimpleNamespace(member=host, group=topic, interval=INTERVAL)


class Reader:
    """One process that asks."""

    def __init__(self, fleet, **how):
        self.fleet = fleet
        self.driver = fleet.driver(**how)
        self._turn = 0

    def verdict(self, host):
        return self.driver.verdict(
            {'topic': TOPIC, 'host': host, 'updated_at': None})

    def is_up(self, host):
        return self.driver.is_up(
            {'topic': TOPIC, 'host': host, 'updated_at': None})

    def state(self, host):
        return self.verdict(host).state

    def down(self, hosts=None):
        """Return which hosts this reader calls down, asking about all."""
        return {host for host in hosts or self.fleet.hosts
                if not self.is_up(host)}

    def down_of_next(self):
        """Ask one question."""
        self._turn += 7
        return self.down([self.fleet.hosts[
            self._turn % len(self.fleet.hosts)]])


class Crowd:
    """The readers that come to different ends when each has its own memory.

    ``watch`` is to be called every second.
    """

    def __init__(self, fleet, dead=()):
        self.fleet = fleet
        self.dead = set(dead)         # may be called down
        self.always = Reader(fleet)   # lists every second
        self.seldom = Reader(fleet)   # asks one question in two seconds
        self.ahead = Reader(fleet, ahead=61)
        self.behind = Reader(fleet, ahead=-61)
        self.idle = Reader(fleet)     # asks when the test says so
        for reader in (self.always, self.ahead, self.behind, self.idle):
            reader.down()
        fleet.advance(INTERVAL, self.watch)

    def watch(self):
        wrong = {}
        now = int(self.fleet.now)
        down_by = {
            'always': self.always.down(), 'ahead': self.ahead.down(),
            'behind': self.behind.down(),
            'one question': Reader(self.fleet).down_of_next(),
            'seldom': self.seldom.down_of_next() if now % 2 else set()}
        if now % 7 == 0:
            down_by['new'] = Reader(self.fleet).down()
            down_by['new, ahead'] = Reader(self.fleet, ahead=61).down()
            down_by['new, behind'] = Reader(self.fleet, ahead=-61).down()
        for who, down in down_by.items():
            if down - self.dead:
                wrong[who] = sorted(down - self.dead)
        assert not wrong, 'after %s s' % (now - 100000)

    def readers(self):
        """Return all kinds of readers, those that start now among them."""
        return {'always': self.always, 'seldom': self.seldom,
                'idle': self.idle, 'ahead': self.ahead,
                'behind': self.behind, 'new': Reader(self.fleet)}

    def agree(self):
        """Return which hosts are down to all readers, who must agree."""
        down = {who: reader.down() for who, reader in self.readers().items()}
        first = down['always']
        assert down == dict.fromkeys(down, first)
        return first


class AtOnce(threading.Thread):
    """Does at its start what a thread would do, which costs much more."""

    def start(self):
        self.run()

    def join(self, timeout=None):
        pass


@pytest.fixture
def make_fleet(config, monkeypatch):
    monkeypatch.setattr(polling, 'threading', types.SimpleNamespace(
        Lock=threading.Lock, Thread=AtOnce))
    config.config(report_interval=INTERVAL, service_down_time=DOWN_TIME,
                  memcached_servers=['<None>'])
    from nova_servicegroup import conf as sg_conf
    sg_conf.settings(config.conf).refresh()
    return Fleet


@pytest.mark.parametrize('size', [1, 3, 10])
@pytest.mark.parametrize('empty', [False, True], ids=['kept', 'empty'])
@pytest.mark.parametrize('length', [1, 70, 200])
def test_memcached_is_away_and_back(make_fleet, size, empty, length):
    fleet = make_fleet(size)
    crowd = Crowd(fleet)
    fleet.lose_stores()
    fleet.advance(length, crowd.watch)
    fleet.find_stores(empty)
    fleet.advance(3 * DOWN_TIME, crowd.watch)
    assert crowd.agree() == set()
    assert crowd.always.state('c0') is State.UP


@pytest.mark.parametrize('size', [4, 10])
def test_real_deaths_in_an_outage_are_seen_after_it(make_fleet, size):
    fleet = make_fleet(size)
    crowd = Crowd(fleet)
    fleet.lose_stores()
    fleet.advance(100, crowd.watch)
    crowd.dead = {'c1'}
    fleet.beating -= crowd.dead
    fleet.advance(100, crowd.watch)
    fleet.find_stores(empty=False)
    fleet.advance(DOWN_TIME + 2 * INTERVAL, crowd.watch)
    assert crowd.agree() == crowd.dead
    # Nor does it come back to life by what is left of the doubt.
    fleet.advance(1000)
    fleet.advance(5, crowd.watch)
    assert crowd.agree() == crowd.dead


def cut(fleet, crowd, share, seconds):
    """Cut a part of the fleet off the store."""
    fleet.cut_off = set(fleet.hosts[:int(len(fleet.hosts) * share)])
    fleet.advance(seconds, crowd.watch)


@pytest.mark.parametrize('share', [0.5, 0.6, 1])
def test_half_of_the_fleet_and_more_is_doubted(make_fleet, share):
    fleet = make_fleet(10)
    crowd = Crowd(fleet)
    cut(fleet, crowd, share, 200)
    verdict = Reader(fleet).verdict('c0')
    assert (verdict.state, verdict.reason) == (
        State.UNKNOWN, Reason.MASS_FAILURE)
    fleet.advance(700)
    # Also by who comes now, and by who has not asked for so long.
    assert crowd.agree() == set()
    fleet.cut_off = set()
    fleet.advance(3 * DOWN_TIME, crowd.watch)
    assert crowd.agree() == set()


@pytest.mark.parametrize('rate, size', [(50, 150), (1, 30)])
def test_they_come_back_slowly(make_fleet, rate, size):
    fleet = make_fleet(size)
    crowd = Crowd(fleet)
    cut(fleet, crowd, 1, 100)

    def more_are_back():
        fleet.cut_off -= set(sorted(fleet.cut_off)[:rate])
        crowd.watch()

    fleet.advance(size // rate + 2 * INTERVAL, more_are_back)
    assert crowd.agree() == set()


def test_half_is_back_and_the_others_are_dead(make_fleet):
    fleet = make_fleet(10)
    crowd = Crowd(fleet)
    cut(fleet, crowd, 0.8, 200)
    crowd.dead = set(fleet.hosts[:4])
    fleet.beating -= crowd.dead
    fleet.cut_off = set()
    fleet.advance(DOWN_TIME, crowd.watch)
    assert crowd.always.down() == set()
    fleet.advance(2 * INTERVAL, crowd.watch)
    assert crowd.agree() == crowd.dead
    fleet.advance(3000)
    assert crowd.agree() == crowd.dead


def test_deaths_outside_of_an_outage_are_seen_in_the_middle_of_it(make_fleet):
    fleet = make_fleet(10)
    crowd = Crowd(fleet)
    cut(fleet, crowd, 0.6, 400)
    crowd.dead = {'c9'}
    fleet.beating -= crowd.dead
    fleet.advance(DOWN_TIME + INTERVAL, crowd.watch)
    assert crowd.agree() == crowd.dead


def test_a_fleet_cut_off_again_is_doubted_again(make_fleet):
    fleet = make_fleet(10)
    crowd = Crowd(fleet)
    for _ in range(2):
        cut(fleet, crowd, 0.7, 150)
        fleet.cut_off = set()
        fleet.advance(100, crowd.watch)


@pytest.mark.parametrize('lost', [0, 1])
@pytest.mark.parametrize('empty', [False, True], ids=['kept', 'empty'])
def test_one_of_two_servers_is_lost(make_fleet, lost, empty):
    fleet = make_fleet(10, stores=2)
    crowd = Crowd(fleet)
    store = fleet.stores[lost]
    store.lost = True
    fleet.advance(100, crowd.watch)
    crowd.dead = {'c7'}
    fleet.beating -= crowd.dead
    fleet.advance(DOWN_TIME + INTERVAL, crowd.watch)
    assert crowd.agree() == crowd.dead
    assert Reader(fleet).state('c0') is State.UP
    store.lost = False
    if empty:
        store.clear()
    fleet.advance(2 * DOWN_TIME, crowd.watch)
    assert crowd.agree() == crowd.dead


def test_a_restarted_memcached_is_no_death_to_a_new_reader(make_fleet):
    fleet = make_fleet(50)
    crowd = Crowd(fleet)
    for _ in range(2):
        fleet.find_stores(empty=True)
        new = Reader(fleet)
        assert {new.verdict(host).reason for host in fleet.hosts} == {
            Reason.UNSEEN}
        fleet.advance(2 * DOWN_TIME, crowd.watch)
    assert {new.state(host) for host in fleet.hosts} == {State.UP}


def test_one_that_never_reported_is_down_and_most_are_not(make_fleet, caplog):
    fleet = make_fleet(50)
    crowd = Crowd(fleet, dead=['never'])
    fleet.hosts.append('never')
    fleet.advance(DOWN_TIME + 2, crowd.watch)
    assert crowd.always.verdict('never')[:2] == (State.DOWN, Reason.NEVER)
    # This one looks at another memcached than they all write to.
    strayed = Reader(fleet)
    strayed.driver.store = Servers([Server('other')])
    for _ in range(200):
        fleet.advance(1)
        assert strayed.down() == set()
    assert strayed.verdict('c0')[:2] == (State.UNKNOWN, Reason.UNSEEN)
    logged = [r.getMessage() for r in caplog.records
            if 'have ever reported' in r.getMessage()]
    assert len(logged) == 1 and logged[0].startswith('Only 0 of 51 services ')


def test_a_cells_only_compute(make_fleet):
    fleet = make_fleet(1)
    crowd = Crowd(fleet)
    # Conductors show that memcached can be reached.
    crowd.dead = {'c0'}
    fleet.beating.clear()
    fleet.advance(DOWN_TIME + INTERVAL, crowd.watch)
    assert crowd.agree() == {'c0'}
    fleet.beating = {'c0'}
    fleet.advance(INTERVAL)
    fleet.conductors = []
    fleet.beating.clear()
    fleet.advance(300)
    # Who has just started can't tell this from a clock that is wrong.
    new = Reader(fleet)
    assert new.verdict('c0').reason is Reason.CLOCKS
    fleet.advance(DOWN_TIME + 1, new.down)
    assert new.verdict('c0').reason is Reason.ALONE


@pytest.mark.parametrize('end', [End.STOPPED, End.LEFT])
def test_a_planned_stop_of_most_is_no_mass_failure(make_fleet, end):
    fleet = make_fleet(50)
    crowd = Crowd(fleet)
    stopped = set(fleet.hosts[:30])
    for host in sorted(stopped):
        fleet.stop(host, end)
    if end is End.LEFT:
        crowd.dead = stopped
        fleet.advance(1)
        assert crowd.agree() == stopped
    else:
        fleet.advance(1)
        assert {Reader(fleet).driver.answer(
            {'topic': TOPIC, 'host': host}, Question.MAY_PLACE)
            for host in stopped} == {False}
        fleet.advance(DOWN_TIME - 2, crowd.watch)
        assert crowd.agree() == set()
        crowd.dead = stopped
        fleet.advance(2, crowd.watch)
    for _ in range(2):
        assert crowd.agree() == stopped
        assert not any(reader.driver.groups.doubted
                       for reader in crowd.readers().values())
        fleet.advance(1000)
    # Nor does the death of another one raise a doubt, then.
    crowd.dead = stopped | {'c49'}
    fleet.beating.discard('c49')
    fleet.advance(DOWN_TIME + INTERVAL, crowd.watch)
    assert crowd.agree() == crowd.dead


def test_decommissioning_most_leaves_no_doubt(make_fleet):
    fleet = make_fleet(50)
    crowd = Crowd(fleet)
    gone = set(fleet.hosts[:30])
    crowd.dead = set(gone)
    for host in sorted(gone):
        fleet.stop(host)
    fleet.advance(5)
    fleet.deleted = gone
    fleet.advance(DOWN_TIME, crowd.watch)
    left = [host for host in fleet.hosts if host not in gone]
    for reader in crowd.readers().values():
        assert {reader.state(host) for host in left} == {State.UP}
        assert not reader.driver.groups.doubted


def test_deleting_the_silent_turns_nobody_down(make_fleet):
    fleet = make_fleet(50)
    crowd = Crowd(fleet)
    cut(fleet, crowd, 0.6, 100)
    for number in range(20):
        fleet.deleted.add('c%d' % number)
        fleet.advance(3, crowd.watch)
    assert crowd.agree() == set()


def test_a_stop_in_the_doubt_turns_nobody_down(make_fleet):
    fleet = make_fleet(50)
    crowd = Crowd(fleet)
    cut(fleet, crowd, 0.6, 100)
    for number in range(30, 50):
        fleet.stop('c%d' % number)
        crowd.dead.add('c%d' % number)
        fleet.advance(3, crowd.watch)
    assert crowd.agree() <= set(fleet.hosts[30:])


def test_restarts_are_no_gap(make_fleet):
    fleet = make_fleet(10)
    fleet.stop('c1')
    fleet.advance(300)
    fleet.beat('c1')
    fleet.advance(1)
    reader = Reader(fleet)
    assert reader.state('c1') is State.UP
    group = reader.driver.load_group({'topic': TOPIC})
    assert {m.gap for m in group.members.values()} == {None}


@pytest.mark.parametrize('empty', [False, True], ids=['kept', 'empty'])
def test_every_reader_finds_the_gap_of_who_was_away(make_fleet, empty):
    fleet = make_fleet(10)
    crowd = Crowd(fleet)
    began = fleet.now
    fleet.lose_stores()
    fleet.advance(100)
    fleet.find_stores(empty)
    fleet.advance(2 * INTERVAL)
    for reader in crowd.readers().values():
        reader.down()
        members = reader.driver.load_group({'topic': TOPIC}).members
        assert len(members) == 10
        for member in members.values():
            ahead = 0
            if not reader.driver._view.members[TOPIC, member.host].confirmed:
                ahead = fleet.now - reader.driver.now()
            assert began - INTERVAL - 1 <= member.gap.start + ahead <= began
            assert began + 100 <= member.gap.end <= began + 100 + INTERVAL + 1
        # Who is back himself doesn't show yet that others would be.
        assert reader.driver.load_group({'topic': TOPIC}).path_seen is None
    fleet.advance(DOWN_TIME)
    reader.down()
    assert fleet.now - reader.driver.load_group(
        {'topic': TOPIC}).path_seen <= 2


def test_a_living_one_is_answered_without_a_look_at_its_group(make_fleet):
    fleet = make_fleet(10)
    reader = Reader(fleet)
    assert reader.down() == set()

    def fail():
        raise AssertionError('it lists')

    reader.driver.list_members = fail
    state = reader.driver._view.members[TOPIC, 'c1']
    assert fleet.now < state.up_until
    # The short way must not answer while somebody waits for the doubt's end.
    reviewed = []
    reader.driver.groups.review = lambda *args: reviewed.append(args)
    assert reader.is_up('c1') and not reviewed
    reader.driver.groups.doubted[TOPIC, None] = fleet.now
    assert reader.is_up('c1') and reviewed


def test_the_end_of_a_doubt_is_logged(make_fleet, caplog):
    caplog.set_level('INFO')
    fleet = make_fleet(10)
    reader = Reader(fleet)
    fleet.cut_off = set(fleet.hosts[:7])
    fleet.advance(100, reader.down)
    fleet.cut_off = set()
    fleet.advance(DOWN_TIME + 3 * INTERVAL, reader.down)
    logged = [r.getMessage() for r in caplog.records
            if r.name == 'nova_servicegroup.groups']
    assert [text.split(' of ')[0].split(' about ')[0] for text in logged] == [
        'Cannot tell whether silent members', 'The doubt']
    assert liveness.Reason.MASS_FAILURE.value in logged[0]
