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

"""The keeper's side that faces ZooKeeper.

One thread owns the session, the nodes of its parent and the views. It works
by comparing what should be with what is: every event, whatever it was, leads
to the same pass over memberships and views, so nothing depends on events
arriving in a certain order, or at all.
"""

import contextlib
import functools
import json
import logging
import os
import queue
import random
import threading
import time
import traceback

from kazoo import exceptions as kazoo_exc
from kazoo.handlers import threading as kazoo_threading
from kazoo.protocol import states

from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import rights
from nova_servicegroup.keeper import security
from nova_servicegroup.keeper import view

#: seconds a living member may need to come back, beside its session timeout
COMEBACK = 2 * security.RECONNECT_MAX_DELAY
#: bytes of a node's data that are looked at; ours has some 200
MAX_DATA = 16384
#: seconds after which a directory is listed even if nothing was heard of it
SAFETY_CHECK = 120
#: seconds between attempts that are repeated because something was in the way
RETRY = 0.2
#: nodes that are made in the place of one that is no good, before a pause
ATTEMPTS = 3
#: seconds per member of a group over which its members spread their search
#: for rivals: each search is a listing, of half a megabyte at 10,000 members
RIVAL_SPREAD = 0.03

#: the session or the connection is the trouble, not the request
_DISCONNECTED = (kazoo_exc.ConnectionLoss, kazoo_exc.SessionExpiredError,
                 kazoo_exc.OperationTimeoutError, kazoo_exc.SessionMovedError,
                 kazoo_exc.ConnectionDropped,
                 kazoo_threading.KazooTimeoutError)
#: owners of nodes that belong to no session: persistent nodes, containers
_NO_SESSION = (0, -0x8000000000000000)


class _Member:
    """A membership that the parent wants, and the node that stands for it."""

    def __init__(self, path, host, data, node, seq, watch):
        self.path = path
        self.host = host
        self.data = json.dumps(data).encode()
        self.boot_id = data.get('boot_id')
        self.node = node        # name of the node, made or about to be made
        self.session = None     # id of the session that node belongs to
        self.wanted = True
        self.left = False
        self.done = False       # the node is there, or away, as wanted
        self.retry_at = 0
        self.asked = [seq]      # requests that wait for the outcome
        self.watch = functools.partial(watch, self)
        # The search for another machine that reports as the same host.
        self.search_at = None
        self.spread = False
        self.touched = False
        self.told = set()

    @property
    def node_path(self):
        return '%s/%s' % (self.path, self.node)

    def due(self):
        """Return when there is something to do for it, or None."""
        if not self.done:
            return self.retry_at
        return self.search_at and max(self.search_at, self.retry_at)


class _Watched:
    """A directory that the parent wants to see."""

    def __init__(self, path, known, watch):
        self.path = path
        self.watch = functools.partial(watch, self)
        self.view = view.View(known)
        self.doubts = view.Doubts()
        self.pace = view.Pace()
        self.listed = frozenset()
        self.synced = False     # this connection's server isn't behind
        self.dirty = True
        self.list_at = 0        # not before
        self.safety_at = 0
        self.warned = False

    def list_due(self):
        """Return when to list it."""
        if self.dirty:
            return self.list_at
        due = self.safety_at
        if self.view.review_at is not None:
            due = min(due, self.view.review_at)
        return max(due, self.list_at)

    def due(self, now):
        """Return when to list it, or to look closer at some nodes."""
        look_due = self.doubts.due(now)
        if look_due is None:
            return self.list_due()
        return min(self.list_due(), max(look_due, self.list_at))


