# SPDX-License-Identifier: Apache-2.0

"""Elects the watcher that sends notifications, through the driver's store.

So sending needs no more services than watching. tooz is not used: it doesn't
support all of ``[zookeeper]`` (SASL, names in certificates), needs another
client for memcached, and doesn't detect the loss of the connection that holds
its lock in MySQL.

No election guarantees exactly one sender. While a watcher is lost or cut off,
there may be none for ``gap`` seconds, or two: see ``notify.Outbox``.
"""

import abc
import json
import logging
import os
import threading
import time
import uuid

from nova_servicegroup.cmd import base

LOG = logging.getLogger(__name__)

#: seconds after which a silent watcher is no longer the leader
LEASE = 10.0
#: seconds that the store may take for an answer
LIMIT = 2.0


class Election(abc.ABC):
    """One candidate. Not thread-safe.

    ``gap``: seconds for which there may have been no leader.
    """

    gap = LEASE
    _failed = False

    def leads(self):
        """Return whether this candidate is the leader; tries to become it.

        Call it about once a second. Blocks for a few seconds at most. False
        means that another one leads; None that the store can't be used, which
        is logged once.
        """
        try:
            leads = self._try()
        except Exception as e:
            LOG.log(logging.DEBUG if self._failed else logging.ERROR,
                    'The watchers cannot agree which one sends notifications: '
                    '%s: %s. This one sends none until they can.',
                    type(e).__name__, e)
            self._failed = True
            return None
        self._failed = False
        return leads

    @abc.abstractmethod
    def _try(self):
        """Return True or False, or raise any exception."""

    def close(self):
        """Resign, so that another candidate can lead at once.

        Blocks for a few seconds at most.
        """


class Alone(Election):
    """For the only watcher, by decision of the operator."""

    gap = 0

    def _try(self):
        return True


def of(deployment):
    """Return the Election among the watchers of a deployment.

    :raises CommandError: its store can't be used for that
    """
    return {'zk': _by_zookeeper, 'mc': _by_memcached, 'db': _by_database}[
        deployment.driver.name](deployment.conf)


def _by_zookeeper(conf):
    from nova_servicegroup import conf as sg_conf
    from nova_servicegroup.keeper import security
    options = conf.zookeeper
    ours = security.Security(**sg_conf.zk.security(conf))
    timeout = options.recv_timeout / 1000
    try:
        client = ours.client(sg_conf.zk.hosts(conf), timeout)
    except security.PackageMissing as e:
        raise base.CommandError('%s.' % e) from e
    return ZooKeeper(client, ours.acl, options.sg_prefix + '/@notify',
                     timeout)


class ZooKeeper(Election):
    """The leader has created an ephemeral znode.

    The znode disappears within ``recv_timeout`` of the end of its process.

    :param client: a KazooClient that isn't started
    :param acl: ACL of the znode
    :param path: path of the znode
    :param timeout: of the session, seconds
    """

    def __init__(self, client, acl, path, timeout):
        self.gap = 2 * timeout
        self._client = client
        self._acl = acl
        self._path = path
        self._connected = client.start_async()

    def _try(self):
        from kazoo import exceptions
        if not self._connected.wait(LIMIT):
            raise TimeoutError('there is no connection to ZooKeeper')
        stat = self._client.exists_async(self._path).get(timeout=LIMIT)
        if stat is not None:
            return stat.ephemeralOwner == self._client.client_id[0]
        try:
            self._client.create_async(
                self._path, _name().encode(), self._acl, ephemeral=True,
                makepath=True).get(timeout=LIMIT)
        except exceptions.NodeExistsError:
            return False
        return True

    def close(self):
        # kazoo waits for the end of an attempt to connect, which may take
        # several times recv_timeout.
        closing = threading.Thread(target=self._close, daemon=True)
        closing.start()
        closing.join(LIMIT)

    def _close(self):
        self._client.stop()
        self._client.close()


def _by_memcached(conf):
    from nova_servicegroup.memcached import configured
    found = configured.Servers(conf)
    return Memcached(list(found), found.prefix + 'nova-servicegroup:notify',
                     min(LIMIT, found.timeout))


