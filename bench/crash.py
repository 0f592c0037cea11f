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

"""How long is a dead nova-compute taken for alive?

Real nova-computes are killed, stopped, and cut off from the network, and the
time is taken until a reader in another process says so: for the zk driver on a
three-server ensemble, and for Nova's in-tree db driver at its defaults, in one
run. With zk for both of Nova's questions: until it is no place for new
instances (zk), and until its host is down (zk-host), which for a process that
was killed is restart_grace later. Needs root, for the network namespace. Takes
about 10 minutes.

    python bench/crash.py [--kills 100] [--output bench/results]

Writes crash.json, crash.md (the table) and crash.svg (the picture).
"""

import argparse
import contextlib
import datetime
import json
import logging
import math
import os
import pathlib
import platform
import tempfile
import threading
import time

from oslo_config import cfg

from nova_servicegroup import conf as sg_conf
from nova_servicegroup.drivers import zk
from nova_servicegroup.liveness import Question
from nova_servicegroup.tests.fixtures import answers
from nova_servicegroup.tests.fixtures import fleet
from nova_servicegroup.tests.fixtures import network
from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import zookeeper

BATCH = 5
ZK, HOST, DB = 'zk', 'zk-host', 'nova-db'
DRIVERS = ZK, HOST, DB
#: members that live, so that five lost at once aren't half of all
OTHERS = 20
EVENTS = ('sigkill', 'sigstop', 'partition')


