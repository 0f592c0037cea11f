# SPDX-License-Identifier: Apache-2.0

"""One connection to a memcached server, for one request at a time.

python-memcached parses the addresses and connects. The requests themselves
are written and their answers read here, on its connections, since it has
traps that liveness can't live with: a dead server looks like a missing key, a
value that can't be decoded shifts the answers to the next keys, returned keys
aren't compared, and every value is inflated and unpickled before anybody has
looked at it. pymemcache was tried and measured: see comparison.rst in the
contributor's guide.
"""

import re
import socket
import threading
import time

from nova_servicegroup.memcached import wire


class ServerLost(Exception):
    """A server can't be reached, doesn't answer in time, or talks nonsense."""


class Connection:
    """One connection to a server, for one request at a time."""

    def __init__(self, address):
        import memcache
        # A Client is a threading.local: it would connect anew in every
        # thread, and in every green thread. The host inside is a plain
        # object. We count dead time ourselves, on the monotonic clock.
        self._host = memcache.Client([address], dead_retry=0).servers[0]
        if (self._host.family != socket.AF_UNIX
                and not 0 < self._host.port < 65536):
            raise ValueError('the port %d' % self._host.port)
        self._name = address
        self._lock = threading.Lock()

    def execute(self, timeout, exchange, timeouts=1):
        """Make a request; return what ``exchange(request)`` returns.

        :param timeout: seconds that the server may be silent
        :param timeouts: how many of these the whole answer may take
        :raises ServerLost: the server failed
        """
        deadline = time.monotonic() + timeout

        def attempt():
            return exchange(Request(
                self._host, deadline - time.monotonic(), timeouts))

        if not self._lock.acquire(timeout=timeout):
            raise ServerLost('the memcached server %s is still being asked '
                             'something else' % self._name)
        try:
            used = self._host.socket is not None
            try:
                return attempt()
            except OSError as e:
                if not used or isinstance(e, socket.timeout):
                    raise
                # The server was restarted, or has closed an idle connection.
                self._host.close_socket()
                return attempt()
        except BaseException as e:
            # Whatever happened, unread bytes must not become somebody's
            # answer; a green thread may be killed here too.
            self._host.close_socket()
            if not isinstance(e, (OSError, ValueError, IndexError)):
                raise
            raise ServerLost('the memcached server %s: %s' % (
                self._name, e or type(e).__name__)) from e
        finally:
            self._lock.release()


_VALUE = rb'VALUE ([^ ]+) ([0-9]{1,10}) ([0-9]{1,10})'
#: the line before a value in the answer to each verb; "gets" adds the token
_HEADERS = {'get': re.compile(_VALUE + rb'()'),
            'gets': re.compile(_VALUE + rb' ([0-9]{1,20})')}


class Request:
    """One request and its answer on the connection of a server.

    :raises OSError: from all methods, as from a socket
    """

    def __init__(self, host, timeout, timeouts):
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._end = time.monotonic() + timeout * timeouts
        # It would remember a failure on the wall clock, which may be set.
        host.deaduntil = 0
        host.socket_timeout = self._left()
        if not host.connect():
            raise OSError('cannot connect within %.1f s' %
                          host.socket_timeout)
        self._socket = host.socket
        self._unread = b''
        self._at = 0

    def _left(self):
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError('no answer in time')
        return left

    def command(self, request):
        """Send a request; return the line that answers it."""
        self._send(request)
        answer = self._line()
        if self._at != len(self._unread):
            raise OSError('it says more than it was asked for')
        return answer

    def get(self, verb, keys):
        """Return dict of key to (flags, bytes), or (flags, bytes, token)."""
        self._send(b'%s %s\r\n' % (verb.encode(), ' '.join(keys).encode()))
        header = _HEADERS[verb]
        wanted = {key.encode(): key for key in keys}
        found = {}
        while True:
            line = self._line()
            if line == b'END':
                return found
            value = header.fullmatch(line)
            if value is None:
                raise OSError('it answers %.100r' % line)
            key, flags, size, token = value.groups()
            if key not in wanted:
                raise OSError('it answers for the key %r' % key)
            data = self._take(int(size))
            whole = (None, b'') if data is None else (int(flags), data)
            found[wanted[key]] = whole + (int(token),) if token else whole

    def _send(self, request):
        self._socket.settimeout(self._left())
        self._socket.sendall(request)

    def _receive(self):
        self._socket.settimeout(self._left())
        received = self._socket.recv(65536)
        if not received:
            raise OSError('it closed the connection')
        self._deadline = min(time.monotonic() + self._timeout, self._end)
        self._unread = self._unread[self._at:] + received
        self._at = 0

    def _line(self):
        while True:
            end = self._unread.find(b'\r\n', self._at)
            if end >= 0:
                line = self._unread[self._at:end]
                self._at = end + 2
                return line
            if len(self._unread) - self._at > 2048:
                raise OSError('it answers without end')
            self._receive()

    def _take(self, size):
        """Return the next bytes; None, and drop them, when too many."""
        if size > wire.MAX_SIZE:
            return self._skip(size + 2)
        while len(self._unread) - self._at < size + 2:
            self._receive()
        start = self._at
        self._at = end = start + size + 2
        data = self._unread[start:end]
        if not data.endswith(b'\r\n'):
            raise OSError('a value is longer than announced')
        return data[:-2]

    def _skip(self, size):
        while len(self._unread) - self._at < size:
            size -= len(self._unread) - self._at
            self._at = len(self._unread)
            self._receive()
        self._at += size
