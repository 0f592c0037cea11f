# SPDX-License-Identifier: Apache-2.0

"""Measures the load of each store: at rest, and at a restart of all services.

The services write as they do in Nova, to real stores: a MariaDB as a conductor
writes to it, a memcached, a ZooKeeper server. Nova's own drivers are measured
in the same run. Takes about two minutes.

    python bench/store.py [--members 1000 10000] [--output bench/results]

Writes store.json, store.svg (the picture) and store.rst (for the
documentation). In store.json:

``db``
    For one heartbeat, by driver: ``statements``, those of them that write,
    ``rows`` changed, ``bytes`` to and from MariaDB, and ``writer_cpu_ms``,
    CPU of the conductor's part. A thousand are made, one after the other.
``mc``
    For one heartbeat ``commands`` and ``bytes`` to and from memcached, and
    ``stored_bytes`` there. For a reader, by number of members: ``poll_bytes``
    to renew its view, ``poll_cpu_ms``, its CPU for that when a tenth of the
    members has reported since, and ``memory_bytes`` of its view; in-tree,
    ``question_bytes`` for each query.
``zk``
    By number of members, each with its own session: the server's load in a
    second at rest, ``packets``, ``transactions``, ``bytes``, ``cpu``; and for
    each of the members when all are killed and join again.
``restart``
    By number of members: heartbeats in each second after all services were
    started within ``started_within_s``, by the drivers' timers. The cost of
    each heartbeat is in ``db`` and ``mc``.
"""

import argparse
import collections
import contextlib
import gc
import logging
import os
import pathlib
import random
import re
import subprocess
import tempfile
import time
import tracemalloc
import types

import report

os.environ.setdefault('OS_NOVA_DISABLE_EVENTLET_PATCHING', 'true')

import nova.conf
from nova.servicegroup.drivers import db as nova_db
from nova.servicegroup.drivers import mc as nova_mc
from oslo_cache import core as cache
from oslo_config import cfg

from nova_servicegroup import conf as sg_conf
from nova_servicegroup.drivers import db
from nova_servicegroup.drivers import mc
from nova_servicegroup.tests.fixtures import database
from nova_servicegroup.tests.fixtures import mariadb
from nova_servicegroup.tests.fixtures import memcached
from nova_servicegroup.tests.fixtures import sessions
from nova_servicegroup.tests.fixtures import zookeeper

CONF = cfg.CONF
INTERVAL = 10
#: heartbeats to take the mean of
BEATS = 1000
#: seconds
REST = 10
STARTED_WITHIN, WATCHED = 2, 60


class Timers:
    """A service's thread group that records its timers."""

    def __init__(self):
        self.asked = []

    def add_timer_args(self, interval, callback, args=(), initial_delay=0,
                       **how):
        self.asked.append((initial_delay, interval))
        self.beat = lambda: callback(*args)
        return types.SimpleNamespace(stop=lambda: None)


def service(host, record):
    """Return the attributes of a nova.service.Service that a driver uses."""
    return types.SimpleNamespace(
        host=host, topic='compute', binary='nova-compute', service_ref=record,
        report_interval=INTERVAL, tg=Timers(), model_disconnected=False)


def joined(driver, records):
    """Join the services of records; return those services."""
    made = [service(record['host'], record) for record in records]
    for one in made:
        driver.join(one.host, 'compute', one)
    return made


def counted(count, counters, names):
    """Return the cost of one of ``count`` heartbeats.

    :param counters: ``counters()`` returns a dict of numbers
    :param names: a name of ours -> names of counters to add up
    """
    before = counters()
    yield
    after = counters()
    yield {name: round(sum(after[one] - before[one] for one in of) / count, 2)
           for name, of in names.items()}


def measure_beats(driver, records, counters, names):
    """Return what a heartbeat costs a store, the first one left out."""
    services = joined(driver, records)
    for one in services:
        one.tg.beat()
    counting = counted(len(services), counters, names)
    next(counting)
    began = time.process_time()
    for one in services:
        one.tg.beat()
    cpu_ms = (time.process_time() - began) / len(services) * 1000
    return dict(next(counting), writer_cpu_ms=round(cpu_ms, 2))


# MariaDB

def measure_db(directory):
    with mariadb.MariaDB(directory / 'mariadb') as server:
        server.query(None, 'CREATE DATABASE nova')
        table = database.Database(connection=server.url('nova'))
        table.add_many(hosts(BEATS), 'compute')

        def counters():
            return {row['Variable_name']: int(row['Value'])
                    for row in server.query(None, 'SHOW GLOBAL STATUS')
                    if row['Value'].isdigit()}

        names = {'statements': ['Com_select', 'Com_update', 'Com_insert',
                                'Com_delete', 'Com_begin', 'Com_commit',
                                'Com_rollback'],
                 'writes': ['Com_update', 'Com_insert', 'Com_delete'],
                 'rows': ['Handler_update', 'Handler_write'],
                 'bytes': ['Bytes_sent', 'Bytes_received']}
        result = {}
        for name, driver in (('nova-db', nova_db.DbDriver()),
                             ('db', db.DbDriver())):
            result[name] = measure_beats(
                driver, [table.get(host, 'compute') for host in hosts(BEATS)],
                counters, names)
            report.say('A heartbeat, %s: %s' % (name, result[name]))
        table.close()
    return result


