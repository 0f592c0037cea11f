# SPDX-License-Identifier: Apache-2.0

"""What a reader makes of what memcached holds, moment by moment.

The servers are dictionaries here, so that a test can stop one in the middle
of an answer. On real ones: test_mc and the fault tests.
"""

import contextlib
import datetime
import logging
import threading
import time
import types

import pytest

from nova_servicegroup import liveness
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State
from nova_servicegroup.memcached import polling
from nova_servicegroup.memcached import servers
from nova_servicegroup.memcached import view
from nova_servicegroup.memcached import wire

DOWN_TIME = 60
REFRESH = 1
TIMEOUT = 0.5
EPOCH = wire.EPOCH
RULES = liveness.Rules(DOWN_TIME, DOWN_TIME, 0.5, 300, 600)
UP, DOWN, UNKNOWN = State.UP, State.DOWN, State.UNKNOWN


class Server:
    """A dictionary that answers as a server does, or doesn't."""

    def __init__(self, name):
        self.name = name
        self.held = {}
        self.lost = False
        self.asked = []       # the number of keys of each request
        self.timeouts = []
        self.before = None    # called in the middle of a request

    def get(self, keys, timeout):
        self.asked.append(len(keys))
        self.timeouts.append(timeout)
        if self.before:
            self.before()
        if self.lost:
            raise servers.ServerLost('%s is away' % self.name)
        return {key: self.held[key] for key in keys if key in self.held}


class Servers(list):

    timeout = TIMEOUT
    dead_retry = 0
    prefix = ''
    replicate = True

    def of(self, key):
        return range(len(self)) if self.replicate else [
            int(key, 16) % len(self)]


class World:
    """Servers, a view, and a clock that stands until it is set."""

    def __init__(self, size):
        self.now = 1000.0
        self.servers = Servers(Server('mc%d' % n) for n in range(size))
        self.settings = types.SimpleNamespace(
            service_down_time=DOWN_TIME,
            conf=types.SimpleNamespace(
                servicegroup=types.SimpleNamespace(view_refresh=REFRESH)))
        self.listing = []
        self.listings = 0
        self.new_view()

    def new_view(self):
        """Start anew, as another process would."""
        self.view = view.View(
            self.servers, self.settings, lambda: self.now,
            lambda: EPOCH + datetime.timedelta(seconds=self.now))

    def list_members(self):
        self.listings += 1
        return [('compute', host, False) for host in self.listing]

    def beat(self, host, ahead=0, on=None):
        """Write a heartbeat by a clock that is so much ahead."""
        moment = EPOCH + datetime.timedelta(seconds=self.now + ahead)
        key = wire.key('compute', host)
        for index in self.servers.of(key) if on is None else on:
            self.servers[index].held[key] = (1, wire.encode(
                wire.stamp_of(moment), moment, {'aa-0': self.now + ahead}))

    def leave(self, host):
        for server in self.servers:
            server.held[wire.key('compute', host)] = (
                1, wire.encode(self.now, None, {}))

    def state(self, host):
        return self.view.member(('compute', host), self.list_members)

    def verdict(self, host='c1'):
        """Return the verdict on it, as of a group that nobody guards."""
        member = self.view.observe(self.state(host))
        return liveness.judge(member, None, self.view.now(), RULES)

    def ask(self, host='c1'):
        return self.verdict(host).state

    def hold(self):
        """Let the first server's answers wait.

        :returns: two Events: it was asked; it may answer
        """
        asking, go_on = threading.Event(), threading.Event()

        def wait():
            asking.set()
            go_on.wait(30)

        self.servers[0].before = wait
        return asking, go_on

    def pass_time(self, seconds, beating=()):
        """Let time pass in steps of a refresh; keep asking."""
        for _ in range(int(seconds / REFRESH)):
            self.now += REFRESH
            for host in beating:
                self.beat(host, on=[i for i, s in enumerate(self.servers)
                                    if not s.lost])
            self.ask()