class Registrar(threading.Thread):
    """Keeps the session, the nodes and the views.

    ``submit`` is the only method for other threads, but for ``close``.

    :param config: a 'config' message
    :param post: ``post(op, **fields)`` hands a message to the parent; called
        from this thread only
    """

    def __init__(self, config, post, monotonic=time.monotonic,
                 jitter=random.uniform):
        super().__init__(name='registrar', daemon=True)
        self._post = post
        self._monotonic = monotonic
        self._jitter = jitter
        hosts, slash, chroot = config['hosts'].partition('/')
        self._hosts = hosts
        self._chroot = slash + chroot.rstrip('/') if chroot else ''
        self._wanted_timeout = config['session_timeout']
        self._timeout = self._wanted_timeout    # what the servers grant
        self._retry_interval = config['retry_interval']
        self._security = security.Security(**config['security'])
        ident = config['ident']
        self._session_key = ident and (ident[0], bytes.fromhex(ident[1]))
        self._inbox = queue.SimpleQueue()
        self._client = None
        self._greeting = None   # session that hasn't answered yet
        self._greet_at = 0
        self._rebuild_at = None
        self._connected = False
        self._session = None
        self._expires_at = None
        self._members = {}
        self._watched = {}
        self._rights = rights.Rights(self._security, self._get, self._log,
                                     self._retry_interval, monotonic)
        self._complaints = set()    # about the connection, while it is away
        self._told_timeout = False
        self._last_warning = ''

    # What other threads call.

    def submit(self, method, *args):
        """Let this thread call one of its methods. From any thread."""
        self._inbox.put((method, args))

    def close(self):
        """End the session: its nodes are gone when this returns."""
        # A client that is only being made refuses, and has no session to end.
        with contextlib.suppress(Exception):
            self._client.stop()

    # What the keeper submits, beside what is submitted here.

    def join(self, member_id, path, host, data, node, seq):
        self._rights.use(self._chroot + path)
        self._members[member_id] = _Member(
            self._chroot + path, host, data, node, seq,
            functools.partial(self.submit, self._own_node_changed))

    def want(self, member_id, wanted):
        """The node shall be there, or not: the parent lives, or is stalled."""
        member = self._members.get(member_id)
        if member is not None and not member.left:
            member.wanted = wanted
            member.done = False
            member.retry_at = 0

    def leave(self, member_id, seq):
        member = self._members.get(member_id)
        if member is None or member.node is None:
            # There is none, and now there won't be one.
            self._members.pop(member_id, None)
            self._post('answer', seq=seq, error=None, result=[])
            return
        member.wanted = member.done = False
        member.left = True
        member.retry_at = 0
        self._answer(member, 'it left')
        member.asked.append(seq)

    def watch(self, path, known):
        self._rights.use(self._chroot + path)
        watched = _Watched(
            self._chroot + path, known,
            functools.partial(self.submit, self._directory_changed))
        if known:
            watched.view.reconnected(self._monotonic(),
                                     self._timeout + COMEBACK)
        self._watched[path] = watched

    def details(self, seq, path, host):
        if not self._connected:
            self._post('answer', seq=seq, result=[],
                       error='the connection to ZooKeeper is away')
            return
        try:
            result = self._details(self._chroot + path, host)
            self._post('answer', seq=seq, error=None, result=result)
        except (kazoo_exc.KazooException,
                kazoo_threading.KazooTimeoutError) as e:
            self._post('answer', seq=seq, error=_text(e), result=[])

    def warned(self, text):
        """Note a complaint of kazoo's: the reason for what comes next."""
        cause = self._security.cause(text)
        if cause is not None and cause not in self._complaints:
            self._complaints.add(cause)
            self._log(logging.ERROR, cause)
        if text != self._last_warning:
            self._last_warning = text
            if self._session is None and not self._connected:
                self._post_state('connecting')

    # The thread.

    def run(self):
        try:
            self._connect()
            while True:
                self._take(self._next_event())
                self._pass()
        except security.Unusable as e:
            self._post('failed', reason=str(e))
        except Exception as e:
            # A keeper without this thread would only look alive.
            self._post('failed', reason=unexpected(e))

    def _next_event(self):
        """Return when there is something to do without being told, or None."""
        times = [self._rebuild_at, self._expires_at]
        if self._greeting is not None:
            times.append(self._greet_at)
        if self._connected:
            times += [member.due() for member in self._members.values()]
            now = self._monotonic()
            times += [watched.due(now) for watched in self._watched.values()]
            times.append(self._rights.due())
        return min((t for t in times if t is not None), default=None)

    def _take(self, until):
        """Wait for submitted calls till then, and do all there are."""
        try:
            if until is None:
                method, args = self._inbox.get()
            else:
                method, args = self._inbox.get(
                    timeout=max(0, until - self._monotonic()))
            while True:
                method(*args)
                method, args = self._inbox.get_nowait()
        except queue.Empty:
            pass

    def _pass(self):
        now = self._monotonic()
        if self._rebuild_at is not None and now >= self._rebuild_at:
            self._rebuild_at = None
            self._connect()
        if self._expires_at is not None and now >= self._expires_at:
            # ZooKeeper can't tell us, so the own clock does. A client that
            # has seen more than a wiped ensemble holds would be refused for
            # ever; this way it may still find the old session, too.
            self._expires_at = None
            self._client.last_zxid = 0
            self._post_state('expired')
            for member_id in self._members:
                self._post('member', id=member_id, node=None,
                           reason='the session has run out')
        if self._greeting is not None and now >= self._greet_at:
            self._greet()
        try:
            if self._connected:
                self._rights.check(self._client)
            for member_id, member in list(self._members.items()):
                self._settle(member_id, member)
            for path, watched in self._watched.items():
                self._look(path, watched)
        except _DISCONNECTED:
            # What is unfinished is still marked so. A lost connection is told
            # by the listener; one that only is slow gets another try.
            later = self._monotonic() + RETRY
            for item in self._members.values():
                item.retry_at = max(item.retry_at, later)
            for item in self._watched.values():
                item.list_at = max(item.list_at, later)

    # The session.

    def _connect(self):
        if self._client is not None:
            old, self._client = self._client, None
            threading.Thread(target=_discard, args=(old,),
                             daemon=True).start()
        client = self._security.client(self._hosts, self._wanted_timeout,
                                       self._session_key)
        _note_granted_timeout(client)
        client.add_listener(functools.partial(self._on_state, client))
        self._client = client
        self._greeting = None
        client.start_async()

    def _on_state(self, client, state):
        # In kazoo's connection thread, which must not wait for anything.
        self.submit(self._state_changed, client, state, client.client_state,
                    client.client_id)

    def _state_changed(self, client, state, keeper_state, ident):
        if client is not self._client:
            return
        if state == states.KazooState.CONNECTED:
            if ident is not None:
                self._greeting = ident
                self._greet_at = 0
        else:
            self._greeting = None
            if self._connected:
                self._connected = False
                self._expires_at = self._monotonic() + self._timeout
                if state == states.KazooState.SUSPENDED:
                    self._post_state('suspended')
        if state == states.KazooState.LOST:
            self._session_key = None
            self._expires_at = None
            refused = keeper_state == states.KeeperState.AUTH_FAILED
            self._post_state('refused' if refused else 'expired')
            if keeper_state != states.KeeperState.EXPIRED_SESSION:
                # kazoo has given up: after a refusal, or after it met bytes
                # that it couldn't read.
                self._rebuild_at = self._monotonic() + self._retry_interval

    def _greet(self):
        """Believe in a session when it answers.

        kazoo calls it connected before it has proved who we are.
        """
        try:
            self._get(self._client.exists_async('/'))
        except (kazoo_exc.KazooException, kazoo_threading.KazooTimeoutError):
            self._greet_at = self._monotonic() + RETRY
            return
        ident, self._greeting = self._greeting, None
        self._on_connected(ident)

    def _on_connected(self, ident):
        self._complaints.clear()
        self._check_timeout()
        now = self._monotonic()
        self._connected = True
        self._expires_at = None
        self._session = ident[0]
        attached = self._session_key in (None, ident)
        self._session_key = ident
        for member in self._members.values():
            member.done = False
            member.retry_at = 0
            if not attached or (member.session is not None
                                and member.session != ident[0]):
                # The node of the old session is its ghost; make another.
                member.node = None
        for watched in self._watched.values():
            watched.dirty = True
            watched.synced = False
            watched.list_at = 0
            watched.view.reconnected(now, self._timeout + COMEBACK)
        self._last_warning = ''
        self._post_state('connected')

    def _check_timeout(self):
        wanted = self._wanted_timeout
        self._timeout = getattr(self._client, 'granted_timeout', wanted)
        if self._timeout == wanted or self._told_timeout:
            return
        self._told_timeout = True
        limit = ('minSessionTimeout (2 * tickTime if it is not set), and a '
                 'shorter tickTime,' if self._timeout > wanted else
                 'maxSessionTimeout (20 * tickTime if it is not set)')
        self._log(logging.WARNING, (
            'ZooKeeper grants a session timeout of %d ms and not the %d ms '
            'of [zookeeper] recv_timeout: a host that vanishes is up for '
            'that long. Set %s on its servers, or recv_timeout to what they '
            'grant.' % (self._timeout * 1000, wanted * 1000, limit)))

    def _post_state(self, state):
        ident = None
        if state == 'connected':
            ident = [self._session_key[0], self._session_key[1].hex()]
        self._post('state', state=state, ident=ident,
                   reason=self._last_warning)

    def _log(self, level, text):
        self._post('log', level=level, text=text)

    def _get(self, request):
        """Return the result of a request; nothing here waits for ever."""
        return request.get(timeout=self._timeout)

    def _make_directory(self, path):
        elements = path.strip('/').split('/')
        for depth in range(1, len(elements) + 1):
            try:
                self._get(self._client.create_async(
                    '/' + '/'.join(elements[:depth]), b'',
                    acl=self._security.acl))
            except kazoo_exc.NodeExistsError:
                pass
            except kazoo_exc.NoAuthError:
                # It may be there all the same, above what is ours.
                if depth == len(elements):
                    raise

    # Memberships.

    def _settle(self, member_id, member):
        """Make the node of a membership be there, or away, as wanted."""
        now = self._monotonic()
        due = member.due()
        if not self._connected or due is None or now < due:
            return
        if member.done:
            self._search(member)
            return
        try:
            if member.wanted:
                self._appear(member)
            else:
                self._vanish(member)
        except _DISCONNECTED:
            raise
        except kazoo_exc.KazooException as e:
            member.retry_at = now + self._retry_interval
            reason = self._rights.reason(member.path, e)
            self._post('member', id=member_id, node=None, reason=reason)
            self._answer(member, reason)
        else:
            member.done = True
            if member.left:
                del self._members[member_id]
            else:
                self._post('member', id=member_id, node=member.node,
                           reason='' if member.wanted else
                           'taken away, since the process gave no sign')
            self._answer(member, None)

    def _answer(self, member, error):
        while member.asked:
            self._post('answer', seq=member.asked.pop(), error=error,
                       result=[])

    def _appear(self, member):
        for _ in range(ATTEMPTS):
            if member.node is None:
                member.node = names.node(member.host, os.urandom(8).hex())
            member.session = self._session
            try:
                self._create(member)
                member.search_at = (
                    self._monotonic() + self._timeout + COMEBACK)
            except kazoo_exc.NodeExistsError:
                # Made by an earlier keeper, or by an attempt whose answer was
                # lost; unless it is the ghost of a session that ended.
                pass
            stat = self._get(self._client.exists_async(
                member.node_path, watch=member.watch))
            owner = stat and stat.ephemeralOwner
            if owner == self._session:
                return
            if owner and (owner, ) == (self._client.client_id or ())[:1]:
                # kazoo has another session, and the news of it wait. The
                # node is good, but it is that session's.
                member.session = owner
                break
            member.node = None
        raise kazoo_exc.SessionExpiredError('the session changed meanwhile')

    def _create(self, member):
        create = functools.partial(
            self._client.create_async, member.node_path, member.data,
            acl=self._security.acl, ephemeral=True)
        try:
            self._get(create())
        except kazoo_exc.NoNodeError:
            self._make_directory(member.path)
            self._get(create())

    def _vanish(self, member):
        if member.node is not None:
            try:
                self._get(self._client.delete_async(member.node_path))
            except kazoo_exc.NoNodeError:
                pass
        member.node = None

    def _own_node_changed(self, member, event):
        if event.path != member.node_path or not member.wanted:
            return
        if event.type == states.EventType.DELETED:
            if member.done:
                self._log(logging.WARNING, (
                    'The node %s was deleted by somebody else; making it '
                    'again.' % member.node_path))
                member.node = None
                member.done = False
                # At once, but not in a race with whoever deletes it.
                member.retry_at = self._monotonic() + RETRY
        elif event.type == states.EventType.CHANGED:
            # So says another machine of our name that has found us.
            member.done = False
            member.touched = True
            member.search_at = self._monotonic()

    def _search(self, member):
        """Tell when another machine reports as the same host.

        Comes a session's length after joining, when what a rebooted host had
        left behind is gone. The other one is told by touching its node, and
        searches for itself.
        """
        try:
            # Since 3.9.3 this needs the right to read, too.
            directory = self._get(self._client.exists_async(member.path))
            if directory is not None and not (
                    member.spread or member.touched):
                # Ten thousand that start together shall not list together.
                member.spread = True
                member.search_at = self._monotonic() + self._jitter(
                    0, RIVAL_SPREAD * directory.numChildren)
                return
            nodes = self._nodes(member.path, member.host)
        except (kazoo_exc.NoNodeError, kazoo_exc.NoAuthError) as e:
            nodes = []
            self._log(logging.WARNING, 'Cannot see whether another machine '
                      'reports as the host %s in %s: %s' % (
                          member.host, member.path, _text(e)))
        found_us, member.touched = member.touched, False
        member.search_at, member.spread = None, False
        for name, raw, stat in nodes:
            data = _parse(raw)
            if name == member.node or name in member.told or \
                    data.get('boot_id') in (None, member.boot_id):
                continue
            member.told.add(name)
            self._log(logging.ERROR, (
                'Two machines report as the host %s in %s: this one (boot id '
                '%s) and another (boot id %s, process %s, since %s). Nova '
                'takes them for one host: give each its own [DEFAULT] host, '
                'or stop the wrong one.' % (
                    member.host, member.path, member.boot_id,
                    data.get('boot_id'), data.get('pid'),
                    data.get('joined_at'))))
            if not found_us:
                try:
                    self._get(self._client.set_async(
                        '%s/%s' % (member.path, name), raw, stat.version))
                except (kazoo_exc.NoNodeError, kazoo_exc.NoAuthError,
                        kazoo_exc.BadVersionError):
                    pass

    def _nodes(self, path, host):
        """Return (name, data, stat) for every node that stands for a host."""
        found = []
        for name in self._get(self._client.get_children_async(path)):
            if names.host(name) == host:
                try:
                    raw, stat = self._get(
                        self._client.get_async('%s/%s' % (path, name)))
                except kazoo_exc.NoNodeError:
                    continue
                if stat.ephemeralOwner not in _NO_SESSION:
                    found.append((name, raw, stat))
        return found

    # Views.

    def _look(self, path, watched):
        """List a directory if it is time, and look closer at new nodes."""
        now = self._monotonic()
        if not self._connected or now < watched.due(now):
            return
        listing = now >= watched.list_due()
        try:
            if listing:
                # Before it: a change that comes after it counts again.
                watched.dirty = False
                watched.listed = self._list(watched)
                watched.doubts.listed(watched.listed)
            foreign = self._look_closer(watched)
        except _DISCONNECTED:
            watched.dirty = True
            raise
        except kazoo_exc.KazooException as e:
            watched.dirty = True
            watched.list_at = now + self._retry_interval
            self._post('blind', path=path,
                       reason=self._rights.reason(watched.path, e))
            return
        now = self._monotonic()
        if listing:
            watched.list_at = now + watched.pace.pause(
                len(watched.listed), now)
            watched.safety_at = now + self._jitter(0.5, 1) * SAFETY_CHECK
        if listing or foreign:
            self._post('view', path=path, members=watched.view.listed(
                watched.listed - watched.doubts.foreign, now))

    def _list(self, watched):
        children = functools.partial(
            self._client.get_children_async, watched.path,
            watch=watched.watch)
        if not watched.synced:
            # Who joined before we looked must be there.
            self._get(self._client.sync_async(watched.path))
            watched.synced = True
        try:
            return frozenset(self._get(children()))
        except kazoo_exc.NoNodeError:
            self._make_directory(watched.path)
            return frozenset(self._get(children()))

    def _look_closer(self, watched):
        """Look at some nodes; return the names of leftovers."""
        requests = [
            (name, self._client.exists_async('%s/%s' % (watched.path, name)))
            for name in watched.doubts.next(self._monotonic())]
        gone, owned, foreign = set(), set(), set()
        for name, request in requests:
            stat = self._get(request)
            if stat is None:
                gone.add(name)
            elif stat.ephemeralOwner in _NO_SESSION:
                foreign.add(name)
            else:
                owned.add(name)
        watched.listed -= gone
        watched.doubts.looked(owned, foreign)
        if watched.doubts.foreign and not watched.warned:
            watched.warned = True
            self._log(logging.WARNING, (
                'There are nodes in %s that are no memberships, %r for one; '
                'they are ignored.' % (
                    watched.path, min(watched.doubts.foreign))))
        return foreign

    def _directory_changed(self, watched, event):
        # Events about the session come here too; a new one lists anyway.
        if event.type != states.EventType.NONE:
            watched.dirty = True

    def _details(self, path, host):
        return [[name, _parse(raw), {'owner': stat.ephemeralOwner,
                                     'created_ms': stat.ctime}]
                for name, raw, stat in self._nodes(path, host)]


