# SPDX-License-Identifier: Apache-2.0

"""A session with ZooKeeper, for native threads and for eventlet alike.

The interface of the evzookeeper library, for Python 3. That one bridged the
threads of a C library to green threads; this one bridges to a child process,
the keeper, which holds the session with kazoo. So the session survives a busy
or blocked process, its memberships end within milliseconds when the process
is killed, and neither kazoo nor eventlet is imported here.
"""

import ipaddress
import itertools
import logging
import os
import re
import sys
import threading
import time
import weakref

from nova_servicegroup.evzookeeper import child as keeper_child
from nova_servicegroup.evzookeeper import exceptions
from nova_servicegroup.keeper import protocol

LOG = logging.getLogger(__name__)

#: seconds a keeper must have lived for its death to be none of its own making
_STABLE = 30.0
#: a keeper that is silent for this part of the session's timeout is asked
#: whether it lives. One that is stuck is noticed, replaced, and its session
#: taken over before two thirds of that timeout are over.
_PATIENCE = 1 / 6
#: seconds; less would kill keepers that only wait for a processor
_LEAST_PATIENCE = 0.5

CONNECTING = 'connecting'
CONNECTED = 'connected'
#: the connection is away; the session may still live
SUSPENDED = 'suspended'
#: the session has run out; another one is being made
EXPIRED = 'expired'
#: ZooKeeper didn't take our identity
REFUSED = 'refused'
#: there is no keeper process
NO_KEEPER = 'no keeper'
CLOSED = 'closed'

_HOST = re.compile(r'(\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+)(?::(\d{1,5}))?\Z',
                   re.ASCII)


def _is_name_or_ip(host):
    if not host.startswith('['):
        return True
    try:
        return ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        return False


def check_address(address):
    """Return an address as the keeper takes it.

    :param address: ``host:port,host:port/chroot``; the port may be left out
        (2181) and so may the chroot; IPv6 addresses stand in brackets
    :raises BadAddress: with what is wrong
    """
    hosts, slash, chroot = (address or '').strip().partition('/')
    checked = []
    for host in hosts.split(','):
        match = _HOST.match(host.strip())
        if (match is None or not 0 < int(match[2] or 2181) < 65536
                or not _is_name_or_ip(match[1])):
            raise exceptions.BadAddress(
                '%r is no address of a ZooKeeper ensemble (at %r): write '
                'host:port,host:port,host:port' % (address, host))
        checked.append('%s:%s' % (match[1], match[2] or 2181))
    if slash and chroot.strip('/'):
        elements = chroot.strip('/').split('/')
        if any(not element.strip('.') or not element.isprintable()
               or element != element.strip() for element in elements):
            raise exceptions.BadAddress(
                '%r has a bad chroot path' % address)
        checked[-1] += '/' + '/'.join(elements)
    return ','.join(checked)


class _Request:
    """Somebody waits for an answer."""

    def __init__(self):
        self.done = threading.Event()
        self.error = None
        self.result = None


