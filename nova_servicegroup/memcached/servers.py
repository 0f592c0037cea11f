# SPDX-License-Identifier: Apache-2.0

"""Where a heartbeat is stored: a memcached server, or what stands for one."""

import threading

from nova_servicegroup.memcached import connection
from nova_servicegroup.memcached.connection import ServerLost
from nova_servicegroup.memcached import wire

IN_PROCESS = '<None>'

STORED = b'STORED'
#: answers that say that somebody else was faster
CONFLICTS = frozenset([b'EXISTS', b'NOT_STORED', b'NOT_FOUND'])


class ServerRefused(Exception):
    """A server answered, and didn't do what it was asked for."""


class Server:
    """One memcached, and the connections to it, made when they are needed.

    All methods may be called from any thread: one speaks, the others wait.
    They wait for ``timeout`` seconds at most, but for a ``get`` that goes on
    receiving: that may take ten times as long. It has a connection of its
    own, so that no heartbeat waits for it.

    :param address: as python-memcached takes it: ``host:port``,
        ``inet6:[host]:port`` or ``unix:path``
    :raises ValueError: it is none of these
    """

    def __init__(self, address):
        self.name = address
        self._reading = connection.Connection(address)
        self._writing = connection.Connection(address)

    def get(self, keys, timeout):
        """Return what is stored under some of the keys, in one round trip.

        :returns: dict of key to (flags, bytes); a missing key is missing.
            Of a value that is too long: (None, b'').
        :raises ServerLost: nobody can tell
        """
        # Ten thousand heartbeats take their time on a busy machine.
        return self._reading.execute(
            timeout, lambda request: request.get('get', keys), timeouts=10)

    def gets(self, key, timeout):
        """Return (flags, bytes, token for ``cas``) of one key, or None."""
        return self._writing.execute(
            timeout, lambda request: request.get('gets', [key])).get(key)

    def put(self, key, data, token, timeout):
        """Store a value for ever, unless another writer was faster.

        :param token: from ``gets``; None when there was nothing
        :returns: True, or False when another writer was faster
        :raises ServerRefused: not stored
        :raises ServerLost: perhaps stored, perhaps not
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
    """A cache of one process, in the place of a server."""

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
    """In the place of a server whose address cannot be used: always lost.

    It keeps its place in the list, so that every key stays where the nodes
    with a correct list have it.
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
