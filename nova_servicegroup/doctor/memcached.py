# SPDX-License-Identifier: Apache-2.0

"""Checks of the memcached servers of the mc driver."""

import time

from nova_servicegroup.doctor import Check
from nova_servicegroup.doctor import clock
from nova_servicegroup.doctor import Finding
from nova_servicegroup.doctor import Level
from nova_servicegroup.doctor import listed
from nova_servicegroup.doctor import Unreachable
from nova_servicegroup.memcached import servers

#: seconds for an answer; more is a warning
SLOW = 0.2
_FIX = ('On it: "systemctl status memcached"; it must listen on the address '
        'that [cache] memcache_servers names (option -l).')
#: share of the connections in use; more is a warning
_MOST_USED = 0.8


def check(site):
    """Check each server: its latency, its clock, its limits."""
    lost = {}
    for server in site.memcached:
        if server.name == servers.IN_PROCESS:
            yield Finding(
                Level.WARNING, '[DEFAULT] memcached_servers is <None>: '
                'heartbeats are kept in each process.',
                'No process sees another: every service is down, or in doubt.',
                '[cache]\nmemcache_servers = HOST1:11211,HOST2:11211\n\nin '
                'place of memcached_servers')
            return
        try:
            seconds, stats = _ask(server, site.memcached.timeout)
        except OSError as e:
            lost[server.name] = e
            continue
        yield from _server(site, server.name, seconds, stats)
    if len(lost) == len(site.memcached):
        raise Unreachable('No memcached server can be used: %s.' % listed(
            '%s (%s)' % one for one in lost.items()), _FIX)
    for name, error in lost.items():
        yield Finding(
            Level.WARNING, 'The memcached server %s cannot be used: %s' % (
                name, error), _why_lost(site), _FIX)


def _why_lost(site):
    return ('Heartbeats go to the others: no answer changes, until they are '
            'lost, too.' if site.memcached.replicate else
            'The services whose heartbeats it has are in doubt.')


def _ask(server, timeout):
    """Return (seconds that it took, {name: value}).

    :raises OSError: it doesn't answer
    """
    if isinstance(server, servers.InvalidServer):
        raise OSError(server.problem)
    import memcache
    client = memcache.Client([server.name], socket_timeout=timeout)
    try:
        began = time.monotonic()
        answers = client.get_stats()
        seconds = time.monotonic() - began
        if not (answers and answers[0][1]):
            raise OSError('no answer within %g s' % timeout)
        stats = dict(answers[0][1])
        for name, value in client.get_stats('settings')[0][1].items():
            stats.setdefault(name, value)
        return seconds, stats
    except (ValueError, IndexError) as e:
        raise OSError('it is no memcached') from e
    finally:
        client.disconnect_all()


def _server(site, name, seconds, stats):
    text = 'memcached %s at %s answers in %.0f ms.' % (
        stats.get('version', 'of an unknown version'), name, 1000 * seconds)
    if seconds > SLOW:
        yield Finding(
            Level.WARNING, text, 'Heartbeats that take too long are lost, and '
            'a question of Nova may wait for it.',
            'Check the network to it, and that it does not swap: free -m')
    else:
        yield Finding(Level.OK, text)
    numbers = {key: int(value) for key, value in stats.items()
               if value.isdigit()}
    if 'time' in numbers:
        # It is in whole seconds.
        yield clock(
            'memcached at %s' % name, numbers['time'] + 0.5 - time.time(),
            0.5 + seconds, site.conf.service_down_time / 10,
            'A reader that has just started compares its own clock with that '
            'of the writer: a host whose clock is behind looks dead to it.')
    yield from _limits(site, name, numbers)


def _limits(site, name, numbers):
    most = numbers.get('max_connections') or numbers.get('maxconns')
    used = numbers.get('curr_connections', 0)
    refused = (numbers.get('rejected_connections', 0)
               + numbers.get('listen_disabled_num', 0))
    services = site.services_known
    if most and (max(used, services) > _MOST_USED * most or refused):
        yield Finding(
            Level.CRITICAL if max(used, services) >= most
            else Level.WARNING,
            'memcached at %s takes %d connections, %d are in use%s%s.' % (
                name, most, used,
                ', and Nova has %d services' % services if services else '',
                '; it refused, or let wait, %d so far' % refused
                if refused else ''),
            'Each process that reports or asks keeps one. Those beyond the '
            'limit wait: their heartbeats are lost.',
            'In /etc/memcached.conf: "-c %d", and restart it'
            % max(4096, 2 * most))
    evictions = numbers.get('evictions', 0)
    if evictions:
        yield Finding(
            Level.WARNING, 'memcached at %s evicted %d values for lack of '
            'memory.' % (name, evictions),
            'If a heartbeat is among them, its service is in doubt.',
            'In /etc/memcached.conf: "-m %d", and restart it' % (
                2 * max(64, numbers.get('limit_maxbytes', 0) >> 20)))


CHECKS = [Check('memcached', check, lambda site: site.can_use('mc'))]
