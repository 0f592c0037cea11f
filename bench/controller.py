# SPDX-License-Identifier: Apache-2.0

"""What the processes of one controller cost, and how soon they know.

One real ZooKeeper server, ten thousand light members (sessions.py of the
fixtures), and the processes of a controller: three services whose workers are
forked from one process, as those of Nova are: 16 of nova-api, which only ask,
16 of nova-conductor and 8 of nova-scheduler, which are members, too. Once with
a keeper for each service, and once with one for each worker. Takes about two
minutes.

    python bench/controller.py [--members 10000] [--workers 16 16 8]
        [--kills 10] [--output bench/results]

Writes controller.json and controller.rst (for the documentation). In
controller.json, for ``shared`` and ``own`` keepers:

``keepers``, ``sessions``
    How many the controller has.
``memory_mb``
    Of all keepers, their proportional share of what they share.
``first_answer_s``
    From the fork of a worker to its first answer, all starting at once.
``killed_to_known_ms``
    From the death of a member to the refusal to build there, in each worker;
    those look a hundred times a second.
``keepers_cpu_ms_per_kill``
    Of all keepers, for a death and the return.
``keepers_killed_to_whole_s``
    All keepers of nova-conductor are killed; until each of its workers has a
    view and a node again.
"""

import argparse
import json
import logging
import math
import os
import pathlib
import re
import select
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import types

from oslo_config import cfg
import report

from nova_servicegroup import conf as sg_conf
from nova_servicegroup.drivers import zk
from nova_servicegroup.evzookeeper import sharing
from nova_servicegroup import liveness
from nova_servicegroup.tests.fixtures import answers
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import sessions
from nova_servicegroup.tests.fixtures import zookeeper

HERE = pathlib.Path(__file__).parent
GROUP = '/servicegroups/compute'
#: service -> whether its workers are members
SERVICES = {'api': False, 'conductor': True, 'scheduler': True}
INTERVAL = 10   # seconds, of the heartbeats
LIMIT = 120     # seconds that a worker may say nothing
MOST = 30       # seconds after which something counts as not seen
PER_SESSION = 100
LOOK = 0.01     # seconds between looks of a worker
SHARED, OWN = 'shared', 'own'


class Worker:
    """One worker: a driver, a view and maybe a membership.

    :param commands: a socket; each line is a command of JSON
    """

    def __init__(self, name, number, address, commands, began):
        self._label = '%s-%d' % (name, number)
        self._name = name
        self._commands = commands
        self._began = began
        self._driver = driver(address)
        self._beat = None

    def run(self):
        if SERVICES[self._name]:
            service = types.SimpleNamespace(
                binary='nova-' + self._name, report_interval=INTERVAL,
                tg=types.SimpleNamespace(add_timer_args=self._add_timer))
            self._driver.join('controller', self._name, service)
            threading.Thread(target=self._beat_for_ever, daemon=True).start()
        self._wait(lambda: self._answer(0))
        self._say(first=time.monotonic() - self._began)
        lines = self._commands.makefile()
        while line := lines.readline():
            getattr(self, '_on_' + (command := json.loads(line)).pop('op'))(
                **command)

    def _add_timer(self, interval, function, **kwargs):
        self._beat = function
        return types.SimpleNamespace(stop=lambda: None)

    def _beat_for_ever(self):
        while True:
            time.sleep(INTERVAL)
            self._beat()

    def _on_down(self, member):
        """Say when this member is refused, and wait until it is back."""
        self._say(ready=True)
        self._say(down=self._wait(lambda: not self._answer(member)))
        self._say(up=self._wait(lambda: self._answer(member)))

    def _on_whole(self, keepers):
        """Say when there is another keeper, a view and a node again."""
        self._say(ready=True)
        session, view = self._driver._session, self._driver._view('compute')
        self._say(whole=self._wait(
            lambda: session.keeper_pid not in (None, *keepers)
            and view.fresh and self._is_member()))

    def _on_keeper(self):
        self._say(keeper=self._driver._session.keeper_pid)

    def _is_member(self):
        nodes = self._driver.shared('znodes', dict).values()
        return bool(nodes) and all(node.refresh() for node in nodes)

    def _answer(self, member):
        return self._driver.answer(answers.record(sessions.host(member)),
                                   liveness.Question.MAY_PLACE)

    def _wait(self, condition):
        """Return when it is true; None if it isn't within MOST."""
        deadline = time.monotonic() + MOST
        while not condition():
            if time.monotonic() > deadline:
                return None
            time.sleep(LOOK)
        return time.monotonic()

    def _say(self, **what):
        os.write(1, json.dumps(dict(what, worker=self._label)).encode()
                 + b'\n')


