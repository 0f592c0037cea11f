# SPDX-License-Identifier: Apache-2.0

"""Explains a verdict in words: the rule that decided, and what can change it.

The verdict itself comes from ``liveness``, as Nova's does.
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
    """An event that would change a verdict.

    :param text: the event, and the state after it
    :param at: its time, on the clock of the evidence; None if it is not known
    """

    text: str
    at: float | None = None


class Explanation(typing.NamedTuple):
    """A verdict with its evidence and its rule.

    :param verdict: a liveness.Verdict
    :param member: the liveness.Member that was judged; None if the evidence
        can't be read
    :param now: time of the verdict, on the clock of the evidence
    :param rule: the rule that decided, in a sentence or two
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

    Reads the evidence once, so that all parts are of the same moment. Blocks
    as the driver's ``observe`` and ``load_group`` do.
    """
    now = driver.now()
    member = None
    frozen = copy.copy(driver)
    frozen.now = lambda: now
    # The fast path would read the evidence again.
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
        return ('A member that the operator took out of its group is down for '
                'all callers, at once.', [_START])
    if verdict.state is State.ENDED:
        return ('A process that ended proves that its host is alive. The '
                'scheduler places nothing there; for other callers it is down '
                'restart_grace (%g s) after its last sign of life.'
                % rules.restart_grace,
                [_START, Change(
                    'restart_grace is over: down',
                    member.last + rules.restart_grace)])
    if member is not None and member.end is not None:
        return ('Its process ended, and its last sign of life is older than '
                'restart_grace (%g s).' % rules.restart_grace, [_START])
    if member is None or member.last is None:
        return ('There is no sign of life of it, and a living service would '
                'have given one.', [_START])
    return ('It is silent, and is not in the group compute: its host is not '
            'evacuated, so the silence of others does not count.', [_SIGN])


_START = Change('its service starts and reports: up')
_SIGN = Change('a sign of life: up')


def _forced_down():
    return ('forced_down takes precedence over all evidence.',
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
        'The store has been unreachable for so long that the last known state '
        'no longer holds. That says nothing about the host.',
        'the store can be reached again'),
    Reason.UNREADABLE: (
        'What the store holds for it cannot be read as a sign of life, so it '
        'says neither "up" nor "down".',
        'the service writes its next sign of life'),
    Reason.RETURNING: (
        'The connection to its server may have been lost and not its host: '
        'a living service comes back.',
        'it comes back: up; or its time to come back is over: down'),
    Reason.UNSEEN: (
        'The store may have lost its data, and then holds only services that '
        'have reported since.',
        'it reports: up; or its time to report is over: down'),
    Reason.CLOCKS: (
        'By the clock of its host it may be up, by the clock of this one it '
        'is not, and this reader has just started.',
        'this reader has observed it for service_down_time: that decides'),
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
                    'shows that its reports can arrive.',
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
            rule += (' None of them came back. This ends only when hosts '
                     'report again, or when you force them down.')
        return rule, changes
    if rules.threshold > 1:
        why = ('mass_failure_threshold is %g: the silence of others does not '
               'count.' % rules.threshold)
    elif silence.base <= 1:
        why = ('It is the only compute that could report, and other services '
               'have reported by the same path since.')
    elif not silence.is_massive(rules.threshold):
        why = ('%s That is less than two, or less than '
               'mass_failure_threshold (%g) of them: it is the host that is '
               'lost.' % (counted, rules.threshold))
    else:
        why = ('%s The others had service_down_time (%g s) since the last '
               'one, or outage_grace (%g s) since the first one came back: '
               'a host that is still silent is lost.' % (
                   counted, rules.down_time, rules.outage_grace))
    return 'It is silent. ' + why, [_SIGN]
