# SPDX-License-Identifier: Apache-2.0

"""A switch between members and their store that can be disconnected.

A TCP proxy on the loopback interface, which needs no privileges. While
disconnected it forwards nothing, neither data nor the end of a connection:
both sides see a cut cable.
"""

import contextlib
import socket
import threading

LOOPBACK = '127.0.0.1'


class Switch:
    """Forwards connections to servers.

    :param servers: list of (host, port)
    """

    def __init__(self, servers):
        self._plugged = threading.Event()
        self._plugged.set()
        #: host:port for each server
        self.addresses = []
        for server in servers:
            listener = socket.create_server((LOOPBACK, 0))
            self.addresses.append('%s:%d' % listener.getsockname())
            self._start(self._accept, listener, server)

    def pull(self):
        self._plugged.clear()

    def plug_in(self):
        self._plugged.set()

    @staticmethod
    def _start(function, *args):
        threading.Thread(target=function, args=args, daemon=True).start()

    def _accept(self, listener, server):
        while True:
            near, _ = listener.accept()
            self._plugged.wait()
            try:
                far = socket.create_connection(server)
            except OSError:
                near.close()
                continue
            self._start(self._forward, near, far)
            self._start(self._forward, far, near)

    def _forward(self, source, target):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self._plugged.wait()
                target.sendall(data)
        self._plugged.wait()
        # The other direction ends, too.
        for one in (source, target):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()
