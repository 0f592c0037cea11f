# SPDX-License-Identifier: Apache-2.0

"""Explanations say what the verdict is made of, and when it will change."""

import datetime
import math
import pathlib
import textwrap

import pytest

from nova_servicegroup.cmd import explain as cmd_explain
from nova_servicegroup import conf as sg_conf
from nova_servicegroup.drivers import base
from nova_servicegroup.drivers import common
from nova_servicegroup.drivers import db
from nova_servicegroup import exception
from nova_servicegroup import explain
from nova_servicegroup import liveness
from nova_servicegroup.liveness import End
from nova_servicegroup.liveness import Gap
from nova_servicegroup.liveness import Question
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State

NOW = 100000.0
DOWN_TIME = 60
GRACE = 30


class Evidence(common.Driver):
    """A driver whose evidence the test has laid out."""

    name = 'evidence'

    def __init__(self, members, time=NOW, promises=(), path_seen=None,
                 error=None, **how):
        super().__init__(**how)
        self.members = {member.host: member for member in members}
        self.time = time
        self.promises = frozenset(promises)
        self.path_seen = path_seen
        self.error = error

    def _now(self, member):
        age = 0 if member.last == math.inf else abs(self.time - member.last)
        return member._replace(
            alive=member.end is None and age <= DOWN_TIME)

    def observe(self, record):
        if self.error is not None:
            raise self.error
        return self._now(self.members[record['host']])

    def load_group(self, record):
        return liveness.Group(
            [self._now(member) for member in self.members.values()],
            DOWN_TIME * 2 / 3, self.path_seen)

    def now(self):
        return self.time

    def recorded_time(self, record):
        return None

    def publish(self, membership):
        raise NotImplementedError

    withdraw = publish


@pytest.fixture
def rules(config):
    config.config(service_down_time=DOWN_TIME)
    config.config(group='servicegroup', restart_grace=GRACE)
    sg_conf.settings(config.conf).refresh()
    return config


def ask(driver, host='a', topic='compute', **more):
    # The cache of groups is for questions of one moment.
    driver.groups._loaded.clear()
    return explain.explain(driver, {'host': host, 'topic': topic,
                                    'binary': 'nova-' + topic, **more})


def hosts(count, age, prefix='h', **how):
    return [liveness.Member('%s%d' % (prefix, number), NOW - age, **how)
            for number in range(count)]


def texts(explanation):
    return ' '.join(change.text for change in explanation.changes)


MASS_FAILURE = [liveness.Member('a', NOW - 70), *hosts(10, 75),
                *hosts(9, 5, 'b')]
RETURNING = [liveness.Member('a', NOW - 100), *hosts(7, 105),
             *hosts(2, -math.inf, 'b', gap=Gap(NOW - 101, NOW - 20))]


def test_a_mass_failure_is_told_in_numbers(rules):
    found = ask(Evidence(MASS_FAILURE))
    assert found.verdict.state is State.UNKNOWN
    assert found.verdict.reason is Reason.MASS_FAILURE
    assert 'Of 20 computes' in found.rule
    assert '11 are silent and 0 are back' in found.rule
    assert 'mass_failure_threshold (0.5)' in found.rule
    assert 'ends only when' in found.rule
    assert '"nova-servicegroup force-down a"' in texts(found)
    assert [change.at for change in found.changes] == [None, None]


@pytest.mark.parametrize('places, safe', [((), False), (
    [base.Promise.PLACES_IN_DOUBT], None)])
def test_what_each_policy_answers_to_each_question(rules, places, safe):
    found = ask(Evidence(MASS_FAILURE, promises=places))
    place, gone = Question.MAY_PLACE, Question.IS_GONE
    assert found.answers == {'safe': {place: safe, gone: True},
                             'up': {place: True, gone: True},
                             'down': {place: False, gone: False}}


@pytest.mark.parametrize('policy', explain.POLICIES)
def test_the_answers_are_those_that_nova_gets(rules, policy):
    rules.config(group='servicegroup', outage_policy=policy)
    sg_conf.settings(rules.conf).refresh()
    for members in (MASS_FAILURE, RETURNING,
                    [liveness.Member('a', NOW - 5, end=End.KILLED)]):
        driver = Evidence(members)
        found = ask(driver)
        assert found.answers[policy] == {
            question: driver.answer({'host': 'a', 'topic': 'compute'},
                                    question)
            for question in Question}
    assert policy == driver.settings.outage_policy


