# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup doctor``: checks an installation."""

import collections
import textwrap

from cliff.formatters import base as formatters

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import progress

#: seconds for all checks together, as long as monitoring programs wait
TIMEOUT = 60
#: of levels, the worst first
_ORDER = ('CRITICAL', 'WARNING', 'UNKNOWN', 'OK')
_COLUMNS = ('Level', 'Check', 'What', 'Why', 'Fix')
#: of the levels, on a terminal
_COLOURS = {'OK': '32', 'WARNING': '33', 'CRITICAL': '31', 'UNKNOWN': '35'}


class _Text(formatters.ListFormatter):
    """Findings as text for people."""

    def add_argument_group(self, parser):
        pass

    def emit_list(self, column_names, data, stdout, parsed_args):
        rows = [dict(zip(column_names, row)) for row in data]
        stdout.write(printed(rows, stdout.isatty()) if not parsed_args.columns
                     else ''.join('%s\n' % ' '.join(map(str, row.values()))
                                  for row in rows))


class Doctor(base.ForPeople, base.Lister):
    """Check the installation, and say what to do.

    Checks whether Nova uses this package, its configuration, its processes
    and units here, the databases, the store of the driver, and whether all
    services report to it. Each finding says what is wrong, why it matters, and
    the fix. It changes nothing, and ends within --timeout.

    On a controller all checks run. On a compute, where Nova's database is not
    configured, those that need it are skipped.

    Exit code, as of monitoring plug-ins: 0 no problem; 1 warnings; 2 something
    is critical; 3 something could not be checked, and there is no other
    problem.
    """

    text = _Text
    has_line_breaks = True
    error_code = 3
    error_text = 'UNKNOWN: %s\n'

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('--json', action='store_const', const='json',
                            dest='formatter', help='the same as -f json')
        parser.add_argument('--only', metavar='CHECK', action='append',
                            default=[], help='only this check; may be given '
                                             'several times')
        parser.add_argument('--skip', metavar='CHECK', action='append',
                            default=[], help='all but this check; may be '
                                             'given several times')
        parser.add_argument('--timeout', metavar='S', type=float,
                            default=TIMEOUT,
                            help='seconds for all checks together, by '
                                 'default %d' % TIMEOUT)
        return base.add_nova(parser)

    def run(self, parsed_args):
        code = super().run(parsed_args)
        base.end(self.app, code, self._is_stuck)
        return code

    _is_stuck = False

    def take_action(self, parsed_args):
        from nova_servicegroup import doctor
        from nova_servicegroup.doctor import checks
        from nova_servicegroup.doctor import site as sites
        options = self.app.options
        chosen = choose(checks.CHECKS, parsed_args.only, parsed_args.skip)
        site = sites.Site(options.config_file, options.config_dir,
                          parsed_args.nova, parsed_args.python)
        with progress.Progress('Checking'):
            run = doctor.Run(chosen, site, parsed_args.timeout)
            findings = run.findings()
            self._is_stuck = run.is_stuck
            if not run.is_stuck:
                site.close()
        self.exit_code = int(doctor.worst(findings))
        if parsed_args.formatter != 'text':
            self.app.stderr.write(summary(
                [found.level.name for found in findings]) + '\n')
        return _COLUMNS, [(found.level.name, found.check, found.what,
                           found.why, found.fix) for found in findings]


def choose(checks, only, skip):
    """Return the selected checks.

    :raises CommandError: there is no check of one of the names
    """
    names = [check.name for check in checks]
    unknown = sorted({*only, *skip} - set(names))
    if unknown:
        raise base.CommandError('There is no check %s: they are %s.' % (
            unknown[0], ', '.join(names)))
    return [check for check in checks if check.name not in skip
            and (not only or check.name in only)]


def summary(levels):
    """Return the line that monitoring programs show."""
    counts = collections.Counter(levels)
    found = [level for level in _ORDER if counts[level]]
    return 'SERVICEGROUP %s - %s' % (found[0] if found else 'OK', ', '.join(
        '%d %s' % (counts[level], level.lower()) for level in found)
        or 'nothing was checked')


def printed(rows, colour=False):
    """Return findings as text for people, the worst first.

    :param rows: dicts by the names of the columns
    :param colour: whether to use colours, too
    """
    lines, seen_ok = [summary(row['Level'] for row in rows)], False
    for row in sorted(rows, key=lambda row: _ORDER.index(row['Level'])):
        level = row['Level']
        head = '%-8s ' % level
        if level != 'OK' or not seen_ok:
            lines.append('')
        seen_ok |= level == 'OK'
        first, *rest = textwrap.wrap(
            '%s%s: %s' % (head, row['Check'], row['What']), 79,
            break_on_hyphens=False, break_long_words=False,
            subsequent_indent=' ' * 9)
        if colour:
            first = '\033[%sm%s\033[0m%s' % (
                _COLOURS[level], level, first[len(level):])
        lines += [first, *rest]
        if row['Why']:
            lines += textwrap.wrap(
                'Why: ' + row['Why'], 79, initial_indent=' ' * 9,
                subsequent_indent=' ' * 14, break_on_hyphens=False,
                break_long_words=False)
        if row['Fix']:
            # Commands and options, to be pasted: not wrapped.
            first, *rest = row['Fix'].splitlines()
            lines.append(' ' * 9 + 'Fix: ' + first)
            lines += [(' ' * 14 + line).rstrip() for line in rest]
    return '\n'.join(lines) + '\n'
