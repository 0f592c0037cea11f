# SPDX-License-Identifier: Apache-2.0

"""One connection to a memcached server, for one request at a time.

python-memcached parses the addresses and connects. This module writes the
requests and reads the answers itself, because python-memcached reports a dead
server as a missing key, returns values for the wrong keys after one that can't
be decoded, doesn't compare returned keys, and inflates and unpickles every
value unchecked. pymemcache was measured, too: see comparison.rst in the
contributor's guide.
"""

import re
import socket
import threading
import time

from nova_servicegroup.memcached import wire


class ServerLost(Exception):
    """A server is unreachable, too slow, or violates the protocol."""


class Connection:
    """One connection to a server, for one request at a time."""

    def __init__(self, address):
        import memcache
        # A Client is a threading.local: it would connect once per thread and
        # green thread. Its host is a plain object. Dead time is kept in
        # ServerStatus, on the monotonic clock.
        self._host = memcache.Client([address], dead_retry=0).servers[0]
        if (self._host.family != socket.AF_UNIX
                and not 0 < self._host.port < 65536):
            raise ValueError('the port %d' % self._host.port)
        self._name = address
        self._lock = threading.Lock()

    def execute(self, timeout, exchange, timeouts=1):
        """Return the result of ``exchange(request)`` for a new Request.

        :param timeout: seconds to wait for the next data of the server
        :param timeouts: multiple of ``timeout`` that limits the whole answer
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
            # Unread bytes must not answer the next request, also when a green
            # thread is killed here.
            self._host.close_socket()
            if not isinstance(e, (OSError, ValueError, IndexError)):
                raise
            raise ServerLost('the memcached server %s: %s' % (
                self._name, e or type(e).__name__)) from e
        finally:
            self._lock.release()


_VALUE = rb'VALUE ([^ ]+) ([0-9]{1,10}) ([0-9]{1,10})'
#: the line before a value, by verb; the answer to "gets" adds the token
_HEADERS = {'get': re.compile(_VALUE + rb'()'),
            'gets': re.compile(_VALUE + rb' ([0-9]{1,20})')}


class Request:
    """One request and its answer on a server's connection.

    :raises OSError: by all methods: the request failed
    """

    def __init__(self, host, timeout, timeouts):
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._end = time.monotonic() + timeout * timeouts
        # Else, after the wall clock is set back, it would not connect.
        host.deaduntil = 0
        host.socket_timeout = self._remaining()
        if not host.connect():
            raise OSError('cannot connect within %.1f s' %
                          host.socket_timeout)
        self._socket = host.socket
        self._unread = b''
        self._at = 0

    def _remaining(self):
        seconds = self._deadline - time.monotonic()
        if seconds <= 0:
            raise TimeoutError('no answer in time')
        return seconds

    def command(self, request):
        """Send a request and return its answer, one line."""
        self._send(request)
        answer = self._line()
        if self._at != len(self._unread):
            raise OSError('it says more than it was asked for')
        return answer

    def get(self, verb, keys):
        """Return a dict: key to (flags, bytes[, token]), as in ``Server``."""
        self._send(b'%s %s\r\n' % (verb.encode(), ' '.join(keys).encode()))
        header = _HEADERS[verb]
        wanted = {key.encode(): key for key in keys}
        found = {}
        while True:
            line = self._line()
            if line == b'END':
                return found
            match = header.fullmatch(line)
            if match is None:
                raise OSError('it answers %.100r' % line)
            key, flags, size, token = match.groups()
            if key not in wanted:
                raise OSError('it answers for the key %r' % key)
            data = self._take(int(size))
            value = (None, b'') if data is None else (int(flags), data)
            found[wanted[key]] = value + (int(token),) if token else value

    def _send(self, request):
        self._socket.settimeout(self._remaining())
        self._socket.sendall(request)

    def _receive(self):
        self._socket.settimeout(self._remaining())
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
        """Return ``size`` bytes, or skip them and return None if too many."""
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
