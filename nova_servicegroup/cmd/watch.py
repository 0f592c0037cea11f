# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup watch``: shows changes as lines, or as a live table."""

import collections
import datetime
import json
import os
import shutil
import signal
import sys
import time

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import progress
from nova_servicegroup.cmd import services

#: the exit code of timeout(1)
TIMED_OUT = 124
_STATES = ('up', 'ended', 'down', 'unknown')
_COLOURS = {'up': '32', 'ended': '33', 'down': '31', 'unknown': '35'}
_HOME_AND_CLEAR = '\033[H\033[J'
_INTERVAL = 1.0
_INTERVAL_UNTIL = 0.2
#: seconds to send what is left at the end
_SEND_LIMIT = 5
#: transitions at the bottom of the live table
_RECENT = 8


class Watch(base.Command):
    """Show each change of a service's state.

    In a pipe, or with --lines, one line for each: the time at which it was
    seen here (UTC), host, binary, old and new state, and the reason. On a
    terminal a live table of the services that are not up, with the last
    changes below it.

    With --until it waits for a state of one service and ends.

    With --notify it also sends a notification for each change through the
    message bus. Run it on each controller: they elect the sender through the
    store of the driver.

    Exit code: 0 if the state of --until was reached, 124 if it was not within
    --timeout, 130 after an interrupt, 1 for errors, also if errors hide HOST
    at the end of --timeout.
    """

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('hosts', metavar='HOST', nargs='*',
                            help='only the services on these hosts')
        services.add_group(parser)
        parser.add_argument('--service', metavar='BINARY',
                            help='only this service; with --until by default '
                                 'nova-compute')
        parser.add_argument('--until', choices=_STATES,
                            help='end when HOST is in this state')
        parser.add_argument('--timeout', type=base.seconds, metavar='S',
                            help='with --until: wait for this many seconds, '
                                 'and some more while a database does not '
                                 'answer')
        parser.add_argument('--interval', type=base.seconds, metavar='S',
                            help='seconds between checks, by default %g, and '
                                 '%g with --until; Nova\'s database is read '
                                 'once a second at most, less often if that '
                                 'takes long' % (_INTERVAL, _INTERVAL_UNTIL))
        parser.add_argument('--lines', action='store_true',
                            help='lines on a terminal, too')
        parser.add_argument('--json', action='store_true',
                            help='each line is a JSON object')
        parser.add_argument('--notify', action='store_true',
                            help='send a notification for each change')
        parser.add_argument('--topic', metavar='NAME',
                            help='with --notify: the topic, by default '
                                 'nova_servicegroup')
        parser.add_argument('--alone', action='store_true',
                            help='with --notify: send without an election, as '
                                 'there is no other watcher')
        return parser

    def take_action(self, parsed_args):
        if parsed_args.until and len(parsed_args.hosts) != 1:
            raise base.CommandError('--until needs one HOST, for whose state '
                                    'to wait.')
        if parsed_args.timeout is not None and not parsed_args.until:
            raise base.CommandError('--timeout is for --until: say for which '
                                    'state to wait.')
        if parsed_args.until and parsed_args.notify:
            raise base.CommandError('--notify runs for ever, --until ends: '
                                    'choose one of them.')
        if (parsed_args.topic or parsed_args.alone) and not parsed_args.notify:
            raise base.CommandError('--topic and --alone are for --notify.')
        if parsed_args.until and parsed_args.service is None:
            parsed_args.service = 'nova-compute'
        from nova_servicegroup.cmd import watcher
        deadline = (float('inf') if parsed_args.timeout is None
                    else time.monotonic() + parsed_args.timeout)
        deployment = self.deployment(watcher.TIMEOUT)
        watched = watcher.Watcher(
            deployment, parsed_args.group,
            lambda record: (
                (not parsed_args.hosts or record['host'] in parsed_args.hosts)
                and parsed_args.service in (None, record['binary'])))
        if parsed_args.until:
            return self._wait(watched, parsed_args, deadline)
        if parsed_args.notify:
            return self._notify(watched, parsed_args, deployment)
        return self._watch(watched, parsed_args, lambda changes: None)

    def _notify(self, watched, parsed_args, deployment):
        from nova_servicegroup.cmd import election
        from nova_servicegroup.cmd import notify
        sender = notify.Sender(deployment.conf,
                               parsed_args.topic or notify.TOPIC)
        chosen = (election.Alone() if parsed_args.alone
                  else election.of(deployment))
        outbox = notify.Outbox(chosen, sender.send)

        def stop(number, frame):
            # As an interrupt does, so that the place is given up.
            sys.exit(0)

        signal.signal(signal.SIGTERM, stop)

        def notify_of(changes):
            led = outbox.leads
            outbox.add(changes)
            # The election logs that it cannot tell.
            if outbox.leads not in (led, None):
                self.app.stderr.write(
                    'This watcher sends the notifications.\n'
                    if outbox.leads else
                    'This watcher sends no notifications, another one does.\n')

        try:
            return self._watch(watched, parsed_args, notify_of)
        finally:
            chosen.close()
            unsent = sender.wait(_SEND_LIMIT)
            if unsent:
                self.app.stderr.write(
                    'error: %d notifications were not sent.\n' % unsent)

    def _wait(self, watched, parsed_args, deadline):
        host = parsed_args.hosts[0]
        shown = []
        with progress.Progress('Waiting for %s on %s to be %s' % (
                parsed_args.service, host, parsed_args.until)):
            while True:
                for change in watched.check():
                    self._print(change, parsed_args.json)
                shown = self._print_new_failures(watched, shown)
                for one in watched.services.values():
                    if one.state.value == parsed_args.until:
                        return 0
                left = deadline - time.monotonic()
                if left <= 0:
                    break
                time.sleep(min(left, parsed_args.interval
                               or _INTERVAL_UNTIL))
        states = [one.state.value for one in watched.services.values()]
        if not states and watched.failures:
            self.app.stderr.write(
                'Whether %s is on %s was not found out within %g s.\n' % (
                    parsed_args.service, host, parsed_args.timeout))
            return 1
        self.app.stderr.write(
            '%s on %s is %s, and was not %s within %g s.\n' % (
                parsed_args.service, host,
                states[0] if states else 'not known to Nova',
                parsed_args.until, parsed_args.timeout))
        return TIMED_OUT

    def _watch(self, watched, parsed_args, on_changes):
        is_live = self.app.stdout.isatty() and not (
            parsed_args.lines or parsed_args.json)
        recent = collections.deque(maxlen=_RECENT)
        shown = []
        watched.check()
        self.app.LOG.info('Watching %d services.', len(watched.services))
        while True:
            changes = watched.check()
            on_changes(changes)
            if is_live:
                recent.extend(changes)
                self._draw(watched, recent)
            else:
                for change in changes:
                    self._print(change, parsed_args.json)
                shown = self._print_new_failures(watched, shown)
            time.sleep(parsed_args.interval or _INTERVAL)

    def _print_new_failures(self, watched, shown):
        """Write errors to stderr unless they were ``shown``; return them."""
        if watched.failures != shown:
            for text in watched.failures:
                self.app.stderr.write('error: %s\n' % text)
        return watched.failures

    def _print(self, change, as_json):
        self.app.stdout.write(
            (json.dumps(_fields(change)) if as_json else line(change)) + '\n')
        # The reader of a pipe waits for each line.
        self.app.stdout.flush()

    def _draw(self, watched, recent):
        size = shutil.get_terminal_size()
        self.app.stdout.write(_HOME_AND_CLEAR + screen(
            list(watched.services.values()), list(recent), watched.failures,
            datetime.datetime.now(datetime.timezone.utc), size.columns,
            size.lines, not os.environ.get('NO_COLOR')))
        self.app.stdout.flush()


