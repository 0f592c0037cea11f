# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup zookeeper tighten``: sets the ACLs of existing znodes.

Services with an identity protect the znodes that they create, and don't change
existing ones. This sets the same ACL on all znodes from ``[zookeeper]
sg_prefix`` down.
"""

import contextlib
import logging

from kazoo import exceptions as kazoo_exc
from kazoo.handlers import threading as kazoo_threading
from kazoo import security as kazoo_security

from nova_servicegroup.cmd import deployment
from nova_servicegroup.cmd import progress
from nova_servicegroup import conf as sg_conf
from nova_servicegroup import exception
from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import security

#: seconds that a request may take
LIMIT = 10.0

_LETTERS = ((kazoo_security.Permissions.CREATE, 'c'),
            (kazoo_security.Permissions.DELETE, 'd'),
            (kazoo_security.Permissions.READ, 'r'),
            (kazoo_security.Permissions.WRITE, 'w'),
            (kazoo_security.Permissions.ADMIN, 'a'))


class TightenError(exception.ServiceGroupError):
    """It is not possible, or not safe; the text says why."""


class _Node:
    def __init__(self, path, acl, stat):
        self.path = path
        self.acl = acl
        self.is_member = stat.ephemeralOwner != 0


def run(config_files=(), config_dirs=(), dry_run=False, force=False):
    """Set the ACLs according to nova.conf; print the changes. Idempotent.

    :param config_files: nova.conf and others; by default where Nova looks
    :param config_dirs: folders of configuration files
    :param dry_run: only print the changes
    :param force: even if members would be locked out
    :raises CommandError: the configuration can't be read
    :raises ServiceGroupError: nothing, or not all, was changed
    """
    conf = deployment.read(config_files, config_dirs)
    hosts = sg_conf.zk.hosts(conf)
    ours = security.Security(**sg_conf.zk.security(conf))
    if not ours:
        raise TightenError(
            'There is no identity to tighten anything for: set [zookeeper] '
            'auth_scheme and what goes with it.')
    with connection(ours, hosts) as client:
        tighten(client, ours, conf.zookeeper.sg_prefix, dry_run, force)


@contextlib.contextmanager
def connection(ours, hosts, timeout=LIMIT):
    """Yield a client that is connected and authenticated.

    :param ours: a keeper.security.Security
    :param hosts: as ``conf.zk.hosts`` returns it
    :param timeout: of the session, seconds
    :raises TightenError: ZooKeeper can't be reached, or gives up
    """
    with progress.Progress('Connecting to ZooKeeper'):
        client = _connected(ours, hosts, timeout)
    try:
        yield client
    except (kazoo_exc.KazooException,
            kazoo_threading.KazooTimeoutError) as e:
        raise TightenError('ZooKeeper at %s gave up: %s. Try again.' % (
            hosts, type(e).__name__)) from e
    finally:
        client.stop()
        client.close()


def tighten(client, ours, prefix, dry_run=False, force=False):
    """Set the ACLs through a connected client; see ``run``."""
    where, why = ours.refusal(client, prefix, _get)
    if why is not None:
        raise TightenError('Permission denied on the ZooKeeper path %s: %s' % (
            where, why))
    with progress.Progress('Reading what is in ZooKeeper'):
        nodes = list(_walk(client, prefix))
    wrong = [node for node in nodes if not ours.is_as_wanted(node.acl)]
    foreign = [node for node in wrong
                 if node.is_member and not ours.is_ours(node.acl)]
    for node in foreign:
        print('%s (%s) was not made by %s.' % (
            node.path, names.host(node.path.rpartition('/')[2])
            or 'no member', ours.name))
    if foreign and not (force or dry_run):
        raise TightenError(
            'Nothing was changed. The services that made these %d nodes '
            'could not come back once their sessions end: let all have this '
            'identity first. Delete what no service of yours has made. '
            '--force goes on all the same.' % len(foreign))
    for node in wrong:
        print('%s%s: %s -> %s' % ('would change ' if dry_run else '',
                                  node.path, _text(node.acl),
                                  _text(ours.acl)))
        if not dry_run:
            _set(client, node.path, ours.acl)
    print('%d of %d nodes from %s on %s.' % (
        len(wrong), len(nodes), prefix,
        'would be tightened' if dry_run else 'were tightened'))


class _LogCapture(logging.Handler):
    """Keeps the cause of an error from kazoo's log, else its last message."""

    def __init__(self, ours):
        super().__init__(logging.WARNING)
        self._ours = ours
        self._cause = None
        self._last = 'no answer'

    def emit(self, record):
        self._last = record.getMessage()
        self._cause = self._cause or self._ours.cause(self._last)

    def __str__(self):
        return self._cause or self._last


def _connected(ours, hosts, timeout):
    """Return a client that is connected and authenticated."""
    captured = _LogCapture(ours)
    kazoo_log = logging.getLogger('kazoo')
    kazoo_log.addHandler(captured)
    # Independent of the log level of the program.
    kazoo_log.setLevel(logging.WARNING)
    kazoo_log.propagate = False
    try:
        client = ours.client(hosts, timeout)
    except security.PackageMissing as e:
        raise TightenError('%s.' % e) from e
    try:
        client.start(LIMIT)
        # kazoo reports the connection before the authentication.
        _get(client.exists_async('/'))
    except (kazoo_exc.KazooException,
            kazoo_threading.KazooTimeoutError) as e:
        client.stop()
        client.close()
        raise TightenError('There is no connection to ZooKeeper at %s: %s' % (
            hosts, captured)) from e
    return client


def _walk(client, path):
    """Yield all nodes, each directory before its children."""
    try:
        acl, stat = _get(client.get_acls_async(path))
        yield _Node(path, acl, stat)
        children = _get(client.get_children_async(path))
    except kazoo_exc.NoNodeError:
        return
    for name in sorted(children):
        yield from _walk(client, '%s/%s' % (path, name))


def _set(client, path, acl):
    try:
        _get(client.set_acls_async(path, acl))
    except kazoo_exc.NoNodeError:
        # A member that left meanwhile.
        pass


def _get(request):
    return request.get(timeout=LIMIT)


def _text(acl):
    """Return an ACL in the format of zkCli.sh, without password hashes."""
    return ', '.join('%s:%s:%s' % (
        entry.id.scheme, entry.id.id.partition(':')[0],
        ''.join(letter for right, letter in _LETTERS if entry.perms & right))
        for entry in acl)
