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

"""What does it cost to ask a memcached who is up, plug-in beside in-tree?

One memcached, one fleet that reports to it every ten seconds all the while,
real nova.objects.Service records from Nova's database layer on SQLite, and
Nova's API objects of both kinds in one process, in turn. Takes about a minute.

    python bench/mc.py [--members 1000 10000] [--output bench/results]
        [--backend oslo_cache.memcache_pool]

The in-tree driver asks through the back end that oslo.cache recommends for
services with many threads; dogpile.cache.memcached is the other one.

Writes mc.json: for each number of members, and for ``plugin`` and ``nova``,

* ``warm_is_up_us``: one service_is_up, microseconds, the mean of many in a
  row over all members; the plug-in's renewals of its view are in it;
* ``pass_ms``: one pass in the shape of GET /os-services (service_is_up and
  get_updated_time of each), milliseconds, the mean of passes in a row for some
  seconds; the plug-in's renewals of its view are in it;
* ``first_pass_ms``: the same, the first one of a new process; the plug-in's
  listing of Nova's services is in it;
* ``round_trips``: requests to memcached in one pass; the plug-in's view is
  too old at its start.
"""

import argparse
import contextlib
import gc
import itertools
import json
import multiprocessing
import os
import pathlib
import platform
import socket
import statistics
import tempfile
import time

os.environ.setdefault('OS_NOVA_DISABLE_EVENTLET_PATCHING', 'true')

import nova.conf
from nova import objects
from nova.servicegroup import api as in_tree_api
from nova.servicegroup.drivers import mc as in_tree_mc
from oslo_utils import timeutils

from nova_servicegroup import api as plugin_api
from nova_servicegroup.drivers import mc as plugin_mc
from nova_servicegroup.memcached import wire
from nova_servicegroup.tests.fixtures import database
from nova_servicegroup.tests.fixtures import memcached

CONF = nova.conf.CONF
SECONDS = 5
INTERVAL = 10


@contextlib.contextmanager
def counted_requests():
    """Count what is sent on sockets meanwhile; both clients use sendall."""
    count = [0]
    sendall = socket.socket.sendall

    def counting(self, *args):
        count[0] += 1
        return sendall(self, *args)

    socket.socket.sendall = counting
    try:
        yield count
    finally:
        del socket.socket.sendall


def configure(address, backend):
    CONF([], project='nova', default_config_files=[])
    CONF.set_override('servicegroup_driver', 'mc')
    CONF.set_override('enabled', True, 'cache')
    CONF.set_override('backend', backend, 'cache')
    CONF.set_override('memcache_servers', [address], 'cache')


def host_name(number):
    return 'compute-%05d.example.org' % number


def beat(members, port, ready):
    """Report for all members, each every INTERVAL, until terminated."""
    keys = [wire.key('compute', host_name(n)) for n in range(members)]
    with socket.create_connection(('127.0.0.1', port)) as sock:
        # The whole fleet at once, and after that in tenths of a second.
        send_beats(sock, keys)
        sock.sendall(b'version\r\n')
        sock.recv(100)
        ready.set()
        step = members // (INTERVAL * 10)
        for start in itertools.cycle(range(0, members, step)):
            time.sleep(0.1)
            send_beats(sock, keys[start:start + step])


def send_beats(sock, keys):
    requests = []
    for key in keys:
        moment = timeutils.utcnow()
        stamp = wire.stamp_of(moment)
        data = wire.encode(stamp, moment, {'1f3a-' + key[:8]: stamp})
        requests.append(b'set %s %d 0 %d noreply\r\n%s\r\n' % (
            key.encode(), wire.FLAG_PICKLED, len(data), data))
    sock.sendall(b''.join(requests))


@contextlib.contextmanager
def reporting_fleet(members, port):
    context = multiprocessing.get_context('spawn')
    ready = context.Event()
    reporter = context.Process(target=beat, args=(members, port, ready))
    reporter.start()
    try:
        if not ready.wait(60):
            raise SystemExit('The fleet does not report.')
        yield
    finally:
        reporter.terminate()
        reporter.join()


