# SPDX-License-Identifier: Apache-2.0

"""Shared code of the commands. Imports nothing of Nova."""

import os
import sys

from cliff import command
from cliff import lister
from cliff import show
from stevedore import extension

from nova_servicegroup.integration import dropin


# Not imported here, since it imports Nova if that is installed.
_EXCEPTIONS = 'nova_servicegroup.exception'
#: formatters that escape such characters themselves
_ESCAPING = ('json', 'yaml')
#: the option that names the servers of each driver's store
_STORES = {'db': '[database] connection', 'mc': '[cache] memcache_servers',
           'zk': '[zookeeper] address'}


class CommandError(Exception):
    """The command failed; the text says why, and what to do."""


class _Common:
    """Adds advice to unexpected errors."""

    #: the exit code after an error, unless that is 1; and its message then
    error_code = None
    error_text = '%s\n'

    def get_epilog(self):
        # cliff would search all installed packages for that of the command,
        # which takes a quarter of a second.
        return self._epilog or ''

    def run(self, parsed_args):
        try:
            return self._run(parsed_args)
        except Exception as e:
            if self.error_code is None or self.app.options.debug:
                raise
            self.app.stderr.write(self.error_text % e)
            return self.error_code

    def _run(self, parsed_args):
        try:
            return super().run(parsed_args)
        except Exception as e:
            if _is_unavailable(e):
                raise CommandError(
                    'The %s driver cannot tell: %s. Check the servers of %s: '
                    '"nova-servicegroup doctor" tries each of them.' % (
                        e.driver, e.reason.rstrip('.'),
                        _STORES[e.driver])) from e
            if _says_what_to_do(e):
                raise
            if isinstance(e, ImportError):
                raise CommandError(
                    '%s: install nova-servicegroup with its requirements for '
                    '%s.' % (e, sys.executable)) from e
            raise CommandError(
                'This should not happen: %s: %s. "nova-servicegroup --debug '
                '..." shows where; please report it.' % (
                    type(e).__name__, e)) from e

    def deployment(self, timeout=None):
        """Return the Deployment of the configuration.

        :param timeout: seconds that a database may take for an answer, by
            default a minute
        """
        from nova_servicegroup.cmd import deployment
        options = self.app.options
        return deployment.Deployment(options.config_file, options.config_dir,
                                     timeout)

    def print_failures(self, deployment):
        """Write to stderr which cells did not answer; return if any."""
        for text in deployment.failures:
            self.app.stderr.write('error: %s\n' % text)
        return bool(deployment.failures)


def _is_unavailable(error):
    ours = sys.modules.get(_EXCEPTIONS)
    return ours is not None and isinstance(
        error, ours.ServiceGroupUnavailable)


def _says_what_to_do(error):
    known = [CommandError, dropin.DropInError, BrokenPipeError]
    ours = sys.modules.get(_EXCEPTIONS)
    if ours is not None:
        known.append(ours.ServiceGroupError)
    return isinstance(error, tuple(known))


def end(app, code, is_stuck):
    """End the process at once if one of its threads hangs.

    :param code: the exit code
    """
    if is_stuck:
        for stream in (app.stdout, app.stderr, sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


class Command(_Common, command.Command):
    """A command that prints its output itself; returns its exit code."""


class _Formatted(_Common):
    #: the exit code if the output was printed
    exit_code = 0
    #: whether values have line breaks of their own
    has_line_breaks = False

    def run(self, parsed_args):
        return super().run(parsed_args) or self.exit_code

    def produce_output(self, parsed_args, column_names, data):
        if parsed_args.formatter not in _ESCAPING:
            data = [printable(value, self.has_line_breaks) for value in data]
        return super().produce_output(parsed_args, column_names, data)


class Lister(_Formatted, lister.Lister):
    """A command that returns (column names, rows)."""


class ShowOne(_Formatted, show.ShowOne):
    """A command that returns (names, values)."""


class ForPeople:
    """A formatted command whose output is text for people, by default.

    The other formats are for programs.
    """

    formatter_default = 'text'
    #: the formatter of that text, a class
    text = None

    def _load_formatter_plugins(self):
        # Not by an entry point: it is for this command alone.
        found = super()._load_formatter_plugins()
        found.extensions.append(extension.Extension(
            'text', None, self.text, self.text()))
        return found


def printable(value, keep_line_breaks=False):
    """Return a value with its non-printable characters escaped.

    For terminals: the names of hosts come from stores, where others may write,
    and could hold control sequences or forge lines.

    :param value: a str; a list, tuple or dict of values, which returns a list
        or dict; others stay as they are
    """
    if isinstance(value, str):
        return ''.join(
            each if each.isprintable() or (keep_line_breaks and each == '\n')
            else each.encode('unicode_escape').decode() for each in value)
    if isinstance(value, (list, tuple)):
        return [printable(each, keep_line_breaks) for each in value]
    if isinstance(value, dict):
        return {key: printable(each, keep_line_breaks)
                for key, each in value.items()}
    return value


def add_nova(parser, with_python=True):
    """Add the options that select a Nova to a parser; return the parser.

    :param with_python: also the one for the Python that runs it
    """
    parser.add_argument('--nova', metavar='PATH',
                        help='the folder that holds nova/; by default that '
                             'which this Python imports')
    if with_python:
        parser.add_argument('--python', metavar='PATH',
                            help='the Python that runs this Nova; by default '
                                 'derived from the path of the tree')
    return parser


def seconds(text):
    """Return a positive number of seconds, for argparse."""
    value = float(text)
    if not 0 < value < float('inf'):
        raise ValueError(text)
    return value


# argparse names it when it refuses a value.
seconds.__name__ = 'number of seconds'
