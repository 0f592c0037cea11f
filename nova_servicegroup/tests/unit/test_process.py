# SPDX-License-Identifier: Apache-2.0

"""What tests start, and what they need, when it isn't as it should be."""

import os
import pathlib
import shutil
import subprocess

import pytest

from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import zookeeper

ROOT = pathlib.Path(__file__).parents[3]


@pytest.mark.parametrize('error', [process.NotReady, KeyboardInterrupt])
def test_what_does_not_get_ready_is_stopped(tmp_path, error):
    def condition():
        if error is KeyboardInterrupt:
            raise error
        return False

    one = process.Process('slow', ['sleep', '600'], tmp_path)
    with pytest.raises(error):
        one.start().wait_ready(condition, 0.2)
    assert not one.running


def test_an_ensemble_that_does_not_serve_is_stopped(tmp_path, monkeypatch):
    monkeypatch.setattr(zookeeper.Server, 'mode', '')
    ensemble = zookeeper.Ensemble(tmp_path)
    wait_serving = ensemble.wait_serving
    monkeypatch.setattr(ensemble, 'wait_serving', lambda: wait_serving(0.2))
    with pytest.raises(process.NotReady):
        ensemble.start()
    assert not any(server.running for server in ensemble.servers)


def test_a_program_that_is_missing_is_named_with_its_package():
    with pytest.raises(process.NotReady, match=(
            'no-such-server of the Debian package no-such-package')):
        process.program('no-such-server', 'no-such-package')


def install_packages(directory, *arguments, installed='', **programs):
    """Run the script where nothing but the named programs is real."""
    programs = {
        'dpkg-query': 'case " %s " in *" $4 "*) echo installed;; esac'
        % installed, 'apt-get': 'echo "$@" >> apt-get.log', **programs}
    directory.joinpath('tools').mkdir()
    for name in ('install-packages', 'with-progress'):
        shutil.copy(ROOT / 'tools' / name, directory / 'tools')
    script = directory / 'tools' / 'install-packages'
    (directory / 'bindep.txt').write_text(
        '# A comment [platform:dpkg test]\n'
        'for-all [platform:dpkg]\n'
        'for-tests [platform:dpkg test]\n'
        'for-docs [platform:dpkg docs]\n'
        'for-both [platform:dpkg docs test]\n'
        'for-others [platform:rpm test]\n')
    for name, text in programs.items():
        (directory / name).write_text('#!/bin/sh\n%s\n' % text)
        (directory / name).chmod(0o755)
    done = subprocess.run(
        ['sh', script, *arguments], capture_output=True, text=True,
        env=dict(os.environ, PATH='%s:%s' % (directory, os.environ['PATH'])))
    log = directory / 'apt-get.log'
    return done, log.read_text().splitlines() if log.exists() else []


@pytest.mark.parametrize('arguments, installed, missing', [
    ((), '', 'for-all'), (('test',), '', 'for-all for-tests for-both'),
    (('test',), 'for-all for-tests', 'for-both')])
def test_what_is_missing_is_installed_in_one_go(
        tmp_path, arguments, installed, missing):
    done, commands = install_packages(tmp_path, *arguments, id='echo 0',
                                      installed=installed)
    assert done.returncode == 0, done.stderr
    assert done.stdout == 'Installing %s.\n' % missing
    assert [command.split()[0] for command in commands] == [
        'update', 'install']
    assert commands[1].endswith(' ' + missing)


def test_without_root_what_is_missing_is_named(tmp_path):
    done, commands = install_packages(tmp_path, 'test', id='echo 1000')
    assert done.returncode == 1 and not commands
    assert 'apt-get install for-all for-tests for-both' in done.stderr


def test_with_all_there_nothing_is_done(tmp_path):
    done, commands = install_packages(
        tmp_path, 'test', installed='for-all for-tests for-both',
        id='echo 0')
    assert (done.returncode, done.stdout, commands) == (0, '', [])


def test_an_installation_that_fails_is_a_failure(tmp_path):
    done, _ = install_packages(
        tmp_path, 'test', **{'id': 'echo 0', 'apt-get': 'exit 100'})
    assert done.returncode == 100
