# SPDX-License-Identifier: Apache-2.0

"""The ``nova-servicegroup`` command: its subcommands, options and logging.

Subcommands are imported when they are called. Those for the drop-in import
nothing of Nova: they must run in any environment, whatever its state.
"""

import importlib.metadata
import logging
import sys
import warnings

from cliff import app
from cliff import commandmanager
from cliff import help

from nova_servicegroup import version

NAME = 'nova-servicegroup'
_PACKAGE = 'nova_servicegroup.cmd.'

# Not entry points: a checkout works without reinstallation, and no environment
# is searched.
COMMANDS = {
    'list': 'services:List',
    'show': 'services:Show',
    'explain': 'explain:Explain',
    'watch': 'watch:Watch',
    'force-down': 'force:ForceDown',
    'leave': 'leave:Leave',
    'metrics': 'metrics:Metrics',
    'migrate check': 'migrate:Check',
    'upgrade check': 'upgrade:Check',
    'doctor': 'doctor:Doctor',
    'size': 'size:Size',
    'dropin install': 'dropin:Install',
    'dropin status': 'dropin:Status',
    'dropin remove': 'dropin:Remove',
    'dropin export': 'dropin:Export',
    'manage': 'passthrough:Manage',
    'zookeeper tighten': 'zookeeper:Tighten',
}


class Commands(commandmanager.CommandManager):
    """The commands by name, each imported when it is used."""

    def __init__(self):
        super().__init__(None)
        # cliff looks for hooks of a command below it.
        self.namespace = 'nova_servicegroup.cli'
        for name, target in COMMANDS.items():
            self.commands[name] = importlib.metadata.EntryPoint(
                name, _PACKAGE + target, self.namespace)


def _without_secrets(record):
    """Drop Nova's traceback about a URL: it may quote the password."""
    if record.name == 'nova.objects.cell_mapping':
        record.exc_info = record.exc_text = None
    return True


class Application(app.App):
    """The program: options for all commands, logging, exit codes."""

    NAME = NAME
    LOG = logging.getLogger(NAME)

    def __init__(self):
        super().__init__(
            'Liveness of Nova services: who is up, why, and what to do.',
            version.version(), Commands(), deferred_help=True)
        self._handlers = []

    def build_option_parser(self, description, version,
                            argparse_kwargs=None):
        parser = super().build_option_parser(description, version, {
            'prog': self.NAME,
            # So that "--no" of a command doesn't match an option of ours.
            'allow_abbrev': False})
        parser.add_argument(
            '--config-file', metavar='PATH', action='append', default=[],
            help='nova.conf; may be given several times; by default where '
                 'Nova looks for it')
        parser.add_argument(
            '--config-dir', metavar='DIR', action='append', default=[],
            help='a folder of configuration files; may be given several '
                 'times')
        return parser

    def configure_logging(self):
        """Send errors to stderr; -v shows more, -vv all but secrets.

        Less than cliff does: messages of drivers are for the logs of services.
        """
        root = logging.getLogger()
        console = logging.StreamHandler(self.stderr)
        console.setFormatter(logging.Formatter(self.CONSOLE_MESSAGE_FORMAT))
        console.setLevel({0: logging.ERROR, 1: logging.ERROR,
                          2: logging.INFO}.get(self.options.verbose_level,
                                               logging.DEBUG))
        self._handlers.append(console)
        if self.options.log_file:
            file = logging.FileHandler(self.options.log_file)
            file.setFormatter(logging.Formatter(self.LOG_FILE_MESSAGE_FORMAT))
            file.setLevel(min(logging.INFO, console.level))
            self._handlers.append(file)
        root.setLevel(min(handler.level for handler in self._handlers))
        # Its DEBUG messages show the password of ZooKeeper.
        logging.getLogger('kazoo').setLevel(logging.INFO)
        for handler in self._handlers:
            handler.addFilter(_without_secrets)
            root.addHandler(handler)

    def run(self, argv):
        """Run a command; return its exit code.

        0: success. 1: failure, stderr says why. 2: wrong command line. The
        help of a command lists others.
        """
        root = logging.getLogger()
        level = root.level
        if not self.parser.parse_known_args(argv)[1]:
            # cliff would ask for commands.
            argv = ['--help']
        try:
            return super().run(argv)
        except help.HelpExit:
            return 0
        finally:
            root.setLevel(level)
            while self._handlers:
                root.removeHandler(self._handlers.pop())


def parse(argv):
    """Return (class of the command, its arguments) without running it."""
    application = Application()
    _, rest = application.parser.parse_known_args(argv)
    factory, name, rest = application.command_manager.find_command(rest)
    parser = factory(application, None).get_parser('%s %s' % (NAME, name))
    return factory, parser.parse_args(rest)


def main(argv=None):
    """Run the command; return its exit code."""
    argv = sys.argv[1:] if argv is None else argv
    # It is in the logs of Nova's services. Older oslo libraries import
    # eventlet even if it isn't used.
    warnings.filterwarnings('ignore', r'\s*Eventlet is deprecated')
    if argv[:1] == ['manage']:
        # All further options are nova-manage's, including -v and --debug.
        from nova_servicegroup.cmd import passthrough
        return passthrough.run(argv[1:])
    return Application().run(argv)


if __name__ == '__main__':
    sys.exit(main())
