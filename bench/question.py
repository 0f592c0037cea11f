# SPDX-License-Identifier: Apache-2.0

"""Measures the cost of one query about a living host, driver by driver.

Nova's API objects and ours in one process and one run, with real stores: a
ZooKeeper server with a node for each member, a memcached to which all members
report meanwhile, and service records with recent times. In native threads and
in a process patched by eventlet, with one thread and with twenty that ask at
the same time. Takes about four minutes.

    python bench/question.py [--members 100 1000 10000 50000]
        [--seconds 0.5] [--output bench/results]

Writes question.json, question.svg (the picture) and question.rst (for the
documentation). In question.json, by number of members,
kind of threads, and driver (``nova-db`` and ``nova-mc`` are in-tree):

``first_ms``
    One query about each member by a new process: with zk including the start
    of a keeper, its session and the first listing; with mc the first poll.
``is_up_us``, ``updated_us``
    Microseconds of one ``service_is_up`` and ``get_updated_time`` about a
    nova.objects.Service, as ``GET /os-services`` asks: the median of slices
    of 100 members in a row, over all members.
``filter_us``
    One ``service_is_up`` about the scheduler's record of a service.
``twenty_us``
    As ``is_up_us``, with twenty threads: time divided by all their answers.
``poll_ms``
    mc only: the query that renews an old view for all, at most once a second.
"""

import sys

if __name__ == '__main__' and sys.argv[1:2] == ['child'] and (
        sys.argv[2] == 'eventlet'):
    import eventlet
    eventlet.monkey_patch()

import argparse
import contextlib
import gc
import json
import logging
import os
import pathlib
import socket
import statistics
import subprocess
import tempfile
import threading
import time

import report

os.environ.setdefault('OS_NOVA_DISABLE_EVENTLET_PATCHING', 'true')

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent
DRIVERS = 'zk', 'mc', 'db', 'nova-mc', 'nova-db'
MODES = 'threads', 'eventlet'
THREADS, SLICE = 20, 100
#: seconds between two heartbeats of a member
INTERVAL = 10
FIGURES = 'is_up_us', 'updated_us', 'filter_us', 'twenty_us'
#: in-tree mc asks memcached each time: no need to wait for all members
IN_TREE_MC_MEMBERS = 1000


# The process that asks.

def records_of(hosts):
    """Return the records of services in Nova's API and scheduler."""
    from nova import objects
    from nova.scheduler import host_manager
    from oslo_utils import timeutils

    from nova_servicegroup import records
    objects.register_all()
    now = timeutils.utcnow().replace(tzinfo=records.UTC)
    services = [objects.Service(
        host=host, topic='compute', binary='nova-compute', report_count=7,
        forced_down=False, disabled=False, last_seen_up=now, created_at=now,
        updated_at=now) for host in hosts]
    return services, [host_manager.ReadOnlyDict(dict(service))
                      for service in services]


def make_api(driver, hosts, in_tree):
    """Return an API object that uses a driver.

    :param in_tree: Nova's own API class
    """
    from nova.servicegroup.drivers import db as nova_db
    from nova.servicegroup.drivers import mc as nova_mc
    from oslo_config import cfg

    from nova_servicegroup import api
    if not driver.startswith('nova-'):
        cfg.CONF.set_override('servicegroup_driver', driver)
        return api.API(inventory=lambda group: [
            {'topic': 'compute', 'host': host} for host in hosts])
    made = in_tree.__new__(in_tree)
    made._driver = {'nova-db': nova_db.DbDriver,
                    'nova-mc': nova_mc.MemcachedDriver}[driver]()
    return made


def slices_us(ask, records, seconds):
    """Return the median of microseconds per call, of slices of records."""
    slices = [records[start:start + SLICE]
              for start in range(0, len(records), SLICE)]
    taken = []
    gc.collect()
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(taken) < len(slices):
        for part in slices:
            began = time.perf_counter()
            for record in part:
                ask(record)
            taken.append((time.perf_counter() - began) / len(part))
    return statistics.median(taken) * 1e6


def twenty_us(ask, records, seconds):
    """Return microseconds per answer while twenty threads ask."""
    answers = [0] * THREADS
    ready = threading.Barrier(THREADS + 1)

    def work(number):
        own = records[number::THREADS]
        ready.wait(60)
        while time.perf_counter() < end:
            for record in own[:SLICE]:
                ask(record)
            answers[number] += len(own[:SLICE])
            own = own[SLICE:] + own[:SLICE]
            time.sleep(0)

    threads = [threading.Thread(target=work, args=(number,))
               for number in range(THREADS)]
    end = float('inf')
    for thread in threads:
        thread.start()
    ready.wait(60)
    began = time.perf_counter()
    end = began + seconds
    for thread in threads:
        thread.join()
    return (time.perf_counter() - began) / sum(answers) * 1e6


