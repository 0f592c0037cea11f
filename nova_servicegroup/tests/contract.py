# SPDX-License-Identifier: Apache-2.0

"""The conformance suite for drivers, of this package or others.

A driver's test module defines a ``world`` fixture::

    class TestMyDriver(contract.DriverContract):

        @pytest.fixture
        def world(self, tmp_path):
            world = MyWorld(tmp_path)
            yield world
            world.close()

``MyWorld`` is a ``World``: a store, preferably a real server, and methods that
cause faults. Tests of a ``Promise`` skip drivers that don't declare it.
"""

import abc
import collections
import contextlib
import datetime
import inspect
import logging
import sys
import threading
import time
import types

import pytest

from nova_servicegroup.drivers.base import Promise
from nova_servicegroup.drivers import heartbeat
from nova_servicegroup import exception
from nova_servicegroup import liveness
from nova_servicegroup.liveness import Question
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State
from nova_servicegroup import per_process
from nova_servicegroup import records

INTERVAL = 1
DOWN_TIME = 3
#: a group that is never doubted: the verdict has its own tests
GROUP = 'conductor'

_UTC = datetime.timezone.utc
#: forms of a time in a service record, made from a naive one in UTC
TIME_FORMS = {
    'naive': lambda t: t,
    'aware': lambda t: t.replace(tzinfo=_UTC),
    'aware elsewhere': lambda t: t.replace(tzinfo=_UTC).astimezone(
        datetime.timezone(datetime.timedelta(hours=9))),
    'str': str,
    'str by RPC': lambda t: t.strftime('%Y-%m-%dT%H:%M:%S.%f'),
    'str with zone': lambda t: t.isoformat() + 'Z',
}


def needs(driver, promise):
    """Skip a test of a Promise that a driver doesn't declare."""
    if promise not in driver.promises:
        pytest.skip('%s does not promise it' % driver.name)


@contextlib.contextmanager
def input_and_output():
    """Collect the calls of this thread that do I/O.

    Only Python's own: sockets, files, SQLite; not those of a client library
    in C.
    """
    seen = []

    def note(frame, event, function):
        if event != 'c_call' or function.__name__ == 'getpid':
            return
        owner = function.__self__
        module = (owner.__name__ if inspect.ismodule(owner)
                  else type(owner).__module__)
        if module in ('_io', '_socket', 'posix', 'select', 'socket',
                      'sqlite3'):
            seen.append(function)

    sys.setprofile(note)
    try:
        yield seen
    finally:
        sys.setprofile(None)


class ManualTimer:
    """A looping call that runs when the test calls ``fire``."""

    def __init__(self, interval, callback, initial_delay, stop_on_exception):
        self.interval = interval
        self.initial_delay = initial_delay
        self.stop_on_exception = stop_on_exception
        self.stopped = False
        self._callback = callback

    def fire(self):
        if not self.stopped:
            self._callback()

    def stop(self):
        self.stopped = True


class ManualThreadGroup:
    """The part of oslo.service's ThreadGroup that drivers may use."""

    def __init__(self):
        self.timers = []

    def add_timer_args(self, interval, callback, args=None, kwargs=None,
                       initial_delay=None, stop_on_exception=True):
        def call():
            callback(*(args or ()), **(kwargs or {}))
        timer = ManualTimer(interval, call, initial_delay, stop_on_exception)
        self.timers.append(timer)
        return timer


class FakeService(types.SimpleNamespace):
    """The part of nova.service.Service that drivers may use."""

    def __init__(self, host, group, service_ref, report_interval=INTERVAL):
        super().__init__(
            host=host, topic=group, binary='nova-' + group,
            service_ref=service_ref, report_interval=report_interval,
            tg=ManualThreadGroup(), model_disconnected=False)

    @property
    def timer(self):
        return self.tg.timers[-1]


