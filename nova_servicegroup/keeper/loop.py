# SPDX-License-Identifier: Apache-2.0

"""The keeper's main loop: the conversation with its parent."""

import collections
import contextlib
import logging
import os
import select
import signal
import time

from nova_servicegroup.keeper import ending
from nova_servicegroup.keeper import news
from nova_servicegroup.keeper import protocol
from nova_servicegroup.keeper import registrar
from nova_servicegroup.keeper import session

#: seconds after which an orphan has ended, whatever ZooKeeper does
CLOSE_LIMIT = 0.9
#: seconds between checks of the parent if the kernel has no pidfd
POLL_PARENT = 0.5
#: seconds of delay of this loop after which missing pulses are no sign of a
#: hung parent: the keeper or the machine was stopped
OWN_DELAY = 1.0
#: seconds; poll() accepts at most 24 days
LONGEST_WAIT = 86400
#: seconds that a parent may take from closing its descriptors to its end
ENDING = 0.3
#: messages that wait for a parent that doesn't read; older ones are dropped
BACKLOG = 1000


class _GaveUp(Exception):
    """The registrar ended; the text says why."""


class _Pulse:
    """The last pulse and the node of one membership."""

    def __init__(self, timeout, seen):
        self.timeout = timeout
        self.seen = seen
        self.stalled = False
        self.node = None
        self.reason = 'it has not joined yet'


