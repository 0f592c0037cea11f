# SPDX-License-Identifier: Apache-2.0

"""One reader of the group, a process for bench/zk.py.

    zk_reader.py keeper|watch PORT PATH

``keeper`` is the package's own: MembershipMonitor with its keeper, which
reads the record of each member that it misses. ``watch`` is a bare socket with
a persistent recursive watch, which ZooKeeper has since 3.6 and kazoo doesn't
have: the minimal cost of such a reader. It reads no node, takes every name for
a member, and ends with its connection.

Prints a line of JSON when it has a session, and one for each command, a line
of JSON on standard input.
"""

import json
import logging
import select
import socket
import sys
import time

from nova_servicegroup import evzookeeper
from nova_servicegroup.evzookeeper import membership
from nova_servicegroup.tests.fixtures import zk_wire as wire

TIMEOUT_MS = 4000
LISTING = 2           # the xid of that request
CREATED, DELETED = 1, 2


class Diary:
    """What a reader has seen, and when.

    :param ask_for: ``ask_for()`` makes it list and watch the directory
    """

    def __init__(self, ask_for):
        self._ask_for = ask_for
        self._asked_at = None
        self._hosts = {}        # host -> how many nodes
        self._checksum = 0
        self._nodes = 0
        self._last = None
        self._views = []
        self._gone = {}

    def seen(self, joined, left):
        """Record the names of created and deleted nodes."""
        now = time.monotonic()
        for node in joined:
            host = node.partition('@')[0]
            self._hosts[host] = self._hosts.get(host, 0) + 1
        for node in left:
            host = node.partition('@')[0]
            self._hosts[host] -= 1
            if not self._hosts[host]:
                del self._hosts[host]
                self._gone[host] = now
        self._nodes += len(joined) - len(left)
        self._checksum ^= wire.checksum(joined) ^ wire.checksum(left)
        self._last = now
        self._views.append(now)

    def obey(self, line):
        """Execute a command; print the answer if there is one by now."""
        command = json.loads(line)
        if command['op'] == 'watch':
            self._asked_at = time.monotonic()
            self._ask_for()
            return
        answer = {'nodes': self._nodes, 'hosts': len(self._hosts),
                  'checksum': self._checksum, 'last': self._last}
        if command['op'] == 'gone':
            # Since the last time it was asked.
            answer.update(gone=self._gone, views=self._views)
            self._gone, self._views = {}, []
        say(answer)

    def listed(self):
        say({'ms': (self._last - self._asked_at) * 1000})


def say(answer):
    print(json.dumps(answer), flush=True)


def read_by_keeper(port, path):
    began = time.monotonic()
    session = evzookeeper.ZKSession('127.0.0.1:%d' % port, timeout=60,
                                    recv_timeout=TIMEOUT_MS)
    say({'ms': (time.monotonic() - began) * 1000, 'keeper':
         session.keeper_pid})

    class Monitor(membership.MembershipMonitor):

        def seen(self, joined, left, absences, founded):
            super().seen(joined, left, absences, founded)
            first = diary._last is None
            diary.seen(joined, left)
            if first:
                diary.listed()

    # As the driver watches the group of the computes.
    prefix, _, group = path.rpartition('/')
    diary = Diary(lambda: Monitor(
        session, path, records='%s/@last/%s' % (prefix, group)))
    for line in sys.stdin:
        diary.obey(line)
    session.close()


def read_by_watch(port, path):
    began = time.monotonic()
    sock = socket.create_connection(('127.0.0.1', port))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(wire.connect(TIMEOUT_MS))
    buffer = bytearray()
    members = None      # before the listing
    early = []
    pinged = None       # before the session

    def watch():
        sock.sendall(wire.add_watch(1, path)
                     + wire.get_children(LISTING, path))

    def take(events):
        # What is in the listing, too, counts once.
        joined, left = [], []
        for kind, name in events:
            if kind == DELETED and name in members:
                members.discard(name)
                left.append(name)
            elif kind == CREATED and name not in members:
                members.add(name)
                joined.append(name)
        if joined or left:
            diary.seen(joined, left)

    diary = Diary(watch)
    while True:
        ready = select.select([sock, sys.stdin], [], [], 0.5)[0]
        if pinged is not None and (
                time.monotonic() - pinged > TIMEOUT_MS / 3000):
            pinged = time.monotonic()
            sock.sendall(wire.ping())
        if sys.stdin in ready:
            line = sys.stdin.readline()
            if not line:
                return
            diary.obey(line)
        if sock not in ready:
            continue
        data = sock.recv(262144)
        if not data:
            return
        buffer += data
        events = []
        for body in wire.frames(buffer):
            if pinged is None:
                pinged = time.monotonic()
                say({'ms': (pinged - began) * 1000})
                continue
            xid, _, error, rest = wire.reply(body)
            if error:
                sys.exit('error %d' % error)
            if xid == LISTING:
                members = set(wire.children(rest))
                diary.seen(sorted(members), [])
                diary.listed()
                take(early)
            elif xid == wire.EVENT_XID:
                kind, where = wire.event(rest)
                events.append((kind, where.rpartition('/')[2]))
        if members is None:
            early += events
        elif events:
            take(events)


if __name__ == '__main__':
    logging.disable(logging.CRITICAL)
    {'keeper': read_by_keeper, 'watch': read_by_watch}[sys.argv[1]](
        int(sys.argv[2]), sys.argv[3])
