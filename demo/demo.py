# SPDX-License-Identifier: Apache-2.0

"""Three nova-computes: one is killed, is seen dead, and comes back.

Needs Python and PyPI; no server, no root. Everything it makes is in .demo of
the clone, and only the environment (.demo/venv) is left there for the next
run. Exit code 0: everything happened as it was told; 1: something didn't;
130: interrupted.

This file is run by the system's Python, so it imports nothing but the
standard library. compute.py and watcher.py are run by the environment's.
"""

import argparse
import contextlib
import fcntl
import hashlib
import json
import os
import pathlib
import queue
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time

NOVA = 'nova==34.0.0'
# What Nova 34 asks for.
PYTHON = (3, 11)

REPORT_INTERVAL = 1
SERVICE_DOWN_TIME = 3

HOSTS = ('demo-1', 'demo-2', 'demo-3')
VICTIM = 'demo-2'
UP = ':-)'
DOWN = 'XXX'

# Far more than it takes, for slow machines. Seconds.
START_LIMIT = 90
TURN_LIMIT = SERVICE_DOWN_TIME + 10

# The folder with the empty databases, beside the environment.
SCHEMA = 'schema'

HERE = pathlib.Path(__file__).resolve().parent
CLONE = HERE.parent


class DemoFailed(Exception):
    """Something did not happen as told."""


def say(text=''):
    print(text, flush=True)


# The environment

def make_environment(directory):
    """Make or update a virtual environment; return its python.

    Installs when the last time isn't known to have been with the same
    requirements; a second run takes no time.
    """
    python = directory / 'bin' / 'python'
    marker = directory / 'installed'
    wanted = hashlib.sha256(NOVA.encode())
    for name in ('pyproject.toml', 'requirements.txt', 'setup.cfg'):
        wanted.update((CLONE / name).read_bytes())
    wanted = '%s %s %s\n' % (directory, CLONE, wanted.hexdigest())
    if python.exists() and marker.exists() and marker.read_text() == wanted:
        say('Using the environment in %s.' % directory)
    else:
        say('Making an environment in %s with %s from PyPI: about a minute, '
            'the first time only.' % (directory, NOVA))
        provide_ensurepip()
        # Another Nova may want other databases, and these know their place.
        shutil.rmtree(directory.with_name(SCHEMA), ignore_errors=True)
        run_telling([sys.executable, '-m', 'venv', '--clear', directory],
                    'venv')
        run_telling([python, '-m', 'pip', 'install', '--progress-bar', 'off',
                     '--disable-pip-version-check', NOVA, '-e', CLONE],
                    'pip')
        marker.write_text(wanted)
    say('Dropping nova-servicegroup into that Nova:')
    subprocess.run([directory / 'bin' / 'nova-servicegroup', 'dropin',
                    'install'], check=True)
    return python


def provide_ensurepip():
    """Install what Debian leaves out of its python3, where we may."""
    try:
        import ensurepip  # noqa: F401
    except ImportError:
        run_telling([CLONE / 'tools' / 'install-packages'], 'packages')


def run_telling(command, name):
    """Run a long command; every few seconds tell what it is at."""
    env = dict(os.environ)
    if not (CLONE / '.git').exists() or not shutil.which('git'):
        # pbr asks git for the version of the package.
        env.setdefault('PBR_VERSION', '0.0.1.dev0')
    began = time.monotonic()
    lines = ['']
    with subprocess.Popen([str(part) for part in command], env=env,
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True,
                          start_new_session=True) as child:
        reader = threading.Thread(target=lambda: lines.extend(child.stdout))
        reader.start()
        with ending(child):
            while reader.is_alive():
                reader.join(5)
                say('  %3d s  %s: %s' % (time.monotonic() - began, name,
                                         lines[-1].strip()[:50]))
    if child.returncode:
        raise DemoFailed('%s ended with %d:\n%s' % (
            name, child.returncode, ''.join(lines[-30:])))


@contextlib.contextmanager
def ending(child):
    """Kill a child's process group when the block is left by an exception."""
    try:
        yield
    except BaseException:
        kill_group(child)
        raise


def kill_group(child):
    with contextlib.suppress(ProcessLookupError):
        os.killpg(child.pid, signal.SIGKILL)
    child.wait()


# Nova

