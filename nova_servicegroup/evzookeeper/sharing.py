# SPDX-License-Identifier: Apache-2.0

"""Lets the workers of one service share a keeper.

These are siblings, forked from one process without exec: the workers of
oslo.service, uWSGI and gunicorn. They connect to an abstract Unix socket and
all compute its name. Only one can bind the name; that one starts the keeper,
which listens. When the keeper ends, the kernel frees the name.

In any doubt a worker has a keeper of its own.
"""

import errno
import hashlib
import importlib.metadata
import json
import os
import pathlib
import random
import signal
import socket
import subprocess
import time

from nova_servicegroup.evzookeeper import child
from nova_servicegroup.evzookeeper import exceptions
from nova_servicegroup.evzookeeper import exit_pipe
from nova_servicegroup.keeper import credentials

#: attempts to connect until a keeper listens, and seconds between them at
#: most. A worker that is stopped between its bind and the start of the keeper
#: delays the others for 5 seconds; on an overloaded machine they wait longer
ATTEMPTS = 200
_PAUSE = 0.04


def name(config):
    """Return the name of the socket that this process and its siblings share.

    It contains no secrets, since every user can list the names of sockets. The
    keeper compares the whole configuration.

    :param config: of the session; siblings share a keeper if theirs is equal
    :returns: bytes; None if this process has no such siblings
    """
    parent = os.getppid()
    try:
        if _image(parent) != _image('self'):
            return None
        about = [
            importlib.metadata.version('nova-servicegroup'), os.geteuid(),
            os.readlink('/proc/self/ns/pid'), parent, _stat(parent)[19],
            {key: value for key, value in config.items()
             if key != 'security'}]
    except (OSError, importlib.metadata.PackageNotFoundError):
        return None
    digest = hashlib.sha256(json.dumps(about).encode()).hexdigest()
    return b'\0nova-servicegroup-' + digest.encode()


def _image(process):
    """Return what is equal for processes that were forked without exec.

    Each exec gets random addresses, and a fork inherits them.
    """
    return (os.readlink('/proc/%s/exe' % process),
            pathlib.Path('/proc/%s/auxv' % process).read_bytes())


def _stat(pid):
    """Return the fields of /proc/PID/stat, from the third one on."""
    # A name may have been cut inside a character.
    stat = pathlib.Path('/proc/%d/stat' % pid).read_text(errors='replace')
    return stat.rpartition(')')[2].split()


class SharedKeeper(child.Child):
    """A keeper that the siblings of this process use, too.

    Connects to it, or starts it if there is none. The other parameters are
    those of Child.

    :param socket_name: see ``name``
    :raises KeeperUnavailable: no keeper can be shared
    """

    shared = True

    def __init__(self, socket_name, probe_interval, is_member):
        self._begin(probe_interval, is_member)
        self._pid = self._pidfd = self._socket = None
        self._started = self._killed = self._refused = False
        try:
            for _ in range(ATTEMPTS):
                if self._connect(socket_name, probe_interval):
                    return
                if not self._started:
                    self._start(socket_name)
                time.sleep(random.uniform(_PAUSE / 4, _PAUSE))
            raise exceptions.KeeperUnavailable('no shared one listens')
        except (OSError, AttributeError) as e:
            # This Python or kernel may have no pidfd.
            self.end()
            raise exceptions.KeeperUnavailable(
                'none can be shared: %r' % e) from e
        except exceptions.KeeperUnavailable:
            self.end()
            raise

    def _connect(self, socket_name, probe_interval):
        """Return whether there is a keeper, and send it what it needs."""
        self.end()
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(probe_interval)
        own = os.pidfd_open(os.getpid())
        try:
            self._socket.connect(socket_name)
            # Those of the process that listens.
            self._pid, uid = credentials.of(self._socket)
            if uid != os.geteuid():
                raise exceptions.KeeperUnavailable(
                    'the user %d listens in its place' % uid)
            # It may have ended, and another process may have that id by now.
            # That one is never killed: this connection has ended then.
            self._pidfd = os.pidfd_open(self._pid)
            socket.send_fds(self._socket, [b'.'],
                            [own, exit_pipe.reading_end()])
        except (ConnectionError, BlockingIOError):
            # Nobody listens, or too many are waiting.
            return False
        finally:
            os.close(own)
        return True

    def _start(self, socket_name):
        """Start the keeper, unless a sibling does that."""
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            try:
                listener.bind(socket_name)
            except OSError as e:
                if e.errno != errno.EADDRINUSE:
                    raise
                return
            self._started = True
            # It forks the keeper and ends.
            popen = child.start(child.label(os.getppid()), listener,
                                subprocess.DEVNULL, 'shared')
        try:
            popen.wait(child.START_LIMIT)
        except subprocess.TimeoutExpired:
            popen.kill()
            popen.wait()

    @property
    def pid(self):
        return self._pid

    def refuse(self):
        self._refused = not self._killed

    def kill(self):
        """Send SIGKILL: it is stuck. All siblings will share another one."""
        self._killed = True
        try:
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def is_unfit(self):
        """Return whether the next keeper must not be a shared one.

        Call it after ``end``; blocks for END_LIMIT at most.
        """
        if self._refused or not self._heard:
            return True
        deadline = time.monotonic() + child.END_LIMIT
        while _is_running(self._pid):
            # It has closed this connection but serves others.
            if time.monotonic() > deadline:
                return True
            time.sleep(0.005)
        return False

    def end(self):
        """Close the connection; the keeper goes on for the siblings."""
        if self._socket is not None:
            self._socket.close()
        pidfd, self._pidfd = self._pidfd, None
        if pidfd is not None:
            os.close(pidfd)
        return 'an unknown status'


def _is_running(pid):
    try:
        return _stat(pid)[0] not in 'ZX'
    except OSError:
        return False