@contextlib.contextmanager
def service_records(members):
    """Make Nova's database with so many computes; give its records."""
    with tempfile.TemporaryDirectory() as directory:
        nova_db = database.Database(pathlib.Path(directory) / 'nova.sqlite')
        nova_db.add_many([host_name(n) for n in range(members)], 'compute')
        try:
            yield list(objects.ServiceList.get_all(nova_db.context))
        finally:
            nova_db.close()


def one_pass(api, records):
    for record in records:
        if not (api.service_is_up(record) and api.get_updated_time(record)):
            raise SystemExit('%s is down, which cannot be' % record.host)


def timed_ms(function, *args):
    gc.collect()
    start = time.perf_counter()
    function(*args)
    return (time.perf_counter() - start) * 1000


def measure(api, records, calls, pause):
    """Return the figures of one API object.

    :param calls: how many to take the mean of
    :param pause: seconds in which a view gets too old
    """
    figures = {'first_pass_ms': timed_ms(one_pass, api, records)}
    passes = []
    while sum(passes) < SECONDS * 1000:
        passes.append(timed_ms(one_pass, api, records))
    figures['pass_ms'] = statistics.mean(passes)
    time.sleep(pause)
    with counted_requests() as requests:
        one_pass(api, records)
    figures['round_trips'] = requests[0]
    is_up = api.service_is_up
    asked = (records * (calls // len(records) + 1))[:calls]
    gc.collect()
    start = time.perf_counter()
    for record in asked:
        is_up(record)
    figures['warm_is_up_us'] = (
        (time.perf_counter() - start) / calls * 1_000_000)
    return {name: round(figures[name], 3) for name in (
        'warm_is_up_us', 'pass_ms', 'first_pass_ms', 'round_trips')}


def compare(members, backend):
    """Return {'plugin': figures, 'nova': figures} for a fleet of a size."""
    with memcached.Memcached() as store, reporting_fleet(
            members, store.port), service_records(members) as records:
        configure(store.address, backend)
        plugin, in_tree = plugin_api.API(), in_tree_api.API()
        for api, module in (plugin, plugin_mc), (in_tree, in_tree_mc):
            if type(api._driver) is not module.MemcachedDriver:
                raise SystemExit('%r is measured in the place of %s' % (
                    api._driver, module.__name__))
        return {
            'plugin': measure(plugin, records, calls=1_000_000,
                              pause=CONF.servicegroup.view_refresh),
            'nova': measure(in_tree, records, calls=10_000, pause=0),
        }


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.partition('\n')[0])
    parser.add_argument('--members', type=int, nargs='+',
                        default=[1000, 10000])
    parser.add_argument('--backend', default='oslo_cache.memcache_pool',
                        help='[cache] backend of the in-tree driver')
    parser.add_argument('--output', type=pathlib.Path,
                        default=pathlib.Path(__file__).parent / 'results')
    options = parser.parse_args()
    print('%s, Python %s, %d CPUs' % (
        platform.platform(), platform.python_version(), os.cpu_count()))
    results = {}
    for members in options.members:
        # The view belongs to a process and a configuration: a new one each.
        result = results[str(members)] = _in_a_child(
            compare, members, options.backend)
        for who, figures in result.items():
            print('%6d members, %-6s  %s' % (members, who, '  '.join(
                '%s %s' % item for item in figures.items())))
        print('%6d members: the pass is %.0f times as fast, the first one '
              '%.0f times' % (members, *(
                  result['nova'][name] / result['plugin'][name]
                  for name in ('pass_ms', 'first_pass_ms'))))
    options.output.mkdir(parents=True, exist_ok=True)
    path = options.output / 'mc.json'
    path.write_text(json.dumps(results, indent=2) + '\n')
    print('Written to %s' % path)


def _in_a_child(function, *args):
    from concurrent import futures
    with futures.ProcessPoolExecutor(
            1, multiprocessing.get_context('spawn')) as pool:
        return pool.submit(function, *args).result()


if __name__ == '__main__':
    main()
