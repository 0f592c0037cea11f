# SPDX-License-Identifier: Apache-2.0

"""Connects to servers with short timeouts, within the session timeout."""

import errno
import math
import os
import select
import socket
import threading
import time

from kazoo.handlers import threading as kazoo_threading

#: share of the session timeout in which a server has to answer
SHARE = 1 / 6
#: attempts to connect to a server in that time
CALLS = 3
#: bytes to receive at a time
RECEIVE = 65536
#: packets to handle before requests are sent
IN_A_ROW = 20


class Handler(kazoo_threading.SequentialThreadingHandler):
    """kazoo's handler for threads, with shorter timeouts.

    kazoo waits for an unreachable server for a whole session timeout, and the
    kernel repeats a lost SYN after one second, then after two. Either can cost
    a session that another server, or another attempt, would have saved.
    """

    def __init__(self):
        super().__init__()
        #: factor for the pauses between attempts to connect
        self.share_of_pause = 1
        self._limit = None
        # The number of a socket from which nothing was received yet.
        self._unheard = None
        self._short_wait = False
        self._in_a_row = 0      # packets since kazoo could send requests

    def sleep_func(self, seconds):
        time.sleep(seconds * self.share_of_pause)

    def create_connection(self, address, timeout, **_):
        """Return a connected socket.

        :param address: (IP address, port)
        :param timeout: the session timeout, seconds; blocks for its SHARE
        :raises OSError: the connection failed
        """
        limit = self._limit = timeout * SHARE
        family, kind, protocol, _, where = socket.getaddrinfo(
            *address, type=socket.SOCK_STREAM)[0]
        calls = []
        try:
            for _ in range(CALLS):
                calls.append(_Socket(family, kind, protocol))
                calls[-1].setblocking(False)
                calls[-1].setsockopt(socket.IPPROTO_TCP,
                                     socket.TCP_NODELAY, 1)
                _check(calls[-1].connect_ex(where))
                for sock in select.select([], calls, [], limit / CALLS)[1]:
                    _check(sock.getsockopt(socket.SOL_SOCKET,
                                           socket.SO_ERROR))
                    calls.remove(sock)
                    self._unheard = sock.fileno()
                    return sock
            raise TimeoutError(
                errno.ETIMEDOUT, 'no answer within %.1f s' % limit)
        finally:
            for sock in calls:
                sock.close()

    def select(self, rlist, wlist, xlist, timeout=None):
        """Wait as kazoo does, but for a server's first answer less long.

        Not twice in a row, and not before any server has answered: clients
        that connect to overloaded servers must not reconnect all the time.
        """
        received = [sock for sock in rlist if _pending(sock)]
        if received:
            self._in_a_row += 1
            if self._in_a_row % IN_A_ROW:
                return received, [], []
            # kazoo must get to send its requests in a storm of events, too.
            # Some versions handle only the first socket that is ready.
            others = [sock for sock in rlist if sock not in received]
            return _poll(others, [], 0)[0] + received, [], []
        first = [sock.fileno() for sock in rlist] == [self._unheard]
        if first and self._short_wait:
            timeout = min(timeout, self._limit)
        ready = _poll(rlist, wlist, timeout)
        if first:
            self._short_wait = bool(ready[0])
            if ready[0]:
                self._unheard = None
        return ready


class _Socket(socket.socket):
    """Receives all that has arrived with one system call.

    kazoo receives each packet in two parts, and waits before each of them.
    It knows ``pending`` from TLS.
    """

    def __init__(self, *args):
        super().__init__(*args)
        self._received = b''
        self._read = 0          # bytes of it that were returned

    def pending(self):
        """Return how many bytes were received and not returned yet."""
        return len(self._received) - self._read

    def recv(self, size):
        if not self.pending():
            self._received, self._read = super().recv(max(size, RECEIVE)), 0
        data = self._received[self._read:self._read + size]
        self._read += len(data)
        return data


class Resolver:
    """Resolves host names; uses the known addresses if that takes too long.

    kazoo resolves all servers' names whenever it could reach none of them, and
    blocks meanwhile: a slow name service would cost the session.

    :param resolve: kazoo's method
    :param limit: seconds to wait for it if there are known addresses
    """

    def __init__(self, resolve, limit):
        self._resolve = resolve
        self._limit = limit
        self._known = []
        self._thread = None

    def __call__(self):
        """Return a list of (name, IP address, port), as kazoo's method."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = threading.Thread(
                target=self._look_up, name='resolver', daemon=True)
            self._thread.start()
        self._thread.join(self._limit if self._known else None)
        return list(self._known)

    def _look_up(self):
        self._known = self._resolve() or self._known


def resolve_in_time(client, timeout):
    """Give a client a Resolver.

    The method is private to kazoo (2.8 to 2.11 have it); a kazoo without it
    is left as it is.

    :param timeout: of the session, seconds
    """
    resolve = getattr(client._connection, '_expand_client_hosts', None)
    if resolve is not None:
        client._connection._expand_client_hosts = Resolver(
            resolve, timeout * SHARE)


def _pending(sock):
    """Return how many bytes were received, a socket's or TLS's."""
    return sock.pending() if hasattr(sock, 'pending') else 0


def _poll(rlist, wlist, timeout):
    """Wait as select() does, with one system call and for any descriptor.

    kazoo creates and closes an epoll object for each packet, which takes
    longer than all other processing of a packet.
    """
    poll = select.poll()
    for sock in rlist:
        poll.register(sock, select.POLLIN)
    for sock in wlist:
        poll.register(sock, select.POLLOUT)
    ready = {number for number, _ in poll.poll(
        None if timeout is None else max(0, math.ceil(timeout * 1000)))}
    if len(ready) == len(rlist) + len(wlist):
        return list(rlist), list(wlist), []
    return ([sock for sock in rlist if sock.fileno() in ready],
            [sock for sock in wlist if sock.fileno() in ready], [])


def _check(error):
    if error not in (0, errno.EINPROGRESS):
        raise OSError(error, os.strerror(error))
