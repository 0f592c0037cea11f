# SPDX-License-Identifier: Apache-2.0

"""The keeper's side that works with ZooKeeper.

One thread owns the session, the memberships and the views. It reconciles the
requested state with the actual one: each event, of any kind, starts the same
pass over memberships and views, so lost or reordered events do no harm.
"""

import contextlib
import logging
import queue
import random
import threading
import time
import traceback

from kazoo import exceptions as kazoo_exc
from kazoo.handlers import threading as kazoo_threading

from nova_servicegroup.keeper import duplicates
from nova_servicegroup.keeper import group
from nova_servicegroup.keeper import member
from nova_servicegroup.keeper import rights
from nova_servicegroup.keeper import security
from nova_servicegroup.keeper import session


#: seconds between checks of ZooKeeper's clock
CLOCK_CHECK = 120


#: seconds that each request may take after the end of the process
END_TIMEOUT = 0.2


class Registrar(session.Session, threading.Thread):
    """Owns the session, the memberships and the views.

    Other threads may call only ``submit`` and ``close``.

    :param config: a 'config' message
    :param post: ``post(op, **fields)`` sends a message to the parent; called
        in this thread only
    """

    #: errors of the session or the connection, not of the request
    DISCONNECTED = (
        kazoo_exc.ConnectionLoss, kazoo_exc.SessionExpiredError,
        kazoo_exc.OperationTimeoutError, kazoo_exc.SessionMovedError,
        kazoo_exc.ConnectionDropped, kazoo_threading.KazooTimeoutError)

    def __init__(self, config, post, monotonic=time.monotonic,
                 jitter=random.uniform):
        super().__init__(name='registrar', daemon=True)
        self.post = post
        self.monotonic = monotonic
        self.jitter = jitter
        hosts, slash, chroot = config['hosts'].partition('/')
        self._hosts = hosts
        self._chroot = slash + chroot.rstrip('/') if chroot else ''
        self._wanted_timeout = config['session_timeout']
        self.timeout = self._wanted_timeout    # as granted by the servers
        self.retry_interval = config['retry_interval']
        self.security = security.Security(**config['security'])
        ident = config['ident']
        self._session_key = ident and (ident[0], bytes.fromhex(ident[1]))
        self._inbox = queue.SimpleQueue()
        self.client = None
        self.watches = None
        self._unproven = None   # the session before its handshake
        self._handshake_at = 0
        self._rebuild_at = None
        self._connected = False
        self.session = None
        #: monotonic time of the last loss of the connection
        self.lost_at = None
        self._expires_at = None
        self._members = {}      # id -> Member
        self._groups = {}       # path -> Group
        self._clock_path = config['clock']
        self._clock_at = None   # when to check ZooKeeper's clock
        self._ahead = time.time() - monotonic()
        self._closing = False
        self.rights = rights.Rights(self.security, self.get, self.log,
                                     self.retry_interval, monotonic)
        self._complaints = set()    # logged causes of the lost connection
        self._timeout_logged = False
        self._last_warning = ''

    # For other threads.

    def submit(self, method, *args):
        """Call a method in this thread. From any thread; never blocks."""
        self._inbox.put((method, args))

    def close(self, how=None):
        """End the session, which deletes its nodes.

        :param how: one of record.ENDS if the end of the process is proven,
            else None
        """
        self._closing = True
        # The limit for each further request.
        self.timeout = min(self.timeout, END_TIMEOUT)
        # A client that is still starting fails, and has no session to end.
        with contextlib.suppress(Exception):
            if how is not None:
                for one in list(self._members.values()):
                    one.end_now(how)
        with contextlib.suppress(Exception):
            self.client.stop()

    # Submitted by the keeper.

    def join(self, member_id, path, record, host, data, node, silent=None):
        """Add a membership.

        :param silent: seconds since the last pulse if the process hangs: no
            node may be created first
        """
        self.rights.use(self._chroot + path)
        if any(one.node == node for one in self._members.values()):
            # It will be deleted with that membership.
            node = None
        self._members[member_id] = member.Member(
            self, member_id, self._chroot + path,
            record and self._chroot + record, host, data, node)
        if silent is not None:
            self.hang(member_id, silent)

    def live(self, member_id):
        """Restore the node of a membership whose process hung."""
        if member_id in self._members:
            self._members[member_id].live()

    def hang(self, member_id, age):
        """Delete the node of a membership whose process hangs.

        :param age: seconds since the last pulse
        """
        if member_id in self._members:
            self._members[member_id].end('hung', age)

    def leave(self, member_id, how, seq):
        one = self._members.get(member_id)
        if one is None or not one.tried:
            # There is no node, and none will be created.
            self._members.pop(member_id, None)
            self.post('answer', seq=seq, error=None, result=[])
        else:
            one.leave(how, seq)

    def release(self, member_ids):
        """Leave nodes and records as they are until ``part``."""
        for member_id in member_ids:
            if member_id in self._members:
                self._members[member_id].released = True

    def part(self, member_ids, how, done):
        """End the memberships of a process that has left a shared keeper.

        :param how: one of record.ENDS if the end of the process is proven,
            else None
        :param done: called when the nodes are deleted, or can't be for now
        """
        for member_id in member_ids:
            self.leave(member_id, how, member_id)
        if self._connected:
            self._reconcile()
        done()

    def watch(self, path, records, bound, known):
        self.rights.use(self._chroot + path)
        one = self._groups[path] = group.Group(
            self, path, self._chroot, records, bound, known)
        if self._connected:
            one.connected(self.monotonic())
        self._reconnect_sooner()

    def believe(self, path, names):
        self._groups[path].believe(names)

    def details(self, seq, path, host):
        if not self._connected:
            self.post('answer', seq=seq, result=[],
                       error='the connection to ZooKeeper is away')
            return
        try:
            result = self._details(self._chroot + path, host)
            self.post('answer', seq=seq, error=None, result=result)
        except (kazoo_exc.KazooException,
                kazoo_threading.KazooTimeoutError) as e:
            self.post('answer', seq=seq, error=_text(e), result=[])

    def warned(self, text):
        """Keep a warning of kazoo's as the reason of the next state."""
        cause = self.security.cause(text)
        if cause is not None and cause not in self._complaints:
            self._complaints.add(cause)
            self.log(logging.ERROR, cause)
        if text != self._last_warning:
            self._last_warning = text
            if self.session is None and not self._connected:
                self._post_state('connecting')

    # The thread.

    def run(self):
        try:
            self._connect()
            while True:
                self._take(self._next_event())
                self._pass()
        except security.PackageMissing as e:
            self.post('failed', reason=str(e))
        except Exception as e:
            # Without this thread the keeper would do nothing.
            self.post('failed', reason=unexpected(e))

    def _next_event(self):
        """Return when to work without a submitted call, or None."""
        times = [self._rebuild_at, self._expires_at]
        if self._unproven is not None:
            times.append(self._handshake_at)
        if self._connected:
            times += [one.due() for one in self._members.values()]
            now = self.monotonic()
            times += [one.due(now) for one in self._groups.values()]
            times.append(self.rights.due())
            if self._groups:
                times.append(self._clock_at)
        return min((t for t in times if t is not None), default=None)

    def _take(self, until):
        """Wait for submitted calls until a time, and make all of them."""
        try:
            if until is None:
                method, args = self._inbox.get()
            else:
                method, args = self._inbox.get(
                    timeout=max(0, until - self.monotonic()))
            while True:
                method(*args)
                method, args = self._inbox.get_nowait()
        except queue.Empty:
            pass

    def _pass(self):
        now = self.monotonic()
        if self._rebuild_at is not None and now >= self._rebuild_at:
            self._rebuild_at = None
            self._connect()
        if self._expires_at is not None and now >= self._expires_at:
            # ZooKeeper is unreachable, so the own clock decides. A wiped
            # ensemble would refuse a client with a later zxid for ever; with
            # 0 the client may also find its old session.
            self._expires_at = None
            self.client.last_zxid = 0
            self._post_state('expired')
            for member_id in self._members:
                self.post('member', id=member_id, node=None,
                           reason='the session has run out')
        if self._unproven is not None and now >= self._handshake_at:
            self._handshake()
        if self._connected and not self._closing:
            self._reconcile()

    def _reconcile(self):
        """Reconcile memberships and views with ZooKeeper."""
        try:
            self.rights.check(self.client)
            for member_id, one in list(self._members.items()):
                if one.reconcile():
                    del self._members[member_id]
            if self._groups and self.monotonic() >= self._clock_at:
                self._check_clock()
            for one in self._groups.values():
                one.refresh()
        except self.DISCONNECTED:
            # Unfinished work stays due. The listener reports a lost
            # connection; on a slow one the work is repeated.
            later = self.monotonic() + session.RETRY
            for one in (*self._members.values(), *self._groups.values()):
                one.delay(later)

    def time(self, now):
        """Return a monotonic time as ZooKeeper's, seconds since 1970."""
        return now + self._ahead

    def _check_clock(self):
        """Measure how far ZooKeeper's clock is ahead of the monotonic one.

        Only a write shows ZooKeeper's time. Without the permission to write,
        this machine's clock is used.
        """
        if self._clock_path is not None:
            path = self._chroot + self._clock_path
            try:
                try:
                    self._measure(path)
                except kazoo_exc.NoNodeError:
                    self.make_directory(path)
                    self._measure(path)
            except self.DISCONNECTED:
                raise
            except kazoo_exc.KazooException:
                self._ahead = time.time() - self.monotonic()
        self._clock_at = self.monotonic() + CLOCK_CHECK
        self.post('clock', ahead=self._ahead)

    def _measure(self, path):
        asked_at = self.monotonic()
        stat = self.get(self.client.set_async(path, b''))
        self._ahead = stat.mtime / 1000 - (asked_at + self.monotonic()) / 2

    def log(self, level, text):
        self.post('log', level=level, text=text)

    def get(self, request):
        """Return the result of a request; blocks for ``timeout`` at most."""
        return request.get(timeout=self.timeout)

    def make_directory(self, path):
        elements = path.strip('/').split('/')
        for depth in range(1, len(elements) + 1):
            try:
                self.get(self.client.create_async(
                    '/' + '/'.join(elements[:depth]), b'',
                    acl=self.security.acl))
            except kazoo_exc.NodeExistsError:
                pass
            except kazoo_exc.NoAuthError:
                # A directory above this path may exist and be unreadable.
                if depth == len(elements):
                    raise

    # Other requests.

    def _details(self, path, host):
        return [[name, duplicates.parse(raw),
                 {'owner': stat.ephemeralOwner, 'created_ms': stat.ctime}]
                for name, raw, stat in duplicates.nodes(self, path, host)]


def _text(error):
    """Return one line about an exception."""
    return ('%s: %s' % (type(error).__name__, error)).rstrip(': ')


def unexpected(error):
    """Return one line about an unexpected exception, with its place."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return '%s (%s, line %s)' % (_text(error), where.filename, where.lineno)
