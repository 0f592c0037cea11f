# SPDX-License-Identifier: Apache-2.0

"""``make demo`` does what it says, and leaves nothing behind."""

import os
import pathlib
import re
import shutil
import signal
import subprocess
import sys

import pytest

from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import texts
from nova_servicegroup.tests.fixtures import zookeeper

DEMO = nova.PACKAGE_ROOT / 'demo' / 'demo.py'
CUT = ['compute-3', 'light-5', 'light-6', 'light-7', 'light-8', 'light-9']


@pytest.fixture
def folder(tmp_path):
    """Where a demo makes its folder, and it alone."""
    folder = tmp_path / 'tmp'
    folder.mkdir()
    return folder


@pytest.fixture
def environ(folder):
    return dict(nova.environment(), TMPDIR=str(folder))


@pytest.fixture
def without_servers(environ, tmp_path):
    """The environment of a user who has no server and can install none."""
    programs = tmp_path / 'bin'
    programs.mkdir()
    for program in pathlib.Path('/usr/bin').iterdir():
        if program.name not in ('java', 'memcached', 'apt-get'):
            (programs / program.name).symlink_to(program)
    return dict(environ, PATH=str(programs))


def command(*arguments):
    return [sys.executable, '-u', DEMO, *arguments]


def run(env, *arguments):
    return subprocess.run(command(*arguments), env=env, capture_output=True,
                          text=True, timeout=400)


def processes_of(folder):
    """Return {pid: command line} of whatever a demo started."""
    found = {}
    for path in pathlib.Path('/proc').glob('[0-9]*'):
        try:
            if ('TMPDIR=%s\0' % folder) in (path / 'environ').read_text(
                    errors='replace'):
                found[int(path.name)] = (path / 'cmdline').read_text(
                    errors='replace')
        except OSError:
            pass
    return found


def keepers_of(folder):
    """Return the pids of the keepers, which have an environment of theirs."""
    return subprocess.run(
        ['pgrep', '-f', '-P', ','.join(map(str, processes_of(folder))),
         'nova_servicegroup.keeper'], capture_output=True,
        text=True).stdout.split()


def assert_nothing_is_left(folder):
    process.wait_until(lambda: not processes_of(folder), 20,
                       'the end of what the demo started')
    assert list(folder.iterdir()) == []


def states(text):
    """Return {host: (state, the answer to Nova)} of the last list."""
    listed = text.rpartition('$ nova-servicegroup list')[2]
    return {host: (state, answer) for host, state, answer in re.findall(
        r'^\| (\S+-\d) +\| (\w+) +\|.* (\w+) +\|$', listed, re.MULTILINE)}


def took(done, pattern):
    assert done.returncode == 0, done.stdout + done.stderr
    return [float(number) for number in re.findall(pattern, done.stdout)]


def test_with_zookeeper_a_kill_is_seen_in_milliseconds(environ, folder):
    done = run(environ)
    assert re.search(r'^Driver zk, .* started at 127', done.stdout), (
        done.stdout + done.stderr)
    kills = took(done, r'(\d+) ms later the scheduler no longer chooses '
                 r'compute-\d')
    assert len(kills) == 2
    assert all(kill < 1000 for kill in kills), kills
    killed, cut_off = re.findall(
        r'^\$ nova-servicegroup explain (\S+)\n(.*)$', done.stdout,
        re.MULTILINE)
    assert killed[0] == 'compute-2' and ': ENDED, ' in killed[1]
    assert cut_off[0] == 'compute-3' and ': UNKNOWN, ' in cut_off[1]
    seen = states(done.stdout)
    assert seen.pop('compute-1') == ('ended', 'up')
    assert [seen.pop(host) for host in CUT] == [('unknown', 'up')] * 6
    assert list(seen.values()) == [('up', 'up')] * 5
    assert 'None of them was called\ndown at any time' in done.stdout
    assert done.stdout.splitlines()[-1].startswith('Done in ')
    # Nobody looks at a pipe while it waits.
    assert done.stderr == ''
    texts.assert_printed(texts.block('README.rst', 'demo'), done.stdout)
    assert_nothing_is_left(folder)


def assert_it_takes_a_down_time(done):
    after, = took(done, r'([\d.]+) s later compute-2 is down')
    assert 7 < after < 25
    assert 'explain compute-2\ncompute-2 (nova-compute in cell1): DOWN, ' in (
        done.stdout)
    seen = states(done.stdout)
    assert [seen.pop(host) for host in CUT] == [('unknown', 'up')] * 6
    assert list(seen.values()) == [('up', 'up')] * 6
    assert done.stdout.splitlines()[-1].startswith('Done in ')


