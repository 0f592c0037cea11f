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

"""Ten thousand members in one process: the light generator of bench/zk.py.

    zk_fleet.py PORT PATH

Reads commands, one JSON object a line, from standard input and answers each
with one: they are Fleet's methods. A member is an ephemeral node of a session
that pings, loses its connection, comes back and expires like any other; there
is no keeper behind it and no watch on it.
"""

import asyncio
import json
import random
import sys
import time

import zk_wire as wire

TIMEOUT_MS = 4000
#: as a keeper pings
PING_PERIOD = TIMEOUT_MS / 1000 / 3
#: connections being made at once: as many as one process can make in time,
#: for it must not be its own slowness that costs sessions
IN_FLIGHT = 500
#: seconds between attempts to come back, of each on its own; as keepers do
RECONNECT = 0.5, 1.5
ABOUT = json.dumps({
    'host': 'compute-00000.example.org', 'binary': 'nova-compute',
    'pid': 123456, 'boot_id': '5a0f4e1c-9b7d-4386-91c3-d07be54f6a28',
    'joined_at': '2026-01-01T00:00:00.000000+00:00',
    'version': '1.0.0'}).encode()


def host(member):
    return 'compute-%05d.example.org' % member


class Session(asyncio.Protocol):
    """One session with the server and its nodes.

    :param members: numbers of the members that it stands for
    """

    def __init__(self, fleet, members):
        self.fleet = fleet
        self.members = members
        self.nodes = {}         # member -> path
        self.made = set()       # members whose node is there
        self.session, self.password = 0, wire.NO_PASSWORD
        self.wanted = False
        self.transport = None
        self._coming = False
        self._buffer = bytearray()
        self._attached = None   # future: the session is there
        self._waiting = {}      # xid -> future
        self._xid = 0

    # asyncio.Protocol

    def connection_made(self, transport):
        self.transport = transport
        self._buffer.clear()
        transport.write(wire.connect(TIMEOUT_MS, self.session, self.password))

    def data_received(self, data):
        self._buffer += data
        for body in wire.frames(self._buffer):
            if not self._attached.done():
                self._attached.set_result(wire.connected(body))
                continue
            xid, error, _ = wire.reply(body)
            waiting = self._waiting.pop(xid, None)
            if waiting is not None and not waiting.done():
                waiting.set_result(error)

    def connection_lost(self, exc):
        self.transport = None
        lost = ConnectionError('lost')
        for future in [self._attached, *self._waiting.values()]:
            if not future.done():
                future.set_exception(lost)
                future.exception()
        self._waiting.clear()
        if self.wanted:
            self.fleet.spawn(self.come_back())

    # What the fleet does with it.

    async def join(self):
        """Connect and make the nodes that are missing; tries until done."""
        if self.wanted and self.transport is not None:
            await self._make_nodes()
        else:
            self.wanted = True
            await self.come_back(at_once=True)

    async def come_back(self, at_once=False):
        if self._coming:
            return
        self._coming = True
        try:
            if at_once:
                await self._attempt()
            while self.wanted and self.transport is None:
                await asyncio.sleep(random.uniform(*RECONNECT))
                await self._attempt()
        finally:
            self._coming = False

    async def _attempt(self):
        try:
            async with self.fleet.in_flight:
                await asyncio.wait_for(self._come(), TIMEOUT_MS / 1000)
        except (OSError, asyncio.TimeoutError):
            while self.transport is not None:
                self.transport.abort()
                await asyncio.sleep(0.01)

    async def _come(self):
        loop = asyncio.get_running_loop()
        self._attached = loop.create_future()
        await loop.create_connection(lambda: self, '127.0.0.1',
                                     self.fleet.port)
        timeout, session, password = await self._attached
        if not timeout:
            self.fleet.expired += 1
            self.session, self.password = 0, wire.NO_PASSWORD
            self._forget_nodes()
            raise ConnectionError('expired')
        self.session, self.password = session, password
        await self._make_nodes()

    async def _make_nodes(self):
        for member in self.members:
            if member not in self.made:
                if member not in self.nodes:
                    self.nodes[member] = self.fleet.new_path(member)
                error = await self.ask(wire.create_ephemeral,
                                       self.nodes[member], ABOUT)
                # It exists if the answer was lost.
                if error not in (0, wire.NODE_EXISTS):
                    raise ConnectionError('create: %d' % error)
                self.made.add(member)

    def _forget_nodes(self):
        self.nodes.clear()
        self.made.clear()

    def ask(self, request, *args):
        if self.transport is None:
            raise ConnectionError('lost')
        self._xid += 1
        future = self._waiting[self._xid] = (
            asyncio.get_running_loop().create_future())
        self.transport.write(request(self._xid, *args))
        return future

    def ping(self):
        if self.transport is not None and self.session:
            self.transport.write(wire.ping())

    def end(self):
        """Close the session, as a keeper does whose process was killed."""
        self.wanted = False
        self._forget_nodes()
        self.session, self.password = 0, wire.NO_PASSWORD
        if self.transport is not None:
            self.transport.write(wire.close(0))


