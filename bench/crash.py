# SPDX-License-Identifier: Apache-2.0

"""Measures how long a dead nova-compute counts as alive.

Real nova-computes are killed, stopped, and cut off from the network. Measured
is the time until a reader in another process reports that: for the zk driver
on a three-server ensemble, and for Nova's in-tree drivers db and, killed only,
mc, at their defaults, in one run. With zk for both of Nova's questions: until
it gets no new instances (zk), and until its host is down (zk-host), which for
a killed process is restart_grace later. Needs root, for the network namespace.
Takes about 7 minutes.

    python bench/crash.py [--kills 40] [--output bench/results]

Writes crash.json, crash.md (the table), crash.svg (the picture), and
sigkill.svg, its part about killed processes. In crash.json, ``unseen`` counts
those not detected in time, ``not_started`` the nova-computes that a busy
machine did not start within a minute.
"""

import argparse
import collections
import contextlib
import logging
import math
import os
import pathlib
import tempfile
import threading
import time

import report

os.environ.setdefault('OS_NOVA_DISABLE_EVENTLET_PATCHING', 'true')

from nova import conf as nova_conf
from nova.servicegroup.drivers import mc as nova_mc
from oslo_config import cfg

from nova_servicegroup import conf as sg_conf
from nova_servicegroup.drivers import zk
from nova_servicegroup.liveness import Question
from nova_servicegroup.tests.fixtures import answers
from nova_servicegroup.tests.fixtures import fleet
from nova_servicegroup.tests.fixtures import memcached
from nova_servicegroup.tests.fixtures import network
from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import zookeeper

BATCH = 5
CACHE = 'oslo_cache.memcache_pool'
ZK, HOST, DB, MC = 'zk', 'zk-host', 'nova-db', 'nova-mc'
DRIVERS = ZK, HOST, DB, MC
#: members that live, so that five lost at once aren't half of all
OTHERS = 20
EVENTS = ('sigkill', 'sigstop', 'partition')
#: what the rows of the pictures are called
ROWS = {ZK: 'zk: not a candidate', HOST: 'zk: host down',
        DB: "Nova's db: down", MC: "Nova's mc: down"}
HURTS = {'sigkill': 'nova-compute killed', 'sigstop': 'nova-compute hangs',
         'partition': 'host cut off'}


