# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""The memcached servers: which ones, and how to talk to one of them.

python-memcached parses the addresses, connects and says which key lives on
which server. The conversation itself is held here, on its connections, since
its own has traps that liveness can't live with: a dead server looks like a
missing key, a value that can't be decoded shifts the answers to the next
keys, returned keys aren't compared, and every value is inflated and unpickled
before anybody has looked at it.
"""

import contextlib
import re
import socket
import threading
import time

from oslo_log import log as logging

from nova_servicegroup import exception
from nova_servicegroup.memcached import wire

LOG = logging.getLogger(__name__)

IN_PROCESS = '<None>'

STORED = b'STORED'
#: answers that say that somebody else was faster
CONFLICTS = frozenset([b'EXISTS', b'NOT_STORED', b'NOT_FOUND'])


class ServerLost(Exception):
    """A server can't be reached, doesn't answer in time, or talks nonsense."""


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
        self._reading = _Connection(address)
        self._writing = _Connection(address)

    def get(self, keys, timeout):
        """Return what is stored under some of the keys, in one round trip.

        :returns: dict of key to (flags, bytes); a missing key is missing.
            Of a value that is too long: (None, b'').
        :raises ServerLost: nobody can tell
        """
        # Ten thousand heartbeats take their time on a busy machine.
        return self._reading.talk(
            timeout, lambda talk: talk.get('get', keys), patience=10)

    def gets(self, key, timeout):
        """Return (flags, bytes, token for ``cas``) of one key, or None."""
        return self._writing.talk(
            timeout, lambda talk: talk.get('gets', [key])).get(key)

    def put(self, key, data, token, timeout):
        """Store a value for ever, unless another writer was faster.

        :param token: from ``gets``; None when there was nothing
        :returns: True, or False when another writer was faster
        :raises ServerRefused: not stored
        :raises ServerLost: perhaps stored, perhaps not
        """
        if token is None:
            command = 'add %s %d 0 %d\r\n' % (
                key, wire.FLAG_PICKLED, len(data))
        else:
            command = 'cas %s %d 0 %d %d\r\n' % (
                key, wire.FLAG_PICKLED, len(data), token)
        answer = self._writing.talk(timeout, lambda talk: talk.command(
            command.encode() + data + b'\r\n'))
        if answer != STORED and answer not in CONFLICTS:
            raise ServerRefused('the memcached server %s did not store the '
                                'heartbeat: %s' % (self.name, answer.decode(
                                    'ascii', 'replace')))
        return answer == STORED


class _Connection:
    """One connection to a server, for one conversation at a time."""

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

    def talk(self, timeout, conversation, patience=1):
        """Have a conversation; return what it returns.

        :param timeout: seconds that the server may be silent
        :param patience: how many of these it may go on talking for
        :raises ServerLost: the server failed
        """
        deadline = time.monotonic() + timeout
        if not self._lock.acquire(timeout=timeout):
            raise ServerLost('the memcached server %s is still being asked '
                             'something else' % self._name)
        try:
            try:
                used = self._host.socket is not None
                return conversation(_Conversation(
                    self._host, deadline - time.monotonic(), patience))
            except OSError as e:
                self._host.close_socket()
                if not used or isinstance(e, socket.timeout):
                    raise
                # The server was restarted, or has closed an idle connection.
                return conversation(_Conversation(
                    self._host, deadline - time.monotonic(), patience))
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


_VALUE = rb'VALUE ([^ \r\n]+) ([0-9]{1,10}) ([0-9]{1,10})'
#: how a value begins in the answer to each verb; "gets" adds the token
_BEGINNINGS = {'get': re.compile(_VALUE + rb'()\r\n'),
               'gets': re.compile(_VALUE + rb' ([0-9]{1,20})\r\n')}


class _Conversation:
    """One request and its answer on the connection of a server.

    :raises OSError: from all methods, as from a socket
    """

    def __init__(self, host, timeout, patience):
        self._timeout = timeout
        self._deadline = time.monotonic() + timeout
        self._end = time.monotonic() + timeout * patience
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
        beginning = _BEGINNINGS[verb]
        wanted = {key.encode(): key for key in keys}
        found = {}
        while True:
            value = beginning.match(self._unread, self._at)
            if value is None:
                line = self._line()
                if line == b'END':
                    return found
                value = beginning.match(line + b'\r\n')
                if value is None:
                    raise OSError('it answers %.100r' % line)
            else:
                self._at = value.end()
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


class Unusable:
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


class Servers(list):
    """All servers of a configuration, and where a key lives on them.

    Made without connecting to any.

    ``timeout``: seconds that a server may take for an answer.
    ``dead_retry``: seconds for which a lost server isn't asked again.
    ``prefix``: goes before every key.

    :param conf: the configuration
    :raises ConfigurationError: it can't work
    """

    def __init__(self, conf):
        if 'cache' not in conf:
            # Nova has registered them; without Nova nobody has.
            from oslo_cache import core
            core.configure(conf)
        super().__init__(self._open(address)
                         for address in _addresses(conf))
        if all(isinstance(server, Unusable) for server in self):
            raise exception.ConfigurationError(
                'servicegroup_driver = mc, and %s.' % self[0].problem)
        self.timeout, self.dead_retry = _limits(conf)
        self.replicate = conf.servicegroup.mc_replicate
        self.prefix = _prefix(conf)

    def of(self, key):
        """Return the indices of the servers that a key is written to."""
        if self.replicate or len(self) == 1:
            return range(len(self))
        import memcache
        return [memcache.serverHashFunction(key.encode()) % len(self)]

    @staticmethod
    def _open(address):
        if address == IN_PROCESS:
            return InProcess()
        try:
            return Server(address)
        except ImportError as e:
            raise exception.ConfigurationError(
                '[DEFAULT] servicegroup_driver = mc needs python-memcached, '
                'which cannot be imported (%s): run pip install '
                'python-memcached.' % e) from e
        except ValueError as e:
            return Unusable(address, e)


def _addresses(conf):
    """Return the addresses of the servers, or ``['<None>']``."""
    old = conf.memcached_servers or []
    new = []
    if _is_set(conf, 'memcache_servers', 'cache') or (
            # oslo.cache's default, localhost, counts when caching is on.
            not old and conf.cache.enabled and 'memcache' in
            conf.cache.backend):
        new = conf.cache.memcache_servers
    if old and new and old != new:
        raise exception.ConfigurationError(
            '[cache] memcache_servers = %s and [DEFAULT] memcached_servers = '
            '%s contradict each other: remove the latter, which is the old '
            'name.' % (','.join(new), ','.join(old)))
    addresses = new or old
    if not addresses:
        raise exception.ConfigurationError(
            'servicegroup_driver = mc, and no memcached server is configured. '
            'Set [cache] memcache_servers = host1:11211,host2:11211 in '
            'nova.conf, to the same on every node.')
    if IN_PROCESS in addresses and len(addresses) > 1:
        raise exception.ConfigurationError(
            '[DEFAULT] memcached_servers = %s: "<None>", for a cache in each '
            'process, cannot be mixed with servers.' % ','.join(addresses))
    if addresses != [IN_PROCESS]:
        _refuse_what_cannot_be_kept(conf)
    return addresses


def _refuse_what_cannot_be_kept(conf):
    cache = conf.cache
    if cache.tls_enabled:
        raise exception.ConfigurationError(
            '[cache] tls_enabled = true: python-memcached cannot speak TLS, '
            'and nova-servicegroup does not fall back to plain text on its '
            'own. Set it to false and let memcached listen on a protected '
            'network, or on loopback behind a TLS tunnel such as stunnel.')
    named = _first(cache, 'username', 'memcache_username')
    if getattr(cache, 'memcache_sasl_enabled', False) or (
            named and 'redis' not in cache.backend):
        raise exception.ConfigurationError(
            '[cache] memcache_sasl_enabled, username: python-memcached cannot '
            'authenticate by SASL. Set memcache_sasl_enabled to false, remove '
            'username and password, and let memcached listen on a protected '
            'network.')


def _limits(conf):
    """Return (timeout, dead_retry), both seconds."""
    timeout = _first(conf.cache, 'socket_timeout', 'memcache_socket_timeout')
    if not timeout or timeout <= 0:
        raise exception.ConfigurationError(
            '[cache] memcache_socket_timeout = %s: set it to the seconds that '
            'a memcached server may take for an answer, 1.0 for example.'
            % timeout)
    if _is_set(conf, 'memcache_dead_retry', 'cache'):
        return timeout, conf.cache.memcache_dead_retry
    # oslo.cache's default of 300 s suits a cache, where a miss costs little.
    # Here it would make five minutes of every restart of memcached.
    return timeout, min(conf.cache.memcache_dead_retry, conf.report_interval)


def _prefix(conf):
    prefix = conf.servicegroup.mc_key_prefix
    if not re.fullmatch('[!-~]{0,200}', prefix):
        raise exception.ConfigurationError(
            '[servicegroup] mc_key_prefix = %r: use at most 200 printable '
            'ASCII characters without spaces, or leave it empty.' % prefix)
    return prefix


def _first(group, *names):
    """Return the option that this oslo.cache has under one of the names."""
    for name in names:
        with contextlib.suppress(AttributeError):
            return getattr(group, name)
    return None


def _is_set(conf, name, group):
    """Tell whether somebody set an option, to whatever value."""
    where = conf.get_location(name, group).location
    return where.name not in ('opt_default', 'set_default')
