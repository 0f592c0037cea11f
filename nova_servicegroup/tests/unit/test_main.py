# SPDX-License-Identifier: Apache-2.0

"""The ``nova-servicegroup`` program, whatever the command."""

import importlib.metadata
import logging
import re
import subprocess
import sys

import pytest

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import main


@pytest.mark.parametrize('arguments', [[], ['--help'], ['-v']])
def test_a_bare_call_shows_what_it_can_do(arguments, capsys):
    assert main.main(arguments) == 0
    shown = capsys.readouterr().out
    for name in main.COMMANDS:
        assert '  %s ' % name in shown


@pytest.mark.parametrize('name', main.COMMANDS)
def test_each_command_has_help(name, capsys):
    assert main.main(['help', *name.split()]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith('usage: nova-servicegroup %s' % name)
    description = shown.split('\n\n')[1]
    assert description.endswith('.')


def test_help_of_a_command_by_its_option(capsys):
    assert main.main(['dropin', 'status', '--help']) == 0
    assert '--nova PATH' in capsys.readouterr().out


def test_version():
    done = subprocess.run(
        [sys.executable, '-c', 'import sys\nsys.argv[0] = "/usr/bin/nova-'
         'servicegroup"\nfrom nova_servicegroup.cmd import main\nmain.main(['
         '"--version"])'], capture_output=True, text=True)
    assert done.stdout == 'nova-servicegroup %s\n' % (
        importlib.metadata.version('nova-servicegroup'))


def test_completion_knows_every_command(capsys):
    assert main.main(['complete']) == 0
    shown = capsys.readouterr().out
    for name in main.COMMANDS:
        # As bash can have it in the name of a variable.
        assert "_%s='" % re.sub('[ -]', '_', name) in shown


def test_the_command_line_wrong_exits_with_2(capsys):
    assert main.main(['dropout']) == 2
    assert 'dropin install' in capsys.readouterr().out
    for arguments, expected in (
            (['dropin', 'install', '--color'], '--color'),
            (['list', '--group', 'computes'], "invalid choice: 'computes'"),
            (['watch', '--group', 'computes'], "invalid choice: 'computes'"),
            (['leave', 'computes', 'a'], "invalid choice: 'computes'")):
        with pytest.raises(SystemExit, match='2'):
            main.main(arguments)
        assert expected in capsys.readouterr().err


class Broken(base.Command):
    """A command that has a bug."""

    def take_action(self, parsed_args):
        return {}['absent']


class Confidential(base.Command):
    """A command whose kazoo authenticates."""

    def take_action(self, parsed_args):
        log = logging.getLogger('kazoo.client')
        log.debug('Sending request: auth=%r', 'nova:SECRET')
        log.info('connected')


def test_no_log_has_the_password_of_zookeeper(monkeypatch, capsys, tmp_path):
    monkeypatch.setitem(main.COMMANDS, 'whisper', '%s:Confidential' % __name__)
    monkeypatch.setattr(main, '_PACKAGE', '')
    # Nova's migrations in another test disable all loggers.
    monkeypatch.setattr(logging.getLogger('kazoo.client'), 'disabled', False)
    log = tmp_path / 'log'
    assert main.main(['-vv', '--log-file', str(log), 'whisper']) == 0
    for text in (capsys.readouterr().err, log.read_text()):
        assert 'connected' in text and 'SECRET' not in text


def test_what_nobody_foresaw_is_told_in_one_line(monkeypatch, capsys):
    monkeypatch.setitem(main.COMMANDS, 'break', '%s:Broken' % __name__)
    monkeypatch.setattr(main, '_PACKAGE', '')
    assert main.main(['break']) == 1
    shown = capsys.readouterr().err
    assert shown.startswith("This should not happen: KeyError: 'absent'. ")
    assert len(shown.splitlines()) == 1
    assert main.main(['--debug', 'break']) == 1
    assert 'Traceback' in capsys.readouterr().err


def test_nothing_of_nova_is_imported_by_what_puts_it_in(tmp_path):
    """A Nova that is half installed must not be in the way."""
    code = ('import sys; from nova_servicegroup.cmd import main; '
            'main.main(["dropin", "status", "--nova", %r]); main.main([]); '
            'print([m for m in sys.modules if m.partition(".")[0] in '
            '("nova", "oslo_config", "eventlet")])' % str(tmp_path))
    done = subprocess.run([sys.executable, '-c', code], capture_output=True,
                          text=True)
    assert done.stdout.splitlines()[-1] == '[]', done.stdout + done.stderr
    assert 'There is no nova/servicegroup/__init__.py' in done.stderr


def test_a_package_that_is_missing_is_named():
    done = subprocess.run(
        [sys.executable, '-c', 'import sys; sys.modules["kazoo"] = None\n'
         'from nova_servicegroup.cmd import main\n'
         'sys.exit(main.main(["zookeeper", "tighten"]))'],
        capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith('import of kazoo')
    assert done.stderr.endswith(
        'install nova-servicegroup with its requirements for %s.\n'
        % sys.executable)
