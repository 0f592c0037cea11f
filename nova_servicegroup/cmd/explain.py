# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup explain``: why a service is up, down, or unknown."""

import datetime
import math
import textwrap

from cliff.formatters import base as formatters

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import services

_MAY_PLACE = {True: 'yes', False: 'no', None: 'if need be'}
_IS_GONE = {True: 'no: up', False: 'yes: down'}


class _Text(formatters.SingleFormatter):
    """Explanations as text for people."""

    def add_argument_group(self, parser):
        pass

    def emit_one(self, column_names, data, stdout, parsed_args):
        shown = dict(zip(column_names, data))
        stdout.write(''.join(
            '%s: %s\n' % item for item in shown.items()
        ) if parsed_args.columns else printed(shown))


class Explain(base.ForPeople, base.ShowOne):
    """Explain why a service is up, down, or unknown.

    Shows the last evidence and its source, the rule that decided, the answers
    to Nova's two questions by each outage_policy, and what would change them.
    The verdict comes from the same function as Nova's, with the evidence that
    this host sees now.
    """

    text = _Text

    def get_parser(self, prog_name):
        return services.add_service(super().get_parser(prog_name))

    def take_action(self, parsed_args):
        from nova_servicegroup import explain
        deployment = self.deployment()
        record, cell = deployment.find(parsed_args.host, parsed_args.service)
        shown = describe(explain.explain(deployment.driver, record),
                         deployment.driver, record, cell)
        if not deployment.has_database:
            shown['evidence'].append(
                'Nova\'s database is not configured here, so whether the '
                'operator forced it down is not known.')
        return list(shown), list(shown.values())


def describe(found, driver, record, cell):
    """Return an Explanation as a dict of JSON values."""
    from nova_servicegroup.liveness import Question
    return {
        'host': record['host'], 'binary': record['binary'], 'cell': cell,
        'state': found.verdict.state.value,
        'reason': found.verdict.reason.value,
        'driver': driver.name,
        'evidence': _evidence(found, driver),
        'rule': found.rule,
        'outage_policy': driver.settings.outage_policy,
        'answers': {
            policy: {'may_place': answers[Question.MAY_PLACE],
                     'service_is_up': answers[Question.IS_GONE]}
            for policy, answers in found.answers.items()},
        'changes': [_change(change, found.now) for change in found.changes]}


def _evidence(found, driver):
    """Return sentences about the evidence and its source."""
    member = found.member
    if member is None:
        return ['There is none: %s.' % found.verdict.reason.value]
    witness = driver.witness(member)
    if member.last is None:
        lines = ['There was never a sign of life of it.']
    elif member.last == math.inf:
        lines = ['Its sign of life lasts, reported by %s.' % witness]
    else:
        lines = ['Its last sign of life was %s (%s), reported by %s.' % (
            _ago(found.now - member.last), services.as_text(member.seen_at),
            witness)]
    if member.end is not None:
        lines.append('How it ended is proven: %s.' % member.end.value)
    if member.gap is not None:
        lines.append('Before that it was silent for %.0f s, until %s.' % (
            member.gap.end - member.gap.start,
            _ago(found.now - member.gap.end)))
    return lines


def _change(change, now):
    """Return the text of a Change, with the time until then."""
    if change.at is None:
        return change.text
    left = change.at - now
    return '%s: %s' % ('in %.0f s' % left if left >= 0 else 'now',
                       change.text)


def _ago(seconds):
    if seconds < 0:
        return '%.0f s in the future' % -seconds
    if seconds < 600:
        return '%.0f s ago' % seconds
    return '%s ago' % datetime.timedelta(seconds=round(seconds))


def printed(shown):
    """Return the result of ``describe`` as text for people."""
    lines = ['%s (%s%s): %s, %s' % (
        shown['host'], shown['binary'],
        ' in %s' % shown['cell'] if shown['cell'] else '',
        shown['state'].upper(), shown['reason'])]
    lines += ['', 'Evidence', *_paragraphs(shown['evidence'])]
    lines += ['', 'Rule', *_paragraphs([shown['rule']])]
    lines += ['', 'Answers to Nova, by outage_policy']
    row = '  %-40s' + '%-13s' * len(shown['answers'])
    lines.append(row % ('', *(
        policy + (' (set)' if policy == shown['outage_policy'] else '')
        for policy in shown['answers'])))
    for question, name, words in (
            ('May I place an instance there?', 'may_place', _MAY_PLACE),
            ('May I act as if the host were gone?', 'service_is_up',
             _IS_GONE)):
        lines.append(row % (question, *(
            words[answers[name]] for answers in shown['answers'].values())))
    lines += ['', 'What would change it',
              *_paragraphs(shown['changes'], '- ')]
    return '\n'.join(line.rstrip() for line in lines) + '\n'


def _paragraphs(texts, mark=''):
    return [line for text in texts for line in textwrap.wrap(
        text, 76, break_on_hyphens=False, initial_indent='  ' + mark,
        subsequent_indent='  ' + ' ' * len(mark))]
