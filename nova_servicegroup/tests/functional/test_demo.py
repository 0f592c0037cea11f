# SPDX-License-Identifier: Apache-2.0

"""``make demo`` does what it says, and leaves nothing behind."""

import importlib.util
import os
import pathlib
import re
import signal
import subprocess
import sys

import pytest

from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process

DEMO = nova.PACKAGE_ROOT / 'demo' / 'demo.py'
DOWN_TIME = 3


@pytest.fixture(scope='module')
def directory(tmp_path_factory):
    """Where the demos of these tests write, one after the other."""
    return tmp_path_factory.mktemp('demo')


@pytest.fixture
def command(directory):
    """The demo with the environment of the tests."""
    return [sys.executable, '-u', DEMO, '--python', sys.executable,
            '--directory', directory]


def processes_in(directory):
    """Return the pids of the processes that were given files in there."""
    pids = []
    for path in pathlib.Path('/proc').glob('[0-9]*/cmdline'):
        try:
            if str(directory / 'run') in path.read_text(errors='replace'):
                pids.append(int(path.parent.name))
        except OSError:
            pass
    return pids


def test_the_demo_kills_a_compute_and_brings_it_back(
        directory, command, plugin_tree):
    done = subprocess.run(command, env=nova.environment(plugin_tree),
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr

    steps = [step for step in done.stdout.split('$ nova-manage service list')
             if 'Once more.' not in step][1:]
    signs = [re.findall(r'^nova-compute .* (:-\)|XXX|\?\?\?) ', step,
                        re.MULTILINE) for step in steps]
    assert signs == [[':-)'] * 3, [':-)', 'XXX', ':-)'], [':-)'] * 3]

    took = float(re.search(r'demo-2 turned XXX (\S+) s after it was killed',
                           done.stdout).group(1))
    assert 0 < took < DOWN_TIME + 10
    assert re.search(r'demo-2 turned :-\) \S+ s after its start', done.stdout)
    assert done.stdout.splitlines()[-2].startswith('Done in ')
    assert processes_in(directory) == []
    assert not (directory / 'run').exists()


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130),
                                          (signal.SIGTERM, 130),
                                          (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupted_demo_leaves_no_process(
        directory, command, plugin_tree, tmp_path, number, code):
    # A run in the background may have been told to ignore SIGINT.
    demo = process.Process(
        'demo', ['env', '--default-signal=INT', *command], tmp_path,
        env=nova.environment(plugin_tree))
    with demo:
        demo.wait_ready(lambda: '$ nova-manage service list' in demo.log(),
                        120)
        assert len(processes_in(directory)) >= 4
        os.kill(demo.pid, number)
        assert demo.wait(30) == code
        # A nova-manage that it was just starting comes to its own end.
        process.wait_until(lambda: not processes_in(directory), 60,
                           'the end of what the demo started')
        if number != signal.SIGKILL:
            assert not (directory / 'run').exists()


def test_the_demo_fails_when_what_it_tells_does_not_happen(directory, command):
    # This Nova has no nova-manage service: the package isn't dropped in.
    done = subprocess.run(command, env=nova.environment(),
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    assert 'The demo failed: ' in done.stderr
    assert "invalid choice: 'service'" in done.stderr
    assert 'Done in ' not in done.stdout
    assert processes_in(directory) == []
    # For whoever wants to know why.
    assert (directory / 'run' / 'demo-1.log').exists()


def test_databases_are_as_old_as_the_environment(tmp_path, monkeypatch):
    spec = importlib.util.spec_from_file_location('demo', DEMO)
    demo = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(demo)
    (tmp_path / 'venv' / 'bin').mkdir(parents=True)
    (tmp_path / 'venv' / 'bin' / 'python').touch()
    commands = []
    monkeypatch.setattr(demo, 'run_telling',
                        lambda command, name: commands.append(name))
    monkeypatch.setattr(demo.subprocess, 'run', lambda *a, **kw: None)
    schema = tmp_path / 'schema'
    for installed in (True, False):
        schema.mkdir(exist_ok=True)
        commands.clear()
        demo.make_environment(tmp_path / 'venv')
        assert commands == ['venv', 'pip'] * installed
        assert schema.exists() is not installed
    # A clone that was moved: the schemas hold paths.
    moved = tmp_path / 'moved'
    moved.mkdir()
    (tmp_path / 'venv').rename(moved / 'venv')
    (tmp_path / 'schema').rename(moved / 'schema')
    demo.make_environment(moved / 'venv')
    assert commands == ['venv', 'pip']
    assert not (moved / 'schema').exists()
