# SPDX-License-Identifier: Apache-2.0

"""One keeper for all workers of a service.

Each worker has a conversation in a thread of its own, so none waits for
another. They share the Registrar, with its session and its views.

A worker sends its pidfd and the reading end of its exit pipe when it connects,
so its end is detected as fast as that of a single parent. The keeper is no
child of any of them, and ends after the last one.
"""

import os
import select
import signal
import socket
import threading
import time

from nova_servicegroup.keeper import credentials
from nova_servicegroup.keeper import loop
from nova_servicegroup.keeper import protocol
from nova_servicegroup.keeper import registrar
from nova_servicegroup.keeper import shared_registrar

#: seconds that a worker may take to send its descriptors, and the first
#: worker to connect
HANDOVER_LIMIT = 5.0
#: seconds before another attempt if no descriptor is left
PAUSE = 0.1


class SharedKeeper:
    """Serves each worker that connects, and ends after the last one.

    :param listener: a listening socket
    """

    def __init__(self, listener):
        listener.setblocking(False)
        self._listener = listener
        self._lock = threading.Lock()
        self._workers = 0
        self._left, self._leaving = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        self._shared = shared_registrar.SharedRegistrar()

    def run(self):
        poll = select.poll()
        poll.register(self._listener, select.POLLIN)
        poll.register(self._left, select.POLLIN)
        poll.poll(HANDOVER_LIMIT * 1000)
        self._accept()
        while self._workers:
            poll.poll()
            try:
                os.read(self._left, 1024)
            except BlockingIOError:
                pass
            # Before the check: a worker that connects in time is served.
            self._accept()
        # Ends it even if ZooKeeper does not answer.
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, loop.CLOSE_LIMIT)
        self._listener.close()
        self._shared.close()

    def thread_failed(self, args):
        """Give up when a thread of kazoo's ends; a threading.excepthook."""
        self._shared.post('failed', reason=registrar.unexpected(
            args.exc_value))

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError:
                # No descriptor is left. The worker that waits will start a
                # keeper of its own.
                time.sleep(PAUSE)
                return
            with self._lock:
                self._workers += 1
            try:
                threading.Thread(target=self._serve, args=(sock,),
                                 daemon=True).start()
            except RuntimeError:
                # No thread is left.
                self._release(sock)

    def _serve(self, sock):
        descriptors = []
        try:
            pid, uid = credentials.of(sock)
            if uid != os.geteuid() or not pid:
                return
            sock.settimeout(HANDOVER_LIMIT)
            data, descriptors, _, _ = socket.recv_fds(sock, 1, 2)
            if len(descriptors) == 2:
                _Conversation(self._shared, sock, pid, *descriptors).run()
        except OSError:
            # It has ended, or is no worker.
            pass
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
            self._release(sock)

    def _release(self, sock):
        sock.close()
        with self._lock:
            self._workers -= 1
        os.write(self._leaving, b'.')


class _Conversation(loop.Keeper):
    """The conversation with one worker."""

    def __init__(self, shared, sock, pid, pidfd, exit_pipe):
        super().__init__(sock, exit_pipe)
        self._shared = shared
        self._pid = pid
        self._pidfd = pidfd
        self._session_timeout = None

    def _watch_parent(self):
        if self._parent != self._pid:
            raise protocol.ProtocolError("another process's id")
        self._poll.register(self._pidfd, select.POLLIN)

    def _open(self, config):
        self._session_timeout = config['session_timeout']
        return self._shared.open(config, self.post)

    def _has_ended(self):
        return self._ends_within(0)

    def _close(self):
        if self._registrar is not None:
            if self._how is None:
                # It may have another keeper, which has its record from now on,
                # or may have become another program.
                self._registrar.release()
                if self._ends_within(self._session_timeout):
                    self._how = 'killed'
            self._registrar.close(self._how)
        os.close(self._wake)
        os.close(self._waker)