class Memcached(Election):
    """The leader renews a value on all servers that answer.

    A value that has not changed for LEASE seconds, by the clock of the reader,
    is free. Servers are tried in order, up to the first one held by another
    candidate, so that two candidates don't block each other.

    :param servers: list of memcached.servers.Server
    :param key: str
    :param timeout: seconds that each may take
    """

    def __init__(self, servers, key, timeout, monotonic=time.monotonic):
        self._servers = servers
        self._key = key
        self._timeout = timeout
        self._monotonic = monotonic
        self._name = _name()
        self._renewed = 0
        self._seen = {}     # server -> (value, when it was seen first)

    def _try(self):
        from nova_servicegroup.memcached import servers
        found, error = [], None
        for server in self._servers:
            try:
                _, value, token = (server.gets(self._key, self._timeout)
                                   or (None, None, None))
                # Read from all servers, which starts the time of each value.
                found.append((server, token,
                              self._is_of_another(server, value)))
            except servers.ServerLost as e:
                error = e
        self._renewed += 1
        mine = json.dumps([self._name, self._renewed]).encode()
        held = 0
        for server, token, is_of_another in found:
            try:
                if is_of_another or not server.put(
                        self._key, mine, token, self._timeout):
                    return False
                held += 1
            except (servers.ServerLost, servers.ServerRefused) as e:
                error = e
        if not held:
            raise error
        return True

    def _is_of_another(self, server, value):
        try:
            name = json.loads(value)[0]
        except (ValueError, LookupError, TypeError):
            return False
        if name == self._name:
            return False
        known, since = self._seen.get(server, (None, None))
        now = self._monotonic()
        if value != known:
            self._seen[server] = value, now
            return bool(name)
        return bool(name) and now - since < LEASE

    def close(self):
        from nova_servicegroup.memcached import servers
        for server in self._servers:
            try:
                found = server.gets(self._key, self._timeout)
                if found and json.loads(found[1])[0] == self._name:
                    server.put(self._key, b'[""]', found[2], self._timeout)
            except (servers.ServerLost, servers.ServerRefused, ValueError,
                    LookupError, TypeError) as e:
                LOG.debug('The place is not given up: %s', e)


def _by_database(conf):
    from nova.db.api import api as api_db
    engine = api_db.context_manager.writer.get_engine()
    if engine.dialect.name != 'mysql':
        raise base.CommandError(
            '[api_database] connection is of %s, and only in MySQL and '
            'MariaDB the watchers can agree which one sends: run one only, '
            'with --alone.' % engine.dialect.name)
    return Database(engine)


# The servers' names, and those of databases, are shared by several clouds.
_LOCK = "LEFT(CONCAT('nova-servicegroup ', DATABASE()), 64)"


class Database(Election):
    """The leader's connection holds a named lock of MySQL or MariaDB.

    It needs no table. The server releases the lock with the connection, and
    closes the connection of a lost host after LEASE seconds. Each node of a
    Galera cluster has its own locks: let the watchers reach the same node, for
    example through a load balancer with one active node.

    :param engine: of SQLAlchemy
    """

    def __init__(self, engine):
        self._engine = engine
        self._connection = None

    def _try(self):
        try:
            if self._connection is None:
                self._connection = self._engine.connect().execution_options(
                    isolation_level='AUTOCOMMIT')
                self._ask('SET SESSION wait_timeout = %d' % LEASE)
            return bool(self._ask(
                'SELECT IF(IS_USED_LOCK(%s) = CONNECTION_ID(), 1, '
                'GET_LOCK(%s, 0))' % (_LOCK, _LOCK)))
        except Exception:
            self.close()
            raise

    def _ask(self, statement):
        result = self._connection.exec_driver_sql(statement)
        return result.scalar() if result.returns_rows else None

    def close(self):
        connection, self._connection = self._connection, None
        try:
            if connection is not None:
                # Not returned to the pool: the server closes it soon.
                connection.invalidate()
                connection.close()
        except Exception as e:
            LOG.debug('A connection cannot be closed', exc_info=e)


def _name():
    return '%s %d %s' % (os.uname().nodename, os.getpid(), uuid.uuid4().hex)
