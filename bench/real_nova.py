# SPDX-License-Identifier: Apache-2.0

"""Measures the cost of the drivers in Nova's scheduler, API and commands.

Nova's own code and processes, with service rows in a real MariaDB, a memcached
to which all members report, and a ZooKeeper server with a node for each host.
Three things are measured, with each of our drivers and both of Nova's, with
one nova.conf in which only ``servicegroup_driver`` differs:

* Nova's ComputeFilter, over the host states that Nova's HostManager makes;
* ``GET /v2.1/os-services``, with a nova-api for each driver;
* ``nova-manage service list``, a process each time. Nova has no such command
  since its release 13. For its drivers, ``list`` in nova_part.py does the same
  with Nova's own code.

Each round asks all drivers one after the other, and each ratio is of two times
in the same round, so that other work on the machine changes the times more
than the ratios. Takes about three minutes.

    python bench/real_nova.py [--rows 5000] [--seconds 80]
        [--output bench/results]

Writes nova.json and nova.rst (for the documentation). In nova.json, for each
thing and driver (``nova-db`` and ``nova-mc`` are in-tree), medians of all
rounds: ``ms`` until the answer is there, ``cpu_ms`` of the process that
answers; ``ratio`` and ``cpu_ratio``, to in-tree db of the same round. Also
``first_ms``, the first answer of a new process; ``states_ms``, the scheduler's
time to make the host states; ``not_up``, the highest number of services that
were not up in an answer, which should be 0.
"""

import argparse
import contextlib
import http.client
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import warnings

import question
import report

HERE = pathlib.Path(__file__).parent
IN_TREE = 'nova-db'
DRIVERS = IN_TREE, 'nova-mc', 'db', 'mc', 'zk'
#: seconds, as is Nova's default
REPORT_INTERVAL, SERVICE_DOWN_TIME = 10, 60
#: seconds; other work may keep the machine busy
PATIENCE = 600
#: over the host states of one request; the least counts
FILTER_RUNS = 10
TITLES = {'filter': 'ComputeFilter over %s hosts',
          'os_services': '``GET /v2.1/os-services``, %s services',
          'service_list': '``nova-manage service list``, %s services'}
COLUMNS = {'ms': 'ms', 'cpu_ms': 'CPU, ms', 'ratio': "ms, to Nova's db",
           'cpu_ratio': "CPU, to Nova's db"}
#: besides
MORE_COLUMNS = {
    'filter': {'first_ms': 'first answer, ms',
               'states_ms': 'before it, the host states, ms'},
    'os_services': {'first_ms': 'first answer, ms'},
    'service_list': {}}
COMPUTE_NODE = {
    'vcpus': 64, 'memory_mb': 262144, 'local_gb': 2000, 'vcpus_used': 0,
    'memory_mb_used': 512, 'local_gb_used': 0, 'free_ram_mb': 261632,
    'free_disk_gb': 2000, 'hypervisor_type': 'QEMU',
    'hypervisor_version': 8002000, 'cpu_info': '{}', 'stats': '{}',
    'host_ip': '192.0.2.1', 'supported_instances': '[]', 'mapped': 1,
    'running_vms': 0, 'current_workload': 0, 'deleted': 0}


# The rows of a cell

def add_rows(database, rows):
    """Insert a nova-compute and a compute node for each host."""
    from nova.objects import service

    from nova_servicegroup.tests.fixtures import sessions
    hosts = list(map(sessions.host, range(rows)))
    with database.connect('nova') as connection:
        connection.autocommit(False)
        cursor = connection.cursor()
        cursor.executemany(
            'INSERT INTO services (created_at, last_seen_up, updated_at, '
            'host, `binary`, topic, uuid, report_count, disabled, '
            'forced_down, version, deleted) VALUES (UTC_TIMESTAMP() - '
            'INTERVAL 1 DAY, UTC_TIMESTAMP(), UTC_TIMESTAMP(), %s, '
            "'nova-compute', 'compute', %s, 1, 0, 0, %s, 0)",
            [(host, str(uuid.uuid4()), service.SERVICE_VERSION)
             for host in hosts])
        cursor.executemany(
            'INSERT INTO compute_nodes (created_at, updated_at, host, '
            'hypervisor_hostname, uuid, %s) VALUES (UTC_TIMESTAMP(), '
            'UTC_TIMESTAMP(), %%s, %%s, %%s, %s)' % (
                ', '.join(COMPUTE_NODE),
                ', '.join(['%s'] * len(COMPUTE_NODE))),
            [(host, host, str(uuid.uuid4()), *COMPUTE_NODE.values())
             for host in hosts])
        connection.commit()