class Fleet:

    def __init__(self, port, path):
        self.port = port
        self.path = path
        self.expired = 0
        self.in_flight = asyncio.Semaphore(IN_FLIGHT)
        self._sessions = []
        self._per_session = 1
        self._tokens = 0
        self._tasks = set()

    def new_path(self, member):
        self._tokens += 1
        return '%s/%s@%016x' % (self.path, host(member), self._tokens)

    def spawn(self, coroutine):
        task = asyncio.ensure_future(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    # Commands.

    async def start(self, members, per_session):
        self._per_session = per_session
        self._sessions = [
            Session(self, range(first, min(members, first + per_session)))
            for first in range(0, members, per_session)]
        self.spawn(self._ping_for_ever())
        return await self.join()

    async def join(self):
        """Let all that are away be there; answers when they are."""
        await self._ended()
        began = time.monotonic()
        await asyncio.gather(*(s.join() for s in self._sessions))
        return {'seconds': time.monotonic() - began}

    async def die(self, member):
        """End one member; answers when the word is on its way."""
        session = self._sessions[member // self._per_session]
        at = time.monotonic()
        if self._per_session == 1:
            session.end()
        else:
            session.made.discard(member)
            session.ask(wire.delete, session.nodes.pop(member))
        return {'at': at, 'host': host(member)}

    async def restart(self):
        """Let all die and join anew, as fast as the server takes it."""
        began = time.monotonic()
        for session in self._sessions:
            session.end()
        await self._ended()
        died = time.monotonic()
        await self.join()
        return {'die_seconds': died - began,
                'join_seconds': time.monotonic() - died}

    async def state(self):
        """Tell who is there, by its own knowledge."""
        there = [session.nodes[member].rpartition('/')[2]
                 for session in self._sessions
                 if session.transport is not None
                 for member in session.made]
        return {'there': len(there), 'checksum': wire.checksum(there),
                'expired': self.expired}

    async def _ended(self):
        """Wait until the server has closed what was to be closed."""
        while any(s.transport is not None and not s.wanted
                  for s in self._sessions):
            await asyncio.sleep(0.01)

    async def _ping_for_ever(self):
        """Ping, a slice of the sessions at a time, and none of them late."""
        slices = 20
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for part in range(slices):
                for session in self._sessions[part::slices]:
                    session.ping()
                due += PING_PERIOD / slices
                await asyncio.sleep(due - loop.time())

    async def serve(self):
        loop = asyncio.get_running_loop()
        commands = asyncio.StreamReader()
        await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
        while line := await commands.readline():
            command = json.loads(line)
            answer = await getattr(self, command.pop('op'))(**command)
            sys.stdout.write(json.dumps(answer) + '\n')
            sys.stdout.flush()


async def main():
    await Fleet(int(sys.argv[1]), sys.argv[2]).serve()


if __name__ == '__main__':
    asyncio.run(main())
