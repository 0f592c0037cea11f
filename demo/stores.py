# SPDX-License-Identifier: Apache-2.0

"""Finds, installs or starts the store of a driver, and its switch."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import time
import typing

from kazoo import client as kazoo_client
from kazoo import exceptions as kazoo_exceptions

from nova_servicegroup.tests.fixtures import memcached
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import zookeeper

import switch

INSTALL = pathlib.Path(__file__).parents[1] / 'tools' / 'install-packages'
#: prefix of commands that must end when this process ends
TETHER = ('setpriv', '--pdeathsig', 'KILL', '--')

_ADVICE = {
    'zk': 'There is no ZooKeeper here, and it could not be installed. On '
          'Debian and Ubuntu, as root:\n'
          '    apt-get install zookeeper default-jre-headless\n'
          'Or name one that runs: make demo ZOOKEEPER=host:port',
    'mc': 'There is no memcached here, and it could not be installed. On '
          'Debian and Ubuntu, as root:\n'
          '    apt-get install memcached',
}


class NotHere(Exception):
    """A server is not available; the text says how to install it."""


class Store(typing.NamedTuple):
    """The store of a driver.

    :param driver: name of the driver
    :param text: description of the store
    :param options: nova.conf of processes that reach it directly, dict of
        dicts
    :param behind_switch: other options for processes behind the switch
    :param switch: a Switch; None for db, whose file has no network
    """

    driver: str
    text: str
    options: dict
    behind_switch: dict
    switch: typing.Any


def provide(driver):
    """Install a driver's server if it is missing. Takes a while.

    :raises NotHere: it isn't, and can't be
    """
    if _is_here(driver):
        return
    if os.geteuid() == 0 and shutil.which('apt-get'):
        subprocess.run([INSTALL, driver])
    if not _is_here(driver):
        raise NotHere(_ADVICE[driver])


def _is_here(driver):
    if driver == 'db':
        return True
    try:
        if driver == 'mc':
            return process.program('memcached', 'memcached')
        return zookeeper.JAR.exists() and process.program(
            'java', 'default-jre-headless')
    except process.NotReady:
        return False


@contextlib.contextmanager
def running(driver, directory, address=None):
    """Run the store of a driver; yield a Store.

    :param address: of a running ZooKeeper to use instead, as
        ``evzookeeper.check_address`` returns it
    """
    if driver == 'db':
        yield Store(driver, 'Nova\'s database, SQLite here', {}, {}, None)
    elif driver == 'mc':
        server = memcached.Memcached(directory)
        server.process.command[:0] = TETHER
        with server:
            one = switch.Switch([(switch.LOOPBACK, server.port)])
            yield Store(
                driver, 'memcached at ' + server.address,
                {'cache': {'memcache_servers': server.address}},
                {'cache': {'memcache_servers': one.addresses[0]}}, one)
    elif address:
        prefix = '/nova-servicegroup-demo-%d' % os.getpid()
        with _nothing_left(address, prefix):
            yield _zookeeper(address, prefix, 'ZooKeeper at ' + address)
    else:
        ensemble = zookeeper.Ensemble(directory, 1)
        ensemble.servers[0].command[:0] = TETHER
        with ensemble:
            yield _zookeeper(ensemble.address, '/servicegroups',
                             'ZooKeeper, started at ' + ensemble.address)


def _zookeeper(address, prefix, text):
    hosts, slash, chroot = address.partition('/')
    one = switch.Switch([(host.strip('[]'), int(port)) for host, _, port in (
        server.rpartition(':') for server in hosts.split(','))])
    return Store(
        'zk', text,
        {'zookeeper': {'address': address, 'sg_prefix': prefix}},
        {'zookeeper': {'address': ','.join(one.addresses) + slash + chroot}},
        one)


@contextlib.contextmanager
def _nothing_left(address, path):
    """Remove a path from an existing ZooKeeper at the end."""
    with _connected(address):
        pass
    try:
        yield
    finally:
        # Keepers of processes killed at the end still write records.
        time.sleep(1)
        with contextlib.suppress(NotHere, kazoo_exceptions.KazooException), \
                _connected(address) as client:
            client.delete(path, recursive=True)


@contextlib.contextmanager
def _connected(address):
    client = kazoo_client.KazooClient(address)
    try:
        client.start(10)
        yield client
    except client.handler.timeout_exception as e:
        raise NotHere('No ZooKeeper answers at %s.' % address) from e
    finally:
        client.stop()
        client.close()
