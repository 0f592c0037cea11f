# SPDX-License-Identifier: Apache-2.0

"""Computes the cost of each driver for a deployment from measurements.

Nothing in here reads a configuration or a store.
"""

from __future__ import annotations

import typing


class Coefficient(typing.NamedTuple):
    """A measured figure.

    :param value: the figure
    :param source: file of bench/results, and the keys of the figure in it
    :param per: divisor of that figure
    """

    value: float
    source: tuple
    per: float = 1


#: All input figures. Two cores ran everything; a unit test compares them with
#: their sources.
MEASURED = {
    # A heartbeat of db, in MariaDB and in the conductor.
    'db_statements': Coefficient(7, ('store', 'db', 'db', 'statements')),
    'db_bytes': Coefficient(2670, ('store', 'db', 'db', 'bytes')),
    'db_cpu_ms': Coefficient(2.1, ('store', 'db', 'db', 'writer_cpu_ms')),
    # A heartbeat of mc, on one memcached; and what readers take of a member.
    'mc_commands': Coefficient(2, ('store', 'mc', 'mc', 'commands')),
    'mc_bytes': Coefficient(773, ('store', 'mc', 'mc', 'bytes')),
    'mc_stored': Coefficient(
        400, ('store', 'mc', 'mc', '10000', 'stored_bytes')),
    'mc_poll_bytes': Coefficient(
        390, ('store', 'mc', 'mc', '10000', 'poll_bytes'), 10000),
    'mc_poll_cpu_ms': Coefficient(
        0.0026, ('store', 'mc', 'mc', '10000', 'poll_cpu_ms'), 10000),
    'mc_reader_bytes': Coefficient(
        1120, ('store', 'mc', 'mc', '10000', 'memory_bytes'), 10000),
    # A session of zk at rest, with a recv_timeout of 4 s.
    'zk_packets': Coefficient(
        1.5, ('store', 'zk', '1000', 'at_rest_per_s', 'packets'), 1000),
    'zk_bytes': Coefficient(
        24, ('store', 'zk', '1000', 'at_rest_per_s', 'bytes'), 1000),
    'zk_cpu': Coefficient(1.9e-5, (
        'zk', 'members', '10000', 'sessions', 'fleet',
        'server_cpu_at_rest'), 10000),
    # One member that is killed and joins again.
    'zk_restart_transactions': Coefficient(4, (
        'store', 'zk', '1000', 'restart_per_member', 'transactions')),
    'zk_restart_s': Coefficient(1.2e-3, (
        'zk', 'members', '10000', 'sessions', 'keeper', '20', 'restart',
        'join_s'), 10000),
    'zk_server_mb_at_1000': Coefficient(
        122, ('zk', 'members', '1000', 'sessions', 'server_memory_mb')),
    'zk_server_mb_at_10000': Coefficient(
        201, ('zk', 'members', '10000', 'sessions', 'server_memory_mb')),
    'zk_keeper_mb': Coefficient(
        24, ('soak', 'processes', 'zk reader 1, keeper', 'memory_mb')),
    # One of the three that 40 workers share.
    'zk_shared_keeper_mb': Coefficient(
        25, ('controller', 'shared', 'memory_mb'), 3),
    'zk_reader_mb_at_1000': Coefficient(41, (
        'zk', 'members', '1000', 'sessions', 'keeper', '20',
        'reader_memory_mb')),
    'zk_reader_mb_at_10000': Coefficient(76, (
        'zk', 'members', '10000', 'sessions', 'keeper', '20',
        'reader_memory_mb')),
    'zk_kill_ms': Coefficient(9, ('crash', 'zk', 'sigkill', 'p50_ms')),
}
#: members of a group whose names fit into an answer that Java clients accept
ZK_MOST_MEMBERS = 23800
#: seconds; defaults of [zookeeper] recv_timeout and of view_refresh
RECV_TIMEOUT, VIEW_REFRESH = 4.0, 1.0
#: Nova's service_down_time divided by its report_interval
DOWN_BY_INTERVAL = 6
#: limits: bytes a second for all readers of memcached together, a tenth of a
#: gigabit; share of a process's CPU to renew its view
MC_MOST_TRAFFIC, MC_MOST_CPU = 12.5e6, 0.02
#: hosts below which another store isn't worth its maintenance
FEW_HOSTS = 50


class Cost(typing.NamedTuple):
    """The cost of one driver for a whole deployment. Rates are per second.

    :param heartbeats: heartbeats that the store writes
    :param requests: statements, commands or packets that the store handles
    :param traffic: bytes of heartbeats and pings, both ways
    :param reading: bytes to all processes that ask, at rest
    :param refresh: seconds; the view_refresh that limits ``reading``, None
        without such an option
    :param connections: additional connections to all servers of the store
        together; as many open files there
    :param store_cpu: cores of the store at rest; with db of the conductors
    :param store_mb: additional memory of each server; for zk of the whole
        process
    :param host_mb: memory on each compute
    :param keepers: of all processes that ask
    :param reader_mb: memory of each process that asks, with its share of a
        keeper
    :param killed_s: (from, to) until a killed nova-compute is no candidate
    :param lost_s: (from, to) until a host without power is down
    :param restart_s: for how long a restart of all hosts keeps the store
        busy; None if heartbeats are spread
    """

    heartbeats: float
    requests: float
    traffic: float
    reading: float
    refresh: float | None
    connections: int
    store_cpu: float | None
    store_mb: float
    host_mb: float
    keepers: int
    reader_mb: float
    killed_s: tuple
    lost_s: tuple
    restart_s: float | None


def _m(name):
    return MEASURED[name].value