def hosts(count):
    return list(map(sessions.host, range(count)))


# memcached

def measure_mc(members):
    result = {}
    CONF.set_override('enabled', True, 'cache')
    CONF.set_override('backend', 'oslo_cache.memcache_pool', 'cache')
    for name, make in (('nova-mc', nova_mc.MemcachedDriver),
                       ('mc', mc.MemcachedDriver)):
        with memcached.Memcached(options=('-m', '256')) as store:
            CONF.set_override('memcache_servers', [store.address], 'cache')

            def counters():
                return {what: int(value) for what, value
                        in store.statistics().items() if value.isdigit()}

            traffic = ['bytes_read', 'bytes_written']
            found = result[name] = measure_beats(
                make(), records(BEATS), counters,
                {'commands': ['cmd_get', 'cmd_set'], 'bytes': traffic})
            for count in members:
                found[str(count)] = measure_reading(
                    name, make, count, counters, traffic)
            report.say('memcached, %s: %s' % (name, found))
    return result


def records(count):
    return [{'host': host, 'topic': 'compute', 'updated_at': None}
            for host in hosts(count)]


def measure_reading(name, make, count, counters, traffic):
    asked = records(count)
    writer = make()
    services = joined(writer, asked)
    for one in services:
        one.tg.beat()
    if name == 'nova-mc':
        counting = counted(100, counters, {'question_bytes': traffic})
        reader, asked = writer, asked[:100]
    else:
        counting = counted(1, counters, {'poll_bytes': traffic})
        # A new configuration is a new view.
        reader = make(conf=configure(cfg.ConfigOpts()),
                      inventory=lambda group: asked)
    next(counting)
    gc.collect()
    tracemalloc.start()
    ask(reader, asked)
    memory, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    found = next(counting)
    found['stored_bytes'] = round(counters()['bytes'] / count)
    if name == 'mc':
        found['memory_bytes'] = memory
        found['poll_cpu_ms'] = poll_cpu_ms(reader, services)
    return found


def ask(reader, records):
    for record in records:
        if not reader.is_up(record):
            raise SystemExit('%s is down, which cannot be' % record['host'])


def poll_cpu_ms(reader, services):
    """Return the CPU of a query that renews the view, the minimum of five.

    A tenth of the services has reported since the last renewal.
    """
    taken = []
    for number in range(5):
        for one in services[number::10]:
            one.tg.beat()
        reader._view.due = float('-inf')
        began = time.process_time()
        reader.is_up(services[0].service_ref)
        taken.append((time.process_time() - began) * 1000)
    return round(min(taken), 1)


def configure(conf):
    """Return a configuration of its own for one reader."""
    conf([], project='nova', default_config_files=[])
    conf.register_opts([cfg.IntOpt('report_interval', default=INTERVAL),
                        cfg.IntOpt('service_down_time', default=60)])
    sg_conf.register_opts(conf)
    cache.configure(conf)
    conf.set_override('memcache_servers', CONF.cache.memcache_servers,
                      'cache')
    # One poll, however long the questions take.
    conf.set_override('view_refresh', 60, 'servicegroup')
    return conf


# ZooKeeper

class ServerMeter:
    """Counts the work of a server from now on."""

    def __init__(self, server, fleet_pid):
        self._server, self._pid = server, fleet_pid
        self._before = self._now()

    def _now(self):
        status = dict(
            line.split('\t') for line in
            self._server.ask('mntr', 10).splitlines() if '\t' in line)
        zxid = re.search(r'Zxid: 0x([0-9a-f]+)', self._server.ask('srvr', 10))
        return {'packets': sum(float(status['zk_packets_' + way])
                               for way in ('received', 'sent')),
                'transactions': int(zxid[1], 16) & 0xffffffff,
                'bytes': traffic_of(self._pid),
                'cpu_ms': 1000 * report.cpu_seconds(self._server.pid)}

    def stop(self, count):
        """Return the figures, divided by a number."""
        now = self._now()
        return {name: round((now[name] - before) / count, 3)
                for name, before in self._before.items()}


def traffic_of(pid):
    """Return the bytes on the open connections of a process, both ways."""
    listed = subprocess.run(
        ['ss', '-tinpHO', 'state', 'established'], check=True,
        capture_output=True, text=True).stdout
    return sum(int(number) for line in listed.splitlines()
               if 'pid=%d,' % pid in line
               for number in re.findall(
                   r'bytes_(?:received|acked):(\d+)', line))