class World(abc.ABC):
    """A store, its members and a clock, for one test.

    The configuration has report_interval ``INTERVAL`` and service_down_time
    ``DOWN_TIME``.
    """

    @abc.abstractmethod
    def driver(self, **kwargs):
        """Return a new driver object; ``kwargs`` are for its constructor."""

    @abc.abstractmethod
    def service(self, host, group=GROUP):
        """Return a FakeService that has its record in Nova's database."""

    @abc.abstractmethod
    def record(self, host, group=GROUP):
        """Return a service's current record, as Nova's readers get it."""

    @abc.abstractmethod
    def advance(self, seconds):
        """Let time pass for writers, the store and readers."""

    @abc.abstractmethod
    def break_store(self):
        """Make the store fail for writers and for readers that use it."""

    @abc.abstractmethod
    def mend_store(self):
        """Undo break_store; the store keeps its data."""

    def wait_visible(self):
        """Wait until readers can see the last write."""

    def set_option(self, name, value):
        """Set an option of [servicegroup]."""
        raise NotImplementedError

    def in_tree(self):
        """Return Nova's own driver on the same store (IN_TREE_FORMAT)."""
        raise NotImplementedError

    def skew_writer(self, seconds):
        """Change the writers' wall clock from now on (READER_CLOCK)."""
        raise NotImplementedError

    def kill(self, host):
        """SIGKILL the process of a member (SEES_KILL)."""
        raise NotImplementedError

    def close(self):
        """Stop and remove everything."""