class Keeper:
    """Holds a ZooKeeper session for as long as its parent lives.

    Polls for messages of the parent, the end of the parent, and messages of
    the registrar. Never waits for ZooKeeper.

    :param sock: a connected stream socket to the parent
    :param exit_pipe: a descriptor that hangs up early when the parent is
        killed; one that never does is harmless
    """

    def __init__(self, sock, exit_pipe=None, monotonic=time.monotonic):
        sock.setblocking(False)
        self._sock = sock
        self._monotonic = monotonic
        self._decoder = protocol.Decoder(protocol.FROM_PARENT)
        self._registrar = None
        self._pulses = {}
        self._connected = False
        self._how = None     # the proven end of the parent, for its record
        self._parent = None
        self._pidfd = None
        self._poll = select.poll()
        # Python 3.9 has no eventfd.
        self._wake, self._waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._posted = collections.deque()
        self._messages = collections.deque(maxlen=BACKLOG)
        self._news = {}      # path -> News of a group
        self._out = b''
        self._poll.register(self._sock, select.POLLIN)
        self._poll.register(self._wake, select.POLLIN)
        self._exit_pipe = exit_pipe
        if exit_pipe is not None:
            # Poll for a hang-up only.
            self._poll.register(exit_pipe, 0)

    def post(self, op, **fields):
        """Queue a message for the parent. From any thread; never blocks."""
        self._posted.append((op, fields))
        with contextlib.suppress(BlockingIOError):  # full: it wakes anyway
            os.write(self._waker, b'.')

    def run(self):
        """Serve until the parent ends, then end the session."""
        self._messages.append(('hello', {'version': protocol.VERSION}))
        try:
            while self._serve():
                pass
        except _GaveUp as e:
            self._send_failure(str(e))
        except protocol.ProtocolError as e:
            self._send_failure('it heard from its process: %s' % e)
        except Exception as e:
            # A well-formed message may still be wrong. The parent logs it:
            # standard error is /dev/null.
            self._send_failure(registrar.unexpected(e))
        self._close()

    def thread_failed(self, args):
        """Give up when a thread of kazoo's ends; a threading.excepthook."""
        self.post('failed', reason=registrar.unexpected(args.exc_value))

    def _serve(self):
        """Wait for events and handle them; return whether to continue."""
        self._flush()
        due = self._next_pulse_check()
        timeout = None if due is None else min(
            LONGEST_WAIT, max(0, due - self._monotonic()))
        if self._parent is not None and self._pidfd is None:
            timeout = min(POLL_PARENT, timeout or POLL_PARENT)
        planned = self._monotonic() + (timeout or 0)
        ready = dict(self._poll.poll(
            None if timeout is None else timeout * 1000))
        late = timeout is not None and (
            self._monotonic() - planned > OWN_DELAY)
        if self._wake in ready:
            os.read(self._wake, 65536)
        while self._posted:
            self._from_registrar(*self._posted.popleft())
        # Messages that the parent sent before its end are still handled.
        alive = self._read_parent() if self._sock.fileno() in ready else True
        if not alive or self._exit_pipe in ready or self._has_ended():
            self._how = self._how or self._wait_for_end()
            return False
        self._check_pulses(late)
        return True

    # The parent.

    def _read_parent(self):
        """Handle the parent's messages; return whether more may come."""
        while True:
            try:
                data = self._sock.recv(262144)
            except BlockingIOError:
                return True
            except ConnectionError:
                return False
            if not data:
                return False
            for message in self._decoder.feed(data):
                op = message.pop('op')
                if op == 'close':
                    self._how = 'stopped'
                    return False
                if (self._registrar is None) != (op == 'config'):
                    raise protocol.ProtocolError('%s out of turn' % op)
                getattr(self, '_on_' + op)(**message)

    def _on_config(self, version, parent, **config):
        if version != protocol.VERSION:
            raise protocol.ProtocolError(
                'it speaks version %s of the protocol and this keeper %s: '
                'the package was changed under a running service; restart '
                'the service' % (version, protocol.VERSION))
        self._parent = parent
        self._watch_parent()
        self._registrar = self._open(config)

    def _watch_parent(self):
        try:
            self._pidfd = os.pidfd_open(self._parent)
            self._poll.register(self._pidfd, select.POLLIN)
        except (AttributeError, OSError):
            # This Python or kernel has none, or a seccomp filter forbids it.
            # Then getppid() shows the parent's end.
            pass
        if os.getppid() != self._parent:
            # It ended before it could be watched.
            raise protocol.ProtocolError('nothing: it is gone')

    def _open(self, config):
        """Return a Registrar, or what stands for one."""
        return start_registrar(config, self.post)

    def _on_join(self, id, path, records, host, data, pulse_timeout, silent,
                 node):
        self._pulses[id] = _Pulse(pulse_timeout, self._monotonic() - silent)
        self._registrar.submit(
            self._registrar.join, id, path, records, host, data, node,
            silent if pulse_timeout and silent >= pulse_timeout else None)

    def _on_pulse(self, id, seq):
        pulse = self._pulses.get(id)
        if pulse is None:
            error = 'this keeper knows of no such membership'
        else:
            pulse.seen = self._monotonic()
            if pulse.stalled:
                pulse.stalled = False
                self._log(logging.WARNING, 'The process of the membership %s '
                          'sends heartbeats again; its znode comes back.', id)
                self._registrar.submit(self._registrar.live, id)
            error = None
            if not self._connected:
                error = 'the connection to ZooKeeper is away'
            elif pulse.node is None:
                error = pulse.reason
        self._messages.append(
            ('answer', {'seq': seq, 'error': error, 'result': []}))

    def _on_ping(self):
        self._messages.append(('pong', {}))

    def _on_leave(self, id, seq, how):
        self._pulses.pop(id, None)
        self._registrar.submit(self._registrar.leave, id, how, seq)

    def _on_watch(self, path, records, bound, known):
        self._news[path] = news.News()
        self._registrar.submit(self._registrar.watch, path, records, bound,
                               known)

    def _on_details(self, seq, path, host):
        self._registrar.submit(self._registrar.details, seq, path, host)

    def _next_pulse_check(self):
        return min((pulse.seen + pulse.timeout
                    for pulse in self._pulses.values()
                    if pulse.timeout and not pulse.stalled), default=None)

    def _check_pulses(self, late):
        """Delete the nodes of a hung process."""
        now = self._monotonic()
        for member_id, pulse in self._pulses.items():
            if not pulse.timeout or pulse.stalled:
                continue
            if late:
                # Its pulses may have been delayed, too.
                pulse.seen = max(pulse.seen, now - pulse.timeout / 2)
            elif now - pulse.seen >= pulse.timeout:
                pulse.stalled = True
                self._log(logging.ERROR, 'No heartbeat from the process of '
                          'the membership %s for %.1f s; removing its znode.',
                          member_id, now - pulse.seen)
                self._registrar.submit(self._registrar.hang, member_id,
                                       now - pulse.seen)

    def _log(self, level, text, *args):
        self._messages.append(('log', {'level': level, 'text': text % args}))

    # The registrar.

    def _from_registrar(self, op, fields):
        if op == 'view':
            self._news[fields.pop('path')].view(**fields)
            return
        if op == 'state':
            self._connected = fields['state'] == 'connected'
            if not self._connected:
                # The unsent views are stale.
                for waiting in self._news.values():
                    waiting.ready = False
        if op == 'unreadable':
            self._news[fields['path']].ready = False
        if op == 'member' and fields['id'] in self._pulses:
            pulse = self._pulses[fields['id']]
            pulse.node, pulse.reason = fields['node'], fields['reason']
        if op == 'failed':
            raise _GaveUp(fields['reason'])
        self._messages.append((op, fields))

    def _flush(self):
        """Write as much as the parent accepts; unsent views coalesce."""
        while True:
            if not self._out:
                self._out = self._next_frame()
            if not self._out:
                self._poll.modify(self._sock, select.POLLIN)
                return
            try:
                sent = self._sock.send(self._out)
            except BlockingIOError:
                self._poll.modify(self._sock, select.POLLIN | select.POLLOUT)
                return
            except ConnectionError:
                # The next read shows the end.
                self._out = b''
                self._messages.clear()
                return
            self._out = self._out[sent:]

    def _next_frame(self):
        if self._messages:
            op, fields = self._messages.popleft()
            return protocol.encode(op, **fields)
        for path, waiting in self._news.items():
            if waiting.ready:
                return protocol.encode('view', path=path,
                                       **waiting.take())
        return b''

    # The end.

    def _has_ended(self):
        """Return whether the parent's process has certainly ended."""
        if self._parent is None:
            return False
        return os.getppid() != self._parent or self._ends_within(0)

    def _ends_within(self, timeout):
        """Wait for the end of the parent's process; return whether it ended.

        :param timeout: seconds
        """
        if self._pidfd is None:
            return False
        poll = select.poll()
        poll.register(self._pidfd, select.POLLIN)
        return bool(poll.poll(timeout * 1000))

    def _wait_for_end(self):
        """Return 'killed' once the parent has ended, None if it has not.

        Closed descriptors are no proof: exec closes them, too.
        """
        deadline = self._monotonic() + ENDING
        while not (self._has_ended() or ending.is_ending(self._parent)):
            if self._parent is None or self._monotonic() > deadline:
                return None
            time.sleep(0.001)
        return 'killed'

    def _send_failure(self, reason):
        try:
            self._sock.setblocking(True)
            self._sock.settimeout(CLOSE_LIMIT)
            self._sock.sendall(self._out + protocol.encode(
                'failed', reason=reason))
        except OSError:
            pass

    def _close(self):
        # Ends an orphan even if ZooKeeper does not answer.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, CLOSE_LIMIT)
        if self._registrar is not None:
            self._registrar.close(self._how)


def start_registrar(config, post):
    """Return a running Registrar that gets kazoo's warnings."""
    started = registrar.Registrar(config, post)
    session.pass_warnings(started)
    started.start()
    return started
