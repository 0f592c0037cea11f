# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""Just enough of ZooKeeper's protocol for many light sessions.

Requests are made here as bytes; who sends them is zk_fleet's and zk_reader's
business.
"""

import struct
import zlib

PING_XID, EVENT_XID = -2, -1
CREATE, DELETE, GET_CHILDREN, ADD_WATCH = 1, 2, 8, 106
PING, CLOSE = 11, -11
NODE_EXISTS = -110
EPHEMERAL = 1
PERSISTENT_RECURSIVE = 1
NO_PASSWORD = bytes(16)

_HEADER = struct.Struct('>iqi')     # xid, zxid, error
_OPEN_ACL = struct.pack('>ii', 1, 31)


def _buffer(data):
    return struct.pack('>i', len(data)) + data


def connect(timeout_ms, session=0, password=NO_PASSWORD):
    """Return the first request of a connection."""
    return _buffer(struct.pack('>iqiq', 0, 0, timeout_ms, session)
                   + _buffer(password) + b'\0')


def connected(body):
    """Return (granted timeout in ms, 0 if it expired; session; password)."""
    _, timeout, session, length = struct.unpack_from('>iiqi', body)
    return timeout, session, body[20:20 + length]


def create_ephemeral(xid, path, data):
    return _buffer(struct.pack('>ii', xid, CREATE) + _buffer(path.encode())
                   + _buffer(data) + _OPEN_ACL + _buffer(b'world')
                   + _buffer(b'anyone') + struct.pack('>i', EPHEMERAL))


def delete(xid, path):
    return _buffer(struct.pack('>ii', xid, DELETE) + _buffer(path.encode())
                   + struct.pack('>i', -1))


def ping():
    return _buffer(struct.pack('>ii', PING_XID, PING))


def close(xid):
    return _buffer(struct.pack('>ii', xid, CLOSE))


def get_children(xid, path):
    return _buffer(struct.pack('>ii', xid, GET_CHILDREN)
                   + _buffer(path.encode()) + b'\0')


def add_watch(xid, path):
    """Watch a path and all below it until the connection is lost."""
    return _buffer(struct.pack('>ii', xid, ADD_WATCH) + _buffer(path.encode())
                   + struct.pack('>i', PERSISTENT_RECURSIVE))


def reply(body):
    """Return (xid, error, the rest)."""
    xid, _, error = _HEADER.unpack_from(body)
    return xid, error, body[_HEADER.size:]


def children(rest):
    """Return the names in the answer to get_children."""
    count, = struct.unpack_from('>i', rest)
    names, place = [], 4
    for _ in range(count):
        length, = struct.unpack_from('>i', rest, place)
        names.append(rest[place + 4:place + 4 + length].decode())
        place += 4 + length
    return names


def event(rest):
    """Return (type, path) of an event; 1 is created, 2 is deleted."""
    kind, _, length = struct.unpack_from('>iii', rest)
    return kind, rest[12:12 + length].decode()


def frames(buffer):
    """Take the complete frames off a bytearray; return their bodies."""
    found, place = [], 0
    while len(buffer) - place >= 4:
        length, = struct.unpack_from('>i', buffer, place)
        if len(buffer) - place - 4 < length:
            break
        found.append(bytes(buffer[place + 4:place + 4 + length]))
        place += 4 + length
    del buffer[:place]
    return found


def checksum(names):
    """Return a number for a set of names, by which two are compared.

    That of a union is ``a ^ b``.
    """
    result = 0
    for name in names:
        result ^= zlib.crc32(name.encode())
    return result