def driver(address):
    conf = cfg.ConfigOpts()
    conf([], project='nova', default_config_files=[])
    conf.register_opts([cfg.IntOpt('report_interval', default=INTERVAL),
                        cfg.IntOpt('service_down_time', default=60)])
    sg_conf.register_opts(conf)
    conf.set_override('address', address, group='zookeeper')
    return zk.ZooKeeperDriver(conf=conf)


def serve(name, count, address, kind):
    """Be the parent of a service's workers."""
    if kind == OWN:
        sharing.name = lambda config: None
    logging.basicConfig(level=logging.ERROR, stream=sys.stderr)
    driver(address)     # Nova's drivers are made before it forks.
    workers = []
    for number in range(count):
        ours, theirs = socket.socketpair()
        began = time.monotonic()
        if os.fork() == 0:
            ours.close()
            for other in workers:
                other.close()
            Worker(name, number, address, theirs, began).run()
            os._exit(0)
        theirs.close()
        workers.append(ours)
    for line in sys.stdin:
        for worker in workers:
            worker.sendall(line.encode())
    for worker in workers:
        worker.close()
    for _ in workers:
        os.wait()


class Service:
    """A service with its workers."""

    def __init__(self, name, count, address, kind):
        self.name = name
        self.count = count
        self._popen = subprocess.Popen(
            [sys.executable, __file__, '--serve', name, str(count), address,
             kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0,
            start_new_session=True)
        self._buffer = b''

    def tell(self, op, **fields):
        self._popen.stdin.write(
            json.dumps(dict(fields, op=op)).encode() + b'\n')

    def hear(self, what):
        """Return what each worker says of one thing.

        :raises SystemExit: one doesn't in time
        """
        answers = {}
        deadline = time.monotonic() + LIMIT
        while len(answers) < self.count:
            if not select.select([self._popen.stdout], [], [],
                                 max(0, deadline - time.monotonic()))[0]:
                raise SystemExit('%s: %d of %d workers say nothing of %s' % (
                    self.name, self.count - len(answers), self.count, what))
            line = self._popen.stdout.readline()
            if not line:
                raise SystemExit('%s ended' % self.name)
            message = json.loads(line)
            if what in message:
                answers[message['worker']] = message[what]
        return list(answers.values())

    def end(self):
        self._popen.stdin.close()
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(self._popen.pid, signal.SIGKILL)
            self._popen.wait()
        self._popen.stdout.close()


def keepers(port):
    """Return the ids of the keepers that are connected to a server."""
    listed = subprocess.run(
        ['ss', '-tnpHO', 'state', 'established', 'dport', '=', str(port)],
        check=True, capture_output=True, text=True).stdout
    pids = set(map(int, re.findall(r'pid=(\d+),', listed)))
    return [pid for pid in pids if b'nova_servicegroup.keeper' in
            pathlib.Path('/proc/%d/cmdline' % pid).read_bytes()]


def share_mb(pids):
    """Return the memory of processes, what they share counted once."""
    return sum(int(re.search(
        r'^Pss:\s+(\d+)', pathlib.Path(
            '/proc/%d/smaps_rollup' % pid).read_text(), re.MULTILINE)[1])
        for pid in pids) / 1024


def measure(server, fleet, kind, arguments):
    before = len(fleet_sessions(server))
    services = []
    try:
        began = time.monotonic()
        for name, count in zip(SERVICES, arguments.workers):
            services.append(Service(name, count, server.address, kind))
        first = [s for service in services for s in service.hear('first')]
        all_first = time.monotonic() - began
        report.say('All %d workers have an answer' % len(first))
        time.sleep(5)
        pids = keepers(server.port)
        result = {
            'workers': sum(arguments.workers), 'keepers': len(pids),
            'sessions': len(fleet_sessions(server)) - before,
            'memory_mb': round(share_mb(pids), 1),
            'first_answer_s': figures(first, 2),
            'all_first_answers_s': round(all_first, 2)}
        report.say(str(result))
        cpu_before = sum(map(process.cpu_seconds, pids))
        times = []
        for number in range(arguments.kills):
            times += kill(services, fleet, 1 + number * 7919
                          % (arguments.members - 1))
        result['killed_to_known_ms'] = figures(times, 0)
        result['keepers_cpu_ms_per_kill'] = round(
            (sum(map(process.cpu_seconds, pids)) - cpu_before)
            / max(1, arguments.kills) * 1000, 1)
        report.say(str(result['killed_to_known_ms']))
        conductor = services[1]
        conductor.tell('keeper')
        killed = sorted(set(conductor.hear('keeper')))
        conductor.tell('whole', keepers=killed)
        conductor.hear('ready')
        at = time.monotonic()
        for pid in killed:
            os.kill(pid, signal.SIGKILL)
        whole = [moment - at for moment in seen(conductor.hear('whole'))]
        result['keepers_killed'] = len(killed)
        result['keepers_killed_to_whole_s'] = figures(whole, 2)
        report.say(str(result['keepers_killed_to_whole_s']))
    finally:
        for service in services:
            service.end()
    return result


def kill(services, fleet, member):
    """Return after how many ms each worker refused a member that died."""
    for service in services:
        service.tell('down', member=member)
    for service in services:
        service.hear('ready')
    time.sleep(0.2)
    at = fleet.ask('die', member=member)['at']
    known = seen(moment for service in services
                 for moment in service.hear('down'))
    fleet.ask('join')
    for service in services:
        service.hear('up')
    return [(moment - at) * 1000 for moment in known]


def seen(moments):
    """Return those that were, and tell of the others."""
    moments = list(moments)
    found = [moment for moment in moments if moment is not None]
    if len(found) < len(moments):
        report.say('A hiccup: %d of %d workers saw nothing within %d s' % (
            len(moments) - len(found), len(moments), MOST))
    return found


def fleet_sessions(server):
    return [line for line in server.ask('cons').splitlines()
            if 'sid=' in line]


def figures(times, digits):
    times = times or [math.nan]
    return {'median': round(statistics.median(times), digits),
            'max': round(max(times), digits)}


def both(name, form):
    """Return what shows median and maximum of a figure."""
    return lambda result: ' / '.join(
        form % result[name][one] for one in ('median', 'max'))


ROWS = [
    ('keepers', lambda r: r['keepers']),
    ('sessions', lambda r: r['sessions']),
    ('memory of all keepers, MB', lambda r: '%.0f' % r['memory_mb']),
    ('start of a worker to its first answer, s: median / last',
     both('first_answer_s', '%.1f')),
    ('a member killed, to known in a worker, ms: median / last',
     both('killed_to_known_ms', '%.0f')),
    ('CPU of all keepers for a death and the return, ms',
     lambda r: '%.0f' % r['keepers_cpu_ms_per_kill']),
    ('all keepers of nova-conductor killed, to all nodes and views back, s: '
     'median / last', both('keepers_killed_to_whole_s', '%.2f'))]


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--members', type=int, default=10000)
    parser.add_argument('--workers', type=int, nargs=3, default=[16, 16, 8],
                        help='of nova-api, nova-conductor, nova-scheduler')
    parser.add_argument('--kills', type=int, default=10)
    parser.add_argument('--output', type=pathlib.Path,
                        default=HERE / 'results')
    arguments = parser.parse_args()

    about = report.about(asked=[arguments.members, *arguments.workers])
    with tempfile.TemporaryDirectory() as directory:
        server = zookeeper.Server(directory)
        try:
            server.start()
            server.wait_ready(lambda: server.mode, 60)
            with sessions.Fleet(server.address, GROUP) as fleet:
                fleet.ask('start', members=arguments.members,
                          per_session=PER_SESSION)
                report.say('The fleet has joined')
                result = {kind: measure(server, fleet, kind, arguments)
                          for kind in (SHARED, OWN)}
        finally:
            server.stop()
    path = report.write(arguments.output, 'controller',
                        {'about': about, **result})
    path.with_suffix('.rst').write_text(
        report.measured(about) + report.table(
            'A controller with %d workers and %d members' % (
                sum(arguments.workers), arguments.members),
            ['', 'a keeper for each service', 'a keeper for each worker'],
            [[what, *(text(result[kind]) for kind in (SHARED, OWN))]
             for what, text in ROWS]))
    report.say('Written to %s' % path.with_suffix('.rst'))


if __name__ == '__main__':
    if sys.argv[1:2] == ['--serve']:
        serve(sys.argv[2], int(sys.argv[3]), *sys.argv[4:])
    else:
        main()
