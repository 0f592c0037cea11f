# SPDX-License-Identifier: Apache-2.0

"""Every kind of reader of a thousand computes whose message bus fails.

On a real services table, through Nova's own database layer, with one clock
that the test moves. A reader is a process: what it keeps in mind is forgotten
before another one asks.
"""

import datetime

from nova import objects
from oslo_utils import timeutils
import pytest
import sqlalchemy

import nova_servicegroup
from nova_servicegroup.integration import report_count
from nova_servicegroup import liveness
from nova_servicegroup import per_process
from nova_servicegroup.tests.fixtures import database

SIZE, INTERVAL, DOWN_TIME = 1000, 10, 60
START = datetime.datetime(2026, 1, 1)


class Fleet:
    """The computes of one cell; each beats every ten seconds."""

    def __init__(self, path, size=SIZE, prefix='host'):
        self.database = database.Database(path)
        self.names = ['%s%d' % (prefix, n) for n in range(size)]
        self.database.add_many(self.names, 'compute')
        self.now = 0
        self.silent = set()
        self._phase = {name: n * INTERVAL // size
                       for n, name in enumerate(self.names)}
        self._counters = {name: report_count.Counter(
            0, None, DOWN_TIME * 2 / 3, 0) for name in self.names}
        self._rows = {}
        table = objects.service.db.models.Service.__table__
        self._update = table.update().where(
            table.c.host == sqlalchemy.bindparam('name')).values(
            last_seen_up=sqlalchemy.bindparam('last'),
            report_count=sqlalchemy.bindparam('count'))
        self.run(INTERVAL)

    def run(self, seconds, own_clock=0):
        """Let time pass; then the table is as the writers have left it."""
        for _ in range(seconds):
            self.now += 1
            for name in self.names:
                if (self.now - self._phase[name]) % INTERVAL == 0 and (
                        name not in self.silent):
                    counter = self._counters[name]
                    self._rows[name] = {
                        'name': name, 'last': START + datetime.timedelta(
                            seconds=self.now),
                        'count': counter.heartbeat(self.now)}
                    counter.stored(self.now)
        self.clock(own_clock)
        if self._rows:
            with self.database.engine.begin() as connection:
                connection.execute(self._update, list(self._rows.values()))
        self._rows.clear()

    def clock(self, wrong=0):
        """Set the readers' clock."""
        timeutils.set_time_override(
            START + datetime.timedelta(seconds=self.now + wrong))

    def records(self):
        return objects.ServiceList.get_all(self.database.context)


@pytest.fixture
def fleet(config, tmp_path):
    config.config(report_interval=INTERVAL, service_down_time=DOWN_TIME)
    made = Fleet(tmp_path / 'nova.sqlite')
    yield made
    made.database.close()
    timeutils.clear_time_override()


class Reader:
    """A process that asks."""

    def __init__(self):
        self.objects = {}
        self.api = self.run(nova_servicegroup.API)

    def run(self, function, *args):
        mine, per_process._objects = per_process._objects, self.objects
        try:
            return function(*args)
        finally:
            per_process._objects = mine

    def down(self, records):
        """Return the hosts that it calls down."""
        def ask():
            for groups in [self.api._driver.groups]:
                for loaded in groups._loaded.values():
                    loaded.until = float('-inf')     # a second later
            return {r.host for r in records if not self.api.service_is_up(r)}
        return self.run(ask)

    def states(self, records):
        return {state: sum(
            self.run(self.api.verdict, r).state is state for r in records)
            for state in liveness.State}


def lose_everybody(fleet, seconds=200):
    fleet.silent = set(fleet.names)
    fleet.run(seconds)


def test_the_first_pass_of_a_reader_that_saw_them_up(fleet):
    reader = Reader()
    assert reader.down(fleet.records()) == set()
    for _ in range(8):
        lose_everybody(fleet, 10)
        assert reader.down(fleet.records()) == set()


def test_one_question(fleet):
    lose_everybody(fleet)
    records = fleet.records()
    for record in records[::50]:
        assert Reader().down([record]) == set()


def test_one_question_in_two_seconds(fleet):
    reader = Reader()
    lose_everybody(fleet, 55)
    for n in range(100):
        fleet.run(2)
        record = fleet.database.get(fleet.names[n * 7], 'compute')
        assert reader.down([record]) == set()


def test_a_process_started_this_second_and_a_one_shot_tool(fleet):
    lose_everybody(fleet)
    records = fleet.records()
    assert Reader().down(records) == set()
    states = Reader().states(records)
    assert states[liveness.State.UNKNOWN] == SIZE