def test_with_memcached(environ, folder):
    done = run(environ, '--driver=mc')
    assert done.stdout.startswith('Driver mc, '), done.stdout + done.stderr
    assert_it_takes_a_down_time(done)
    assert_nothing_is_left(folder)


def test_without_any_server_it_says_so_and_shows_db(without_servers, folder):
    done = run(without_servers)
    assert done.stdout.startswith('There is no ZooKeeper here, and it could '
                                  'not be installed.'), (
        done.stdout + done.stderr)
    assert 'ZOOKEEPER=host:port' in done.stdout
    assert '\nDriver db, ' in done.stdout
    assert_it_takes_a_down_time(done)
    assert_nothing_is_left(folder)


@pytest.mark.parametrize('arguments, expected', [
    (['--driver=zk'], 'There is no ZooKeeper here'),
    (['--driver=mc'], 'There is no memcached here'),
    (['--zookeeper=127.0.0.1:%d' % process.free_port()],
     'No ZooKeeper answers at 127.0.0.1:'),
    (['--zookeeper=a:b'], "'a:b' is no address of a ZooKeeper ensemble"),
    (['--zookeeper=a:1', '--driver=db'], '--zookeeper is for --driver zk'),
])
def test_what_was_asked_for_is_not_to_be_had(
        without_servers, folder, arguments, expected):
    done = run(without_servers, *arguments)
    assert done.returncode in (1, 2)
    assert expected in done.stderr
    assert 'Traceback' not in done.stderr
    assert done.stdout == ''
    assert_nothing_is_left(folder)


@pytest.fixture
def begin(environ, tmp_path):
    """Start a demo; return it when it shows its first explanation."""
    demos = []

    def begin(ready, *arguments):
        # A run in the background may have been told to ignore SIGINT.
        demo = process.Process('demo', [
            'env', '--default-signal=INT', *command(*arguments)], tmp_path,
            env=environ)
        demos.append(demo.start())
        return demo.wait_ready(lambda: ready in demo.log(), 200)
    yield begin
    for demo in demos:
        demo.stop()


@pytest.mark.parametrize('number, code', [(signal.SIGINT, 130),
                                          (signal.SIGKILL, -signal.SIGKILL)])
def test_an_interrupted_demo_leaves_no_process(folder, begin, number, code):
    demo = begin('$ nova-servicegroup explain compute-2')
    keepers = keepers_of(folder)
    assert len(keepers) >= 5
    os.kill(demo.pid, number)
    assert demo.wait(30) == code
    if number == signal.SIGKILL:
        shutil.rmtree(next(folder.iterdir()))
    else:
        assert 'Interrupted' in demo.log()
    assert_nothing_is_left(folder)
    process.wait_until(
        lambda: not any(pathlib.Path('/proc', pid).exists()
                        for pid in keepers), 20, 'the end of the keepers')


def test_nothing_is_left_in_a_zookeeper_that_was_there(
        folder, begin, tmp_path):
    with zookeeper.Ensemble(tmp_path / 'zookeeper', 1) as ensemble, \
            ensemble.client() as client:
        demo = begin('All six are "unknown"', '--zookeeper', ensemble.address)
        mine, = set(client.get_children('/')) - {'zookeeper'}
        assert len(client.get_children('/%s/compute' % mine)) >= 5
        os.kill(demo.pid, signal.SIGTERM)
        assert demo.wait(30) == 130
        assert_nothing_is_left(folder)
        assert client.get_children('/') == ['zookeeper']


def test_the_demo_fails_when_one_of_its_processes_ends(folder, begin):
    demo = begin('Starting three nova-computes', '--driver=db')
    rack = process.wait_until(
        lambda: [pid for pid, line in processes_of(folder).items()
                 if 'light.py' in line and 'rack-a' in line], 60, 'a rack')
    os.kill(rack[0], signal.SIGKILL)
    assert demo.wait(60) == 1
    assert 'The demo failed: rack-a ended with -9' in demo.log()
    assert 'Done in' not in demo.log()
    # The logs are there for whoever wants to know why.
    logs, = folder.iterdir()
    assert str(logs) in demo.log()
    assert (logs / 'compute-1' / 'compute-1.log').exists()
    shutil.rmtree(logs)
    assert_nothing_is_left(folder)
