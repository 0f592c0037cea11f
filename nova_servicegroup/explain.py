# SPDX-License-Identifier: Apache-2.0

"""Why a verdict is what it is, in words, and what would change it.

The verdict itself comes from ``liveness``, as Nova's does; this only puts the
rule that decided into words. Nothing here blocks, logs or reads a clock.
"""

from __future__ import annotations

import copy
import typing

from nova_servicegroup import exception
from nova_servicegroup import liveness
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State

POLICIES = ('safe', 'up', 'down')


class Change(typing.NamedTuple):
    """What would change a verdict.

    :param text: what would happen, and what the state would be then
    :param at: when that is, on the clock of the evidence; None if something
        else than time has to happen
    """

    text: str
    at: float | None = None


class Explanation(typing.NamedTuple):
    """A verdict with all that led to it.

    :param verdict: a liveness.Verdict
    :param member: the liveness.Member that it is about; None if there is no
        evidence, because the store can't be asked or the operator's word
        came first
    :param now: when it was judged, on the clock of the evidence
    :param rule: which rule decided, a sentence or two
    :param changes: list of Change
    :param answers: {policy: {liveness.Question: True, False or None}}
    """

    verdict: liveness.Verdict
    member: liveness.Member | None
    now: float
    rule: str
    changes: list
    answers: dict


def explain(driver, record):
    """Return the Explanation of the verdict on a service.

    The evidence is read once, so that all parts tell of the same moment.
    May block as the driver's ``observe`` and ``load_group`` do.
    """
    now = driver.now()
    member = None
    frozen = copy.copy(driver)
    frozen.now = lambda: now
    # The short way for the living would look anew.
    frozen.surely_up = lambda record: False
    try:
        member = driver.observe(record)
        frozen.observe = lambda record: member
    except (exception.InvalidMember, exception.ServiceGroupUnavailable) as e:
        frozen.observe = _raising(e)
    if record.get('forced_down', None):
        verdict = liveness.Verdict(
            State.DOWN, Reason.FORCED_DOWN,
            None if member is None else member.seen_at)
        answers = {policy: dict.fromkeys(liveness.Question, False)
                   for policy in POLICIES}
    else:
        verdict = frozen.verdict(record)
        answers = {policy: {question: frozen.answer(record, question, policy)
                            for question in liveness.Question}
                   for policy in POLICIES}
    rule, changes = _rule(verdict, member, driver.settings.rules)
    changes = [change._replace(text=change.text.replace(
        'HOST', str(record.get('host', None)))) for change in changes]
    return Explanation(verdict, member, now, rule, changes, answers)


def _raising(error):
    def observe(record):
        raise error
    return observe


def _rule(verdict, member, rules):
    """Return (text, list of Change) of a verdict."""
    reason = verdict.reason
    if reason is Reason.FORCED_DOWN:
        return _forced_down()
    if verdict.silence is not None:
        return _silent(verdict, member, rules)
    if verdict.state is State.UNKNOWN:
        return _cannot_tell(reason)
    if verdict.state is State.UP:
        return _up(member, rules)
    if reason is Reason.LEFT:
        return ('Who was taken out of its group by the operator is down for '
                'everybody, at once.', [_START])
    if verdict.state is State.ENDED:
        return ('A process that ended proves that its host lives. It is no '
                'place for new instances; for everything else it is down '
                'restart_grace (%g s) after its last sign of life.'
                % rules.restart_grace,
                [_START, Change(
                    'restart_grace is over: down',
                    member.last + rules.restart_grace)])
    if member is not None and member.end is not None:
        return ('Its process ended, and its last sign of life is older than '
                'restart_grace (%g s).' % rules.restart_grace, [_START])
    if member is None or member.last is None:
        return ('There is no sign of life of it, and whoever lives would have '
                'given one.', [_START])
    return ('It is silent, and is not in the group compute: nobody evacuates '
            'its host, so the silence of others is not looked at.', [_SIGN])


_START = Change('its service starts and reports: up')
_SIGN = Change('a sign of life: up')