class Bench:

    def __init__(self, cloud, namespace, ports, driver, in_tree_mc):
        self.cloud = cloud
        self.in_tree_mc = in_tree_mc
        self.namespace = namespace
        self.ports = ports
        self.driver = driver
        self.times = {(d, e): [] for d in DRIVERS for e in EVENTS}
        self.unseen = collections.Counter()
        self.not_started = 0

    def is_up(self, which, host):
        if which == ZK:
            return self.driver.answer(answers.record(host),
                                      Question.MAY_PLACE) is True
        if which == HOST:
            return self.driver.is_up(answers.record(host))
        if which == MC:
            return self.in_tree_mc.is_up(answers.record(host))
        return self.cloud.state(host) == 'up'

    def wait(self, which, host, up, timeout):
        process.wait_until(
            lambda: self.is_up(which, host) is up, timeout, '%s of %s %s' % (
                host, which, 'up' if up else 'down'),
            interval={DB: 0.2, MC: 0.02}.get(which, 0.0005))

    def start(self, which, hosts):
        """Start the computes of hosts; return those that are up."""
        services = []
        for host in hosts:
            service = self.cloud.services.get(('nova-compute', host))
            if service is not None:
                service.stop()
                self.cloud.restart(service, wait=False)
            else:
                how = ({'driver': 'zk'} if which == ZK else
                       {'driver': which.removeprefix('nova-'),
                        'tree': nova.IN_TREE})
                if host.startswith('cut-'):
                    how['prefix'] = self.namespace.prefix
                service = self.cloud.start_compute(host, wait=False, **how)
            services.append(service)
        for service in list(services):
            try:
                service.wait_started()
                self.wait(which, service.host, True, 60)
            except process.NotReady as e:
                report.say('Left out: %s' % e)
                self.not_started += 1
                service.kill()
                services.remove(service)
        # Let the start's work end, so that it isn't what is measured.
        time.sleep(2)
        return services

    def time(self, which, event, host, began, timeout):
        """Record when the failure of a host is detected."""
        try:
            self.wait(which, host, False, timeout)
        except process.NotReady as e:
            report.say('%s %s: %s' % (which, event, e))
            self.unseen[which, event] += 1
            return
        seconds = time.monotonic() - began
        self.times[which, event].append(seconds * 1000)
        report.say('%s %s: %.1f ms' % (which, event, seconds * 1000))

    def kill_one_by_one(self, count):
        hosts = ['zk-kill-%d' % number for number in range(BATCH)]
        while count > 0:
            for service in self.start(ZK, hosts)[:count]:
                began = time.monotonic()
                service.signal(9)
                self.time(ZK, 'sigkill', service.host, began, 30)
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
        """Drop all packets between the servers and the hosts ``cut-*``."""
        self.namespace.lose(self.ports)

    def hurt_together(self, which, event, services, hurt):
        """Make hosts fail at once; measure each in its own thread."""
        began = time.monotonic()
        hurt(services)

        threads = [threading.Thread(
            target=self.time, args=(one, event, service.host, began, 200))
                   for service in services
                   for one in ((ZK, HOST) if which == ZK else (which,))]
        for thread in threads:
            thread.start()
        return threads

    def run(self, kills):
        self.kill_one_by_one(kills)
        for _ in range(max(1, kills // 10)):
            # One at a time: of several that are missed together readers
            # wait to see whether it is their ZooKeeper server that failed.
            services = self.start(ZK, ['cut-zk-0'])
            for thread in self.hurt_together(
                    ZK, 'partition', services,
                    lambda services: self.cut()):
                thread.join()
            self.namespace.heal()
            # Who isn't back in time is left out of the next round.
            time.sleep(10)
        for service in services:
            service.kill()
        # What takes a minute each is done at once.
        groups = [(DB, 'sigkill', 'db-kill-%d'),
                  (DB, 'sigstop', 'db-stop-%d'),
                  (DB, 'partition', 'cut-db-%d'),
                  (MC, 'sigkill', 'mc-kill-%d'),
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
    """Return the results as {driver: {event: figures}}."""
    found = {}
    for (driver, event), taken in times.items():
        if taken:
            found.setdefault(driver, {})[event] = {
                'n': len(taken),
                'p50_ms': round(percentile(taken, 0.5), 1),
                'p99_ms': round(percentile(taken, 0.99), 1),
                'max_ms': round(max(taken), 1)}
    return found


def table(result):
    lines = ['| driver | event | n | median ms | 99 % ms | max ms |',
             '|---|---|---:|---:|---:|---:|']
    for driver in DRIVERS:
        for event, row in result.get(driver, {}).items():
            lines.append('| %s | %s | %d | %.1f | %.1f | %.1f |' % (
                driver, event, row['n'], row['p50_ms'], row['p99_ms'],
                row['max_ms']))
    return '\n'.join(lines) + '\n'


def picture(times_ms, events, title, path):
    """Draw a row for each event and driver, a dot for each time."""
    rows = [(event, driver) for event in events for driver in DRIVERS
            if times_ms.get('%s %s' % (driver, event))]
    plot = report.pyplot()
    figure, axis = plot.subplots(figsize=(9, 1 + 0.4 * len(rows)))
    for number, (event, driver) in enumerate(rows):
        times = times_ms['%s %s' % (driver, event)]
        axis.scatter(
            [ms / 1000 for ms in times],
            [number + (place % 5 - 2) * 0.06 for place in range(len(times))],
            s=22, alpha=0.4, color=report.COLORS[driver.removesuffix('-host')])
        axis.annotate(
            duration(percentile(times, 0.5)), (max(times) / 1000, number),
            xytext=(8, -4), textcoords='offset points')
    axis.set_yticks(range(len(rows)), [
        ROWS[driver] if len(events) == 1
        else '%s, %s' % (HURTS[event], ROWS[driver])
        for event, driver in rows])
    axis.invert_yaxis()
    axis.set_xscale('log')
    ticks = [0.001, 0.01, 0.1, 1, 10, 60, 300]
    axis.set_xticks(ticks, [duration(1000 * tick) for tick in ticks])
    axis.minorticks_off()
    axis.set_xlim(0.001, 300)
    axis.grid(axis='x', alpha=0.3)
    axis.set_title(title)
    report.save(figure, path)


def duration(ms):
    """Return milliseconds as text."""
    if ms < 1000:
        return '%.0f ms' % ms
    return '%.*f s' % (1 <= ms / 1000 < 10 and ms % 1000 > 0, ms / 1000)


def draw(times_ms, directory):
    """Write both pictures."""
    picture(times_ms, EVENTS,
            'How long a dead nova-compute is taken for alive',
            directory / 'crash.svg')
    picture(times_ms, ['sigkill'], 'From SIGKILL of a nova-compute to ...',
            directory / 'sigkill.svg')


def in_tree_reader(address):
    """Return Nova's own mc driver, to ask for who is up."""
    conf = nova_conf.CONF
    conf([], project='nova', default_config_files=[])
    conf.set_override('enabled', True, 'cache')
    conf.set_override('backend', CACHE, 'cache')
    conf.set_override('memcache_servers', [address], 'cache')
    return nova_mc.MemcachedDriver()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--kills', type=int, default=40)
    parser.add_argument('--output', type=pathlib.Path,
                        default=pathlib.Path(__file__).parent / 'results')
    arguments = parser.parse_args()
    # The keepers of killed computes are no news here.
    logging.disable(logging.CRITICAL)
    about = report.about()
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(
            tempfile.TemporaryDirectory(prefix='sg-bench-')))
        report.say('Starting ZooKeeper and Nova; this takes a minute.')
        ensemble = stack.enter_context(
            zookeeper.Ensemble(directory / 'zookeeper'))
        store = stack.enter_context(memcached.Memcached())
        tree = nova.make_plugin_tree(directory / 'tree')
        template = nova.make_database_template(directory / 'template')
        cloud = stack.enter_context(nova.Cloud(
            directory / 'cloud', template, tree, report_interval=10,
            service_down_time=60, controllers=('conductor',),
            config={'zookeeper': {'address': ensemble.address},
                    'cache': {'enabled': True, 'backend': CACHE,
                              'memcache_servers': store.address}}))
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
        bench = Bench(cloud, namespace, ports, driver,
                      in_tree_reader(store.address))
        bench.run(arguments.kills)
        driver._session.close()
    result = summary(bench.times)
    times_ms = {'%s %s' % key: [round(t, 1) for t in times]
                for key, times in bench.times.items() if times}
    result.update(
        unseen={'%s %s' % key: n for key, n in bench.unseen.items()},
        not_started=bench.not_started,
        about=dict(
            about, zookeeper='three servers, recv_timeout 4000 ms',
            nova='report_interval 10 s, service_down_time 60 s; a conductor '
                 'and %d nova-computes at a time' % BATCH,
            times_ms=times_ms))
    report.write(arguments.output, 'crash', result)
    (arguments.output / 'crash.md').write_text(table(result))
    draw(times_ms, arguments.output)
    report.say(table(result))


if __name__ == '__main__':
    main()