@contextlib.contextmanager
def heartbeats(database):
    """Write heartbeats of all rows, a part of them each second."""
    ended = threading.Event()

    def report_for_ever():
        turn = 0
        with database.connect('nova') as connection:
            while not ended.wait(1):
                connection.cursor().execute(
                    'UPDATE services SET report_count = report_count + 1, '
                    'last_seen_up = UTC_TIMESTAMP(), '
                    'updated_at = UTC_TIMESTAMP() '
                    "WHERE `binary` = 'nova-compute' AND id %% %s = %s",
                    (REPORT_INTERVAL, turn % REPORT_INTERVAL))
                turn += 1

    thread = threading.Thread(target=report_for_ever, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


# Who is asked. Each answers with the milliseconds that it took, those of CPU,
# and how many are up.

def tree_of(driver):
    from nova_servicegroup.tests.fixtures import nova
    return nova.IN_TREE if driver.startswith('nova-') else nova.PLUGIN


class OsServices:
    """The Nova API of a driver."""

    def __init__(self, cloud, driver):
        self._api = cloud.start_api(
            driver, tree=tree_of(driver),
            driver=driver.removeprefix('nova-'), wait=False)

    def start(self):
        self._api.wait_started()
        return self.ask()

    def ask(self):
        worker, = self._api.workers()
        connection = http.client.HTTPConnection(
            '127.0.0.1', self._api.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            cpu, began = report.cpu_seconds(worker), time.perf_counter()
            connection.request('GET', '/v2.1/os-services')
            body = connection.getresponse().read()
            return {'ms': (time.perf_counter() - began) * 1000,
                    'cpu_ms': (report.cpu_seconds(worker) - cpu) * 1000,
                    'up': body.count(b'"state": "up"')}

    def stop(self):
        """Nothing to do: the cloud stops it."""


class Program:
    """Runs a program of Nova with a driver."""

    mode = None

    def __init__(self, cloud, driver):
        from nova_servicegroup.tests.fixtures import nova
        self.tree = tree_of(driver)
        self.config = nova.write_config(
            cloud.directory / 'conf' / ('%s-%s.conf' % (
                type(self).__name__, driver)),
            cloud.nova_conf('controller', driver.removeprefix('nova-'), {
                'DEFAULT': {'log_file': cloud.directory / 'programs.log'},
                'filter_scheduler': {'enabled_filters': 'ComputeFilter',
                                     'track_instance_changes': 'false'}}))
        self.env = nova.environment(
            cloud.plugin_tree if self.tree == nova.PLUGIN else None,
            self.mode)


class ServiceList(Program):
    """``nova-manage service list``."""

    mode = 'eventlet'

    def ask(self):
        from nova_servicegroup.tests.fixtures import nova
        command = [nova.BIN / 'nova-manage', '--config-file', self.config,
                   'service', 'list']
        if self.tree == nova.IN_TREE:
            command = [sys.executable, HERE / 'nova_part.py', 'list',
                       self.config]
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env=self.env, stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL, text=True)
        with process.stdout:
            printed = process.stdout.read()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        return {'ms': (time.perf_counter() - began) * 1000,
                'cpu_ms': (usage.ru_utime + usage.ru_stime) * 1000,
                'up': printed.count(':-)')}

    # Each is a new process.
    start = ask

    def stop(self):
        """Nothing to do: each process has ended."""


class ComputeFilter(Program):
    """A process with the parts of nova-scheduler."""

    mode = 'threading'

    def __init__(self, cloud, driver):
        from nova_servicegroup.tests.fixtures import talker
        super().__init__(cloud, driver)
        self._process = talker.Talker(
            HERE / 'nova_part.py', 'scheduler', self.config, self.tree,
            timeout=PATIENCE, env=self.env)

    def start(self):
        return self._process.ask('filter', runs=1)

    def ask(self):
        return self._process.ask('filter', runs=FILTER_RUNS)

    def stop(self):
        self._process.kill()


ASKED = {'filter': ComputeFilter, 'os_services': OsServices,
         'service_list': ServiceList}


# All of them

def start(one, rows, what):
    """Return the first answer in which all are up."""
    deadline = time.monotonic() + PATIENCE
    # Nova leaves out a database that is slow.
    while (answer := one.start())['up'] != rows:
        if time.monotonic() > deadline:
            raise SystemExit('%s: %d of %d are up after %d s' % (
                what, answer['up'], rows, PATIENCE))
        time.sleep(1)
    report.say('%s: the first answer after %.1f ms' % (what, answer['ms']))
    return answer


def measure(asked, rows, seconds):
    """Ask all in turn for some seconds; return the rounds, one at least."""
    rounds = []
    end = time.monotonic() + seconds
    while not rounds or time.monotonic() < end:
        # The first one differs from round to round.
        order = DRIVERS[len(rounds) % len(DRIVERS):] + DRIVERS
        answers = {what: {} for what in ASKED}
        for what in ASKED:
            for driver in dict.fromkeys(order):
                answers[what][driver] = asked[what, driver].ask()
            report.say('Round %d, %-12s %s' % (
                len(rounds) + 1, what, '  '.join('%s %.1f ms' % (
                    driver, answers[what][driver]['ms'])
                    for driver in DRIVERS)))
        rounds.append(answers)
    return rounds


def figures(rounds, firsts, what, driver, rows):
    def median(value):
        return round(statistics.median(
            value(one[what][driver], one[what][IN_TREE])
            for one in rounds), 3)

    found = {name: median(lambda own, nova, name=name: own[name])
             for name in ('ms', 'cpu_ms', 'states_ms')
             if name in rounds[0][what][driver]}
    found['ratio'] = median(lambda own, nova: own['ms'] / nova['ms'])
    found['cpu_ratio'] = median(
        lambda own, nova: own['cpu_ms'] / nova['cpu_ms'])
    found['first_ms'] = round(firsts[what, driver]['ms'], 1)
    found['not_up'] = max(rows - one[what][driver]['up'] for one in rounds)
    return found


def run(directory, rows, seconds):
    """Return the figures of all, and how many rounds there were."""
    from nova_servicegroup.tests.fixtures import nova
    with contextlib.ExitStack() as stack:
        report.say('Making a database for Nova: a minute.')
        template = nova.make_database_template(directory / 'template')
        tree = nova.make_plugin_tree(directory / 'tree')
        report.say('Starting the stores, with %d members.' % rows)
        zookeeper, memcached = stack.enter_context(question.stores(rows))
        cloud = stack.enter_context(nova.Cloud(
            directory / 'cloud', template, tree, controllers=(),
            report_interval=REPORT_INTERVAL,
            service_down_time=SERVICE_DOWN_TIME, config={
                'zookeeper': {'address': zookeeper},
                'cache': {'enabled': True,
                          'backend': 'oslo_cache.memcache_pool',
                          'memcache_servers': memcached}}))
        add_rows(cloud.database, rows)
        stack.enter_context(heartbeats(cloud.database))
        report.say('Starting a Nova API and a scheduler for each driver.')
        asked = {}
        for what, kind in ASKED.items():
            for driver in DRIVERS:
                one = asked[what, driver] = kind(cloud, driver)
                stack.callback(one.stop)
        firsts = {}
        for (what, driver), one in asked.items():
            firsts[what, driver] = start(
                one, rows, '%s, %s' % (what, driver))
        rounds = measure(asked, rows, seconds)
    return {what: {driver: figures(rounds, firsts, what, driver, rows)
                   for driver in DRIVERS} for what in ASKED}, len(rounds)


def tables(result):
    """Return the part for the documentation."""
    rows = '{:,}'.format(result['about']['rows'])
    found = []
    for what in ASKED:
        columns = {**COLUMNS, **MORE_COLUMNS[what]}
        found.append(report.table(
            TITLES[what] % rows, ['driver', *columns.values()],
            [[report.LABELS[driver], *(
                number(values[name]) for name in columns)]
             for driver, values in result[what].items()]))
    about = result['about']
    return report.measured(about) + (
        'Rounds: %d. Load average of the machine before: %s.\n\n' % (
            about['rounds'], about['load_average_before'])
        ) + '\n'.join(found)


def number(value):
    return ('%.0f' if value >= 100 else '%.1f' if value >= 10
            else '%.2f') % value


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--rows', type=int, default=5000)
    parser.add_argument('--seconds', type=float, default=80,
                        help='a round that began before is finished')
    parser.add_argument('--output', type=pathlib.Path,
                        default=HERE / 'results')
    arguments = parser.parse_args()
    # Nova's libraries have theirs about eventlet.
    warnings.simplefilter('ignore')
    about = report.about(rows=arguments.rows)
    with tempfile.TemporaryDirectory(prefix='sg-bench-') as directory:
        found, about['rounds'] = run(
            pathlib.Path(directory), arguments.rows, arguments.seconds)
    result = {'about': about, **found}
    path = report.write(arguments.output, 'nova', result)
    path.with_suffix('.rst').write_text(tables(result))
    report.say('Written to %s' % path.with_suffix('.rst'))


if __name__ == '__main__':
    main()