@pytest.fixture
def world():
    return World(1)


@pytest.fixture
def three():
    return World(3)


@contextlib.contextmanager
def in_a_thread(function):
    """Run it meanwhile; yields the list that its result goes to."""
    result = []
    thread = threading.Thread(target=lambda: result.append(function()))
    thread.start()
    yield result
    thread.join(30)


def warnings(caplog):
    return [r.getMessage() for r in caplog.records
            if r.levelno >= logging.WARNING]


# Asking

def test_members_that_come_later_are_listed_again(world):
    world.listing = ['c%d' % n for n in range(10)]
    for host in world.listing:
        world.ask(host)
    world.listing = ['c%d' % n for n in range(50)]
    for host in world.listing:
        world.ask(host)
    assert world.servers[0].asked == [10, 40]
    assert world.listings == 2


def test_listing_takes_a_part_of_the_time_only(world):
    def list_slowly():
        world.now += 3
        world.listings += 1
        return []

    for number in range(100):
        world.view.member(('compute', 'c%d' % number), list_slowly)
        world.now += 4
    assert world.listings == 3


def test_a_listing_that_hangs_holds_nobody_up_for_long(world, monkeypatch):
    monkeypatch.setattr(polling, 'LISTING_WAIT', 0.5)
    world.listing = ['c%d' % n for n in range(1, 50)]
    for host in world.listing:
        world.beat(host)
    listing, go_on = threading.Event(), threading.Event()

    def list_slowly():
        listing.set()
        go_on.wait(30)
        return world.list_members()

    def ask(host):
        state = world.view.member(('compute', host), list_slowly)
        return UP if world.view.observe(state).alive else DOWN

    with in_a_thread(lambda: ask('c1')) as first:
        assert listing.wait(30)
        began = time.monotonic()
        # All who ask about new ones wait until the same moment.
        for host in world.listing[1:10]:
            assert ask(host) is UP
        assert time.monotonic() - began < 1
    assert first == [UP]
    world.now += REFRESH
    began = time.monotonic()
    assert ask('c1') is UP
    assert time.monotonic() - began < 0.3
    world.servers[0].asked.clear()
    go_on.set()
    world.view._listing.join(30)
    # What it brought in the end is asked for at once.
    assert {ask(host) for host in world.listing} == {UP}
    assert world.servers[0].asked == [39]
    assert world.listings == 1


def test_a_listing_needs_a_thread_and_does_without(world, monkeypatch):
    world.beat('c1')

    def start(self):
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, 'start', start)
    assert world.ask() is UP
    monkeypatch.undo()
    world.listing = ['c2', 'c3']
    assert world.ask('c2') is UNKNOWN
    assert world.servers[0].asked == [1, 2]


def test_who_asks_for_a_new_member_meanwhile_waits_for_it(world):
    world.beat('c1')
    world.beat('c2')
    assert world.ask() is UP
    asking, go_on = world.hold()
    with in_a_thread(lambda: world.ask('c2')) as first:
        assert asking.wait(30)
        with in_a_thread(lambda: world.ask('c2')) as second:
            # It has nothing to say yet, so it must not say "unknown".
            time.sleep(0.2)
            assert second == []
            go_on.set()
    assert first == second == [UP]
    assert world.servers[0].asked == [1, 1]


def test_a_slow_answer_holds_up_its_asker_only(world):
    world.beat('c1')
    assert world.ask() is UP
    asking, go_on = world.hold()
    world.now += REFRESH
    with in_a_thread(world.ask) as slow:
        assert asking.wait(30)
        # As long as ten timeouts may take.
        start = time.monotonic()
        for _ in range(10):
            assert world.ask() is UP
            world.now += TIMEOUT
        assert time.monotonic() - start < 5
        go_on.set()
    assert slow == [UP]


