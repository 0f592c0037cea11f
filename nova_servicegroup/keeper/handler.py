# SPDX-License-Identifier: Apache-2.0

"""How the keeper connects to a server: without losing time on one."""

import errno
import math
import os
import select
import socket
import threading
import time

from kazoo.handlers import threading as kazoo_threading

#: of the session timeout: how long one server may take to answer
SHARE = 1 / 6
#: how often a server is called in that time
CALLS = 3


class Handler(kazoo_threading.SequentialThreadingHandler):
    """kazoo's threads, but impatient.

    kazoo waits for a server that is cut off for as long as the session lasts,
    and the kernel repeats a call that was lost after a second, then after two.
    Either can cost a session that another server, or another call, had saved.
    """

    def __init__(self):
        super().__init__()
        #: what is really waited of each pause between attempts to connect
        self.share_of_pause = 1
        self._limit = None
        # The number of a socket on which nothing was heard yet.
        self._unheard = None
        self._impatient = False

    def sleep_func(self, seconds):
        time.sleep(seconds * self.share_of_pause)

    def create_connection(self, address, timeout, **_):
        """Return a connected socket.

        :param address: (IP address, port)
        :param timeout: the session timeout, seconds; blocks for its SHARE
        :raises OSError: there is no connection
        """
        limit = self._limit = timeout * SHARE
        family, kind, protocol, _, where = socket.getaddrinfo(
            *address, type=socket.SOCK_STREAM)[0]
        calls = []
        try:
            for _ in range(CALLS):
                calls.append(socket.socket(family, kind, protocol))
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
        """Wait as kazoo does, but for a server's first word impatiently.

        Once, and not before any server was heard: many that connect at once
        to servers that have too much to do must not begin again and again.
        """
        first = [sock.fileno() for sock in rlist] == [self._unheard]
        if first and self._impatient:
            timeout = min(timeout, self._limit)
        ready = _poll(rlist, wlist, timeout)
        if first:
            self._impatient = bool(ready[0])
            if ready[0]:
                self._unheard = None
        return ready


class Resolver:
    """Looks names up for a client, and goes on with what it knows.

    kazoo asks for the addresses of all servers whenever it has tried them in
    vain, and waits: a name service that is slow just then costs the session.

    :param resolve: kazoo's own method
    :param limit: seconds to wait for it once there are addresses
    """

    def __init__(self, resolve, limit):
        self._resolve = resolve
        self._limit = limit
        self._known = []
        self._thread = None

    def __call__(self):
        """Return a list of (name, IP address, port), as kazoo does."""
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

    kazoo keeps the method to itself (2.8 to 2.11 have it). One without it
    asks as it likes.

    :param timeout: of the session, seconds
    """
    resolve = getattr(client._connection, '_expand_client_hosts', None)
    if resolve is not None:
        client._connection._expand_client_hosts = Resolver(
            resolve, timeout * SHARE)


def _poll(rlist, wlist, timeout):
    """Do what select() does, with one system call and for any descriptor.

    kazoo makes and closes an epoll for each packet, which takes longer than
    anything else that a reader does with it.
    """
    poll = select.poll()
    for sock in rlist:
        poll.register(sock, select.POLLIN)
    for sock in wlist:
        poll.register(sock, select.POLLOUT)
    ready = dict(poll.poll(
        None if timeout is None else max(0, math.ceil(timeout * 1000))))
    return ([sock for sock in rlist if sock.fileno() in ready],
            [sock for sock in wlist if sock.fileno() in ready], [])


def _check(error):
    if error not in (0, errno.EINPROGRESS):
        raise OSError(error, os.strerror(error))
