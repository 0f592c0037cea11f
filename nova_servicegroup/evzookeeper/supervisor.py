# SPDX-License-Identifier: Apache-2.0

"""Runs a session's keeper, restarts it, and handles its messages."""

import logging
import os
import time

from nova_servicegroup.evzookeeper import child as keeper_child
from nova_servicegroup.evzookeeper import exceptions
from nova_servicegroup.evzookeeper import sharing
from nova_servicegroup.evzookeeper.states import CLOSED
from nova_servicegroup.evzookeeper.states import CONNECTED
from nova_servicegroup.evzookeeper.states import CONNECTING
from nova_servicegroup.evzookeeper.states import EXPIRED
from nova_servicegroup.evzookeeper.states import NO_KEEPER
from nova_servicegroup.evzookeeper.states import REFUSED
from nova_servicegroup.evzookeeper.states import SUSPENDED
from nova_servicegroup.keeper import protocol

LOG = logging.getLogger(__name__)

#: seconds a keeper must have lived for its death to be none of its own making
_STABLE = 30.0
#: a keeper that is silent for this part of the session's timeout is asked
#: whether it lives. One that is stuck is noticed, replaced, and its session
#: taken over before two thirds of that timeout are over.
_PROBE_SHARE = 1 / 6
#: seconds; less would kill keepers that only wait for a processor
_LEAST_PROBE_INTERVAL = 0.5


class Supervisor:
    """The part of a ZKSession that runs in its own thread."""

    _ready = False

    def _supervise(self):
        pause = 0
        while not self._closing.wait(pause) and os.getpid() == self._pid:
            started = time.monotonic()
            failure = self._run_keeper()
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

    def _run_keeper(self):
        """Start a keeper and handle its messages; return why it ended."""
        failure = lost = None
        try:
            keeper = self._start_keeper()
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
            # It has ended, or is killed.
            lost = str(e)
            failure = self._last_reason(keeper)
        except protocol.ProtocolError as e:
            failure = 'the keeper sent %s' % e
        except Exception as e:
            # Whatever it was, this thread has to go on.
            LOG.exception('A message of the keeper cannot be dealt with')
            failure = repr(e)
        if os.getpid() != self._pid:
            return 'forked'
        if failure is not None:
            keeper.refuse()
        with self._changing:
            self._child = None
            self._ready = False
        code = keeper.end()
        if keeper.shared and not self._closing.is_set():
            self._next_is_own = keeper.is_unfit()
        return failure or lost or 'the keeper (pid %d) ended with %s' % (
            keeper.pid, code)

    def _last_reason(self, keeper):
        """Return why a keeper closed the connection, None if it didn't say.

        Blocks for its probe interval at most.
        """
        if self._closing.is_set():
            return None
        try:
            messages = keeper.receive() or ()
        except (exceptions.KeeperUnavailable, protocol.ProtocolError):
            return None
        return next((message['reason'] for message in messages
                     if message['op'] == 'failed'), None)

    def _start_keeper(self):
        """Return a keeper: the siblings', if that is possible."""
        how = {'probe_interval': max(
                   _LEAST_PROBE_INTERVAL,
                   self._config['session_timeout'] * _PROBE_SHARE),
               # Who only reads loses nothing with the session.
               'is_member': lambda: bool(self._members)}
        name = None if self._next_is_own else sharing.name(self._config)
        # The keeper after that may be a shared one again.
        self._next_is_own = False
        if name is not None:
            try:
                return sharing.SharedKeeper(name, **how)
            except exceptions.KeeperUnavailable as e:
                LOG.info('This process starts a keeper of its own: %s', e)
        return keeper_child.Child(keeper_child.label(self._pid), **how)

    def _handshake(self, keeper):
        """Send the configuration and all requests to a new keeper."""
        with self._changing:
            if self._closing.is_set():
                raise exceptions.KeeperUnavailable('the session is closed')
            if keeper.shared:
                # The session of all siblings is not taken over: it has the
                # nodes of those that have ended meanwhile, too.
                self._own_ident = None
            ident = self._own_ident
            keeper.send('config', parent=self._pid, ident=ident and [
                ident[0], ident[1].hex()], **self._config)
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
            # The handshake with the next keeper includes it.
            pass

    def _take(self, message):
        """Handle a keeper's message; return why it fails, or None."""
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
            if not self._child.shared:
                self._own_ident = new
        self._change_state(state, reason)

    def _keeper_lost(self, failure, pause):
        level = logging.WARNING
        if pause >= self._retry_interval:
            level = logging.DEBUG if self._failing_logged else logging.ERROR
        self._failing_logged = level != logging.WARNING
        LOG.log(level, 'The keeper that holds the ZooKeeper session of this '
                'process is gone: %s. Starting another one in %.1f s.',
                failure, pause)
        self._change_state(NO_KEEPER, failure)
        for request in list(self._requests.values()):
            request.error = exceptions.KeeperUnavailable(failure)
            request.done.set()

    def _change_state(self, state, reason):
        """Set the state; log each loss of ZooKeeper and its end, once."""
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
        """Return what a longer loss of the connection causes, or ''."""
        if self._state != SUSPENDED or not self._members:
            return ''
        return (' If that lasts for as long as the session (%.1f s), this '
                'process is seen as down until it is back.'
                % self._config['session_timeout'])