def test_who_knows_old_things_only_waits_for_news(world):
    world.beat('c1')
    assert world.ask() is UP
    world.now += 10 * DOWN_TIME
    asking, go_on = world.hold()
    with in_a_thread(world.ask) as first:
        assert asking.wait(30)
        with in_a_thread(world.ask) as second:
            time.sleep(0.2)
            assert second == []
            go_on.set()
    assert first == second == [DOWN]


@pytest.mark.parametrize('refresh', [REFRESH, 0])
def test_who_waited_for_a_server_that_hangs_does_not_ask_again(world, refresh):
    world.settings.conf.servicegroup.view_refresh = refresh
    world.servers[0].lost = True
    go_on = threading.Event()
    world.servers[0].before = lambda: go_on.wait(30)
    with contextlib.ExitStack() as threads:
        answers = [threads.enter_context(in_a_thread(world.ask))
                   for _ in range(20)]
        time.sleep(0.2)
        go_on.set()
    assert answers == [[UNKNOWN]] * 20
    assert len(world.servers[0].asked) == 1


def test_a_lost_server_is_not_asked_for_each_new_member(world):
    world.servers[0].lost = True
    for number in range(20):
        assert world.ask('c%d' % number) is UNKNOWN
    assert len(world.servers[0].asked) == 1


# Several servers

@pytest.mark.parametrize('hanging', range(3))
def test_a_new_reader_asks_the_others_when_one_hangs(three, hanging):
    three.beat('c1')
    server = three.servers[hanging]
    server.lost = True
    server.before = lambda: time.sleep(server.timeouts[-1])
    start = time.monotonic()
    assert three.ask() is UP
    assert time.monotonic() - start < TIMEOUT * 1.5
    assert [len(s.asked) for s in three.servers] == [1, 1, 1]
    # What the others leave of the time, the last one may take.
    three.now += REFRESH
    three.ask()
    assert TIMEOUT * 0.8 < server.timeouts[-1] <= TIMEOUT


def test_a_slow_server_does_not_keep_others_from_being_asked(three):
    three.servers.replicate = False
    hosts = ['c%d' % n for n in range(12)]
    three.listing = hosts
    three.servers[0].before = lambda: time.sleep(TIMEOUT * 1.1)
    for host in hosts:
        three.beat(host)
    assert {three.ask(host) for host in hosts} == {UP}
    three.now += DOWN_TIME + REFRESH
    assert {three.ask(host) for host in hosts} == {DOWN}


def test_the_dead_are_not_held_by_a_lost_server(three):
    three.beat('c1')
    assert three.ask() is UP
    three.servers[0].lost = True
    three.pass_time(3, beating=['c1'])
    three.pass_time(DOWN_TIME)
    assert three.ask() is UP
    three.pass_time(REFRESH)
    assert three.ask() is DOWN


def test_who_is_nowhere_for_long_is_down_whatever_is_lost(three):
    # One server died for good, and the others were restarted since.
    three.servers[0].lost = True
    three.beat('c1')
    three.new_view()
    assert three.ask('c1') is UP
    assert three.ask('c2') is UNKNOWN
    three.pass_time(DOWN_TIME - 1, beating=['c1'])
    assert three.ask('c2') is UNKNOWN
    # Who couldn't see them, can't tell.
    for server in three.servers[1:]:
        server.lost = True
    three.pass_time(5)
    for server in three.servers[1:]:
        server.lost = False
    three.pass_time(DOWN_TIME, beating=['c1'])
    assert three.ask('c2') is UNKNOWN
    three.pass_time(2, beating=['c1'])
    assert three.ask('c2') is DOWN
    three.beat('c2', on=[1, 2])
    three.now += REFRESH
    assert three.ask('c1') is three.ask('c2') is UP


def test_a_lost_server_with_the_last_heartbeat_counts(three):
    # The writer reached none but this one, and the reader doesn't now.
    three.beat('c1')
    three.ask()
    three.now += 10
    three.beat('c1', on=[0])
    assert three.ask() is UP
    three.servers[0].lost = True
    three.pass_time(DOWN_TIME - 5)
    assert three.ask() is UP
    three.pass_time(10)
    assert three.ask() is DOWN


