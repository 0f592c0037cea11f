# SPDX-License-Identifier: Apache-2.0

"""Persistent recursive watches, which kazoo has no call for.

One such watch tells of every node that is made or deleted in a directory,
with some 90 bytes for each, however many there are. ZooKeeper has them since
3.6 (AddWatch, operation 106). They end with the connection, and say nothing
of what was missed, so whoever uses them adds them and lists again at each
new connection. Beside one, no other watch on the same path works
(ZOOKEEPER-4466).
"""

import functools
import struct
import typing

from kazoo.protocol import serialization

CREATED, DELETED = 1, 2
_RECURSIVE = 1


class _AddWatch(typing.NamedTuple):
    """A request as kazoo sends it, and its answer as kazoo reads it."""

    path: str

    type = 106

    def serialize(self):
        path = self.path.encode()
        return struct.pack('>i', len(path)) + path + struct.pack(
            '>i', _RECURSIVE)

    @classmethod
    def deserialize(cls, data, offset):
        return struct.unpack_from('>i', data, offset)[0]


class Watches:
    """The persistent recursive watches of a client.

    :param client: a KazooClient that wasn't started yet
    """

    def __init__(self, client):
        self._client = client
        self._callbacks = {}    # path of a directory -> callable
        connection = getattr(client, '_connection', None)
        #: whether this kazoo is made as those that this was written for are
        self.supported = (
            hasattr(client, '_call')
            and hasattr(connection, '_read_watch_event')
            and hasattr(serialization, 'Watch'))
        if self.supported:
            connection._read_watch_event = functools.partial(
                self._event_read, connection._read_watch_event)

    def add_async(self, path, callback):
        """Watch a directory from now on; it need not be there.

        :param callback: called with the type of each event and its path, in
            the thread of kazoo's that reads, before the answer to any request
            that was asked for later; must not block
        :returns: the answer, as kazoo's asynchronous requests return it. A
            server before 3.6 answers with an error
        """
        self._callbacks[path] = callback
        answer = self._client.handler.async_result()
        self._client._call(_AddWatch(path), answer)
        return answer

    def _event_read(self, read, data, offset):
        event = serialization.Watch.deserialize(data, offset)[0]
        for path in (event.path, event.path.rpartition('/')[0]):
            callback = self._callbacks.get(path)
            if callback is not None:
                callback(event.type, event.path)
        # There may be another watch, of the node itself.
        read(data, offset)
