# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup size``: computes the cost of each driver."""

import argparse

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import sizing


class Size(base.Lister):
    """Compute the cost of each driver for a deployment, and recommend one.

    The figures are measurements of one host or one heartbeat, times their
    number. The command reads no configuration and no store. It assumes that
    service_down_time is six times the interval, as in Nova. The recommended
    driver, the reason and the settings are written to stderr.
    """

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('--hosts', metavar='N', type=_positive,
                            required=True, help='number of nova-computes')
        parser.add_argument('--interval', metavar='T', type=_positive,
                            default=10,
                            help='report_interval in seconds; default: 10')
        parser.add_argument('--workers', metavar='W', type=_positive,
                            default=16,
                            help='processes that ask: workers of nova-api, '
                                 'conductors and schedulers, on all '
                                 'controllers together; default: 16')
        parser.add_argument('--services', metavar='S', type=_positive,
                            default=6,
                            help='services that these workers belong to, on '
                                 'all controllers together: with zk, the '
                                 'workers of one share a keeper; default: 6')
        return parser

    def take_action(self, parsed_args):
        asked = (parsed_args.hosts, parsed_args.interval, parsed_args.workers,
                 parsed_args.services)
        costs = sizing.costs(*asked)
        choice = sizing.choice(*asked)
        lines = ['Recommended driver: %s' % choice.driver, *choice.why,
                 'Settings:', *('  ' + line for line in choice.settings)]
        self.app.stderr.write('\n'.join(lines) + '\n')
        return ('What', *costs), [
            (what, *(text(cost) for cost in costs.values()))
            for what, text in ROWS]


def _positive(text):
    if not (text.isdecimal() and int(text)):
        raise argparse.ArgumentTypeError(
            '%r is no whole number above 0' % text)
    return int(text)


def _number(value):
    if value is None:
        return ''
    if value == 0 or value >= 100:
        return '%.0f' % value
    return '%.2g' % value


def _seconds(times):
    low, high = times
    if high < 1:
        return '%.0f ms' % (1000 * high)
    return '%.0f to %.0f s' % times


ROWS = [
    ('heartbeats written, a second', lambda c: _number(c.heartbeats)),
    ('statements, commands or packets, a second',
     lambda c: _number(c.requests)),
    ('kB of heartbeats and pings, a second',
     lambda c: _number(c.traffic / 1000)),
    ('kB that all readers take at rest, a second',
     lambda c: _number(c.reading / 1000)),
    ('[servicegroup] view_refresh that this needs, seconds',
     lambda c: _number(c.refresh)),
    ('sessions, connections and open files of the store',
     lambda c: _number(c.connections)),
    ('cores of the store (db: of conductors) at rest',
     lambda c: _number(c.store_cpu)),
    ('MB of a server for it', lambda c: _number(c.store_mb)),
    ('MB on each compute', lambda c: _number(c.host_mb)),
    ('keepers of all processes that ask', lambda c: _number(c.keepers)),
    ('MB of each process that asks, with its share of a keeper',
     lambda c: _number(c.reader_mb)),
    ('nova-compute killed: no candidate after', lambda c: _seconds(
        c.killed_s)),
    ('host without power: down after', lambda c: _seconds(c.lost_s)),
    ('all hosts restart: seconds until the store is idle',
     lambda c: _number(c.restart_s)),
]
