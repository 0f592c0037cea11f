# SPDX-License-Identifier: Apache-2.0

"""The parts of Nova for the demo: one cell on SQLite, computes, a watch."""

import contextlib
import json
import pathlib
import re
import subprocess
import sys
import threading
import time
import typing

from nova_servicegroup.tests.fixtures import process

import stores

HERE = pathlib.Path(__file__).resolve().parent
COMMAND = pathlib.Path(sys.executable).with_name('nova-servicegroup')
#: seconds in which processes start and come back, on slow machines
LIMIT = 90
#: seconds between checks of the watch: zk reads from memory
INTERVALS = {'zk': 0.005, 'mc': 0.1, 'db': 0.1}


class DemoFailed(Exception):
    """A step of the demo failed."""


class Change(typing.NamedTuple):
    """A change of a host's state, as the watch printed it.

    :param moment: when that line was read, on the clock of time.monotonic()
    """

    moment: float
    host: str
    new: str
    reason: str


class Cloud:
    """Processes of Nova that report to a store. Ends them all on exit.

    :param directory: for everything that it writes
    :param store: a stores.Store
    :param options: more of nova.conf, dict of dicts
    """

    def __init__(self, directory, store, options):
        self.directory = directory
        self.store = store
        self.changes = []
        self.states = {}        # host -> its last Change
        self.processes = {}     # name -> process.Process
        self._behind_switch = []
        self._config = directory / 'nova.conf'
        self._options = options
        self._ending = contextlib.ExitStack()

    def __enter__(self):
        with self._ending:
            self._write(self._config, {
                'DEFAULT': {
                    # This loads nova-servicegroup, in any Nova.
                    'config_source': 'liveness',
                    'servicegroup_driver': self.store.driver,
                    'compute_driver': 'fake.FakeDriverWithoutFakeNodes',
                    'transport_url': 'fake:/',
                    **self._options},
                'liveness': {'driver': 'nova_servicegroup'},
                'database': self._database('cell1'),
                'api_database': self._database('api'),
                'oslo_concurrency': {'lock_path': self.directory},
                **self.store.options})
            self.run(sys.executable, HERE / 'databases.py', '--config-file',
                     self._config)
            self._watch()
            self._ending = self._ending.pop_all()
        return self

    def __exit__(self, *exc_info):
        self._ending.close()

    def _database(self, name):
        return {
            # Writers wait for each other, and not for a disk.
            'connection': 'sqlite:///%s/%s.sqlite?timeout=30' % (
                self.directory, name),
            'sqlite_synchronous': 'false'}

    @staticmethod
    def _write(path, sections):
        path.write_text(''.join(
            '[%s]\n%s\n' % (name, ''.join(
                '%s = %s\n' % option for option in options.items()))
            for name, options in sections.items()))

    # Processes

    def start(self, name, script, *arguments, cut=False, host=None):
        """Start or restart a script.

        :param cut: whether it is behind the switch
        """
        directory = self.directory / name
        directory.mkdir(exist_ok=True)
        config = directory / 'nova.conf'
        sections = {'DEFAULT': {'state_path': directory}}
        if host:
            sections['DEFAULT']['host'] = host
        self._write(config, dict(
            sections, **self.store.behind_switch if cut else {}))
        one = process.Process(name, [
            *stores.TETHER, sys.executable, HERE / script, *arguments,
            '--config-file', self._config, '--config-file', config],
            directory)
        self._ending.callback(self._end, one)
        self.processes[name] = one.start()
        if cut:
            self._behind_switch.append(one)

    @staticmethod
    def _end(one):
        if one.running:
            one.kill()
        one.stop()

    def start_compute(self, host, cut=False):
        self.start(host, 'compute.py', cut=cut, host=host)

    def kill(self, name):
        """SIGKILL a process; return the moment."""
        moment = time.monotonic()
        self.processes.pop(name).kill()
        return moment

    def cut_off(self):
        """Cut off the processes behind the switch; return the moment."""
        moment = time.monotonic()
        if self.store.switch:
            self.store.switch.pull()
        else:
            for one in self._behind_switch:
                one.freeze()
        return moment

    def reconnect(self):
        """Connect them again; return the moment."""
        moment = time.monotonic()
        if self.store.switch:
            self.store.switch.plug_in()
        else:
            for one in self._behind_switch:
                one.thaw()
        return moment

    def run(self, *command):
        """Run a command to its end; return what it printed.

        :raises DemoFailed: it failed
        """
        done = subprocess.run(
            [*stores.TETHER, *map(str, command)], stdin=subprocess.DEVNULL,
            capture_output=True, text=True, start_new_session=True)
        if done.returncode:
            raise DemoFailed('%s ended with %d:\n%s%s' % (
                ' '.join(map(str, command)), done.returncode, done.stdout,
                done.stderr))
        return done.stdout

    def command(self, *arguments):
        """Return what a nova-servicegroup command printed."""
        return self.run(COMMAND, '--config-file', self._config, *arguments)

    # Observing

    def _watch(self):
        """Start "nova-servicegroup watch" and record each change."""
        log = self.directory / 'watch.log'
        with open(log, 'w') as output:
            watch = self._watching = subprocess.Popen(
                [*stores.TETHER, COMMAND, '-v', '--config-file', self._config,
                 'watch', '--json',
                 '--interval', str(INTERVALS[self.store.driver])],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                stderr=output, start_new_session=True)
        self._ending.callback(watch.wait)
        self._ending.callback(watch.kill)

        def read():
            for line in watch.stdout:
                fields = json.loads(line)
                change = Change(time.monotonic(), fields['host'],
                                fields['new'], fields['reason'])
                self.changes.append(change)
                self.states[change.host] = change
        threading.Thread(target=read, daemon=True).start()
        # It doesn't print the first states.
        process.wait_until(
            lambda: watch.poll() is not None or 'Watching' in log.read_text(),
            LIMIT, 'the watch')

    def wait(self, hosts, states, limit=LIMIT):
        """Wait until hosts are in one of some states.

        :returns: the last Change
        :raises DemoFailed: a process ended, or it took longer than ``limit``
        """
        deadline = time.monotonic() + limit
        while True:
            seen = [self.states.get(host) for host in hosts]
            if all(one and one.new in states for one in seen):
                return max(seen)
            for name, one in self.processes.items():
                if not one.running:
                    raise DemoFailed('%s ended with %s; its log ends:\n%s' % (
                        name, one.returncode, one.log()[-3000:]))
            if self._watching.poll() is not None:
                raise DemoFailed('The watch ended: ' + (
                    self.directory / 'watch.log').read_text())
            if time.monotonic() > deadline:
                raise DemoFailed('Not %s within %d s: %s' % (
                    ' or '.join(states), limit, ', '.join(
                        '%s is %s' % (host, one and one.new)
                        for host, one in zip(hosts, seen)
                        if not one or one.new not in states)))
            time.sleep(0.02)

    def wait_shown(self, pattern, *arguments, limit=LIMIT):
        """Return the output of a command, once it matches a pattern."""
        deadline = time.monotonic() + limit
        while True:
            text = self.command(*arguments)
            if re.search(pattern, text):
                return text
            if time.monotonic() > deadline:
                raise DemoFailed('This does not say what it should:\n' + text)