# Truth

def test_a_new_member_that_ends_an_outage_ends_it_for_all(world):
    world.beat('c1')
    assert world.ask() is UP
    world.servers[0].lost = True
    world.pass_time(DOWN_TIME - 1)
    # Between two renewals of the view, a new member is the first to find the
    # server well again.
    world.servers.dead_retry = 2.5
    world.pass_time(3)
    world.servers[0].lost = False
    world.beat('c1')
    world.now += 0.6
    assert world.ask('c2') is UNKNOWN
    assert world.ask() is UP


def test_who_was_alive_at_a_loss_has_time_to_report_after_it(world):
    world.beat('c1')
    world.beat('c2')
    assert world.ask('c1') is world.ask('c2') is UP
    world.pass_time(DOWN_TIME - 10, beating=['c2'])
    world.servers[0].lost = True
    world.pass_time(2 * DOWN_TIME)
    assert world.verdict('c2').reason is Reason.OUTAGE
    world.servers[0].lost = False
    world.now += REFRESH
    assert world.verdict('c2').reason is Reason.RETURNING
    assert world.verdict('c1').reason is Reason.RETURNING
    world.pass_time(DOWN_TIME, beating=['c1'])
    assert world.ask('c1') is UP
    assert world.ask('c2') is UNKNOWN
    world.now += REFRESH
    assert world.ask('c2') is DOWN


def test_the_dead_stay_dead_through_an_outage(world):
    world.beat('c1')
    assert world.ask() is UP
    world.pass_time(DOWN_TIME + REFRESH)
    assert world.ask() is DOWN
    world.servers[0].lost = True
    world.pass_time(DOWN_TIME)
    # Long enough ago to be sure that it did not just pause.
    assert world.ask() is DOWN
    world.servers[0].lost = False
    world.now += REFRESH
    assert world.ask() is DOWN


def test_a_flush_while_nobody_asked_makes_nobody_dead(world):
    world.beat('c1')
    assert world.ask() is UP
    world.servers[0].held.clear()
    world.now += 5 * DOWN_TIME
    assert world.verdict().reason is Reason.RETURNING
    world.now += DOWN_TIME
    assert world.ask() is UNKNOWN
    world.now += REFRESH
    assert world.ask() is DOWN


def test_a_flush_under_a_readers_eyes_prolongs_nothing(world):
    world.beat('c1')
    assert world.ask() is UP
    world.pass_time(DOWN_TIME - 5)
    world.servers[0].held.clear()
    world.pass_time(5)
    assert world.ask() is UP
    world.now += REFRESH
    assert world.ask() is DOWN


def test_leaving_is_seen_by_a_thread_that_was_just_judging(world):
    world.beat('c1')
    state = world.state('c1')
    settings = world.settings
    world.leave('c1')
    world.now += REFRESH

    class Slow(types.SimpleNamespace):

        @property
        def service_down_time(self):
            # While the evidence is looked at, before its term is noted.
            world.view._settings = settings
            world.state('c1')
            return DOWN_TIME

    world.view._settings = Slow(conf=settings.conf)
    world.view.observe(state)
    assert state.up_until <= world.now
    assert world.verdict('c1').reason is Reason.LEFT


def test_who_was_taken_out_by_others_gave_no_sign_of_life(world):
    world.beat('c1')
    world.state('c1')
    world.now += 2 * DOWN_TIME
    last = world.view.observe(world.state('c1')).last
    # Under the time of its last heartbeat: "nova-servicegroup leave".
    for server in world.servers:
        server.held[wire.key('compute', 'c1')] = (
            1, wire.encode(1000.0, None, {}))
    world.now += 2 * REFRESH
    assert world.verdict('c1').reason is Reason.LEFT
    # Whoever is judged by the silence of all is judged as before.
    assert world.view.observe(world.state('c1')).last == last
    world.beat('c1')
    world.now += 2 * REFRESH
    assert world.verdict('c1').state is UP