def wait_until_known(api, services):
    """Wait until all members are known to be up, by evidence."""
    from nova_servicegroup import liveness
    deadline = time.monotonic() + 60
    while any(api.verdict(service).state is not liveness.State.UP
              for service in services):
        if time.monotonic() > deadline:
            raise SystemExit('Not all are known to be up after a minute.')
        time.sleep(0.1)


def measure(api, driver, services, dicts, seconds):
    if driver == 'nova-mc':
        services, dicts = (
            kind[:IN_TREE_MC_MEMBERS] for kind in (services, dicts))

    def check():
        for service in services:
            if not api.service_is_up(service):
                raise SystemExit('%s: %s is down, which cannot be' % (
                    driver, service.host))

    began = time.perf_counter()
    check()
    figures = {'first_ms': (time.perf_counter() - began) * 1000}
    if hasattr(api, 'verdict'):
        # A busy machine may take longer than a reader waits.
        wait_until_known(api, services)
    figures['is_up_us'] = slices_us(api.service_is_up, services, seconds)
    figures['updated_us'] = slices_us(api.get_updated_time, services, seconds)
    figures['filter_us'] = slices_us(_filter(api), dicts, seconds)
    figures['twenty_us'] = twenty_us(api.service_is_up, services, seconds)
    if driver == 'mc':
        polls = []
        for _ in range(3):
            time.sleep(api._driver.conf.servicegroup.view_refresh)
            began = time.perf_counter()
            api.service_is_up(services[0])
            polls.append((time.perf_counter() - began) * 1000)
        figures['poll_ms'] = min(polls)
    if driver == 'zk':
        api._driver._session.close()
    return {name: round(figure, 3) for name, figure in figures.items()}


def _filter(api):
    """Return how the scheduler's ComputeFilter asks."""
    from nova_servicegroup import liveness
    if not hasattr(api, 'answer'):
        return api.service_is_up
    place = liveness.Question.MAY_PLACE
    return lambda record: api.answer(record, place)


def child(members, zookeeper, memcached, seconds):
    import nova.conf
    from nova.servicegroup import api as nova_api

    from nova_servicegroup.integration import register
    from nova_servicegroup.tests.fixtures import sessions
    in_tree = nova_api.API
    logging.disable(logging.CRITICAL)
    conf = nova.conf.CONF
    conf([], project='nova', default_config_files=[])
    register.register()
    # The records grow old while others are measured.
    conf.set_override('service_down_time', 3600)
    conf.set_override('address', zookeeper, 'zookeeper')
    conf.set_override('enabled', True, 'cache')
    conf.set_override('backend', 'oslo_cache.memcache_pool', 'cache')
    conf.set_override('memcache_servers', [memcached], 'cache')
    hosts = list(map(sessions.host, range(members)))
    services, dicts = records_of(hosts)
    print(json.dumps({driver: measure(
        make_api(driver, hosts, in_tree), driver, services, dicts, seconds)
        for driver in DRIVERS}))


# The process that reports to memcached.

