# SPDX-License-Identifier: Apache-2.0

"""The db driver on a real services table, by Nova's own database layer."""

import datetime
import logging
import types

from kombu import exceptions as kombu_exc
from nova import exception as nova_exception
from nova import objects
from nova.servicegroup.drivers import db as in_tree_db
from oslo_db import exception as db_exc
import oslo_messaging as messaging
from oslo_utils import timeutils
import pytest

from nova_servicegroup.drivers import db
from nova_servicegroup import groups
from nova_servicegroup.integration import service_records
from nova_servicegroup.liveness import Question
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State
from nova_servicegroup.tests import contract
from nova_servicegroup.tests.fixtures import database

UTC = datetime.timezone.utc


class DbWorld(contract.World):

    def __init__(self, config, path):
        self.config = config
        self.now = 1000.0
        timeutils.set_time_override(datetime.datetime(2026, 1, 1))
        self.database = database.Database(path)

    def driver(self, **kwargs):
        kwargs.setdefault('monotonic', lambda: self.now)
        return db.DbDriver(**kwargs)

    def service(self, host, group=contract.GROUP):
        record = self.database.add(host, group)
        return contract.FakeService(host, group, record)

    def record(self, host, group=contract.GROUP):
        return self.database.get(host, group)

    def advance(self, seconds):
        self.now += seconds
        timeutils.advance_time_seconds(seconds)

    def break_store(self):
        self.database.break_it()

    def mend_store(self):
        self.database.mend_it()

    def set_option(self, name, value):
        self.config.config(group='servicegroup', **{name: value})
        self.driver().settings.refresh()

    def in_tree(self):
        return in_tree_db.DbDriver()

    def close(self):
        self.database.close()
        timeutils.clear_time_override()


@pytest.fixture
def world(config, tmp_path):
    world = DbWorld(config, tmp_path / 'nova.sqlite')
    yield world
    world.close()


