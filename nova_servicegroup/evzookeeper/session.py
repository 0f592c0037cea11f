# SPDX-License-Identifier: Apache-2.0

"""A session with ZooKeeper: the parent's interface."""

import itertools
import logging
import os
import threading
import time
import weakref

from nova_servicegroup.evzookeeper import address
from nova_servicegroup.evzookeeper import exceptions
from nova_servicegroup.evzookeeper.states import CONNECTED
from nova_servicegroup.evzookeeper.states import CONNECTING
from nova_servicegroup.evzookeeper import supervisor
from nova_servicegroup.keeper import protocol

LOG = logging.getLogger(__name__)


class _Request:
    """A request that waits for its answer."""

    def __init__(self):
        self.done = threading.Event()
        self.error = None
        self.result = None


class ZKSession(supervisor.Supervisor):
    """A session with ZooKeeper, held by a keeper process.

    Starts a keeper, and another one when it ends, until ``close``. May be used
    from any thread or green thread of the process that created it; a forked
    child needs its own.

    :param host: ``host:port,host:port/chroot``
    :param timeout: seconds to wait for the session; None: don't wait
    :param recv_timeout: the session timeout in milliseconds: how long the
        session outlasts a lost host
    :param ident: (session id, password as bytes) of a session to take over
    :param auth: the identity: ('digest', 'nova:secret'), ('sasl', the same) or
        ('x509', '') for the client certificate; only this identity may change
        what this session creates. None: no identity, and everybody may
    :param tls: dict of ca_file, cert_file, key_file, key_password (paths and
        str, or None) and check_hostname (bool); None: without TLS
    :param open_reading: everybody may read what this session creates
    :param retry_interval: longest pause between attempts, seconds
    :param clock: path of a node that readers write to measure ZooKeeper's
        time; None: use this machine's clock
    :raises BadAddress: ``host`` is invalid
    :raises NotConnected: no session within ``timeout``
    """

    def __init__(self, host, timeout=None, recv_timeout=10000, ident=None,
                 auth=None, tls=None, open_reading=True, retry_interval=5,
                 clock=None):
        self._config = {
            'version': protocol.VERSION, 'hosts': address.check_address(host),
            'session_timeout': recv_timeout / 1000,
            'security': {'auth': auth, 'tls': tls,
                         'open_reading': open_reading},
            'retry_interval': retry_interval, 'clock': clock}
        #: seconds by which ZooKeeper's time (since 1970) is ahead of
        #: ``time.monotonic()``
        self.ahead = time.time() - time.monotonic()
        self._ident = self._own_ident = ident
        # Only a keeper of its own takes a session over.
        self._next_is_own = ident is not None
        self._pid = os.getpid()
        self._retry_interval = retry_interval
        self._state = CONNECTING
        self._reason = ''
        self._lost_at = None
        self._failing_logged = False
        self._child = None
        self._closing = threading.Event()
        self._connected = threading.Event()
        self._callbacks = []
        self._requests = {}
        self._numbers = itertools.count(1)
        self._members = {}      # id -> Membership
        self._leaving = {}      # id -> (join message of one that left, how),
                                # until its node's deletion is confirmed
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

    # The interface of the evzookeeper library.

    def state(self):
        """Return one of evzookeeper.states."""
        return self._state

    def is_connected(self):
        return self._state == CONNECTED

    def client_id(self):
        """Return (session id, password as bytes), None without a session."""
        return self._ident

    def add_connection_callback(self, callback):
        """Call ``callback(state)`` at each change, in the session's thread."""
        self._callbacks.append(callback)

    def remove_connection_callback(self, callback):
        self._callbacks.remove(callback)

    def close(self):
        """End the session and its memberships, usually in milliseconds.

        Blocks for 1.5 seconds at most. The session can't be used afterwards.
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

    # Used by Membership and MembershipMonitor.

    @property
    def keeper_pid(self):
        """The keeper's process id, or None."""
        return None if self._child is None else self._child.pid

    def why(self):
        """Return the state and its reason, as a text."""
        return self._state + (' (%s)' % self._reason if self._reason else '')

    def ask(self, op, timeout, seq=None, **fields):
        """Send a request and wait for its answer; return the result.

        :param seq: number of the answer, by default the next one
        :raises KeeperUnavailable: there is no keeper, or it ended meanwhile
        :raises NotConnected: no answer within ``timeout`` seconds
        :raises RequestFailed: ZooKeeper or the keeper returned an error
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
        """Send a pulse of a membership; raises as ``ask``."""
        self.ask('pulse', timeout, id=number)

    def add_member(self, member):
        """Return the id of a new membership; each new keeper joins it."""
        with self._changing:
            number = next(self._numbers)
            self._members[number] = member
            if self._ready:
                self._send_quietly('join', **self._join_message(
                    number, member))
        return number

    def remove_member(self, number, timeout, how):
        """Delete a membership's node; raises as ``ask``.

        After any error this keeper retries, and so does the next one.

        :param how: the state to record, 'left' or 'stopped'
        """
        with self._changing:
            # It sends no more pulses.
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




_sessions = weakref.WeakSet()


def _forget_in_child():
    # A child that kept the sockets open would hide the parent's end from the
    # keepers.
    for session in list(_sessions):
        for monitor in session._monitors.values():
            monitor.fresh = False
        if session._child is not None:
            session._child.abandon()
    _sessions.clear()


os.register_at_fork(after_in_child=_forget_in_child)