class DriverContract:
    """The suite: subclass it with a ``world`` fixture; see above."""

    @pytest.fixture(autouse=True)
    def _logs(self, caplog):
        caplog.set_level(logging.DEBUG, logger='nova_servicegroup')
        self.logs = caplog

    def logged(self, level):
        return [r.getMessage() for r in self.logs.records
                if r.levelno >= level]

    def joined(self, world, host='host1', **kwargs):
        driver = world.driver(**kwargs)
        service = world.service(host)
        driver.join(host, GROUP, service)
        world.wait_visible()
        return driver, service

    # Creating a driver

    def test_making_drivers_is_silent_and_needs_no_store(self, world):
        world.break_store()
        for _ in range(243):
            world.driver()
        # Other threads of the test run may log.
        assert [r for r in self.logs.records
                if r.name.startswith('nova_servicegroup')] == []

    def test_arguments_for_other_drivers_are_ignored(self, world):
        assert world.driver(colour='blue')

    def test_all_that_judge_in_one_process_share_what_they_know(self, world):
        made_before_the_fork = world.driver()
        assert world.driver().groups is made_before_the_fork.groups
        before = made_before_the_fork.groups
        per_process.forget()
        assert world.driver().groups is made_before_the_fork.groups
        assert world.driver().groups is not before

    def test_promises_are_data(self, world):
        driver = world.driver()
        assert driver.promises <= frozenset(Promise)
        assert isinstance(driver.name, str)

    # Joining

    def test_a_member_is_up_as_soon_as_it_joined(self, world):
        driver, _ = self.joined(world)
        assert driver.is_up(world.record('host1')) is True

    def test_other_driver_objects_see_it_too(self, world):
        self.joined(world)
        assert world.driver().is_up(world.record('host1')) is True

    def test_join_returns_nothing_and_repeats_the_beat(self, world):
        driver = world.driver(jitter=lambda low, high: (low + high) / 4)
        service = world.service('host1')
        assert driver.join('host1', GROUP, service) is None
        assert service.timer.interval == INTERVAL
        assert service.timer.initial_delay == INTERVAL / 4
        assert service.timer.stop_on_exception is False

    def test_join_refuses_what_it_cannot_keep(self, world):
        driver = world.driver()
        service = world.service('host1')
        with pytest.raises(RuntimeError, match='service is missing'):
            driver.join('host1', GROUP)
        with pytest.raises(exception.InvalidMember, match='member'):
            driver.join('', GROUP, service)
        with pytest.raises(exception.InvalidMember, match='group'):
            driver.join('host1', None, service)
        assert service.tg.timers == []

    def test_without_an_interval_nothing_is_reported(self, world):
        driver = world.driver()
        service = world.service('host1')
        for interval in (0, None):
            service.report_interval = interval
            driver.join('host1', GROUP, service)
        assert service.tg.timers == []
        driver.leave('host1', GROUP)

    def test_join_survives_a_broken_store(self, world):
        driver = world.driver()
        service = world.service('host1')
        world.break_store()
        driver.join('host1', GROUP, service)
        assert service.model_disconnected is True
        world.mend_store()
        world.advance(INTERVAL)
        service.timer.fire()
        world.wait_visible()
        assert driver.is_up(world.record('host1')) is True

    # Answering

    def test_nothing_is_logged_about_the_living(self, world):
        driver, _ = self.joined(world)
        record = world.record('host1')
        driver.is_up(record)
        self.logs.clear()
        assert driver.is_up(record) is True
        assert self.logs.records == []

    def test_beats_keep_a_member_up(self, world):
        driver, service = self.joined(world)
        for _ in range(DOWN_TIME + 2):
            world.advance(INTERVAL)
            service.timer.fire()
            world.wait_visible()
            assert driver.is_up(world.record('host1')) is True

    def test_a_silent_member_goes_down_and_a_beat_brings_it_back(self, world):
        driver, service = self.joined(world)
        assert driver.is_up(world.record('host1')) is True
        world.advance(DOWN_TIME + INTERVAL)
        assert driver.is_up(world.record('host1')) is False
        service.timer.fire()
        world.wait_visible()
        assert driver.is_up(world.record('host1')) is True

    def test_members_are_told_apart(self, world):
        driver, _ = self.joined(world, 'host1')
        _, other = self.joined(world, 'host2')
        for _ in range(DOWN_TIME + 1):
            world.advance(INTERVAL)
            other.timer.fire()
            world.wait_visible()
        assert driver.is_up(world.record('host1')) is False
        assert driver.is_up(world.record('host2')) is True

    def test_a_record_without_host_or_topic_raises_nothing(self, world):
        driver, _ = self.joined(world)
        world.advance(DOWN_TIME + INTERVAL)
        for field in ('host', 'topic'):
            record = dict(world.record('host1').items())
            record[field] = None
            assert driver.is_up(record) is False

    def test_a_record_without_host_raises_nothing_in_doubt(self, world):
        driver, _ = self.joined(world)
        record = dict(world.record('host1').items(), host=None,
                      topic=liveness.GUARDED)
        key = liveness.GUARDED, driver.cell_of(record)
        driver.groups.doubted[key] = driver.monotonic()
        try:
            assert driver.is_up(record) in (True, False)
        finally:
            driver.groups.doubted.clear()

    def test_updated_time_is_aware_and_fresh(self, world):
        driver, service = self.joined(world)
        moment = driver.updated_time(world.record('host1'))
        assert moment.tzinfo is not None
        world.advance(INTERVAL)
        service.timer.fire()
        world.wait_visible()
        later = driver.updated_time(world.record('host1'))
        assert moment < later
        assert later - moment < datetime.timedelta(seconds=60)

    def test_updated_time_is_in_utc_whatever_the_record_holds(self, world):
        driver = world.driver()
        moment = datetime.datetime(2026, 1, 1)
        for name, form in TIME_FORMS.items():
            updated = driver.updated_time({
                'host': 'nobody', 'topic': GROUP, 'binary': 'nova-' + GROUP,
                'updated_at': form(moment)})
            assert updated == moment.replace(tzinfo=_UTC), name
            assert updated.utcoffset() == datetime.timedelta(0), name

    def test_twenty_threads_get_the_same_answer(self, world):
        driver, _ = self.joined(world)
        record = world.record('host1')
        answers = []
        threads = [threading.Thread(
            target=lambda: answers.extend(
                driver.is_up(record) for _ in range(20))) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)
        assert answers == [True] * 400

    def test_a_question_costs_no_io_once_the_view_is_filled(self, world):
        driver, _ = self.joined(world)
        needs(driver, Promise.LOCAL_READS)
        record = world.record('host1')
        unseen = dict(record.items(), host='nobody')
        # At DEBUG, a line about a member that is down would be I/O, too.
        self.logs.set_level(logging.INFO, logger='nova_servicegroup')
        for _ in range(2):
            with input_and_output() as seen:
                answers = [driver.is_up(record), driver.is_up(unseen)]
        assert answers[0] is True
        assert seen == []

    # Losing the store

    def test_loss_and_recovery_are_logged_once_each(self, world):
        _, service = self.joined(world)
        self.logs.clear()
        world.break_store()
        for _ in range(3):
            world.advance(INTERVAL)
            service.timer.fire()
            assert service.model_disconnected is True
        assert len([r for r in self.logs.records
                    if r.name == heartbeat.__name__
                    and r.levelno >= logging.WARNING]) == 1
        world.mend_store()
        self.logs.clear()
        for _ in range(2):
            world.advance(INTERVAL)
            service.timer.fire()
        assert service.model_disconnected is False
        recoveries = [t for t in self.logged(logging.INFO)
                      if t.startswith('Recovered ')]
        assert len(recoveries) == 1
        assert 'The outage lasted ' in recoveries[0]

    def test_a_lost_store_flips_nobody_at_once(self, world):
        driver, _ = self.joined(world)
        record = world.record('host1')
        assert driver.is_up(record) is True
        world.break_store()
        assert driver.is_up(record) is True

    @pytest.mark.parametrize('policy', ['safe', 'up', 'down'])
    def test_a_long_outage_is_unknown(self, world, policy):
        needs(world.driver(), Promise.KNOWS_OUTAGE)
        world.set_option('outage_policy', policy)
        driver, _ = self.joined(world)
        record = world.record('host1')
        assert driver.is_up(record) is True
        world.break_store()
        driver.is_up(record)
        world.advance(2 + DOWN_TIME)
        assert driver.verdict(record).state is State.UNKNOWN
        assert driver.is_up(record) is (policy != 'down')
        world.mend_store()

    # Leaving

    def test_stopping_the_timer_leaves_once(self, world):
        driver, service = self.joined(world)
        service.timer.stop()
        service.timer.stop()
        assert service.timer.stopped
        left = [t for t in self.logged(logging.INFO)
                if t.startswith('Left the ')]
        assert left == ['Left the %s group as host1.' % GROUP]

    def test_a_stop_is_no_loss_of_the_host_until_the_grace(self, world):
        driver, service = self.joined(world)
        needs(driver, Promise.SEES_STOP)
        service.timer.stop()
        world.wait_visible()
        record = world.record('host1')
        verdict = driver.verdict(record)
        assert (verdict.state, verdict.reason) == (
            State.ENDED, Reason.STOPPED)
        assert driver.is_up(record) is True
        assert driver.answer(record, Question.MAY_PLACE) is False
        assert abs(driver.updated_time(record) - records.as_aware(
            driver.utcnow())) <= datetime.timedelta(seconds=INTERVAL)
        world.advance(DOWN_TIME)
        assert driver.is_up(world.record('host1')) is False

    def test_the_grace_may_be_nothing(self, world):
        world.set_option('restart_grace', 0)
        driver, service = self.joined(world)
        needs(driver, Promise.SEES_STOP)
        service.timer.stop()
        world.wait_visible()
        assert driver.is_up(world.record('host1')) is False

    def test_a_stop_may_be_left_to_time(self, world):
        world.set_option('leave_on_stop', False)
        driver, service = self.joined(world)
        service.timer.stop()
        world.wait_visible()
        if Promise.SEES_KILL in driver.promises:
            pytest.skip('its process has not ended')
        record = world.record('host1')
        assert driver.verdict(record).state is State.UP
        world.advance(DOWN_TIME + INTERVAL)
        assert driver.is_up(world.record('host1')) is False

    def test_leave_takes_the_member_out(self, world):
        driver, service = self.joined(world)
        assert driver.leave('host1', GROUP) is None
        service.timer.fire()
        world.wait_visible()
        world.advance(DOWN_TIME + INTERVAL)
        service.timer.fire()
        world.wait_visible()
        assert driver.is_up(world.record('host1')) is False

    def test_leaving_without_having_joined_does_nothing(self, world):
        assert world.driver().leave('host1', GROUP) is None

    def test_leave_survives_a_broken_store(self, world):
        driver, _ = self.joined(world)
        world.break_store()
        assert driver.leave('host1', GROUP) is None

    def test_a_stop_survives_whatever_leaving_raises(self, world):
        driver, service = self.joined(world)

        def withdraw(membership, end, timeout):
            raise ZeroDivisionError

        driver.withdraw = withdraw
        service.timer.stop()
        assert service.timer.stopped
        assert len([t for t in self.logged(logging.WARNING)
                    if t.startswith('Could not take back ')]) == 1

    def test_leave_wins_against_a_beat_in_flight(self, world):
        driver, service = self.joined(world)
        in_flight, go_on = threading.Event(), threading.Event()
        publish = driver.publish

        def slow_publish(membership):
            in_flight.set()
            go_on.wait(30)
            publish(membership)

        driver.publish = slow_publish
        beat = threading.Thread(target=service.timer.fire)
        beat.start()
        assert in_flight.wait(30)
        began = time.monotonic()
        driver.leave('host1', GROUP)
        # The wait is limited: the beat ends after leave has returned.
        waited = time.monotonic() - began
        assert 0.5 <= waited / heartbeat.LEAVE_TIMEOUT < 1.1
        assert beat.is_alive()
        go_on.set()
        beat.join(30)
        world.wait_visible()
        if Promise.SEES_LEAVE in driver.promises:
            assert driver.is_up(world.record('host1')) is False
        world.advance(DOWN_TIME + INTERVAL)
        service.timer.fire()
        world.wait_visible()
        assert driver.is_up(world.record('host1')) is False

    def test_a_member_may_join_again(self, world):
        driver, _ = self.joined(world)
        driver.leave('host1', GROUP)
        driver, _ = self.joined(world)
        assert driver.is_up(world.record('host1')) is True

    @pytest.mark.parametrize('form', [
        lambda record: record, dict,
        # The scheduler's.
        lambda record: collections.UserDict(dict(record))],
        ids=['as it is', 'dict', 'UserDict'])
    def test_who_is_plainly_up_needs_no_verdict(self, world, form):
        driver, _ = self.joined(world)
        record = form(world.record('host1'))
        assert driver.is_up(record) is True
        driver.verdict = None
        assert driver.is_up(record) is True
        assert driver.answer(record, Question.MAY_PLACE) is True
        driver.updated_time(record)
        driver.groups.doubted[GROUP, None] = 0
        with pytest.raises(TypeError):
            driver.is_up(record)
        driver.groups.doubted.clear()

    # Promises of some drivers only

    def test_the_in_tree_driver_agrees_in_both_directions(self, world):
        driver, service = self.joined(world)
        needs(driver, Promise.IN_TREE_FORMAT)
        in_tree = world.in_tree()
        assert in_tree.is_up(world.record('host1')) is True
        world.advance(DOWN_TIME + INTERVAL)
        assert in_tree.is_up(world.record('host1')) is False
        other = world.service('host2')
        in_tree.join('host2', GROUP, other)
        other.timer.fire()
        world.wait_visible()
        assert driver.is_up(world.record('host2')) is True
        world.advance(DOWN_TIME + INTERVAL)
        assert driver.is_up(world.record('host2')) is False

    @pytest.mark.parametrize('skew', [-120, 120])
    def test_the_writers_clock_does_not_decide(self, world, skew):
        needs(world.driver(), Promise.READER_CLOCK)
        driver, service = self.joined(world)
        assert driver.is_up(world.record('host1')) is True
        world.skew_writer(skew)
        for _ in range(DOWN_TIME + 1):
            world.advance(INTERVAL)
            service.timer.fire()
            world.wait_visible()
            assert driver.is_up(world.record('host1')) is True
        world.advance(DOWN_TIME + INTERVAL)
        assert driver.is_up(world.record('host1')) is False

    def test_a_killed_process_is_down_within_a_second(self, world):
        driver, _ = self.joined(world)
        needs(driver, Promise.SEES_KILL)
        record = world.record('host1')
        assert driver.answer(record, Question.MAY_PLACE) is True
        world.kill('host1')
        world.advance(1)
        assert driver.answer(record, Question.MAY_PLACE) is False