class ZKSession:
    """A session with ZooKeeper, held by a keeper process.

    Starts the keeper and keeps one running until ``close``. May be used from
    any thread or green thread of the process that made it; a forked child
    makes its own.

    :param host: ``host:port,host:port/chroot``
    :param timeout: seconds to wait for the session; by default it doesn't
    :param recv_timeout: the session's timeout in milliseconds: how long it
        outlives a host that vanishes
    :param ident: (session id, password as bytes) of a session to take over
    :param auth: who we are: ('digest', 'nova:secret'), ('sasl', the same) or
        ('x509', '') for the client certificate; only this identity may change
        what this session makes. None: nobody, and everybody may
    :param tls: dict of ca_file, cert_file, key_file, key_password (paths and
        str, or None) and check_hostname (bool); None: without TLS
    :param open_reading: others may read what this session makes
    :param retry_interval: longest pause between attempts, seconds
    :param clock: path of a node that readers write to learn ZooKeeper's
        time; None: this machine's is taken for it
    :raises BadAddress: ``host`` can't be one
    :raises NotConnected: ``timeout`` is over
    """

    def __init__(self, host, timeout=None, recv_timeout=10000, ident=None,
                 auth=None, tls=None, open_reading=True, retry_interval=5,
                 clock=None):
        self._config = {
            'version': protocol.VERSION, 'hosts': check_address(host),
            'session_timeout': recv_timeout / 1000,
            'security': {'auth': auth, 'tls': tls,
                         'open_reading': open_reading},
            'retry_interval': retry_interval, 'clock': clock}
        #: seconds by which ZooKeeper's time (since 1970) is ahead of
        #: ``time.monotonic()``
        self.ahead = time.time() - time.monotonic()
        self._ident = ident
        self._pid = os.getpid()
        self._retry_interval = retry_interval
        self._state = CONNECTING
        self._reason = ''
        self._lost_at = None
        self._told_failing = False
        self._child = None
        self._closing = threading.Event()
        self._connected = threading.Event()
        self._callbacks = []
        self._requests = {}
        self._numbers = itertools.count(1)
        self._members = {}      # id -> Membership
        self._leaving = {}      # id -> (join message of one that left, how),
                                # until it is known that its node is gone
        self._monitors = {}     # path -> MembershipMonitor
        self._changing = threading.RLock()
        _sessions.add(self)
        self._thread = threading.Thread(
            target=self._supervise, name='keeper-supervisor', daemon=True)
        self._thread.start()
        if timeout is not None and not self._connected.wait(timeout):
            why = self.why()
            self.close()
            raise exceptions.NotConnected(
                'no session with %s within %s s: it is %s' % (
                    self._config['hosts'], timeout, why))

    # What evzookeeper's users know.

    def state(self):
        """Return one of the module's states."""
        return self._state

    def is_connected(self):
        return self._state == CONNECTED

    def client_id(self):
        """Return (session id, password as bytes), None without a session."""
        return self._ident

    def add_connection_callback(self, callback):
        """Call ``callback(state)`` at every change, in a thread of ours."""
        self._callbacks.append(callback)

    def remove_connection_callback(self, callback):
        self._callbacks.remove(callback)

    def close(self):
        """End the session and with it its memberships; takes milliseconds.

        Blocks for a second at most. Nothing works afterwards.
        """
        if self._closing.is_set() or os.getpid() != self._pid:
            return
        self._closing.set()
        with self._changing:
            if self._child is not None:
                try:
                    self._child.send('close')
                except exceptions.KeeperUnavailable:
                    pass
        if threading.current_thread() is not self._thread:
            self._thread.join(1.5)

    # What Membership and MembershipMonitor use.

    @property
    def keeper_pid(self):
        """The keeper's process id, None while there is none."""
        return None if self._child is None else self._child.pid

    def why(self):
        """Return a line for people: the state and what led to it."""
        return self._state + (' (%s)' % self._reason if self._reason else '')

    def ask(self, op, timeout, seq=None, **fields):
        """Send a request and wait for its answer; return the result.

        :param seq: number of the answer, by default the next one
        :raises KeeperUnavailable: there is no keeper, or it died over this
        :raises NotConnected: no answer within ``timeout`` seconds
        :raises RequestFailed: ZooKeeper, or the keeper, answered so
        """
        if seq is None:
            seq = next(self._numbers)
        request = self._requests[seq] = _Request()
        try:
            with self._changing:
                self._send(op, seq=seq, **fields)
            if not request.done.wait(timeout):
                raise exceptions.NotConnected(
                    'no answer within %.1f s; the session is %s' % (
                        timeout, self.why()))
        finally:
            del self._requests[seq]
        if request.error is not None:
            raise request.error
        return request.result

    def pulse(self, number, timeout):
        """Give a membership's sign of life; raises as ``ask``."""
        self.ask('pulse', timeout, id=number)

    def add_member(self, member):
        """Number a membership; it is joined anew with every keeper."""
        with self._changing:
            number = next(self._numbers)
            self._members[number] = member
            if self._ready:
                self._send_quietly('join', **self._join_message(
                    number, member))
        return number

    def remove_member(self, number, timeout, how):
        """Take a membership's node away; raises as ``ask``.

        Whatever is raised: this keeper goes on trying, and so does the next.

        :param how: what its record says then, 'left' or 'stopped'
        """
        with self._changing:
            # It can't be told to hang any more.
            message = dict(self._join_message(
                number, self._members.pop(number)), pulse_timeout=None)
            self._leaving[number] = message, how
        self.ask('leave', timeout, seq=number, id=number, how=how)

    def add_monitor(self, monitor):
        with self._changing:
            if monitor.path in self._monitors:
                raise ValueError('this session has a monitor of %s already'
                                 % monitor.path)
            self._monitors[monitor.path] = monitor
            if self._ready:
                self._send_quietly('watch', **monitor.description())

    def remove_monitor(self, monitor):
        with self._changing:
            self._monitors.pop(monitor.path, None)

    # The supervisor's thread.

    _ready = False

    def _supervise(self):
        pause = 0
        while not self._closing.wait(pause) and os.getpid() == self._pid:
            started = time.monotonic()
            failure = self._live_with_keeper()
            if os.getpid() != self._pid:
                return
            if self._closing.is_set():
                break
            if time.monotonic() - started > _STABLE:
                pause = 0
            else:
                pause = min(max(0.05, pause * 3), self._retry_interval)
            self._keeper_lost(failure, pause)
        self._change_state(CLOSED, '')

    def _live_with_keeper(self):
        """Start a keeper and listen to it; return why it is no more."""
        failure = None
        try:
            keeper = keeper_child.Child(
                '%s[%d]' % (os.path.basename(sys.argv[0] or 'python'),
                            self._pid),
                max(_LEAST_PATIENCE,
                    self._config['session_timeout'] * _PATIENCE),
                # Who only reads loses nothing with the session.
                hurries=lambda: bool(self._members))
        except exceptions.KeeperUnavailable as e:
            return str(e)
        except Exception as e:
            # Whatever it was, this thread has to go on.
            LOG.debug('A keeper cannot be started', exc_info=True)
            return 'it cannot be started: %r' % e
        self._child = keeper
        try:
            while failure is None:
                messages = keeper.receive()
                if messages is None:
                    break
                for message in messages:
                    failure = self._take(message) or failure
        except exceptions.KeeperUnavailable as e:
            failure = str(e)
        except protocol.ProtocolError as e:
            failure = 'the keeper sent %s' % e
        except Exception as e:
            # Whatever it was, this thread has to go on.
            LOG.exception('A message of the keeper cannot be dealt with')
            failure = repr(e)
        if os.getpid() != self._pid:
            return 'forked'
        if failure is not None:
            keeper.kill()
        with self._changing:
            self._child = None
            self._ready = False
        code = keeper.end()
        return failure or 'the keeper (pid %d) ended with %s' % (
            keeper.pid, code)

    def _handshake(self, keeper):
        """Tell a new keeper everything that its predecessor knew."""
        with self._changing:
            if self._closing.is_set():
                raise exceptions.KeeperUnavailable('the session is closed')
            keeper.send('config', parent=self._pid, ident=self._ident and [
                self._ident[0], self._ident[1].hex()], **self._config)
            for number, member in self._members.items():
                keeper.send('join', **self._join_message(number, member))
            for number, (message, how) in self._leaving.items():
                if message['node'] is not None:
                    keeper.send('join', **message)
                    keeper.send('leave', seq=number, id=number, how=how)
            for monitor in self._monitors.values():
                keeper.send('watch', **monitor.description())
            self._ready = True

    def _join_message(self, number, member):
        return dict(member.description(), id=number)

    def _send(self, op, **fields):
        if self._child is None or not self._ready:
            raise exceptions.KeeperUnavailable(
                'there is no keeper process: %s' % self._reason)
        self._child.send(op, **fields)

    def _send_quietly(self, op, **fields):
        try:
            self._send(op, **fields)
        except exceptions.KeeperUnavailable:
            # The next keeper is told.
            pass

    def _take(self, message):
        """Act on a keeper's message; return why it ends, if it does."""
        op = message['op']
        if op == 'failed':
            return message['reason']
        if op == 'hello':
            if message['version'] != protocol.VERSION:
                return ('the keeper speaks another version of the protocol: '
                        'the package was changed under a running service; '
                        'restart the service')
            self._handshake(self._child)
        elif op == 'log':
            LOG.log(message['level'], '%s', message['text'])
        elif op == 'answer':
            if message['error'] is None:
                self._leaving.pop(message['seq'], None)
            request = self._requests.get(message['seq'])
            if request is not None:
                request.result = message['result']
                if message['error'] is not None:
                    request.error = exceptions.RequestFailed(message['error'])
                request.done.set()
        elif op == 'state':
            self._take_state(**message)
        elif op == 'member':
            member = self._members.get(message['id'])
            if member is not None:
                member.node_is(message['node'], message['reason'])
        elif op in ('view', 'unreadable'):
            monitor = self._monitors.get(message['path'])
            if monitor is not None and op == 'unreadable':
                monitor.unreadable(message['reason'])
            elif monitor is not None and self._state == CONNECTED:
                monitor.seen(message['joined'], message['left'],
                             message['absences'], message['founded'])
        elif op == 'clock':
            self.ahead = message['ahead']
        return None

    def _take_state(self, op, state, ident, reason):
        if state == CONNECTED:
            new = (ident[0], bytes.fromhex(ident[1]))
            if self._ident is not None and self._ident[0] != new[0]:
                LOG.info('A new ZooKeeper session 0x%x takes the place of '
                         '0x%x.', new[0] & (2 ** 64 - 1),
                         self._ident[0] & (2 ** 64 - 1))
            self._ident = new
        self._change_state(state, reason)

    def _keeper_lost(self, failure, pause):
        level = logging.WARNING
        if pause >= self._retry_interval:
            level = logging.DEBUG if self._told_failing else logging.ERROR
        self._told_failing = level != logging.WARNING
        LOG.log(level, 'The keeper that holds the ZooKeeper session of this '
                'process is gone: %s. Starting another one in %.1f s.',
                failure, pause)
        self._change_state(NO_KEEPER, failure)
        for request in list(self._requests.values()):
            request.error = exceptions.KeeperUnavailable(failure)
            request.done.set()

    def _change_state(self, state, reason):
        """Note a state; log the loss of ZooKeeper and its return, once."""
        before, self._state, self._reason = self._state, state, reason
        now = time.monotonic()
        if state == CONNECTED:
            if self._lost_at is not None:
                LOG.info('The session with ZooKeeper is back after %.1f s.',
                         now - self._lost_at)
            self._lost_at = None
            self._connected.set()
        else:
            self._connected.clear()
            for monitor in list(self._monitors.values()):
                monitor.unreadable(self.why())
            if self._lost_at is None and state in (
                    CONNECTING, SUSPENDED, EXPIRED, REFUSED):
                self._lost_at = now
                LOG.warning('There is no connection to ZooKeeper at %s: %s.%s',
                            self._config['hosts'], self.why(),
                            self._what_next())
            elif state != before and state in (EXPIRED, REFUSED):
                LOG.warning('The session with ZooKeeper is %s', self.why())
        if state != before:
            for callback in list(self._callbacks):
                try:
                    callback(state)
                except Exception:
                    LOG.exception('A connection callback failed')

    def _what_next(self):
        """Return what follows if the connection isn't back soon."""
        if self._state != SUSPENDED or not self._members:
            return ''
        return (' If that lasts for as long as the session (%.1f s), this '
                'process is seen as down until it is back.'
                % self._config['session_timeout'])


_sessions = weakref.WeakSet()


def _forget_in_child():
    # The parent's keepers are the parent's business: a child that kept the
    # socket open would hide the parent's end from them.
    for session in list(_sessions):
        for monitor in session._monitors.values():
            monitor.fresh = False
        if session._child is not None:
            session._child.abandon()
    _sessions.clear()


os.register_at_fork(after_in_child=_forget_in_child)