def costs(hosts, interval=10, workers=16, services=6):
    """Return {driver: Cost}.

    :param hosts: number of nova-computes
    :param interval: [DEFAULT] report_interval, seconds
    :param workers: processes that ask: workers of nova-api, conductors,
        schedulers
    :param services: services that these processes belong to
    """
    return {'db': _db(hosts, interval), 'mc': _mc(hosts, interval, workers),
            'zk': _zk(hosts, workers, min(services, workers))}


def _db(hosts, interval):
    rate = hosts / interval
    down = DOWN_BY_INTERVAL * interval
    return Cost(
        heartbeats=rate, requests=rate * _m('db_statements'),
        traffic=rate * _m('db_bytes'), reading=0, refresh=None,
        connections=0,
        store_cpu=rate * _m('db_cpu_ms') / 1000, store_mb=0, host_mb=0,
        keepers=0, reader_mb=0, killed_s=(down - interval, down),
        lost_s=(down - interval, down), restart_s=None)


def _mc(hosts, interval, workers):
    rate = hosts / interval
    down = DOWN_BY_INTERVAL * interval
    refresh = view_refresh(hosts, workers)
    polled = hosts * workers / refresh
    lost = down - interval, down + refresh
    return Cost(
        heartbeats=rate,
        requests=rate * _m('mc_commands') + workers / refresh,
        traffic=rate * _m('mc_bytes'),
        reading=polled * _m('mc_poll_bytes'), refresh=refresh,
        connections=hosts + 2 * workers, store_cpu=None,
        store_mb=hosts * _m('mc_stored') / 1e6, host_mb=0,
        keepers=0, reader_mb=hosts * _m('mc_reader_bytes') / 1e6,
        killed_s=lost, lost_s=lost, restart_s=None)


def _zk(hosts, workers, keepers):
    sessions = hosts + keepers
    return Cost(
        # Each of them reads ZooKeeper's clock, by a write, every two minutes.
        heartbeats=keepers / 120, requests=sessions * _m('zk_packets'),
        traffic=sessions * _m('zk_bytes'), reading=0, refresh=None,
        connections=sessions,
        store_cpu=sessions * _m('zk_cpu'),
        store_mb=_line('zk_server_mb', sessions),
        host_mb=_m('zk_keeper_mb'),
        keepers=keepers,
        reader_mb=_m('zk_shared_keeper_mb') * keepers / workers
        + hosts * _slope('zk_reader_mb'),
        killed_s=(_m('zk_kill_ms') / 1000,) * 2,
        lost_s=(RECV_TIMEOUT, 2 * RECV_TIMEOUT),
        restart_s=hosts * _m('zk_restart_s'))


def _line(name, count):
    """Interpolate linearly between two measured points."""
    return max(0, _m(name + '_at_1000') + _slope(name) * (count - 1000))


def _slope(name):
    return (_m(name + '_at_10000') - _m(name + '_at_1000')) / 9000


def view_refresh(hosts, workers):
    """Return the smallest [servicegroup] view_refresh to recommend, seconds.

    It keeps all readers within MC_MOST_TRAFFIC, and each within MC_MOST_CPU.
    """
    return max(VIEW_REFRESH,
               round(hosts * workers * _m('mc_poll_bytes') / MC_MOST_TRAFFIC),
               round(hosts * _m('mc_poll_cpu_ms') / 1000 / MC_MOST_CPU))


class Choice(typing.NamedTuple):
    """The recommended driver.

    :param driver: its name
    :param why: sentences
    :param settings: lines of nova.conf and of the store's configuration
    """

    driver: str
    why: list
    settings: list


def choice(hosts, interval=10, workers=16, services=6):
    """Return the Choice for a deployment; see ``costs``."""
    db, _, zk = costs(hosts, interval, workers, services).values()
    if hosts < FEW_HOSTS:
        return Choice('db', [
            'It needs no other store, and %.1f heartbeats a second are '
            'little load.' % db.heartbeats,
            'A lost host is down after %d to %d s. If that is too late, zk '
            'detects it within %d s.' % (*db.lost_s, zk.lost_s[1])], [
            '[DEFAULT] servicegroup_driver = db',
            '[DEFAULT] report_interval = %d' % interval,
            '[DEFAULT] service_down_time = %d' % (
                DOWN_BY_INTERVAL * interval)])
    why = ['A killed nova-compute gets no new instances after %d ms. A host '
           'without power is down after %d s instead of %d s.' % (
               1000 * zk.killed_s[1], zk.lost_s[1], db.lost_s[1]),
           'At rest, ZooKeeper writes %.1f znodes a second. The db driver '
           'needs %.0f database statements a second, and %.1f processor cores '
           'of the conductors.' % (
               zk.heartbeats, db.requests, db.store_cpu)]
    if zk.restart_s > RECV_TIMEOUT:
        why.append(
            'If all hosts restart at the same time, ZooKeeper is busy for %d '
            's: restart them in parts of %d.' % (
                zk.restart_s, RECV_TIMEOUT / _m('zk_restart_s') / 2))
    if hosts > ZK_MOST_MEMBERS:
        why.append(
            'The group is larger than any that was measured. Its names are '
            'more than 1 MB, and zkCli.sh cannot list them: see "What breaks '
            'first" in the documentation.')
    servers = 3 if hosts <= 5000 else 5
    return Choice('zk', why, [
        '[DEFAULT] servicegroup_driver = zk',
        '[zookeeper] recv_timeout = %d' % (1000 * RECV_TIMEOUT),
        '%d ZooKeeper servers; zoo.cfg as the page on its limits has it'
        % servers,
        'zoo.cfg: maxClientCnxns = 0, or more than the processes behind one '
        'address',
        'heap of a server: -Xmx%dm' % (256 * -(-2 * zk.store_mb // 256)),
        'LimitNOFILE of a server: %d' % (1024 * -(-2 * zk.connections
                                                  // 1024))])