def _forced_down():
    return ('The operator\'s word comes before all evidence.',
            [Change('"nova-servicegroup force-down --undo HOST", or '
                    '"openstack compute service set --up HOST '
                    'nova-compute": then the evidence decides')])


def _up(member, rules):
    if member.reason is Reason.PRESENT:
        return ('Its session is open, and its keeper closes that when the '
                'process ends.',
                [Change('its process ends: ended, at once'),
                 Change('its host is lost: down within two recv_timeout')])
    return ('Its last sign of life is at most service_down_time (%g s) old.'
            % rules.down_time,
            [Change('it is stopped gracefully: ended, at once'),
             Change('no sign of life until then: down, or unknown if it is '
                    'one of many', member.last + rules.down_time)])


_WHY_UNKNOWN = {
    Reason.OUTAGE: (
        'The store has been out of reach for so long that what was known of '
        'it no longer holds. That says nothing about the host.',
        'the store can be reached again'),
    Reason.UNREADABLE: (
        'What stands in the store in its name is no sign of life that can be '
        'read, so it says neither "up" nor "down".',
        'the service writes its next sign of life'),
    Reason.RETURNING: (
        'The connection to its server may have been lost and not its host: '
        'whoever lives comes back.',
        'it comes back: up; or its time to come back is over: down'),
    Reason.UNSEEN: (
        'The store may have lost what it knew, so that nobody is known who '
        'did not report since.',
        'it reports: up; or it had the time to and did not: down'),
    Reason.CLOCKS: (
        'By the clock of its host it may be up, by the clock of this one it '
        'is not, and this reader has just begun to look.',
        'this reader has looked for service_down_time: that decides'),
}


def _cannot_tell(reason):
    rule, change = _WHY_UNKNOWN[reason]
    return rule, [Change(change), _FORCE]


_FORCE = Change('"nova-servicegroup force-down HOST", if it is known to be '
                'dead: down')


def _silent(verdict, member, rules):
    """Put ``liveness._doubt`` into words."""
    silence = verdict.silence
    together = silence.silent + silence.returned
    counted = (
        'Of %d computes that reported shortly before it fell silent, or '
        'later, %d fell silent together with it: %d are silent and %d are '
        'back.' % (silence.base, together, silence.silent, silence.returned))
    if verdict.state is State.UNKNOWN:
        if verdict.reason is Reason.ALONE:
            return ('It is the only compute that could report, and nothing '
                    'shows that the way of its reports works.',
                    [_SIGN, _FORCE])
        changes = [_SIGN, _FORCE]
        rule = ('%s That is at least two, and at least '
                'mass_failure_threshold (%g) of them: the message bus, the '
                'store or a switch may have failed and not all of these '
                'hosts.' % (counted, rules.threshold))
        if silence.returned:
            changes.insert(1, Change(
                'none of the others came back for service_down_time (%g s), '
                'or the first one was back outage_grace (%g s) ago: down'
                % (rules.down_time, rules.outage_grace),
                min(silence.last_return + rules.down_time,
                    silence.first_return + rules.outage_grace)))
        else:
            rule += (' None of them came back, so this has no end of its '
                     'own: the hosts come back, or the operator ends it.')
        return rule, changes
    if rules.threshold > 1:
        why = ('mass_failure_threshold is %g: the silence of others is not '
               'looked at.' % rules.threshold)
    elif silence.base <= 1:
        why = ('It is the only compute that could report, and others were '
               'heard of by the same way since.')
    elif not silence.is_massive(rules.threshold):
        why = ('%s That is less than two, or less than '
               'mass_failure_threshold (%g) of them: it is the host that is '
               'lost.' % (counted, rules.threshold))
    else:
        why = ('%s The others had service_down_time (%g s) since the last '
               'one, or outage_grace (%g s) since the first one came back: '
               'who is still missing is lost.' % (
                   counted, rules.down_time, rules.outage_grace))
    return 'It is silent. ' + why, [_SIGN]