class Bench:

    def __init__(self, cloud, namespace, ports, driver):
        self.cloud = cloud
        self.namespace = namespace
        self.ports = ports
        self.driver = driver
        self.times = {(d, e): [] for d in DRIVERS for e in EVENTS}

    def is_up(self, which, host):
        if which == ZK:
            return self.driver.answer(answers.record(host),
                                      Question.MAY_PLACE) is True
        if which == HOST:
            return self.driver.is_up(answers.record(host))
        return self.cloud.state(host) == 'up'

    def wait(self, which, host, up, timeout):
        process.wait_until(
            lambda: self.is_up(which, host) is up, timeout, '%s of %s %s' % (
                host, which, 'up' if up else 'down'),
            interval=0.2 if which == DB else 0.0005)

    def start(self, which, hosts):
        """Start the computes of hosts; wait until all are up."""
        services = []
        for host in hosts:
            service = self.cloud.services.get(('nova-compute', host))
            if service is not None:
                service.stop()
                self.cloud.restart(service, wait=False)
            else:
                how = ({'driver': 'zk'} if which == ZK else
                       {'driver': 'db', 'tree': nova.IN_TREE})
                if host.startswith('cut-'):
                    how['prefix'] = self.namespace.prefix
                service = self.cloud.start_compute(host, wait=False, **how)
            services.append(service)
        for service in services:
            service.wait_started()
            self.wait(which, service.host, True, 60)
        # Let the start's work end, so that it isn't what is measured.
        time.sleep(2)
        return services

    def note(self, which, event, began):
        seconds = time.monotonic() - began
        self.times[which, event].append(seconds * 1000)
        print('%s %s: %.1f ms' % (which, event, seconds * 1000), flush=True)

    def kill_one_by_one(self, count):
        hosts = ['zk-kill-%d' % number for number in range(BATCH)]
        while count > 0:
            for service in self.start(ZK, hosts)[:count]:
                began = time.monotonic()
                service.signal(9)
                self.wait(ZK, service.host, False, 30)
                self.note(ZK, 'sigkill', began)
                service.kill()
                # RabbitMQ and the conductor have their part in the death, too.
                time.sleep(0.5)
            count -= BATCH
        # A minute each: of the last batch only.
        services = self.start(ZK, hosts)
        for thread in self.hurt_together(
                HOST, 'sigkill', services, lambda services: [
                    service.signal(9) for service in services]):
            thread.join()
        for service in services:
            service.kill()

    def cut(self):
        """Drop all packets between the servers and the hosts cut-..."""
        self.namespace.lose(self.ports)

    def hurt_together(self, which, event, services, hurt):
        """Hurt hosts at once; time each of them in threads of its own."""
        began = time.monotonic()
        hurt(services)

        def watch(which, host):
            self.wait(which, host, False, 200)
            self.note(which, event, began)
        threads = [threading.Thread(target=watch, args=(one, service.host))
                   for service in services
                   for one in ((ZK, HOST) if which == ZK else (which,))]
        for thread in threads:
            thread.start()
        return threads

    def run(self, kills):
        self.kill_one_by_one(kills)
        for _ in range(max(1, kills // 25)):
            services = self.start(ZK, ['cut-zk-%d' % number
                                       for number in range(BATCH)])
            for thread in self.hurt_together(
                    ZK, 'partition', services,
                    lambda services: self.cut()):
                thread.join()
            self.namespace.heal()
            for service in services:
                self.wait(ZK, service.host, True, 30)
        for service in services:
            service.kill()
        # What takes a minute each is done at once.
        groups = [(DB, 'sigkill', 'db-kill-%d'),
                  (DB, 'sigstop', 'db-stop-%d'),
                  (DB, 'partition', 'cut-db-%d'),
                  (ZK, 'sigstop', 'zk-stop-%d')]
        hurts = {'sigkill': lambda services: [s.signal(9) for s in services],
                 'sigstop': lambda services: [s.freeze() for s in services],
                 'partition': lambda services: self.cut()}
        started = [(which, event, self.start(
            which, [name % number for number in range(BATCH)]))
            for which, event, name in groups]
        time.sleep(12)
        threads = [thread for which, event, services in started
                   for thread in self.hurt_together(which, event, services,
                                                    hurts[event])]
        for thread in threads:
            thread.join()


def percentile(times, part):
    times = sorted(times)
    return times[min(len(times) - 1, math.ceil(part * len(times)) - 1)]


def summary(times):
    return {driver: {event: {
        'n': len(times[driver, event]),
        'p50_ms': round(percentile(times[driver, event], 0.5), 1),
        'p99_ms': round(percentile(times[driver, event], 0.99), 1),
        'max_ms': round(max(times[driver, event]), 1)}
        for event in EVENTS} for driver in DRIVERS}


def table(result):
    lines = ['| driver | event | n | median ms | 99 % ms | max ms |',
             '|---|---|---:|---:|---:|---:|']
    for driver in DRIVERS:
        for event in EVENTS:
            row = result[driver][event]
            lines.append('| %s | %s | %d | %.1f | %.1f | %.1f |' % (
                driver, event, row['n'], row['p50_ms'], row['p99_ms'],
                row['max_ms']))
    return '\n'.join(lines) + '\n'


def picture(times):
    """Return an SVG: a row for each driver and event, a dot for each time."""
    left, right, top, row = 150, 40, 40, 34
    width, rows = 860, [(d, e) for d in DRIVERS for e in EVENTS]
    low, high = 0, 5  # powers of ten, in ms

    def x(ms):
        return left + (math.log10(max(ms, 1)) - low) / (high - low) * (
            width - left - right)

    height = top + row * len(rows) + 50
    parts = ['<svg xmlns="http://www.w3.org/2000/svg" width="%d" height="%d" '
             'font-family="sans-serif" font-size="13">' % (width, height),
             '<rect width="100%" height="100%" fill="white"/>',
             '<text x="%d" y="22" font-size="15">How long a dead nova-compute '
             'is taken for alive</text>' % left]
    for power in range(low, high + 1):
        parts.append(
            '<line x1="%.1f" x2="%.1f" y1="%d" y2="%d" stroke="#ddd"/>'
            '<text x="%.1f" y="%d" text-anchor="middle">%s</text>' % (
                x(10 ** power), x(10 ** power), top, height - 44,
                x(10 ** power), height - 26,
                '%d ms' % 10 ** power if power < 3
                else '%d s' % 10 ** (power - 3)))
    for number, (driver, event) in enumerate(rows):
        y = top + row * number + row / 2
        color = {ZK: '#0b6e4f', HOST: '#35649a'}.get(driver, '#b23a48')
        parts.append('<text x="%d" y="%.1f" text-anchor="end">%s %s</text>' % (
            left - 12, y + 5, driver, event))
        for place, ms in enumerate(times[driver, event]):
            parts.append(
                '<circle cx="%.1f" cy="%.1f" r="3.5" fill="%s" '
                'fill-opacity="0.35"/>' % (
                    x(ms), y + (place % 5 - 2) * 3, color))
    parts.append('</svg>\n')
    return '\n'.join(parts)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=100)
    parser.add_argument('--output', type=pathlib.Path,
                        default=pathlib.Path(__file__).parent / 'results')
    arguments = parser.parse_args()
    # The keepers of killed computes are no news here.
    logging.disable(logging.CRITICAL)
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(
            tempfile.TemporaryDirectory(prefix='sg-bench-')))
        print('Starting ZooKeeper and Nova; this takes a minute.', flush=True)
        ensemble = stack.enter_context(
            zookeeper.Ensemble(directory / 'zookeeper'))
        tree = nova.make_plugin_tree(directory / 'tree')
        template = nova.make_database_template(directory / 'template')
        cloud = stack.enter_context(nova.Cloud(
            directory / 'cloud', template, tree, report_interval=10,
            service_down_time=60, controllers=('conductor',),
            config={'zookeeper': {'address': ensemble.address}}))
        cloud.start_api(tree=nova.IN_TREE, driver='db')
        ports = [server.port for server in ensemble.servers] + [
            cloud.rabbit.port, cloud._placement_port]
        namespace = stack.enter_context(network.Namespace())
        conf = cfg.ConfigOpts()
        conf([], project='nova', default_config_files=[])
        conf.register_opts([cfg.IntOpt('report_interval', default=10),
                            cfg.IntOpt('service_down_time', default=60)])
        sg_conf.register_opts(conf)
        conf.set_override('address', ensemble.address, group='zookeeper')
        stack.enter_context(fleet.Fleet(
            directory, 'other', OTHERS, ensemble.address)).wait_joined()
        driver = zk.ZooKeeperDriver(conf=conf)
        bench = Bench(cloud, namespace, ports, driver)
        bench.run(arguments.kills)
        driver._session.close()
    result = summary(bench.times)
    result['about'] = {
        'when': datetime.date.today().isoformat(),
        'machine': '%s, %d cores, load average %.1f' % (
            platform.machine(), os.cpu_count(), os.getloadavg()[2]),
        'zookeeper': 'three servers, recv_timeout 4000 ms',
        'nova': 'report_interval 10 s, service_down_time 60 s; a conductor '
                'and %d nova-computes at a time' % BATCH,
        'times_ms': {'%s %s' % key: [round(t, 1) for t in times]
                     for key, times in bench.times.items()}}
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / 'crash.json').write_text(
        json.dumps(result, indent=1) + '\n')
    (arguments.output / 'crash.md').write_text(table(result))
    (arguments.output / 'crash.svg').write_text(picture(bench.times))
    print(table(result))


if __name__ == '__main__':
    main()