class Nova:
    """One cell on SQLite, its computes and a watcher, each a process.

    :param python: of an environment with Nova and the package dropped in
    :param directory: for everything that it writes; is emptied first
    :param schema: a folder that keeps the empty databases for the next run
    """

    def __init__(self, python, directory, schema):
        self.python = pathlib.Path(python)
        self.directory = directory
        self.schema = schema
        self.children = {}
        self.watch = queue.Queue()
        self.config = directory / 'nova.conf'

    def __enter__(self):
        shutil.rmtree(self.directory, ignore_errors=True)
        self.directory.mkdir(parents=True)
        return self

    def __exit__(self, *exc_info):
        for child in self.children.values():
            kill_group(child)

    def url(self, name):
        # Four processes share the file: each waits for its turn.
        return 'sqlite:///%s/%s.sqlite?timeout=30' % (self.directory, name)

    def configure(self):
        """Write nova.conf, and one more for each host."""
        self.config.write_text('\n'.join([
            '[DEFAULT]',
            'servicegroup_driver = db',
            'report_interval = %d' % REPORT_INTERVAL,
            'service_down_time = %d' % SERVICE_DOWN_TIME,
            'compute_driver = fake.FakeDriverWithoutFakeNodes',
            'transport_url = fake:/',
            'concurrency_backend = threading',
            # Nothing here is worth waiting for a disk that is busy.
            '[database]',
            'connection = ' + self.url('cell1'),
            'sqlite_synchronous = false',
            '[api_database]',
            'connection = ' + self.url('api'),
            'sqlite_synchronous = false',
            '[oslo_concurrency]',
            'lock_path = %s' % self.directory,
            '']))
        for host in HOSTS:
            state = self.directory / host
            state.mkdir()
            (self.directory / (host + '.conf')).write_text(
                '[DEFAULT]\nhost = %s\nstate_path = %s\n' % (host, state))

    def make_databases(self):
        """Make Nova's databases, or take those of the last run."""
        if not self.schema.exists():
            say('Making the databases (SQLite) with nova-manage, the first '
                'time only.')
            for arguments in (
                    ('api_db', 'sync'),
                    ('cell_v2', 'map_cell0', '--database_connection',
                     self.url('cell0')),
                    ('db', 'sync'),
                    ('cell_v2', 'create_cell', '--name', 'cell1')):
                self.manage(*arguments)
            for path in self.directory.glob('*.sqlite'):
                with contextlib.closing(sqlite3.connect(path)) as database:
                    # Readers and a writer don't wait for each other.
                    database.execute('PRAGMA journal_mode=WAL')
            fresh = self.schema.with_name(self.schema.name + '.new')
            shutil.rmtree(fresh, ignore_errors=True)
            fresh.mkdir()
            for path in self.directory.glob('*.sqlite'):
                shutil.copy(path, fresh)
            fresh.rename(self.schema)
        else:
            for path in self.schema.iterdir():
                shutil.copy(path, self.directory)

    def manage(self, *arguments):
        """Run nova-manage to its end; return what it printed."""
        return self._run(self.python.with_name('nova-manage'),
                         '--config-file', self.config, *arguments)

    def _run(self, *command):
        with subprocess.Popen([str(part) for part in command],
                              stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True,
                              start_new_session=True) as child:
            with ending(child):
                output, errors = child.communicate()
        if child.returncode:
            raise DemoFailed('%s ended with %d:\n%s%s' % (
                ' '.join(map(str, command)), child.returncode, output,
                errors))
        return output

    def start(self, name, script, *arguments, stdout=None):
        """Start one of our scripts as a process of its own."""
        with open(self.directory / (name + '.log'), 'ab') as log:
            # It ends when its standard input does, so that nothing is left
            # when this process is killed.
            self.children[name] = subprocess.Popen(
                [str(part) for part in (
                    self.python, HERE / script, '--config-file', self.config,
                    *arguments)],
                stdin=subprocess.PIPE, stdout=stdout or log, stderr=log,
                start_new_session=True)
        return self.children[name]

    def start_compute(self, host):
        return self.start(host, 'compute.py', '--config-file',
                          self.directory / (host + '.conf'))

    def start_watcher(self):
        watcher = self.start('watcher', 'watcher.py', stdout=subprocess.PIPE)

        def read():
            for line in watcher.stdout:
                self.watch.put((time.monotonic(), json.loads(line)))
        threading.Thread(target=read, daemon=True).start()

    def wait_seen(self, wanted, limit, since=0):
        """Wait until the watcher sees hosts as wanted; return the moment.

        :param wanted: {host: whether it is up}
        :param since: what was seen before this moment doesn't count
        """
        deadline = time.monotonic() + limit
        seen = None
        while time.monotonic() < deadline:
            for name, child in self.children.items():
                if child.poll() is not None and (
                        name == 'watcher' or wanted.get(name)):
                    raise DemoFailed('%s ended with %d; its log ends:\n%s' % (
                        name, child.returncode, self.log_end(name)))
            with contextlib.suppress(queue.Empty):
                moment, seen = self.watch.get(timeout=0.5)
                if seen == wanted and moment >= since:
                    return moment
        raise DemoFailed(
            'Not seen within %d s: %s; the last seen was %s. The logs are in '
            '%s.' % (limit, wanted, seen, self.directory))

    def log_end(self, name):
        path = self.directory / (name + '.log')
        return path.read_text(errors='replace')[-3000:]

    def show(self, wanted):
        """Show ``nova-manage service list``; fail if it says otherwise.

        :param wanted: {host: whether it is up}
        """
        wanted = {host: UP if up else DOWN for host, up in wanted.items()}
        for _ in range(3):
            say()
            say('$ nova-manage service list')
            table = self.manage('service', 'list')
            say(table)
            signs = dict(re.findall(
                r'^nova-compute +(\S+) .* (:-\)|XXX|\?\?\?) ', table,
                re.MULTILINE))
            if signs == wanted:
                return
            # Three seconds are short when others use the machine too.
            say('A heartbeat came late: this machine is busy. Once more.')
        raise DemoFailed('The list does not say what it should: %s.' % wanted)


