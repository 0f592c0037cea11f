# SPDX-License-Identifier: Apache-2.0

"""The mc driver on a real memcached, with clocks that tests set."""

import contextlib
import datetime
import logging
import multiprocessing
import pickle
import threading
import time
import types
import zlib

from dogpile.cache import api as dogpile_api
from dogpile.cache import region as dogpile_region
import nova.conf
from nova import objects
from nova.servicegroup.drivers import mc as in_tree_mc
from oslo_utils import timeutils
import pytest

from nova_servicegroup import api
from nova_servicegroup.drivers import heartbeat
from nova_servicegroup.drivers import mc
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State
from nova_servicegroup.memcached import connection
from nova_servicegroup.memcached import polling
from nova_servicegroup.memcached import servers
from nova_servicegroup.memcached import wire
from nova_servicegroup import per_process
from nova_servicegroup.tests import contract
from nova_servicegroup.tests.fixtures import database
from nova_servicegroup.tests.fixtures import memcached

VIEW_REFRESH = 0.1
#: oslo.cache 4 has another name for it
SOCKET_TIMEOUT = ('socket_timeout' if 'socket_timeout' in nova.conf.CONF.cache
                  else 'memcache_socket_timeout')


@pytest.fixture(scope='module')
def server():
    with memcached.Memcached() as server:
        yield server


class McWorld(contract.World):
    """Writers and readers in one process, with a clock of each."""

    def __init__(self, config, path, server):
        self.config = config
        self.now = 1000.0
        self.writer_ahead = 0
        self._writing = False
        self.server = server
        self.server.thaw()
        self.server.flush()
        timeutils.set_time_override(datetime.datetime(2026, 1, 1))
        self.database = database.Database(path)
        self._hosts = set()
        config.config(group='cache', enabled=True,
                      backend='dogpile.cache.memcached',
                      memcache_servers=[server.address],
                      memcache_dead_retry=0, **{SOCKET_TIMEOUT: 0.3})
        config.config(group='servicegroup', view_refresh=VIEW_REFRESH)

    def utcnow(self):
        ahead = self.writer_ahead if self._writing else 0
        return timeutils.utcnow() + datetime.timedelta(seconds=ahead)

    def driver(self, **kwargs):
        kwargs.setdefault('monotonic', lambda: self.now)
        kwargs.setdefault('utcnow', self.utcnow)
        driver = mc.MemcachedDriver(**kwargs)
        publish = driver.publish

        def publish_by_the_writers_clock(membership):
            self._writing = True
            try:
                publish(membership)
            finally:
                self._writing = False

        driver.publish = publish_by_the_writers_clock
        return driver

    def service(self, host, group=contract.GROUP):
        if host not in self._hosts:
            self._hosts.add(host)
            self.database.add(host, group)
        return contract.FakeService(host, group, self.record(host, group))

    def services(self):
        return list(objects.ServiceList.get_all(self.database.context))

    def record(self, host, group=contract.GROUP):
        return self.database.get(host, group)

    def advance(self, seconds):
        self.now += seconds
        timeutils.advance_time_seconds(seconds)

    def wait_visible(self):
        self.advance(VIEW_REFRESH)

    def break_store(self):
        self.server.freeze()

    def mend_store(self):
        self.server.thaw()

    def set_option(self, name, value):
        self.config.config(group='servicegroup', **{name: value})
        self.driver().settings.refresh()

    def in_tree(self):
        # dogpile judges the age by time.time().
        dogpile_region.time = types.SimpleNamespace(
            time=lambda: wire.stamp_of(timeutils.utcnow()))
        return in_tree_mc.MemcachedDriver()

    def skew_writer(self, seconds):
        self.writer_ahead = seconds

    def close(self):
        self.server.thaw()
        self.database.close()
        timeutils.clear_time_override()
        dogpile_region.time = time


@pytest.fixture
def world(config, tmp_path, server):
    world = McWorld(config, tmp_path / 'nova.sqlite', server)
    yield world
    world.close()


class TestMemcachedDriver(contract.DriverContract):

    pass