def measure_zk(directory, members):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(zookeeper.Ensemble(
            directory / 'zookeeper', size=1)).servers[0]
        fleet = stack.enter_context(
            sessions.Fleet(server.address, '/servicegroups/compute'))
        fleet.ask('start', members=members)
        time.sleep(2)
        meter = ServerMeter(server, fleet.pid)
        time.sleep(REST)
        result = {'at_rest_per_s': meter.stop(REST)}
        meter = ServerMeter(server, fleet.pid)
        took = fleet.ask('restart')
        result['restart_per_member'] = meter.stop(members)
        # Connections that were closed have taken their counts with them.
        del result['restart_per_member']['bytes']
        result['restart_s'] = round(sum(took.values()), 1)
        result['descriptors'] = len(os.listdir('/proc/%d/fd' % server.pid))
    report.say('ZooKeeper, %d members: %s' % (members, result))
    return result


# When everybody restarts

def schedule(driver, count):
    """Return how many heartbeats there are in each second of a minute.

    :param driver: a driver that doesn't write
    """
    beats = collections.Counter()
    for record in records(count):
        started = random.uniform(0, STARTED_WITHIN)
        one = service(record['host'], record)
        published = driver.join(record['host'], 'compute', one)
        (delay, interval), = one.tg.asked
        moments = [started] * bool(published)
        moment = started + delay
        while moment < WATCHED:
            moments.append(moment)
            moment += interval
        beats.update(map(int, moments))
    return [beats[second] for second in range(WATCHED)]


class OursInTime(db.DbDriver):
    """Ours, without the table."""

    def join(self, *args):
        super().join(*args)
        return True

    def publish(self, membership):
        pass


def restarts(members):
    random.seed(1)
    return {str(count): {
        'nova-db': schedule(nova_db.DbDriver(), count),
        'db': schedule(OursInTime(), count)} for count in members}


def picture(result, path):
    plot = report.pyplot()
    counts = list(result['restart'])
    figure, axes = plot.subplots(
        len(counts), 1, sharex=True, squeeze=False, figsize=(9, 6))
    for (axis,), count in zip(axes, counts):
        for name, beats in result['restart'][count].items():
            cost = result['db'][name]['statements']
            axis.step(range(len(beats)), [beat * cost for beat in beats],
                      where='post', color=report.COLORS[name],
                      label=report.LABELS[name])
        axis.set_title('%s services restarted within %d s' % (
            count, STARTED_WITHIN), fontsize=10)
        axis.set_ylabel('statements a second')
        axis.grid(alpha=0.3)
    axes[-1][0].set_xlabel('seconds')
    figure.legend(*axes[0][0].get_legend_handles_labels(), ncols=2,
                  loc='lower center')
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    report.save(figure, path)


def tables(result):
    """Return the part for the documentation."""
    beats = [
        [report.LABELS[name], found.get('statements', found.get('commands')),
         '%.0f' % found['bytes'], '%.2f' % found['writer_cpu_ms']]
        for name, found in (*result['db'].items(), *result['mc'].items())]
    return report.measured(result['about']) + '\n'.join([
        report.table(
            'One heartbeat', ['driver', 'statements or commands', 'bytes',
                              'CPU of who writes it, ms'], beats),
        report.table(
            'ZooKeeper, a session for each member', [
                'members', 'packets a second', 'bytes a second',
                'CPU of a core', 'transactions a second',
                'all restart: transactions for each', 'seconds'],
            [[members, *('%.0f' % found['at_rest_per_s'][name]
                         for name in ('packets', 'bytes')),
              '%.0f %%' % (found['at_rest_per_s']['cpu_ms'] / 10),
              '%.1f' % found['at_rest_per_s']['transactions'],
              '%.1f' % found['restart_per_member']['transactions'],
              found['restart_s']]
             for members, found in result['zk'].items()])])


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--members', type=int, nargs='+',
                        default=[1000, 10000])
    parser.add_argument('--output', type=pathlib.Path,
                        default=pathlib.Path(__file__).parent / 'results')
    arguments = parser.parse_args()
    sessions.allow_files(max(arguments.members) + 1000)
    logging.disable(logging.CRITICAL)
    nova.conf.CONF([], project='nova', default_config_files=[])
    sg_conf.register_opts(CONF)
    result = {'about': report.about(
        interval_s=INTERVAL, started_within_s=STARTED_WITHIN)}
    with tempfile.TemporaryDirectory(prefix='sg-bench-') as directory:
        directory = pathlib.Path(directory)
        result['db'] = measure_db(directory)
        result['mc'] = measure_mc(arguments.members)
        result['zk'] = {str(count): measure_zk(directory / str(count), count)
                        for count in arguments.members}
    result['restart'] = restarts(arguments.members)
    path = report.write(arguments.output, 'store', result)
    path.with_suffix('.rst').write_text(tables(result))
    picture(result, path)


if __name__ == '__main__':
    main()