def _parse(raw):
    """Return the data of a node as a dict, {} for what isn't ours.

    Only what ours has: texts, integers and nulls.
    """
    try:
        data = json.loads(raw) if len(raw) <= MAX_DATA else {}
    except (ValueError, RecursionError):
        data = {}
    if not isinstance(data, dict):
        return {}
    return {name: value for name, value in data.items()
            if value is None or isinstance(value, (str, int))}


def _text(error):
    """Return one line for people about an exception."""
    return ('%s: %s' % (type(error).__name__, error)).rstrip(': ')


def unexpected(error):
    """Return one line for people about an exception nobody thought of."""
    where = traceback.extract_tb(error.__traceback__)[-1]
    return '%s (%s, line %s)' % (_text(error), where.filename, where.lineno)


def _note_granted_timeout(client):
    """Keep the timeout that a server grants, as ``client.granted_timeout``.

    kazoo keeps it to itself; the method that connects returns two thirds of
    it, in milliseconds, before anything is answered (2.7 to 2.11 do so). A
    kazoo without that method tells us nothing.
    """
    connect = getattr(client._connection, '_connect', None)
    if connect is None:
        return

    def connecting(*args):
        timeouts = connect(*args)
        client.granted_timeout = round(timeouts[0] * 1.5) / 1000
        return timeouts

    client._connection._connect = connecting


def _discard(client):
    """Free a client that is of no use any more; may take seconds."""
    try:
        client.stop()
        client.close()
    except Exception as e:
        logging.getLogger('kazoo').warning('while closing: %s', e)