def beat(port, members):
    """Report for all members, each every INTERVAL seconds, forever."""
    from oslo_utils import timeutils

    from nova_servicegroup.memcached import wire
    from nova_servicegroup.tests.fixtures import sessions
    keys = [wire.key('compute', sessions.host(n)) for n in range(members)]
    step = max(1, members // (INTERVAL * 10))
    parts = [keys[start:start + step] for start in range(0, members, step)]

    def send(keys):
        moment = timeutils.utcnow()
        stamp = wire.stamp_of(moment)
        data = wire.encode(stamp, moment, {'1f3a-00000000': stamp})
        sock.sendall(b''.join(
            b'set %s %d 0 %d noreply\r\n%s\r\n' % (
                key.encode(), wire.FLAG_PICKLED, len(data), data)
            for key in keys))

    with socket.create_connection(('127.0.0.1', port)) as sock:
        send(keys)
        sock.sendall(b'version\r\n')
        sock.recv(100)
        print('ready', flush=True)
        while True:
            for part in parts:
                time.sleep(INTERVAL / len(parts))
                send(part)


# The process that starts all others.

def start_child(mode, *args):
    return subprocess.Popen(
        [sys.executable, str(HERE / 'question.py'), 'child', mode,
         *map(str, args)],
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=dict(os.environ, PYTHONPATH=str(ROOT)))


def ask_child(*args):
    """Return the figures of a process of its own."""
    process = start_child(*args)
    lines = process.communicate()[0].splitlines()
    if process.returncode:
        raise SystemExit('The process %s ended with %d.' % (
            args, process.returncode))
    return json.loads(lines[-1])


@contextlib.contextmanager
def stores(members):
    """Yield the addresses of stores in which that many members are up."""
    from nova_servicegroup.tests.fixtures import memcached
    from nova_servicegroup.tests.fixtures import sessions
    from nova_servicegroup.tests.fixtures import zookeeper
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(
            tempfile.TemporaryDirectory(prefix='sg-bench-')))
        ensemble = stack.enter_context(zookeeper.Ensemble(directory, size=1))
        fleet = stack.enter_context(
            sessions.Fleet(ensemble.address, '/servicegroups/compute'))
        fleet.ask('start', members=members, per_session=100)
        store = stack.enter_context(
            memcached.Memcached(options=('-m', '256')))
        reporter = start_child('beat', store.port, members)
        stack.callback(reporter.wait)
        stack.callback(reporter.kill)
        reporter.stdout.readline()
        yield ensemble.address, store.address


def picture(result, path):
    """Draw each figure over the number of members."""
    titles = ['service_is_up', 'get_updated_time',
              "the scheduler's question", 'service_is_up, 20 threads']
    plot = report.pyplot()
    figure, axes = plot.subplots(
        len(MODES), len(FIGURES), sharex=True, sharey=True, squeeze=False,
        figsize=(13, 7))
    counts = list(map(int, result['members']))
    for row, mode in enumerate(MODES):
        for column, name in enumerate(FIGURES):
            axis = axes[row][column]
            for driver in DRIVERS:
                axis.plot(counts, [
                    result['members'][str(count)][mode][driver][name]
                    for count in counts], marker='o', markersize=3,
                    color=report.COLORS[driver], label=report.LABELS[driver],
                    linestyle='--' if driver.startswith('nova') else '-')
            axis.set_xscale('log')
            axis.set_yscale('log')
            axis.grid(alpha=0.3)
            axis.set_title('%s\n%s' % (titles[column], mode), fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel('members')
    for axis in axes[:, 0]:
        axis.set_ylabel('microseconds')
    figure.legend(*axes[0][0].get_legend_handles_labels(), ncols=5,
                  loc='lower center')
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    report.save(figure, path)


def tables(result):
    """Return the part for the documentation."""
    found = [report.measured(result['about'])]
    for members in result['members']:
        modes = result['members'][members]
        found.append(report.table(
            'Microseconds of one answer about one of %s members' % members,
            ['driver', 'threads', 'service_is_up', 'get_updated_time',
             "the scheduler's question", 'service_is_up, 20 threads',
             'a new process, all members, ms'],
            [[report.LABELS[driver], mode, *('%.2f' % modes[mode][driver][name]
              for name in FIGURES),
              '%.0f' % modes[mode][driver]['first_ms']]
             for driver in DRIVERS for mode in MODES]))
    return '\n'.join(found)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('--members', type=int, nargs='+',
                        default=[100, 1000, 10000, 50000])
    parser.add_argument('--seconds', type=float, default=0.5)
    parser.add_argument('--output', type=pathlib.Path,
                        default=HERE / 'results')
    arguments = parser.parse_args()
    result = {'about': report.about(), 'members': {}}
    for members in arguments.members:
        found = result['members'][str(members)] = {}
        with stores(members) as addresses:
            for mode in MODES:
                found[mode] = ask_child(
                    mode, members, *addresses, arguments.seconds)
                for driver, figures in found[mode].items():
                    report.say('%6d members, %-8s %-8s %s' % (
                        members, mode, driver, '  '.join(
                            '%s %g' % item for item in figures.items())))
    path = report.write(arguments.output, 'question', result)
    path.with_suffix('.rst').write_text(tables(result))
    picture(result, path)


if __name__ == '__main__':
    if sys.argv[1:3] == ['child', 'beat']:
        beat(*map(int, sys.argv[3:]))
    elif sys.argv[1:2] == ['child']:
        child(int(sys.argv[3]), *sys.argv[4:6], float(sys.argv[6]))
    else:
        main()