@pytest.mark.parametrize('policy, down', [('safe', 0), ('up', 0),
                                          ('down', SIZE)])
def test_what_the_policy_says(fleet, config, policy, down):
    config.config(group='servicegroup', outage_policy=policy)
    lose_everybody(fleet)
    assert len(Reader().down(fleet.records())) == down


def test_idle_for_long(fleet):
    reader = Reader()
    assert reader.down(fleet.records()) == set()
    lose_everybody(fleet, 700)
    assert reader.down(fleet.records()) == set()


def test_a_worker_that_listed_and_one_that_did_not(fleet):
    listed, other = Reader(), Reader()
    listed.down(fleet.records())
    lose_everybody(fleet)
    records = fleet.records()
    other.down(records[:40])
    assert listed.states(records) == other.states(records)


def test_half_is_back(fleet):
    readers = [Reader(), Reader()]
    lose_everybody(fleet)
    readers[0].down(fleet.records())
    fleet.silent = set(fleet.names[:500])
    for _ in range(3):
        fleet.run(20)
        records = fleet.records()
        for reader in (*readers, Reader()):
            assert reader.down(records) == set()
    # Nobody came back for service_down_time: they did not survive it.
    fleet.run(20)
    records = fleet.records()
    for reader in (*readers, Reader()):
        assert reader.down(records) == fleet.silent


def test_a_crash_of_those_who_are_back_ends_no_doubt(fleet):
    lose_everybody(fleet)
    fleet.silent = set(fleet.names[:400])
    fleet.run(15)
    for name in fleet.names[400:]:
        # Another process goes on with the row.
        before = fleet._counters[name]
        fleet._counters[name] = report_count.Counter(
            before.value, fleet.now - before._stored_at, DOWN_TIME * 2 / 3,
            fleet.now)
    fleet.run(15)
    assert Reader().down(fleet.records()) == set()
    fleet.run(40)
    assert Reader().down(fleet.records()) == fleet.silent


def test_they_come_back_at_fifty_a_second(fleet):
    reader = Reader()
    lose_everybody(fleet)
    for second in range(0, 33, 3):
        fleet.silent = set(fleet.names[50 * second:])
        fleet.run(3)
        records = fleet.records()
        assert reader.down(records) == set()
        assert Reader().down(records) == set()


def test_they_come_back_slowly_and_the_last_one_after_nine_minutes(fleet):
    lose_everybody(fleet)
    for done in range(0, 1000, 100):
        fleet.silent = set(fleet.names[done:])
        fleet.run(50)
        assert Reader().down(fleet.records()) == set()


@pytest.mark.fault(
    'db',
    'the message bus of one of several cells fails',
    readers='up in that cell; as before in the others',
    lasts='until it is back',
    logged='ERROR that names the cell',
    ends='its return')
def test_one_cell_of_several(fleet, config, tmp_path):
    cell = Fleet(tmp_path / 'cell2.sqlite', 300, 'other')
    records = cell.records()
    manager = database.main_db.context_manager
    database.main_db.context_manager = cell.database._saved
    cell.silent = set(cell.names)
    # A context that is targeted at the cell, as Nova's readers have it.
    for record in records:
        record._context.db_connection = manager
        record._context.cell_uuid = 'cell2'
    cell.run(200)
    fleet.run(200)
    records = objects.ServiceList.get_all(records[0]._context)
    assert len(records) == 300
    assert Reader().down(records + fleet.records()) == set()
    # And one that dies in the other cell is seen meanwhile.
    fleet.silent = {'host7'}
    fleet.run(70)
    assert Reader().down(fleet.records()) == {'host7'}


@pytest.mark.parametrize('wrong', [61, -61, 45])
@pytest.mark.fault(
    'db',
    "a reader's clock is a minute wrong",
    readers='up (nobody can tell)',
    lasts='until it is right',
    logged='ERROR with the numbers when it begins',
    ends='the right time')
def test_an_own_clock_that_is_wrong(fleet, wrong):
    fleet.run(30, own_clock=wrong)
    assert Reader().down(fleet.records()) == set()


def test_real_deaths_are_seen_by_everybody(fleet):
    reader = Reader()
    reader.down(fleet.records())
    fleet.silent = set(fleet.names[3:15])
    fleet.run(72)
    records = fleet.records()
    assert reader.down(records) == fleet.silent
    assert Reader().down(records) == fleet.silent
    assert Reader().down(records[3:4]) == {'host3'}


def test_a_death_before_the_outage_is_one_in_the_outage(fleet):
    fleet.silent = set(fleet.names[:12])
    fleet.run(400)
    lose_everybody(fleet)
    assert Reader().down(fleet.records()) == set(fleet.names[:12])