def test_at_first_sight_a_heartbeat_is_as_old_as_it_is_far(world):
    world.beat('c1', ahead=-40)
    assert world.ask() is UP
    # By the other one it can tell that its own clock is right.
    world.state('c2')
    world.pass_time(DOWN_TIME - 40, beating=['c2'])
    assert world.ask() is UP
    world.pass_time(REFRESH, beating=['c2'])
    assert world.ask() is DOWN


def test_who_sees_nobody_alive_may_have_a_wrong_clock(world):
    world.beat('c1')
    world.now += DOWN_TIME + 1
    assert world.verdict().reason is Reason.CLOCKS
    world.pass_time(DOWN_TIME - 1)
    assert world.verdict().reason is Reason.CLOCKS
    world.now += REFRESH
    assert world.ask() is DOWN


def test_one_clock_that_is_wrong_hides_nobody_for_long(world):
    # The newcomer sees c2 beat, by a clock that is two minutes behind, and
    # c3 by a right one; so c1, too, may be alive by a clock like c2's.
    for host, ahead in ('c1', -100), ('c3', -1), ('c4', -400):
        world.beat(host, ahead=ahead)
        world.state(host)
    world.state('c2')
    world.now += REFRESH
    assert world.ask() is DOWN
    world.beat('c2', ahead=-120)
    world.now += REFRESH
    assert world.ask('c2') is UP
    assert world.verdict().reason is Reason.CLOCKS
    assert world.ask('c4') is DOWN
    world.pass_time(DOWN_TIME, beating=['c3'])
    assert world.ask() is DOWN


@pytest.mark.parametrize('ahead', [40, DOWN_TIME])
def test_a_heartbeat_is_never_newer_than_its_first_sight(world, ahead):
    world.beat('c1', ahead=ahead)
    assert world.ask() is UP
    world.pass_time(DOWN_TIME - REFRESH)
    assert world.ask() is UP
    world.now += REFRESH
    assert world.ask() is DOWN


@pytest.mark.parametrize('ahead', [DOWN_TIME + 10, 3600, 86400 * 365 * 1000])
def test_a_value_from_the_future_is_no_heartbeat_to_a_newcomer(
        world, caplog, ahead):
    world.beat('c1', ahead=ahead)
    world.beat('c2')
    for _ in range(3):
        assert world.verdict().reason is Reason.CLOCKS
        assert world.ask('c2') is UP
        world.now += REFRESH
    assert ['in the future' in text for text in warnings(caplog)] == [True]
    world.pass_time(DOWN_TIME, beating=['c2'])
    assert world.ask() is DOWN
    world.pass_time(ahead if ahead < 4000 else 100, beating=['c2'])
    assert world.ask() is DOWN
    world.beat('c1')
    world.now += REFRESH
    assert world.ask() is UP


def test_a_heartbeat_that_was_seen_to_come_counts_by_that(world, caplog):
    world.state('c1')
    for number in range(5):
        world.now += 10
        world.beat('c1', ahead=3600)
        world.now += 0.3 * number
        assert world.ask() is UP
        world.now += REFRESH
        assert world.ask() is UP
    assert len(warnings(caplog)) == 1
    # Nova's users shall not read of tomorrow.
    assert wire.stamp_of(
        world.state('c1').moment.replace(tzinfo=None)) <= world.now
    world.now += DOWN_TIME
    assert world.ask() is DOWN


def test_a_reader_that_slept_blames_no_clock(world, caplog):
    world.beat('c1')
    assert world.ask() is UP
    # The monotonic clock stands while a virtual machine is suspended.
    world.view._utcnow = lambda: EPOCH + datetime.timedelta(
        seconds=world.now + 86400)
    world.now += REFRESH
    world.beat('c1', ahead=86400)
    assert world.ask() is UP
    assert warnings(caplog) == []
