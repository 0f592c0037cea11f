# SPDX-License-Identifier: Apache-2.0

"""A keeper process: its start, its messages and its end."""

import importlib.util
import os
import pathlib
import signal
import socket
import subprocess
import sys
import threading

from nova_servicegroup.evzookeeper import exceptions
from nova_servicegroup.evzookeeper import exit_pipe
from nova_servicegroup.keeper import protocol

#: seconds that a killed process may take to end. One that is blocked in the
#: kernel by a disk or a network file system can't end, and is left
END_LIMIT = 1.0
#: seconds until the first message of a new keeper; long for loaded machines
START_LIMIT = 30.0
#: probes without an answer after which a keeper is stuck. More than one: in a
#: process that was blocked the answer may still be unread
MISSED_PROBES = 3
#: factor for readers: on an overloaded machine another keeper does not help
READER_FACTOR = 10
_ENVIRONMENT = ('PATH', 'LANG', 'LC_ALL', 'TZ', 'LD_LIBRARY_PATH',
                'PYTHONHOME', 'RES_OPTIONS', 'LOCALDOMAIN', 'HOSTALIASES')


def _python():
    """Return the Python to run; under uWSGI sys.executable isn't one.

    In a virtual environment sys.executable may be the base Python.
    """
    names = 'python%d.%d' % sys.version_info[:2], 'python3'
    known = [os.path.join(prefix, 'bin', name)
             for prefix in (sys.prefix, sys.base_prefix) for name in names]
    executable = sys.executable or ''
    if os.path.basename(executable).startswith('python'):
        known.insert(0 if sys.prefix == sys.base_prefix else 2, executable)
    for path in known:
        if os.path.isabs(path) and os.access(path, os.X_OK):
            return path
    raise exceptions.KeeperUnavailable(
        'cannot start a keeper: no Python is found in %s/bin' % sys.prefix)


def _python_path():
    """Return the directories of the packages that the keeper imports."""
    found = []
    for package in ('nova_servicegroup', 'kazoo', 'puresasl'):
        # Finds kazoo without importing it.
        spec = importlib.util.find_spec(package)
        if spec is None and package == 'puresasl':
            # Only SASL needs it; the keeper reports that.
            continue
        if spec is None or not spec.origin:
            raise exceptions.KeeperUnavailable(
                'cannot start a keeper: the package %s is not installed '
                'where %s runs; install nova-servicegroup with its '
                'requirements' % (package, sys.executable))
        directory = str(pathlib.Path(spec.origin).resolve().parents[1])
        if directory not in found:
            found.append(directory)
    return os.pathsep.join(found)


def start(whose, sock, exit_descriptor, *more):
    """Start a keeper process; return its Popen.

    :param whose: name of this process, for ``ps``
    :param sock: the keeper's socket
    :param exit_descriptor: the reading end of this process's exit pipe
    :param more: further arguments of the keeper
    :raises OSError, KeeperUnavailable: it can't be started
    """
    environment = {name: os.environ[name] for name in _ENVIRONMENT
                   if name in os.environ}
    environment['MALLOC_ARENA_MAX'] = '1'
    environment['PYTHONPATH'] = _python_path()
    return subprocess.Popen(
        [_python(), '-s', '-m', 'nova_servicegroup.keeper', whose, *more],
        stdin=sock.fileno(), stdout=exit_descriptor,
        stderr=subprocess.DEVNULL, close_fds=True, cwd='/',
        start_new_session=True, env=environment)


def label(pid):
    """Return the label of a keeper that serves a process or its children."""
    return '%s[%d]' % (os.path.basename(sys.argv[0] or 'python'), pid)


class Child:
    """One keeper process, from its start to its end.

    :param whose: name of this process, for ``ps``
    :param probe_interval: seconds of silence before a probe; after
        MISSED_PROBES of them, or when it doesn't accept a frame within one, it
        is stuck and killed
    :param is_member: returns whether this process has memberships; for a mere
        reader all this takes READER_FACTOR times as long
    :raises KeeperUnavailable: it can't be started
    """

    #: whether other processes use it, too
    shared = False

    def __init__(self, whose, probe_interval, is_member):
        self._begin(probe_interval, is_member)
        theirs = None
        try:
            self._socket, theirs = socket.socketpair()
            self._socket.settimeout(probe_interval)
            self._popen = start(whose, theirs, exit_pipe.reading_end())
        except OSError as e:
            raise exceptions.KeeperUnavailable(
                'cannot start a keeper: %s' % e) from e
        finally:
            if theirs is not None:
                theirs.close()

    def _begin(self, probe_interval, is_member):
        # One thread reads, any thread writes. Under eventlet all are green,
        # and none waits for two descriptors: eventlet's select may return
        # the wrong one (eventlet issue 551).
        self._decoder = protocol.Decoder(protocol.FROM_KEEPER)
        self._sending = threading.Lock()
        self._is_member = is_member
        self._probes_left = START_LIMIT / probe_interval
        self._heard = False

    @property
    def pid(self):
        return self._popen.pid

    def receive(self):
        """Wait for messages; return them, or None when the keeper has ended.

        :raises KeeperUnavailable: it was stuck, and is killed
        :raises ProtocolError: it sent an invalid message
        """
        while True:
            try:
                data = self._socket.recv(262144)
            except socket.timeout:  # TimeoutError from Python 3.10 on
                self._probe()
                continue
            except OSError:
                return None
            if not data:
                return None
            self._heard = True
            self._probes_left = MISSED_PROBES
            messages = self._decoder.feed(data)
            if messages:
                return messages

    def _probe(self):
        """Send a probe to a silent keeper."""
        if self._heard:
            self._probes_left -= 1 if self._is_member() else 1 / READER_FACTOR
            self.send('ping')
        else:
            self._probes_left -= 1
        if self._probes_left <= 0:
            self.kill()
            raise exceptions.KeeperUnavailable(
                'the keeper (pid %d) does not answer' % self.pid)

    def send(self, op, **fields):
        """Send a message. Blocks for ``probe_interval`` at most.

        :raises KeeperUnavailable: the keeper has closed the connection, or is
            stuck and killed; ``receive`` ends
        """
        frame = protocol.encode(op, **fields)
        with self._sending:
            try:
                self._socket.sendall(frame)
            except OSError as e:
                if not isinstance(e, ConnectionError):
                    self.kill()
                raise exceptions.KeeperUnavailable(
                    'the keeper does not listen: %s' % e) from e

    def refuse(self):
        """Have nothing more to do with it; ``end`` still has to be called."""
        self.kill()

    def kill(self):
        """Send SIGKILL; ``end`` still has to be called."""
        if self._popen.returncode is None:
            self._popen.send_signal(signal.SIGKILL)

    def end(self):
        """Reap it, after killing it if necessary.

        Blocks for END_LIMIT and half a second at most.

        :returns: its exit code, None if it is killed and hasn't ended
        """
        self._socket.close()
        for limit in (0.5, END_LIMIT):
            try:
                return self._popen.wait(limit)
            except subprocess.TimeoutExpired:
                self.kill()
        return None

    def abandon(self):
        """Release the parent's socket in a forked child."""
        # Replaced and not closed: a green thread of the parent may still
        # wait for this descriptor.
        null = os.open(os.devnull, os.O_RDWR)
        if self._socket.fileno() >= 0:
            os.dup2(null, self._socket.fileno())
        os.close(null)