class TestDbDriver(contract.DriverContract):

    # A member that joins again has its record already.
    def test_a_member_may_join_again(self, world):
        driver, service = self.joined(world)
        driver.leave('host1', contract.GROUP)
        driver.join('host1', contract.GROUP, service)
        assert driver.is_up(world.record('host1')) is True

    # Evidence

    def test_a_new_service_is_up_until_it_should_have_reported(self, world):
        world.service('host1')
        driver = world.driver()
        assert driver.verdict(
            world.record('host1')).reason is Reason.STARTING
        assert driver.is_up(world.record('host1')) is True
        world.advance(contract.DOWN_TIME)
        assert driver.is_up(world.record('host1')) is True
        world.advance(1)
        assert driver.is_up(world.record('host1')) is False

    def test_enabling_a_dead_host_does_not_bring_it_back(self, world):
        driver, _ = self.joined(world)
        world.advance(contract.DOWN_TIME + 1)
        record = world.record('host1')
        record.disabled = True
        record.save()
        assert driver.is_up(world.record('host1')) is False
        assert (driver.updated_time(world.record('host1'))
                == timeutils.utcnow().replace(tzinfo=UTC))

    @pytest.mark.parametrize('offset, up', [
        (0, True), (-3, True), (-4, False), (3, True), (4, False)])
    def test_the_limit_is_inclusive_and_works_both_ways(self, world, offset,
                                                        up):
        moment = timeutils.utcnow() + datetime.timedelta(seconds=offset)
        record = {'host': 'h', 'topic': 'conductor', 'last_seen_up': moment,
                  'created_at': None, 'updated_at': None}
        assert world.driver().is_up(record) is up

    @pytest.mark.parametrize('name', contract.TIME_FORMS)
    def test_times_come_in_many_forms(self, world, name):
        form = contract.TIME_FORMS[name]
        driver = world.driver()
        for age, up in ((1, True), (60, False)):
            moment = timeutils.utcnow() - datetime.timedelta(seconds=age)
            for field in ('last_seen_up', 'created_at'):
                record = {'host': 'h', 'topic': 'conductor',
                          'updated_at': None,
                          'last_seen_up': None, 'created_at': None,
                          field: form(moment)}
                assert driver.is_up(record) is up

    def test_null_times(self, world):
        driver = world.driver()
        record = {'host': 'h', 'topic': 'compute', 'updated_at': None,
                  'last_seen_up': None, 'created_at': None}
        verdict = driver.verdict(record)
        assert (verdict.state, verdict.reason) == (State.DOWN, Reason.NEVER)
        assert driver.is_up(record) is False
        assert driver.updated_time(record) is None

    def test_a_time_that_is_none_is_unknown(self, world):
        record = {'host': 'h', 'topic': 'compute', 'updated_at': None,
                  'last_seen_up': 'last Tuesday', 'created_at': None}
        verdict = world.driver().verdict(record)
        assert (verdict.state, verdict.reason) == (
            State.UNKNOWN, Reason.UNREADABLE)
        assert world.driver().is_up(record) is True

    # As in-tree, where a difference has no reason

    def test_a_record_that_was_read_without_its_count_is_judged(self, world):
        for age, up in ((1, True), (60, False)):
            record = objects.Service(
                host='h', topic='conductor', binary='nova-conductor',
                last_seen_up=timeutils.utcnow()
                - datetime.timedelta(seconds=age))
            assert world.driver().is_up(record) is up

    @pytest.mark.parametrize('name', contract.TIME_FORMS)
    def test_updated_time_is_the_records_own(self, world, name):
        moment = contract.TIME_FORMS[name](datetime.datetime(2026, 1, 1))
        record = {'host': 'h', 'topic': 'conductor', 'updated_at': moment,
                  'last_seen_up': None, 'created_at': None}
        assert world.driver().updated_time(record) is moment
        assert world.driver().updated_time({'updated_at': moment}) is moment

    test_updated_time_is_in_utc_whatever_the_record_holds = None

    def test_a_record_without_host_or_topic_is_judged_by_its_time(self,
                                                                  world):
        for field in ('host', 'topic'):
            record = {'host': 'h', 'topic': 'compute', 'binary': 'b',
                      'last_seen_up': timeutils.utcnow(), field: None}
            assert world.driver().is_up(record) is True

    def test_the_dead_are_named_at_debug_level(self, world):
        driver, _ = self.joined(world)
        world.advance(60)
        self.logs.clear()
        driver.is_up(world.record('host1'))
        text = self.logs.records[0].getMessage()
        assert text.startswith(
            'Seems service nova-conductor on host host1 is down.')
        assert self.logs.records[0].levelno == logging.DEBUG

    # Beats

    def test_a_vanished_row_is_told_apart(self, world):
        _, service = self.joined(world)
        world.record('host1').destroy()
        for _ in range(3):
            service.timer.fire()
        messages = [t for t in self.logged(logging.ERROR)
                    if t.startswith('The services table record for the nova-'
                                'conductor service on host host1 is gone.')]
        assert len(messages) == 1
        assert service.model_disconnected is True

    def test_a_vanished_row_is_told_even_during_an_outage(self, world):
        _, service = self.joined(world)
        world.break_store()
        service.timer.fire()
        world.mend_store()
        world.record('host1').destroy()
        for _ in range(2):
            service.timer.fire()
        assert len([t for t in self.logged(logging.ERROR)
                    if 'is gone' in t]) == 1

    @pytest.mark.parametrize('error, level, text', [
        (messaging.MessagingTimeout('no reply'), logging.WARNING,
         'Lost connection to nova-conductor for reporting service status.'),
        (messaging.MessageDeliveryFailure('no bus'), logging.WARNING,
         'Lost connection to nova-conductor for reporting service status.'),
        (kombu_exc.OperationalError('timed out'), logging.WARNING,
         'Lost connection to nova-conductor for reporting service status.'),
        (db_exc.DBConnectionError(), logging.ERROR,
         'Unexpected error while reporting service status: the database'),
        (messaging.RemoteError('DBConnectionError', 'gone'), logging.ERROR,
         'Unexpected error while reporting service status: the database'),
        (messaging.RemoteError('KeyError', 'x'), logging.ERROR,
         'Unexpected error while reporting service status'),
        (nova_exception.ServiceNotFound(service_id=7), logging.ERROR,
         'The services table record for the nova-conductor service on host '
         'host1 is gone.'),
        (ValueError('anything'), logging.ERROR,
         'Unexpected error while reporting service status'),
    ])
    def test_failures_are_told_apart_and_none_escapes(
            self, world, error, level, text):
        _, service = self.joined(world)
        service.service_ref.save = _raise(error)
        for _ in range(3):
            service.timer.fire()
        records = [r for r in self.logs.records if r.levelno == level]
        assert len(records) == 1
        assert records[0].getMessage().startswith(text)
        assert service.model_disconnected is True
        del service.service_ref.save
        service.timer.fire()
        assert service.model_disconnected is False

    def test_the_heartbeat_rpc_is_bounded_by_the_interval(self, world):
        driver = world.driver()
        service = world.service('host1')
        conductor = FakeConductor()
        service.service_ref.indirection_api = conductor
        driver.join('host1', contract.GROUP, service)
        service.timer.fire()
        assert conductor.prepared == [
            {'timeout': 0.9 * contract.INTERVAL, 'retry': 0}] * 2
        assert [c['objmethod'] for c in conductor.calls] == ['save'] * 2
        # A broken connection is dropped by a second attempt only.
        conductor.error = messaging.MessageDeliveryFailure('closed')
        service.timer.fire()
        service.timer.fire()
        conductor.error = None
        service.timer.fire()
        service.timer.fire()
        assert [p['retry'] for p in conductor.prepared[2:]] == [0, 1, 1, 0]
        assert conductor.calls[0]['objinst'] is service.service_ref