# The story

def tell(nova):
    all_up = dict.fromkeys(HOSTS, True)
    one_down = dict(all_up, **{VICTIM: False})

    nova.configure()
    nova.make_databases()
    say('Starting three nova-computes, a process each, and a watcher that '
        'asks Nova who is up.')
    nova.start_watcher()
    for host in HOSTS:
        nova.start_compute(host)
    nova.wait_seen(all_up, START_LIMIT)
    say('All are up: each writes a heartbeat every %d s, and is up while the '
        'last one is no\nolder than service_down_time = %d s.'
        % (REPORT_INTERVAL, SERVICE_DOWN_TIME))
    nova.show(all_up)

    victim = nova.children[VICTIM]
    say('Killing %s (pid %d) with SIGKILL: no time for it to say goodbye.'
        % (VICTIM, victim.pid))
    killed = time.monotonic()
    kill_group(victim)
    seen = nova.wait_seen(one_down, TURN_LIMIT, since=killed)
    say('%s turned %s %.1f s after it was killed: its last heartbeat was '
        'older than %d s then.' % (VICTIM, DOWN, seen - killed,
                                   SERVICE_DOWN_TIME))
    nova.show(one_down)

    say('Starting %s again.' % VICTIM)
    started = time.monotonic()
    nova.start_compute(VICTIM)
    seen = nova.wait_seen(all_up, START_LIMIT, since=started)
    say('%s turned %s %.1f s after its start: the first heartbeat comes with '
        'the join, not an\ninterval later.' % (VICTIM, UP, seen - started))
    nova.show(all_up)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument(
        '--python', metavar='PATH',
        help='use the environment of this python, which has Nova with '
             'nova-servicegroup dropped in, and make none')
    parser.add_argument(
        '--directory', metavar='PATH', type=pathlib.Path,
        default=CLONE / '.demo', help='where to write (default: %(default)s)')
    options = parser.parse_args()
    # Whoever ends us, our children end too.
    signal.signal(signal.SIGTERM, signal.default_int_handler)

    directory = options.directory.resolve()
    directory.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    try:
        if not options.python and sys.version_info < PYTHON:
            raise DemoFailed('%s needs Python %d.%d or later, and this is '
                             '%s: run demo/demo.py with another python3.' % (
                                 NOVA, *PYTHON, sys.version.split()[0]))
        with open(directory / 'lock', 'w') as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise DemoFailed('Another demo is running in %s.'
                                 % directory) from None
            python = options.python or make_environment(directory / 'venv')
            with Nova(python, directory / 'run',
                      directory / SCHEMA) as nova:
                tell(nova)
            shutil.rmtree(directory / 'run')
    except KeyboardInterrupt:
        shutil.rmtree(directory / 'run', ignore_errors=True)
        say('Interrupted: what was started is ended, its files are removed.')
        return 130
    except (DemoFailed, OSError, subprocess.CalledProcessError) as e:
        print('The demo failed: %s' % e, file=sys.stderr, flush=True)
        return 1
    say('Done in %d s: all processes are ended and their files removed; %s '
        'stays for the\nnext time.' % (time.monotonic() - began, directory))
    return 0


if __name__ == '__main__':
    sys.exit(main())
