# SPDX-License-Identifier: Apache-2.0

"""The stores of heartbeats: memcached servers and their substitutes."""

import threading

from nova_servicegroup.memcached import connection
from nova_servicegroup.memcached.connection import ServerLost
from nova_servicegroup.memcached import wire

IN_PROCESS = '<None>'

STORED = b'STORED'
#: answers that mean that another writer was faster
CONFLICTS = frozenset([b'EXISTS', b'NOT_STORED', b'NOT_FOUND'])


class ServerRefused(Exception):
    """A server answered, but refused the request."""


class Server:
    """One memcached server and its connections, opened on first use.

    All methods may be called from any thread; a connection serves one request
    at a time. They block for ``timeout`` seconds at most, except a ``get``
    that keeps receiving: it may take ten times as long. It has its own
    connection, so that no heartbeat waits for it.

    :param address: in python-memcached's format: ``host:port``,
        ``inet6:[host]:port`` or ``unix:path``
    :raises ValueError: invalid address
    """

    def __init__(self, address):
        self.name = address
        self._reading = connection.Connection(address)
        self._writing = connection.Connection(address)

    def get(self, keys, timeout):
        """Return the values of the keys, in one round trip.

        :returns: dict of key to (flags, bytes), without the missing keys;
            (None, b'') for a value that is too long
        :raises ServerLost: the server failed
        """
        # Ten thousand heartbeats take long on a busy machine.
        return self._reading.execute(
            timeout, lambda request: request.get('get', keys), timeouts=10)

    def gets(self, key, timeout):
        """Return (flags, bytes, token for ``cas``) of one key, or None."""
        return self._writing.execute(
            timeout, lambda request: request.get('gets', [key])).get(key)

    def put(self, key, data, token, timeout):
        """Store a value without expiry, unless another writer was faster.

        :param token: from ``gets``; None if there was no value
        :returns: True, or False if another writer was faster
        :raises ServerRefused: it was not stored
        :raises ServerLost: it may have been stored
        """
        verb, end = ('add', '') if token is None else ('cas', ' %d' % token)
        line = '%s %s %d 0 %d%s\r\n' % (
            verb, key, wire.FLAG_PICKLED, len(data), end)
        command = line.encode() + data + b'\r\n'
        answer = self._writing.execute(
            timeout, lambda request: request.command(command))
        if answer != STORED and answer not in CONFLICTS:
            raise ServerRefused('the memcached server %s did not store the '
                                'heartbeat: %s' % (self.name, answer.decode(
                                    'ascii', 'replace')))
        return answer == STORED


class InProcess:
    """A substitute for a server: a cache in this process."""

    name = IN_PROCESS

    def __init__(self):
        self._values = {}
        self._tokens = 0
        self._lock = threading.Lock()

    def get(self, keys, timeout):
        return {key: self._values[key][:2]
                for key in keys if key in self._values}

    def gets(self, key, timeout):
        return self._values.get(key)

    def put(self, key, data, token, timeout):
        with self._lock:
            if self._values.get(key, (None, None, None))[2] != token:
                return False
            self._tokens += 1
            self._values[key] = (wire.FLAG_PICKLED, data, self._tokens)
            return True


class InvalidServer:
    """A substitute for a server with an invalid address: always lost.

    It keeps its place in the list, so that each key has the same server as on
    nodes with a correct list.
    """

    def __init__(self, address, error):
        self.name = address
        self.problem = (
            'the memcached server %r cannot be used (%s). Write host:port, '
            'inet6:[address]:port for IPv6, or unix:path, with commas between '
            'several, in [cache] memcache_servers' % (address, error))

    def _fail(self, *args, **kwargs):
        raise ServerLost(self.problem)

    get = gets = put = _fail
