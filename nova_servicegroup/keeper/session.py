# SPDX-License-Identifier: Apache-2.0

"""The session with ZooKeeper: creation, handshake, loss and recovery."""

import functools
import logging
import threading

from kazoo import exceptions as kazoo_exc
from kazoo.handlers import threading as kazoo_threading
from kazoo.protocol import states

from nova_servicegroup.keeper import watches

#: seconds before a failed attempt is repeated
RETRY = 0.2
#: factor for the pauses between attempts to connect, for readers of a group
READERS_SHARE = 0.4


class Session:
    """The part of the Registrar that handles the session."""

    def _connect(self):
        if self.client is not None:
            old, self.client = self.client, None
            threading.Thread(target=_discard, args=(old,),
                             daemon=True).start()
        client = self.security.client(self._hosts, self._wanted_timeout,
                                       self._session_key)
        client.add_listener(functools.partial(self._on_state, client))
        self.client = client
        self._reconnect_sooner()
        self.watches = watches.Watches(client)
        self._unproven = None
        client.start_async()

    def _reconnect_sooner(self):
        """Let a reader reconnect before the more numerous members do."""
        if self._groups and self.client is not None:
            self.client.handler.share_of_pause = READERS_SHARE

    def _on_state(self, client, state):
        # Called in kazoo's connection thread, which must not block.
        self.submit(self._state_changed, client, state, client.client_state,
                    client.client_id)

    def _state_changed(self, client, state, keeper_state, ident):
        if client is not self.client:
            return
        if state == states.KazooState.CONNECTED:
            if ident is not None:
                self._unproven = ident
                self._handshake_at = 0
        else:
            self._unproven = None
            if self._connected:
                self._connected = False
                self.lost_at = now = self.monotonic()
                self._expires_at = now + self.timeout
                for one in self._groups.values():
                    one.disconnected(now)
                if state == states.KazooState.SUSPENDED:
                    self._post_state('suspended')
        if state == states.KazooState.LOST:
            self._session_key = None
            self._expires_at = None
            refused = keeper_state == states.KeeperState.AUTH_FAILED
            self._post_state('refused' if refused else 'expired')
            if keeper_state != states.KeeperState.EXPIRED_SESSION:
                # kazoo has given up, after a refusal or after bytes that it
                # could not parse.
                self._rebuild_at = self.monotonic() + self.retry_interval

    def _handshake(self):
        """Count as connected once ZooKeeper answers a request.

        kazoo reports CONNECTED before the authentication is confirmed.
        """
        try:
            self.get(self.client.exists_async('/'))
        except (kazoo_exc.KazooException, kazoo_threading.KazooTimeoutError):
            self._handshake_at = self.monotonic() + RETRY
            return
        ident, self._unproven = self._unproven, None
        self._on_connected(ident)

    def _on_connected(self, ident):
        self._complaints.clear()
        self._check_timeout()
        now = self.monotonic()
        self._connected = True
        self._expires_at = None
        self.session = ident[0]
        attached = self._session_key in (None, ident)
        self._session_key = ident
        for one in self._members.values():
            one.connected(attached)
        for one in self._groups.values():
            one.connected(now)
        self._clock_at = now
        self._last_warning = ''
        self._post_state('connected')

    def _check_timeout(self):
        wanted = self._wanted_timeout
        self.timeout = getattr(self.client, 'granted_timeout', wanted)
        if self.timeout == wanted or self._timeout_logged:
            return
        self._timeout_logged = True
        limit = ('minSessionTimeout (2 * tickTime if it is not set), and a '
                 'shorter tickTime,' if self.timeout > wanted else
                 'maxSessionTimeout (20 * tickTime if it is not set)')
        self.log(logging.WARNING, (
            'ZooKeeper grants a session timeout of %d ms and not the %d ms '
            'of [zookeeper] recv_timeout: a host that vanishes is up for '
            'that long. Set %s on its servers, or recv_timeout to what they '
            'grant.' % (self.timeout * 1000, wanted * 1000, limit)))

    def _post_state(self, state):
        ident = None
        if state == 'connected':
            ident = [self._session_key[0], self._session_key[1].hex()]
        self.post('state', state=state, ident=ident,
                   reason=self._last_warning)


def _discard(client):
    """Close a client that is no longer used; may block for seconds."""
    try:
        client.stop()
        client.close()
    except Exception as e:
        logging.getLogger('kazoo').warning('while closing: %s', e)


def pass_warnings(registrar):
    """Let a Registrar get kazoo's warnings; nobody else does."""
    kazoo_log = logging.getLogger('kazoo')
    kazoo_log.addHandler(_LastWarning(registrar))
    kazoo_log.propagate = False


class _LastWarning(logging.Handler):
    """Passes kazoo's warnings to the registrar."""

    def __init__(self, registrar):
        super().__init__(logging.WARNING)
        self._registrar = registrar

    def emit(self, record):
        text = record.getMessage()
        if not text.startswith('Transition to '):
            self._registrar.submit(self._registrar.warned, text)