def test_a_loss_among_many_says_why_it_is_believed(rules):
    found = ask(Evidence([liveness.Member('a', NOW - 70),
                          *hosts(19, 5)]))
    assert found.verdict.state is State.DOWN
    assert 'Of 20 computes' in found.rule
    assert 'it is the host that is lost' in found.rule


def test_the_only_compute_is_doubted_or_not(rules):
    members = [liveness.Member('a', NOW - 70)]
    found = ask(Evidence(members))
    assert found.verdict.reason is Reason.ALONE
    assert 'the only compute' in found.rule
    found = ask(Evidence(members, path_seen=NOW))
    assert found.verdict.state is State.DOWN
    assert 'by the same path' in found.rule


def test_the_guard_turned_off_is_told(rules):
    rules.config(group='servicegroup', mass_failure_threshold=2)
    sg_conf.settings(rules.conf).refresh()
    found = ask(Evidence(MASS_FAILURE))
    assert found.verdict.state is State.DOWN
    assert 'mass_failure_threshold is 2' in found.rule


@pytest.mark.parametrize('reason', [
    Reason.UNREADABLE, Reason.RETURNING, Reason.UNSEEN, Reason.CLOCKS])
def test_every_doubt_of_a_reader_has_its_words(rules, reason):
    found = ask(Evidence([liveness.Member('a', NOW, doubt=reason)]))
    assert found.verdict.state is State.UNKNOWN
    assert found.rule == explain._WHY_UNKNOWN[reason][0]
    assert 'force-down a' in texts(found)


def test_a_store_that_can_not_be_asked_is_no_evidence(rules):
    found = ask(Evidence([], error=exception.ServiceGroupUnavailable(
        'evidence', 'it is away')))
    assert found.verdict.reason is Reason.OUTAGE
    assert found.member is None
    assert 'says nothing about the host' in found.rule
    assert found.answers['safe'][Question.IS_GONE] is True


def test_the_operators_word_comes_first_and_the_evidence_is_shown(rules):
    found = ask(Evidence(MASS_FAILURE), forced_down=True)
    assert found.verdict.reason is Reason.FORCED_DOWN
    assert found.member.last == NOW - 70
    assert all(answer is False for answers in found.answers.values()
               for answer in answers.values())
    assert 'force-down --undo a' in texts(found)


def test_other_groups_are_not_doubted(rules):
    found = ask(Evidence(MASS_FAILURE), topic='conductor')
    assert found.verdict.state is State.DOWN
    assert 'is not evacuated' in found.rule


@pytest.mark.parametrize('member, before, after', [
    (liveness.Member('a', NOW - 10), State.UP, State.DOWN),
    (liveness.Member('a', NOW - 10, end=End.KILLED), State.ENDED, State.DOWN),
    (RETURNING[0], State.UNKNOWN, State.DOWN),
], ids=['heartbeat', 'ended', 'returning'])
def test_it_changes_at_the_time_that_is_told(rules, member, before, after):
    others = RETURNING[1:] if member is RETURNING[0] else hosts(9, -900)
    driver = Evidence([member, *others])
    at, = (change.at for change in ask(driver).changes if change.at)
    for time, state in ((NOW, before), (at - 0.1, before), (at + 0.1, after)):
        driver.time = time
        assert ask(driver).verdict.state is state, time - NOW


@pytest.mark.parametrize('end', End)
def test_who_ended_long_ago_starts_again_or_stays_down(rules, end):
    found = ask(Evidence([liveness.Member('a', NOW - 900, end=end)]))
    assert found.verdict.state is State.DOWN
    assert texts(found) == 'its service starts and reports: up'


class Database(Evidence):

    name = 'db'
    witness = db.DbDriver.witness


def test_the_example_of_the_documentation_is_what_is_printed(rules):
    seen_at = datetime.datetime(2026, 11, 21, 10, 0, 3,
                                tzinfo=datetime.timezone.utc)
    driver = Database([MASS_FAILURE[0]._replace(seen_at=seen_at),
                       *MASS_FAILURE[1:]])
    text = cmd_explain.printed(cmd_explain.describe(
        ask(driver), driver, {'host': 'a', 'binary': 'nova-compute'},
        'cell1'))
    page = (pathlib.Path(__file__).parents[3]
            / 'doc/source/cli/nova-servicegroup.rst').read_text()
    assert textwrap.indent(text, '      ') in page, text
