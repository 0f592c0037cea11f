# SPDX-License-Identifier: Apache-2.0

"""Persistent recursive watches, which kazoo does not offer.

One such watch reports each node that is created or deleted in a directory
with an event of some 90 bytes, however many nodes there are. ZooKeeper has
them since 3.6 (AddWatch, operation 106). A watch ends with its connection and
does not repeat events, so each new connection needs a new watch and a listing.
No other watch on the same path works beside it (ZOOKEEPER-4466).
"""

import functools
import struct
import typing

from kazoo.protocol import serialization

CREATED, DELETED = 1, 2
_RECURSIVE = 1


class _AddWatch(typing.NamedTuple):
    """The request, with the interface of kazoo's own."""

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

    :param client: a KazooClient that has not been started
    """

    def __init__(self, client):
        self._client = client
        self._callbacks = {}    # path of a directory -> callable
        connection = getattr(client, '_connection', None)
        #: whether this version of kazoo has the internals that are used here
        self.supported = (
            hasattr(client, '_call')
            and hasattr(connection, '_read_watch_event')
            and hasattr(serialization, 'Watch'))
        if self.supported:
            connection._read_watch_event = functools.partial(
                self._event_read, connection._read_watch_event)

    def add_async(self, path, callback):
        """Watch a directory, which need not exist.

        :param callback: called with the type and the path of each event, in
            kazoo's reading thread, before the result of any later request is
            set; must not block
        :returns: an AsyncResult; a server before 3.6 returns an error
        """
        self._callbacks[path] = callback
        result = self._client.handler.async_result()
        self._client._call(_AddWatch(path), result)
        return result

    def _event_read(self, read, data, offset):
        event = serialization.Watch.deserialize(data, offset)[0]
        for path in (event.path, event.path.rpartition('/')[0]):
            callback = self._callbacks.get(path)
            if callback is not None:
                callback(event.type, event.path)
        # kazoo handles its own watches.
        read(data, offset)
