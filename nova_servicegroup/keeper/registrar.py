# SPDX-License-Identifier: Apache-2.0

"""The keeper's side that faces ZooKeeper.

One thread owns the session, the nodes of its parent and the views. It works
by comparing what should be with what is: every event, whatever it was, leads
to the same pass over memberships and views, so nothing depends on events
arriving in a certain order, or at all.
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


#: seconds between looks at ZooKeeper's clock
CLOCK_CHECK = 120


#: seconds that each of the last words of a process may take
END_TIMEOUT = 0.2


class Registrar(session.Session, threading.Thread):
    """Keeps the session, the nodes and the views.

    ``submit`` is the only method for other threads, but for ``close``.

    :param config: a 'config' message
    :param post: ``post(op, **fields)`` hands a message to the parent; called
        from this thread only
    """

    #: the session or the connection is the trouble, not the request
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
        self.timeout = self._wanted_timeout    # what the servers grant
        self.retry_interval = config['retry_interval']
        self.security = security.Security(**config['security'])
        ident = config['ident']
        self._session_key = ident and (ident[0], bytes.fromhex(ident[1]))
        self._inbox = queue.SimpleQueue()
        self.client = None
        self.watches = None
        self._unproven = None   # session that hasn't answered yet
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
        self._clock_at = None   # when to look at ZooKeeper's clock
        self._ahead = time.time() - monotonic()
        self._closing = False
        self.rights = rights.Rights(self.security, self.get, self.log,
                                     self.retry_interval, monotonic)
        self._complaints = set()    # about the connection, while it is away
        self._timeout_logged = False
        self._last_warning = ''

    # What other threads call.

    def submit(self, method, *args):
        """Let this thread call one of its methods. From any thread."""
        self._inbox.put((method, args))

    def close(self, how=None):
        """End the session: its nodes are gone when this returns.

        :param how: how the process ended, if that is proven: one of
            record.ENDS
        """
        self._closing = True
        # Nothing that follows may take longer.
        self.timeout = min(self.timeout, END_TIMEOUT)
        # A client that is only being made refuses, and has no session to end.
        with contextlib.suppress(Exception):
            if how is not None:
                for one in list(self._members.values()):
                    one.end_now(how)
        with contextlib.suppress(Exception):
            self.client.stop()

    # What the keeper submits, beside what is submitted here.

    def join(self, member_id, path, record, host, data, node):
        self.rights.use(self._chroot + path)
        self._members[member_id] = member.Member(
            self, member_id, self._chroot + path,
            record and self._chroot + record, host, data, node)

    def live(self, member_id):
        """The process of a member gives signs of life again."""
        if member_id in self._members:
            self._members[member_id].live()

    def hang(self, member_id, age):
        """It gave none for so many seconds."""
        if member_id in self._members:
            self._members[member_id].end('hung', age)

    def leave(self, member_id, how, seq):
        one = self._members.get(member_id)
        if one is None or not one.tried:
            # There is none, and now there won't be one.
            self._members.pop(member_id, None)
            self.post('answer', seq=seq, error=None, result=[])
        else:
            one.leave(how, seq)

    def watch(self, path, records, bound, known):
        self.rights.use(self._chroot + path)
        one = self._groups[path] = group.Group(
            self, path, self._chroot, records, bound, known)
        if self._connected:
            one.connected(self.monotonic())
        self._reconnect_sooner()

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
        """Note a complaint of kazoo's: the reason for what comes next."""
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
            # A keeper without this thread would only look alive.
            self.post('failed', reason=unexpected(e))

    def _next_event(self):
        """Return when there is something to do without being told, or None."""
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
        """Wait for submitted calls till then, and do all there are."""
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
            # ZooKeeper can't tell us, so the own clock does. A client that
            # has seen more than a wiped ensemble holds would be refused for
            # ever; this way it may still find the old session, too.
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
        """Compare what should be with what is."""
        try:
            self.rights.check(self.client)
            for member_id, one in list(self._members.items()):
                if one.reconcile():
                    del self._members[member_id]
            if self._groups and self.monotonic() >= self._clock_at:
                self._check_clock()
            for one in self._groups.values():
                one.look()
        except self.DISCONNECTED:
            # What is unfinished is still marked so. A lost connection is told
            # by the listener; one that only is slow gets another try.
            later = self.monotonic() + session.RETRY
            for one in (*self._members.values(), *self._groups.values()):
                one.delay(later)

    def time(self, now):
        """Return a monotonic time as ZooKeeper's, seconds since 1970."""
        return now + self._ahead

    def _check_clock(self):
        """Find out how far ZooKeeper's clock is ahead of the monotonic one.

        It tells the time of a write only. Whoever may not write takes this
        machine's word for it.
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
        """Return the result of a request; nothing here waits for ever."""
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
                # It may be there all the same, above what is ours.
                if depth == len(elements):
                    raise

    # Other requests.

    def _details(self, path, host):
        return [[name, duplicates.parse(raw),
                 {'owner': stat.ephemeralOwner, 'created_ms': stat.ctime}]
                for name, raw, stat in duplicates.nodes(self, path, host)]


def _text(error):
    """Return one line for people about an exception."""
    return ('%s: %s' % (type(error).__name__, error)).rstrip(': ')


def unexpected(error):
    """Return one line for people about an exception nobody thought of."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return '%s (%s, line %s)' % (_text(error), where.filename, where.lineno)