def _fields(change):
    return {'at': services.as_text(change.at, 'milliseconds'),
            'host': change.host, 'binary': change.binary,
            'cell': change.cell,
            'old': change.old and change.old.value,
            'new': change.new and change.new.value,
            'reason': change.reason and change.reason.value}


def line(change):
    """Return a Transition as one line of text."""
    fields = _fields(change)
    return '%s %s %s %s -> %s%s' % (
        fields['at'], base.printable(change.host),
        base.printable(change.binary),
        fields['old'] or 'absent', fields['new'] or 'deleted',
        ': %s' % fields['reason'] if fields['reason'] else '')


def _age(moment, now):
    """Return the age of a moment, in a few characters."""
    if moment is None:
        return 'never'
    seconds = max(0, (now - moment).total_seconds())
    for unit, length in (('d', 86400), ('h', 3600), ('min', 60)):
        if seconds >= 2 * length:
            return '%d %s' % (seconds // length, unit)
    return '%d s' % seconds


def screen(found, recent, failures, now, width, height, colour):
    """Return the text of the live table.

    :param found: list of Service
    :param recent: list of Transition, the last ones
    :param failures: list of texts
    :param now: aware datetime
    :param width: columns of the terminal
    :param height: its lines
    :param colour: whether to use colours, too
    """
    def paint(state, text):
        return '\033[%sm%s\033[0m' % (_COLOURS[state], text) if colour \
            else text

    counts = collections.Counter(one.state.value for one in found)
    lines = ['%d services: ' % len(found) + ', '.join(
        paint(state, '%d %s' % (counts[state], state)) for state in _STATES)]
    lines += [('error: ' + text)[:width] for text in failures]
    bottom = [line(change)[:width] for change in recent]
    if bottom:
        bottom = ['', 'Last changes', *bottom]
    others = sorted((one for one in found if one.state.value != 'up'),
                    key=lambda one: (-_STATES.index(one.state.value),
                                     one.host))
    # Two lines are for the cursor and for the number of further services.
    room = max(1, height - len(lines) - len(bottom) - 3)
    if others:
        lines.append('')
    hosts = [base.printable(one.host) for one in others[:room]]
    longest = max(map(len, hosts), default=0)
    for one, host in zip(others, hosts):
        text = '%-7s %-*s %-14s %9s  %s' % (
            one.state.value, longest, host, base.printable(one.binary),
            _age(one.seen_at, now), one.verdict.reason.value)
        lines.append(paint(one.state.value, text[:width]))
    if len(others) > room:
        lines.append('... and %d more that are not up' % (
            len(others) - room))
    return '\n'.join(lines + bottom) + '\n'
