# SPDX-License-Identifier: Apache-2.0

"""Who is at the other end of a Unix socket."""

import socket
import struct

_CREDENTIALS = struct.Struct('3i')


def of(sock):
    """Return (process id, user id) of the process that connected or listened.

    The process id is 0 if that process is in another pid namespace.
    """
    pid, uid, _ = _CREDENTIALS.unpack(sock.getsockopt(
        socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size))
    return pid, uid