@pytest.fixture
def requests(monkeypatch):
    """The number of keys of each request that readers made so far."""
    made = []
    get = servers.Server.get

    def counted(self, keys, timeout):
        made.append(len(keys))
        return get(self, keys, timeout)

    monkeypatch.setattr(servers.Server, 'get', counted)
    return made


def warnings(caplog):
    return [r.getMessage() for r in caplog.records
            if r.levelno >= logging.WARNING
            and r.name.startswith('nova_servicegroup')]


def fleet(world, size, **kwargs):
    """Join so many hosts; return a reader, their records and services."""
    hosts = ['host%d' % number for number in range(size)]
    all_services = [world.service(host) for host in hosts]
    for service in all_services:
        world.driver().join(service.host, contract.GROUP, service)
    world.wait_visible()
    reader = world.driver(**kwargs)
    return reader, [world.record(host) for host in hosts], all_services


class TestView:

    def test_a_first_pass_is_one_request(self, world, requests):
        reader, records, _ = fleet(world, 30)
        assert all(reader.is_up(record) for record in records)
        assert all(reader.updated_time(record) for record in records)
        assert requests == [30]

    def test_get_all_is_one_request_and_one_listing(self, world, requests):
        fleet(world, 5)
        listed = []

        def list_services(group):
            listed.append(group)
            return world.services()

        world.config.config(servicegroup_driver='mc')
        asker = api.API(inventory=list_services, utcnow=world.utcnow,
                        monotonic=lambda: world.now)
        assert len(asker.get_all(contract.GROUP)) == 5
        assert listed == [contract.GROUP]
        assert requests == [5]

    def test_without_a_listing_each_member_is_asked_once(self, world,
                                                         requests):
        def fail(group):
            raise RuntimeError('no database here')

        reader, records, _ = fleet(world, 3, inventory=fail)
        for _ in range(2):
            assert all(reader.is_up(record) for record in records)
        assert requests == [1, 1, 1]

    def test_a_nova_compute_lists_nothing(self, world, requests, monkeypatch):
        listed = []
        reader, records, _ = fleet(world, 3, inventory=listed.append)
        # It has no database, and each of many would ask a conductor.
        monkeypatch.setattr(
            objects.base.NovaObject, 'indirection_api', object())
        assert all(reader.is_up(record) for record in records)
        assert listed == []
        assert requests == [1, 1, 1]

    def test_all_drivers_share_one_view(self, world, requests):
        reader, records, _ = fleet(world, 3)
        for _ in range(5):
            driver = world.driver()
            assert all(driver.is_up(record) for record in records)
        assert requests == [3]

    def test_the_view_is_renewed_after_view_refresh(self, world, requests):
        reader, records, _ = fleet(world, 3)
        for _ in range(4):
            for record in records * 3:
                assert reader.is_up(record)
            world.advance(VIEW_REFRESH)
        assert requests == [3] * 4

    def test_twenty_threads_make_one_request(self, world, requests,
                                             monkeypatch):
        reader, records, _ = fleet(world, 10)
        get = servers.Server.get

        def slow(self, keys, timeout):
            time.sleep(0.3)
            return get(self, keys, timeout)

        monkeypatch.setattr(servers.Server, 'get', slow)
        for _ in range(2):
            answers = []
            threads = [threading.Thread(target=lambda: answers.extend(
                reader.is_up(record) for record in records))
                for _ in range(20)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            assert answers == [True] * 200
            world.advance(VIEW_REFRESH)
        assert requests == [10, 10]

    def test_who_knows_does_not_wait_for_who_asks(self, world, monkeypatch):
        reader, records, _ = fleet(world, 1)
        assert reader.is_up(records[0])
        asking, go_on = threading.Event(), threading.Event()
        get = servers.Server.get

        def slow(self, keys, timeout):
            asking.set()
            go_on.wait(30)
            return get(self, keys, timeout)

        monkeypatch.setattr(servers.Server, 'get', slow)
        world.advance(VIEW_REFRESH)
        thread = threading.Thread(target=reader.is_up, args=records)
        thread.start()
        assert asking.wait(30)
        try:
            assert reader.is_up(records[0])
        finally:
            go_on.set()
            thread.join(30)

    def test_members_nobody_asks_about_are_dropped(self, world, requests):
        reader, records, _ = fleet(world, 3)
        assert all(reader.is_up(record) for record in records)
        for _ in range(polling.FORGET_AFTER + 2):
            world.advance(contract.DOWN_TIME)
            reader.is_up(records[0])
            reader.updated_time(records[1])
        assert requests[-1] == 2
        assert len(reader._view.members) == 2
        reader.is_up(records[2])
        assert (contract.GROUP, 'host2') in reader._view.members

    def test_a_forked_child_talks_on_its_own_connection(self, world):
        reader, records, _ = fleet(world, 2)
        assert reader.is_up(records[0])
        before = world.server.counters()['total_connections']
        receiver, sender = multiprocessing.Pipe(duplex=False)

        def child():
            world.advance(VIEW_REFRESH)
            sender.send([reader.is_up(records[0]), reader.is_up(records[1])])

        process = multiprocessing.get_context('fork').Process(target=child)
        process.start()
        world.advance(VIEW_REFRESH)
        for _ in range(20):
            assert reader.is_up(records[1])
            world.advance(VIEW_REFRESH)
        assert receiver.poll(30)
        assert receiver.recv() == [True, True]
        process.join(30)
        # One of the child, and one of the question for this number.
        assert world.server.counters()['total_connections'] == before + 2


class TestTruth:

    def test_flushing_flips_nobody(self, world):
        reader, records, beating = fleet(world, 3)
        assert all(reader.is_up(record) for record in records)
        for _ in range(4):
            world.server.flush()
            world.advance(contract.INTERVAL)
            for service in beating[1:]:
                service.timer.fire()
            world.wait_visible()
            assert all(reader.is_up(record) for record in records[1:])
        # Who died meanwhile goes down in time.
        assert reader.verdict(records[0]).reason is Reason.SILENT

    def test_a_restart_flips_nobody(self, world):
        reader, records, beating = fleet(world, 2)
        assert reader.is_up(records[0])
        world.server.restart()
        for _ in range(20):
            world.wait_visible()
            assert all(reader.is_up(record) for record in records)
        beating[0].timer.fire()
        assert beating[0].model_disconnected is False
        for _ in range(10):
            world.wait_visible()
            assert reader.is_up(records[0]) is True
        assert reader.is_up(records[1]) is False

    def test_a_member_that_nobody_saw_is_down_in_the_end(self, world):
        world.service('host1')
        reader, record = world.driver(), world.record('host1')
        for _ in range(contract.DOWN_TIME + 1):
            verdict = reader.verdict(record)
            assert verdict[:2] == (State.UNKNOWN, Reason.UNSEEN)
            world.advance(contract.INTERVAL)
        assert reader.verdict(record)[:2] == (State.DOWN, Reason.NEVER)

    def test_a_store_that_never_answered_is_unknown(self, world):
        reader, records, _ = fleet(world, 1)
        world.break_store()
        assert reader.verdict(records[0])[:2] == (
            State.UNKNOWN, Reason.OUTAGE)
        assert reader.is_up(records[0]) is True
        assert reader.recorded_time(records[0]) == records[0].updated_at
        world.mend_store()
        world.wait_visible()
        assert reader.is_up(records[0])

    def test_after_an_outage_everybody_has_time_to_report(self, world):
        reader, records, beating = fleet(world, 2)
        assert all(reader.is_up(record) for record in records)
        world.break_store()
        world.advance(contract.DOWN_TIME)
        assert {reader.verdict(record).state for record in records} == {
            State.UP}
        world.advance(0.1)
        assert {reader.verdict(record).reason for record in records} == {
            Reason.OUTAGE}
        world.mend_store()
        world.wait_visible()
        assert {reader.verdict(record).reason for record in records} == {
            Reason.RETURNING}
        world.advance(contract.DOWN_TIME - 1)
        beating[0].timer.fire()
        world.advance(1 + VIEW_REFRESH)
        assert [reader.verdict(record).state for record in records] == [
            State.UP, State.DOWN]

    def test_readers_log_loss_and_recovery_once_each(self, world, caplog):
        caplog.set_level(logging.INFO)
        reader, records, _ = fleet(world, 1)
        reader.is_up(records[0])
        caplog.clear()
        world.break_store()
        for _ in range(3):
            world.wait_visible()
            reader.is_up(records[0])
        assert ['cannot be read' in text for text in warnings(caplog)] == [
            True]
        caplog.clear()
        world.mend_store()
        for _ in range(3):
            world.wait_visible()
            reader.is_up(records[0])
        recovered = [r.getMessage() for r in caplog.records
                     if r.levelno >= logging.INFO]
        assert len(recovered) == 1
        assert 'can be read again after 0.3 s' in recovered[0]

    def test_a_lost_server_is_left_alone_for_dead_retry(self, world,
                                                        requests):
        world.config.config(group='cache', memcache_dead_retry=2)
        per_process.forget()
        reader, records, _ = fleet(world, 1)
        reader.is_up(records[0])
        world.break_store()
        for _ in range(15):
            world.wait_visible()
            reader.is_up(records[0])
        assert len(requests) == 2
        world.advance(2)
        reader.is_up(records[0])
        assert len(requests) == 3

    def test_a_gap_in_looking_is_not_a_beat(self, world):
        reader, records, beating = fleet(world, 1)
        assert reader.is_up(records[0])
        # It beats for some time, dies, and is asked about much later.
        world.advance(10)
        beating[0].timer.fire()
        world.advance(10)
        assert reader.is_up(records[0]) is False

    @pytest.mark.parametrize('ahead', [-120, 120])
    def test_a_gap_in_looking_is_bridged_in_the_writers_clock(self, world,
                                                              ahead):
        reader, records, beating = fleet(world, 1)
        world.skew_writer(ahead)
        reader.is_up(records[0])
        for _ in range(3):
            beating[0].timer.fire()
            world.wait_visible()
            assert reader.is_up(records[0])
        for since, up in ((1, True), (10, False), (2.5, True)):
            world.advance(20)
            beating[0].timer.fire()
            world.advance(since)
            assert reader.is_up(records[0]) is up

    def test_a_clock_that_was_set_back_is_alive(self, world):
        reader, records, beating = fleet(world, 1)
        for ahead in (0, 3600, -3600, 0):
            world.skew_writer(ahead)
            for _ in range(3):
                beating[0].timer.fire()
                world.wait_visible()
                assert reader.is_up(records[0])

    def test_a_silent_loss_of_a_write_is_a_loss(self, world, monkeypatch):
        _, _, beating = fleet(world, 1)
        put = connection.Request.command
        monkeypatch.setattr(
            connection.Request, 'command',
            lambda self, request: put(self, request)
            and b'SERVER_ERROR out of memory storing object')
        beating[0].timer.fire()
        assert beating[0].model_disconnected is True


class TestUpdatedTime:

    def record(self, updated_at):
        return {'topic': contract.GROUP, 'host': 'host0',
                'updated_at': updated_at}

    def test_it_is_the_later_of_beat_and_record(self, world):
        reader, records, _ = fleet(world, 1)
        beat = reader.updated_time(self.record(None))
        assert beat.tzinfo is not None
        earlier = beat - datetime.timedelta(seconds=9)
        later = beat + datetime.timedelta(seconds=9)
        for record, expected in (
                (earlier, beat), (later, later),
                (earlier.replace(tzinfo=None), beat),
                (later.replace(tzinfo=None), later)):
            assert reader.updated_time(self.record(record)) == expected

    def test_a_member_without_any_has_none(self, world):
        assert world.driver().recorded_time(self.record(None)) is None

    def test_a_record_that_nobody_reports_for_has_its_own(self, world):
        record = dict(self.record(PAYLOAD), topic=None)
        assert world.driver().updated_time(record) == PAYLOAD.replace(
            tzinfo=datetime.timezone.utc)


PAYLOAD = datetime.datetime(2026, 1, 1)


def cached(payload=PAYLOAD, **metadata):
    metadata = dict({'ct': wire.stamp_of(PAYLOAD), 'v': 2}, **metadata)
    return pickle.dumps(dogpile_api.CachedValue(payload, metadata), 0)


class TestBadValues:

    KEY = wire.key(contract.GROUP, 'host0')

    @pytest.mark.parametrize('flags, data', [
        (1, b''), (1, b'garbage'), (0, b'2026-01-01'), (16, b'\xff'),
        (2, b'12'), (1 << 10, b'x'), (8, b'not zlib'), (9, b'not zlib'),
        (9, zlib.compress(b'\0' * 2_000_000)), (1, b'x' * 100_000),
        (1, cached(payload='up')), (1, cached(payload=42)),
        (1, cached(ct='soon')), (1, cached(v=None)),
        (1, pickle.dumps(Ellipsis)), (1, b'N' + b'p4294967290\n.')])
    def test_they_are_no_evidence(self, world, caplog, flags, data):
        reader, records, beating = fleet(world, 2)
        world.server.raw_set(self.KEY, data, flags)
        # They may come from somebody alive, as long as they are new.
        for _ in range(contract.DOWN_TIME + 1):
            assert reader.verdict(records[0])[:2] == (
                State.UNKNOWN, Reason.UNREADABLE)
            assert reader.is_up(records[1]) is True
            assert reader.recorded_time(
                records[0]) == records[0].updated_at
            beating[1].timer.fire()
            world.advance(contract.INTERVAL)
        assert reader.verdict(records[0])[:2] == (
            State.DOWN, Reason.UNREADABLE)
        assert ['is not a heartbeat' in w for w in warnings(caplog)] == [True]
        # The next beat mends it.
        beating[0].timer.fire()
        world.wait_visible()
        assert reader.is_up(records[0]) is True

    def test_a_hostile_pickle_does_nothing(self, world, tmp_path, caplog):
        class Evil:
            def __reduce__(self):
                return open, (str(tmp_path / 'touched'), 'w')

        reader, records, beating = fleet(world, 2)
        for protocol in range(5):
            for data in (pickle.dumps(Evil(), protocol), pickle.dumps(
                    dogpile_api.CachedValue(PAYLOAD, {'x': Evil()}),
                    protocol)):
                world.server.raw_set(self.KEY, data, 1)
                world.wait_visible()
                assert reader.verdict(
                    records[0]).reason is Reason.UNREADABLE
                assert reader.is_up(records[1]) is True
        # The writer reads it, too, before it beats and before it leaves.
        beating[0].timer.fire()
        world.server.raw_set(self.KEY, data, 1)
        reader.leave('host0', contract.GROUP)
        assert not (tmp_path / 'touched').exists()
        assert len(warnings(caplog)) == 1

    def test_one_that_was_seen_up_stays_so_for_its_time(self, world):
        reader, records, beating = fleet(world, 1)
        assert reader.is_up(records[0])
        for number in range(contract.DOWN_TIME):
            world.server.raw_set(self.KEY, b'%d' % number, 1)
            assert reader.verdict(records[0]).state is State.UP
            world.advance(contract.INTERVAL)
        assert reader.verdict(records[0])[:2] == (
            State.UNKNOWN, Reason.UNREADABLE)
        world.advance(contract.DOWN_TIME)
        assert reader.verdict(records[0])[:2] == (State.DOWN, Reason.SILENT)

    @pytest.mark.parametrize('ahead', [60, 3600, 86400 * 365 * 1000])
    def test_one_from_the_future_is_not_up(self, world, caplog, ahead):
        reader, records, beating = fleet(world, 1)
        moment = timeutils.utcnow() + datetime.timedelta(seconds=ahead)
        data = wire.encode(wire.stamp_of(moment), moment, {})
        world.server.raw_set(self.KEY, data, 1)
        for _ in range(contract.DOWN_TIME):
            assert reader.verdict(records[0])[:2] == (
                State.UNKNOWN, Reason.CLOCKS)
            assert reader.recorded_time(
                records[0]) == records[0].updated_at
            world.advance(contract.INTERVAL)
        world.wait_visible()
        assert reader.is_up(records[0]) is False
        assert reader.updated_time(records[0]) == records[0].updated_at
        assert ['in the future' in text for text in warnings(caplog)] == [
            True]
        beating[0].timer.fire()
        world.wait_visible()
        assert reader.is_up(records[0]) is True


class TestKeys:

    @pytest.mark.parametrize('host', [
        'a b', 'x' * 255, 'h\xf6st', '\u4e3b\u6a5f', "quote'", '100%'])
    def test_any_host_name_works_for_both(self, world, host):
        service = world.service(host)
        world.driver().join(host, contract.GROUP, service)
        world.wait_visible()
        record = world.record(host)
        assert world.driver().is_up(record) is True
        assert world.in_tree().is_up(record) is True

    def test_a_prefix_keeps_two_clouds_apart(self, world):
        world.set_option('mc_key_prefix', 'east-')
        reader, records, _ = fleet(world, 1)
        assert reader.is_up(records[0])
        per_process.forget()
        world.set_option('mc_key_prefix', 'west-')
        assert world.driver().verdict(
            records[0]).reason is Reason.UNSEEN
        assert world.server.keys() == [
            b'east-' + wire.key(contract.GROUP, 'host0').encode()]

    def test_nothing_but_the_key_of_the_in_tree_driver_is_written(self,
                                                                  world):
        fleet(world, 1)
        assert world.server.keys() == [
            wire.key(contract.GROUP, 'host0').encode()]


def test_leave_is_bounded_however_many_servers_hang(config):
    with contextlib.ExitStack() as running:
        stores = [running.enter_context(memcached.Memcached())
                  for _ in range(3)]
        config.config(group='cache', enabled=True, **{SOCKET_TIMEOUT: 1.0},
                      backend='dogpile.cache.memcached',
                      memcache_servers=[store.address for store in stores])
        driver = mc.MemcachedDriver()
        service = contract.FakeService('host1', contract.GROUP, None,
                                       report_interval=10)
        driver.join('host1', contract.GROUP, service)
        for store in stores:
            store.freeze()
        beat = threading.Thread(target=service.timer.fire)
        beat.start()
        time.sleep(0.2)
        began = time.monotonic()
        driver.leave('host1', contract.GROUP)
        assert time.monotonic() - began < heartbeat.LEAVE_TIMEOUT + 0.2
        beat.join(30)


def worker(world):
    """Return a driver that writes as that of another process does."""
    driver = world.driver()
    driver.__class__ = type('Worker', (mc.MemcachedDriver,), {
        '_writer': driver._make_writer()})
    return driver


class TestWorkers:
    """Three processes that report for one service on one host."""

    @pytest.fixture
    def workers(self, world):
        made = []
        for _ in range(3):
            made.append(world.service('host1'))
            worker(world).join('host1', contract.GROUP, made[-1])
        world.wait_visible()
        return made

    def test_one_that_leaves_keeps_the_host_up(self, world, workers):
        reader, record = world.driver(), world.record('host1')
        for worker in workers:
            assert reader.is_up(record) is True
            assert world.in_tree().is_up(record) is True
            worker.timer.stop()
            world.wait_visible()
        assert reader.verdict(record)[:2] == (State.ENDED, Reason.STOPPED)
        # Which in-tree readers don't see as long as a restart may take.
        assert world.in_tree().is_up(record) is True
        world.advance(contract.DOWN_TIME + VIEW_REFRESH)
        assert reader.verdict(record)[:2] == (State.DOWN, Reason.STOPPED)
        assert world.in_tree().is_up(record) is False

    def test_the_first_to_beat_and_last_to_leave_may_differ(self, world,
                                                            workers):
        reader, record = world.driver(), world.record('host1')
        workers[2].timer.stop()
        workers[0].timer.fire()
        workers[0].timer.stop()
        world.wait_visible()
        assert reader.verdict(record).state is State.UP
        workers[1].timer.stop()
        world.wait_visible()
        assert reader.verdict(record).state is State.ENDED

    def test_the_death_of_one_is_not_seen(self, world, workers):
        reader, record = world.driver(), world.record('host1')
        for _ in range(6):
            world.advance(contract.INTERVAL)
            workers[1].timer.fire()
            world.wait_visible()
            assert reader.is_up(record) is True
        # The other two are dead by now: nobody waits for them to leave.
        workers[1].timer.stop()
        world.wait_visible()
        assert reader.verdict(record).state is State.ENDED

    def test_leaving_is_no_beat(self, world, workers):
        reader, record = world.driver(), world.record('host1')
        assert reader.is_up(record) is True
        world.advance(contract.DOWN_TIME - contract.INTERVAL)
        workers[0].timer.stop()
        world.wait_visible()
        assert reader.is_up(record) is True
        world.advance(contract.INTERVAL)
        assert reader.is_up(record) is False

    def test_an_in_tree_worker_beside_is_left_in_peace(self, world, workers):
        in_tree_service = world.service('host1')
        in_tree = world.in_tree()
        in_tree.join('host1', contract.GROUP, in_tree_service)
        in_tree_service.timer.fire()
        for worker in workers:
            worker.timer.stop()
        world.wait_visible()
        assert world.driver().is_up(world.record('host1')) is True

    def test_workers_that_beat_at_once_do_not_lose_each_other(self, world):
        drivers = [worker(world) for _ in range(8)]
        service = world.service('host1')
        memberships = [heartbeat.Heartbeat(d, 'host1', contract.GROUP, service)
                       for d in drivers]

        start = threading.Barrier(8)

        def beat(driver, membership):
            start.wait(30)
            mc.MemcachedDriver.publish(driver, membership)

        for _ in range(5):
            world.server.flush()
            threads = [threading.Thread(target=beat, args=pair)
                       for pair in zip(drivers, memberships)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join(30)
            value = world.server.raw_get(wire.key(contract.GROUP, 'host1'))
            assert len(wire.decode(*value).workers) == 8


class TestInProcess:

    @pytest.fixture(autouse=True)
    def in_process(self, world, caplog):
        world.config.config(memcached_servers=['<None>'])
        world.config.config(group='cache', memcache_servers=[])
        caplog.set_level(logging.INFO)

    def test_who_only_asks_is_warned_too(self, world, caplog):
        world.service('host1')
        for _ in range(3):
            assert world.driver().verdict(
                world.record('host1')).state is State.UNKNOWN
            world.wait_visible()
        assert ['no other process sees them' in text
                for text in warnings(caplog)] == [True]

    def test_it_works_and_warns_once(self, world, caplog):
        world.driver()
        assert warnings(caplog) == []
        reader, records, _ = fleet(world, 2)
        assert all(reader.is_up(record) for record in records)
        world.advance(contract.DOWN_TIME + contract.INTERVAL)
        assert reader.is_up(records[0]) is False
        assert ['no other process sees them' in text
                for text in warnings(caplog)] == [True]


class TestSeveralServers:

    @pytest.fixture
    def others(self):
        with memcached.Memcached() as second, memcached.Memcached() as third:
            yield second, third

    @pytest.fixture
    def three(self, world, others):
        world.config.config(group='cache', memcache_servers=[
            world.server.address] + [other.address for other in others])
        per_process.forget()
        return [world.server, *others]

    @pytest.mark.parametrize('replicate', [True, False])
    def test_a_malformed_entry_is_a_lost_server(self, world, caplog,
                                                replicate):
        world.set_option('mc_replicate', replicate)
        world.config.config(group='cache', memcache_servers=[
            world.server.address, '[::1]:11211'])
        per_process.forget()
        reader, records, beating = fleet(world, 8)
        for _ in range(2 * contract.DOWN_TIME):
            for record in records:
                here = replicate or list(reader._servers.of(
                    wire.key(contract.GROUP, record.host))) == [0]
                assert reader.verdict(record).state is (
                    State.UP if here else State.UNKNOWN)
            world.advance(contract.INTERVAL)
            for service in beating:
                service.timer.fire()
        logged = [text for text in warnings(caplog) if '[::1]:11211' in text]
        # One by who asks; by those who report, one, or one for each member.
        assert len([t for t in logged if 'cannot be read' in t]) == 1
        assert len([t for t in logged if 'others do' in t]) == replicate
        assert all('inet6:[address]:port' in text for text in logged)

    def test_every_server_has_every_beat(self, world, three):
        fleet(world, 3)
        assert [len(server.keys()) for server in three] == [3, 3, 3]

    def test_the_in_tree_driver_finds_them(self, world, three):
        _, records, _ = fleet(world, 9)
        in_tree = world.in_tree()
        assert all(in_tree.is_up(record) for record in records)
        for record in records:
            service = world.service(record.host)
            in_tree.join(record.host, contract.GROUP, service)
        per_process.forget()
        assert all(world.driver().is_up(record) for record in records)

    @pytest.mark.parametrize('lost', range(3))
    def test_the_loss_of_one_flips_nobody(self, world, three, lost, caplog):
        reader, records, beating = fleet(world, 4)
        assert all(reader.is_up(record) for record in records)
        caplog.set_level(logging.INFO)
        three[lost].kill()
        try:
            for _ in range(4 * contract.DOWN_TIME):
                world.advance(contract.INTERVAL)
                for service in beating[1:]:
                    service.timer.fire()
                    assert service.model_disconnected is False
                assert all(reader.is_up(record) for record in records[1:])
            assert reader.is_up(records[0]) is False
        finally:
            three[lost].start()
        assert [three[lost].address in w for w in warnings(caplog)] == [
            True] * 2
        assert any('takes no heartbeats, others do' in w
                   for w in warnings(caplog))
        world.wait_visible()
        beating[1].timer.fire()
        assert reader.is_up(records[1]) is True
        assert 'takes heartbeats again' in caplog.text

    def test_one_that_hangs_delays_by_its_timeout_once(self, world, three):
        world.config.config(group='cache', memcache_dead_retry=60)
        per_process.forget()
        reader, records, beating = fleet(world, 4)
        assert all(reader.is_up(record) for record in records)
        three[0].freeze()
        world.wait_visible()
        start = time.monotonic()
        assert reader.is_up(records[0])
        assert time.monotonic() - start < 0.3 + 1
        start = time.monotonic()
        for _ in range(10):
            world.wait_visible()
            assert all(reader.is_up(record) for record in records)
        assert time.monotonic() - start < 1
        beating[0].timer.fire()
        assert beating[0].model_disconnected is False

    def test_all_of_them_lost_is_a_loss(self, world, three):
        reader, records, beating = fleet(world, 1)
        assert reader.is_up(records[0])
        for server in three:
            server.kill()
        try:
            beating[0].timer.fire()
            assert beating[0].model_disconnected is True
            world.wait_visible()
            assert reader.is_up(records[0])
            world.advance(contract.DOWN_TIME + contract.INTERVAL)
            assert reader.verdict(records[0]).state is State.UNKNOWN
        finally:
            for server in three:
                server.start()
        beating[0].timer.fire()
        assert beating[0].model_disconnected is False
        world.wait_visible()
        assert reader.is_up(records[0])

    def test_who_left_stays_away_when_a_server_returns(self, world, three):
        reader, records, beating = fleet(world, 1)
        assert reader.is_up(records[0])
        three[1].freeze()
        world.wait_visible()
        reader.is_up(records[0])
        reader.leave('host0', contract.GROUP)
        three[1].thaw()
        for _ in range(3):
            world.wait_visible()
            assert reader.is_up(records[0]) is False
        per_process.forget()
        assert world.driver().is_up(records[0]) is False

    def test_unreplicated_each_member_has_its_server(self, world, three):
        world.set_option('mc_replicate', False)
        per_process.forget()
        reader, records, beating = fleet(world, 12)
        assert sorted(
            key for server in three for key in server.keys()) == sorted(
            wire.key(contract.GROUP, record.host).encode()
            for record in records)
        assert all(server.keys() for server in three)
        assert all(reader.is_up(record) for record in records)
        in_tree = world.in_tree()
        assert all(in_tree.is_up(record) for record in records)

    def test_unreplicated_a_lost_servers_members_are_held(self, world, three):
        world.set_option('mc_replicate', False)
        per_process.forget()
        reader, records, beating = fleet(world, 12)
        homes = {record.host: reader._servers.of(
            wire.key(contract.GROUP, record.host))[0] for record in records}
        assert all(reader.is_up(record) for record in records)
        three[0].kill()
        try:
            for _ in range(contract.DOWN_TIME):
                world.advance(1)
                for service in beating:
                    service.timer.fire()
                assert {reader.verdict(record).state
                        for record in records} == {State.UP}
            world.advance(1)
            for service in beating:
                service.timer.fire()
            for record in records:
                assert reader.verdict(record).state is (
                    State.UP if homes[record.host] else State.UNKNOWN)
        finally:
            three[0].start()
        assert 0 < list(homes.values()).count(0) < 12