class TestEvidence:
    """What the rows of one cell say to any reader, born just now or not."""

    @pytest.fixture
    def fleet(self, world):
        """Ten computes that beat every second, unless they are in ``off``."""
        fleet = types.SimpleNamespace(services={}, off=set(), world=world)
        fleet.names = ['host%d' % n for n in range(10)]
        driver = world.driver(jitter=lambda low, high: 0)
        for name in fleet.names:
            fleet.services[name] = world.service(name, 'compute')
            driver.join(name, 'compute', fleet.services[name])

        def run(seconds):
            for _ in range(seconds):
                world.advance(1)
                for name, service in fleet.services.items():
                    if name not in fleet.off:
                        service.timer.fire()

        def answers(fresh=True):
            if fresh:
                groups.Groups.__init__(driver.groups, 'db', driver.monotonic)
            return {name: driver.is_up(world.record(name, 'compute'))
                    for name in fleet.names}

        fleet.run, fleet.answers, fleet.driver = run, answers, driver
        run(2)
        return fleet

    def everybody(self, fleet, up):
        assert fleet.answers() == dict.fromkeys(fleet.names, up)

    def test_a_lost_bus_kills_nobody_and_its_return_does_not_either(
            self, fleet):
        fleet.off = set(fleet.names)
        fleet.run(100)
        self.everybody(fleet, True)
        for name in fleet.names:
            fleet.off.discard(name)
            fleet.run(1)
            self.everybody(fleet, True)

    def test_a_host_that_was_lost_in_the_outage_is_down_in_the_end(
            self, fleet):
        fleet.off = set(fleet.names)
        fleet.run(100)
        fleet.off = {'host3'}
        fleet.run(contract.DOWN_TIME - 1)
        self.everybody(fleet, True)
        fleet.run(2)
        assert fleet.answers() == {n: n != 'host3' for n in fleet.names}

    def test_the_gap_is_as_long_as_the_outage(self, fleet):
        # Heartbeats go on failing all the while, for longer than the window.
        service = fleet.services['host3']
        fleet.world.break_store()
        for _ in range(700):
            fleet.world.advance(1)
            service.timer.fire()
        fleet.world.mend_store()
        fleet.off = set(fleet.names) - {'host3'}
        fleet.run(1)
        member = fleet.driver.observe(fleet.world.record('host3', 'compute'))
        assert fleet.driver.now() - member.gap.end <= 2
        assert 700 <= member.gap.end - member.gap.start <= 1400
        # The others are not back, and only because of that are doubted.
        fleet.run(1)
        self.everybody(fleet, True)
        fleet.run(contract.DOWN_TIME + 1)
        assert fleet.answers() == {n: n == 'host3' for n in fleet.names}

    def test_one_that_dies_is_down_at_once(self, fleet):
        fleet.off = {'host3'}
        fleet.run(contract.DOWN_TIME)
        self.everybody(fleet, True)
        fleet.run(1)
        assert fleet.answers() == {n: n != 'host3' for n in fleet.names}

    def test_a_planned_stop_of_most_is_no_outage(self, fleet):
        for name in fleet.names[:6]:
            fleet.services[name].timer.stop()
        placed = {n: fleet.driver.answer(
            fleet.world.record(n, 'compute'), Question.MAY_PLACE)
            for n in fleet.names}
        assert placed == {n: n >= 'host6' for n in fleet.names}
        self.everybody(fleet, True)
        fleet.run(contract.DOWN_TIME)
        assert fleet.answers() == {n: n >= 'host6' for n in fleet.names}

    def test_deleting_some_changes_nothing_for_others(self, fleet):
        fleet.off = set(fleet.names[:5])
        fleet.run(contract.DOWN_TIME + 1)
        for gone in ('host0', 'host1', 'host2', 'host9', 'host8'):
            self.everybody(fleet, True)
            fleet.world.record(gone, 'compute').destroy()
            fleet.services.pop(gone)
            fleet.names.remove(gone)
        self.everybody(fleet, True)

    def test_forcing_down_changes_nothing_for_others(self, fleet):
        fleet.off = set(fleet.names[:6])
        fleet.run(contract.DOWN_TIME + 1)
        for name in list(fleet.names[:5]):
            record = fleet.world.record(name, 'compute')
            record.forced_down = True
            record.save()
            self.everybody(fleet, True)

    def test_doubt_is_told_at_its_begin_and_its_end(self, fleet, caplog):
        fleet.off = set(fleet.names)
        fleet.run(10)
        for _ in range(3):
            fleet.answers(fresh=False)
        fleet.off = set()
        fleet.run(2)
        for _ in range(3):
            fleet.run(1)
            fleet.answers(fresh=False)
        texts = [r.getMessage() for r in caplog.records
                 if r.levelno >= logging.WARNING]
        assert len(texts) == 2
        assert 'Of 10 members 10 are silent and 0 came back' in texts[0]
        assert 'nova-servicegroup force-down --silent' in texts[0]
        assert texts[1].startswith('The doubt about the group compute ended')

    def test_one_query_a_second_and_none_for_the_living(self, fleet):
        asked = []
        fleet.driver.list_heartbeats = lambda *args: (
            asked.append(args) or service_records.heartbeats(*args))
        fleet.answers(fresh=False)
        assert asked == []
        fleet.off = set(fleet.names)
        fleet.run(10)
        for _ in range(5):
            fleet.answers(fresh=False)
        assert len(asked) == 1
        fleet.run(1)
        fleet.answers(fresh=False)
        assert len(asked) == 2

    def test_a_table_that_cannot_be_read_is_unknown(self, fleet):
        fleet.off = {'host3'}
        fleet.run(contract.DOWN_TIME + 1)
        record = fleet.world.record('host3', 'compute')
        fleet.world.break_store()
        verdict = fleet.driver.verdict(record)
        assert (verdict.state, verdict.reason) == (
            State.UNKNOWN, Reason.OUTAGE)
        fleet.world.mend_store()

    def test_what_nova_is_told_in_doubt_agrees_with_the_time(self, fleet):
        fleet.off = set(fleet.names)
        fleet.run(10)
        record = fleet.world.record('host3', 'compute')
        now = timeutils.utcnow().replace(tzinfo=UTC)
        assert now - fleet.driver.updated_time(record) < datetime.timedelta(
            seconds=1)
        assert now - fleet.driver.recorded_time(record) == datetime.timedelta(
            seconds=10)
        # Heartbeats take the road of the commands.
        assert fleet.driver.answer(record, Question.MAY_PLACE) is False


def _raise(error):
    def save():
        raise error
    return save


class FakeConductor:
    """Records what a ConductorAPI's RPC client is asked."""

    def __init__(self):
        self.client = self
        self.prepared = []
        self.calls = []
        self.error = None

    def prepare(self, **kwargs):
        self.prepared.append(kwargs)
        return self

    def call(self, context, method, **kwargs):
        self.calls.append(kwargs)
        if self.error:
            raise self.error
        return {}, None
