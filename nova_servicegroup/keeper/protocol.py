# SPDX-License-Identifier: Apache-2.0

"""The protocol between a Nova process and its keeper.

A frame has four bytes with the length of its body (big endian), and a JSON
object as its body. The object's ``op`` names the kind of message;
``FROM_PARENT`` and ``FROM_KEEPER`` list the fields of each kind. Anything else
raises ProtocolError and ends the keeper: a new one costs a tenth of a second.

Both ends import this module, so it uses only the standard library.
"""

import json
import struct

#: incremented when the messages change: a keeper of a newer package than its
#: parent's then ends with a clear error
VERSION = 4

_NAMES = [str]

#: bytes; a listing of 25,000 members with long host names has about 2 MB
MAX_FRAME = 16 * 1024 * 1024

_LENGTH = struct.Struct('>I')
_NUMBER = (int, float)
_OPTIONAL_STR = (str, type(None))

# The type of each field; [type] is a list of that type.
FROM_PARENT = {
    # The first frame: the whole configuration, including secrets.
    # Times are in seconds. ident is [session id, password in hex] or null.
    # security: what keeper.security.Security takes.
    'config': {'version': int, 'parent': int, 'hosts': str,
               'session_timeout': _NUMBER, 'ident': (list, type(None)),
               'security': dict, 'retry_interval': _NUMBER,
               # A node that is written to learn ZooKeeper's time.
               'clock': _OPTIONAL_STR},
    # Join. node: its name if an earlier keeper created one. silent: the time
    # since the last pulse. records: the directory of the records, if any.
    'join': {'id': int, 'path': str, 'records': _OPTIONAL_STR, 'host': str,
             'data': dict, 'pulse_timeout': (int, float, type(None)),
             'silent': _NUMBER, 'node': _OPTIONAL_STR},
    # The parent is not hung. The answer's error is that of the membership.
    'pulse': {'id': int, 'seq': int},
    # how: 'stopped' or 'left', for the record.
    'leave': {'id': int, 'seq': int, 'how': str},
    # List and watch a directory and, if there are any, its members' records.
    # bound: seconds after which nothing prolongs a host's time to rejoin.
    # known: nodes in the parent's view.
    'watch': {'path': str, 'records': _OPTIONAL_STR, 'bound': _NUMBER,
              'known': _NAMES},
    'details': {'seq': int, 'path': str, 'host': str},
    # A probe; the answer is a pong.
    'ping': {},
    'close': {},
}

FROM_KEEPER = {
    # The first frame; until it comes the parent says nothing.
    'hello': {'version': int},
    'pong': {},
    # The keeper ends; the reason is for the operator.
    'failed': {'reason': str},
    # state: connecting, connected, suspended, expired or refused.
    'state': {'state': str, 'ident': (list, type(None)), 'reason': str},
    # The node of a membership, null while there is none.
    'member': {'id': int, 'node': _OPTIONAL_STR, 'reason': str},
    # The nodes that joined and left since the last view (since known, in the
    # first); without any, the view is confirmed. absences: see
    # keeper.absences.Absences.changes. founded: creation of the records'
    # directory, seconds since 1970 in ZooKeeper's time; null if there is none.
    'view': {'path': str, 'joined': _NAMES, 'left': _NAMES, 'absences': dict,
             'founded': (int, float, type(None))},
    # Seconds from monotonic time to ZooKeeper's time, which is since 1970.
    'clock': {'ahead': _NUMBER},
    # A watched directory that can't be listed, and why.
    'unreadable': {'path': str, 'reason': str},
    'answer': {'seq': int, 'error': _OPTIONAL_STR, 'result': [list]},
    'log': {'level': int, 'text': str},
}


class ProtocolError(Exception):
    """The other end sent an invalid message."""


def encode(op, **fields):
    """Return the frame of a message, as bytes."""
    body = json.dumps(dict(fields, op=op), separators=(',', ':')).encode()
    if len(body) > MAX_FRAME:
        raise ProtocolError('a %s of %d bytes is too long' % (op, len(body)))
    return _LENGTH.pack(len(body)) + body


def _refuse(constant):
    raise ValueError('%s is no JSON' % constant)


def _is(value, kind):
    if isinstance(kind, list):
        return isinstance(value, list) and all(
            isinstance(item, kind[0]) for item in value)
    return isinstance(value, kind)


class Decoder:
    """Splits a stream of bytes into checked messages.

    :param ops: FROM_PARENT or FROM_KEEPER, the messages to accept
    """

    def __init__(self, ops, max_frame=MAX_FRAME):
        self._ops = ops
        self._max_frame = max_frame
        self._buffer = bytearray()

    def feed(self, data):
        """Add bytes; return the messages that are complete, a list of dicts.

        :raises ProtocolError: the stream is invalid and can't be used further
        """
        self._buffer += data
        messages = []
        while len(self._buffer) >= _LENGTH.size:
            length, = _LENGTH.unpack_from(self._buffer)
            if length > self._max_frame:
                raise ProtocolError('a frame of %d bytes' % length)
            end = _LENGTH.size + length
            if len(self._buffer) < end:
                break
            messages.append(self._message(self._buffer[_LENGTH.size:end]))
            del self._buffer[:end]
        return messages

    def _message(self, body):
        try:
            message = json.loads(body, parse_constant=_refuse)
        except (ValueError, RecursionError) as e:
            raise ProtocolError('a frame that is no JSON') from e
        fields = (self._ops.get(message.get('op'))
                  if isinstance(message, dict)
                  and isinstance(message.get('op'), str) else None)
        if fields is None:
            raise ProtocolError('a frame of no known kind')
        if len(message) != len(fields) + 1:
            raise ProtocolError('too few or too many fields in a frame of '
                                'the kind %r' % message['op'])
        for name, kind in fields.items():
            if name not in message or not _is(message[name], kind):
                raise ProtocolError('a bad or missing %r in a frame of the '
                                    'kind %r' % (name, message['op']))
        return message
