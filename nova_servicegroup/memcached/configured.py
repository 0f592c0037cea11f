# SPDX-License-Identifier: Apache-2.0

"""The configured memcached servers, and which of them store a key."""

import contextlib
import re

from nova_servicegroup import exception
from nova_servicegroup.memcached import servers
from nova_servicegroup.memcached.servers import IN_PROCESS


class Servers(list):
    """The configured servers, in order. Creating it opens no connection.

    ``timeout``: seconds to wait for an answer.
    ``dead_retry``: seconds before a lost server is asked again.
    ``prefix``: prefix of every key.

    :param conf: the configuration
    :raises ConfigurationError: an option is invalid
    """

    def __init__(self, conf):
        if 'cache' not in conf:
            # Without Nova, the options are not registered yet.
            from oslo_cache import core
            core.configure(conf)
        super().__init__(self._open(address)
                         for address in _addresses(conf))
        if all(isinstance(server, servers.InvalidServer) for server in self):
            raise exception.ConfigurationError(
                'servicegroup_driver = mc, and %s.' % self[0].problem)
        self.timeout, self.dead_retry = _limits(conf)
        self.replicate = conf.servicegroup.mc_replicate
        self.prefix = _prefix(conf)

    def of(self, key):
        """Return the indices of the servers that store a key."""
        if self.replicate or len(self) == 1:
            return range(len(self))
        import memcache
        return [memcache.serverHashFunction(key.encode()) % len(self)]

    @staticmethod
    def _open(address):
        if address == IN_PROCESS:
            return servers.InProcess()
        try:
            return servers.Server(address)
        except ImportError as e:
            raise exception.ConfigurationError(
                '[DEFAULT] servicegroup_driver = mc needs python-memcached, '
                'which cannot be imported (%s): run pip install '
                'python-memcached.' % e) from e
        except ValueError as e:
            return servers.InvalidServer(address, e)


def _addresses(conf):
    """Return the addresses of the servers, or ``['<None>']``."""
    old = conf.memcached_servers or []
    new = []
    if _is_set(conf, 'memcache_servers', 'cache') or (
            # With caching on, oslo.cache's default, localhost, applies.
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
        _refuse_unsupported(conf)
    return addresses


def _refuse_unsupported(conf):
    cache = conf.cache
    if cache.tls_enabled:
        raise exception.ConfigurationError(
            '[cache] tls_enabled = true: python-memcached cannot speak TLS, '
            'and nova-servicegroup does not fall back to plain text on its '
            'own. Set it to false and let memcached listen on a protected '
            'network, or on loopback behind a TLS tunnel such as stunnel.')
    username = _first(cache, 'username', 'memcache_username')
    if getattr(cache, 'memcache_sasl_enabled', False) or (
            username and 'redis' not in cache.backend):
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
    # oslo.cache's default, 300 s, suits a cache, where a miss is cheap. Here
    # it would make every restart of memcached an outage of five minutes.
    return timeout, min(conf.cache.memcache_dead_retry, conf.report_interval)


def _prefix(conf):
    prefix = conf.servicegroup.mc_key_prefix
    if not re.fullmatch('[!-~]{0,200}', prefix):
        raise exception.ConfigurationError(
            '[servicegroup] mc_key_prefix = %r: use at most 200 printable '
            'ASCII characters without spaces, or leave it empty.' % prefix)
    return prefix


def _first(group, *names):
    """Return the first option that this oslo.cache defines, or None."""
    for name in names:
        with contextlib.suppress(AttributeError):
            return getattr(group, name)
    return None


def _is_set(conf, name, group):
    """Return whether an option is set, even to its default value."""
    where = conf.get_location(name, group).location
    return where.name not in ('opt_default', 'set_default')
