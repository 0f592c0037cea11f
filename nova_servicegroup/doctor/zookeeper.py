# SPDX-License-Identifier: Apache-2.0

"""Checks of the ZooKeeper ensemble of the zk driver."""

import time

from nova_servicegroup.doctor import certificates
from nova_servicegroup.doctor import Check
from nova_servicegroup.doctor import clock
from nova_servicegroup.doctor import ensemble
from nova_servicegroup.doctor import Finding
from nova_servicegroup.doctor import Level
from nova_servicegroup.doctor import listed
from nova_servicegroup.doctor import processes
from nova_servicegroup.doctor import Unreachable
from nova_servicegroup.drivers import zk

#: seconds for an answer; more is a warning
SLOW = 0.5
#: seconds by which its clock may differ: verdicts don't depend on it
CLOCK_TOLERANCE = 5.0
#: number of znodes of one kind that are checked
MOST_NODES = 2000
#: descriptors that a server needs for itself, at most
_SPARE = 100


def servers(site):
    """Check each server: its latency, its version, its role."""
    store = site.zookeeper
    modes, lost = {}, {server: answer.strerror or answer
                       for server, answer in store.answers.items()
                       if isinstance(answer, OSError)}
    if len(lost) == len(store.answers):
        raise Unreachable(
            'No ZooKeeper server can be used: %s.' % listed(
                '%s (%s)' % one for one in lost.items()),
            'On each of them: "systemctl status zookeeper". From here: nc -zv '
            '%s' % list(lost)[0].replace(':', ' '))
    for server, answer in store.answers.items():
        if server in lost:
            yield Finding(
                Level.WARNING, 'The ZooKeeper server %s cannot be used: %s' % (
                    server, lost[server]),
                'The loss of one more may stop the ensemble.',
                'On it: "systemctl status zookeeper", and read its log. '
                'From here: nc -zv %s' % server.replace(':', ' '))
            continue
        status = _fields(answer.words['srvr'], ':')
        modes[server] = status.get('Mode')
        yield _server(server, answer, status)
    alone = [server for server, mode in modes.items() if mode == 'standalone']
    if alone and len(modes) > 1:
        yield Finding(
            Level.CRITICAL, 'These servers are no ensemble, each is for '
            'itself: %s.' % listed(alone),
            'Readers of one server see services that report to another as '
            'down.',
            'The same lines server.1=..., server.2=... in the zoo.cfg of '
            'each; or one server in [zookeeper] address.')
    elif len(store.answers) == 1 and not alone:
        yield Finding(
            Level.WARNING, '[zookeeper] address names one server of an '
            'ensemble.', 'When it is lost, services of this host cannot use '
            'the others.', 'Name all of them:\n[zookeeper]\naddress = '
            'zk1:2181,zk2:2181,zk3:2181')


def _server(server, answer, status):
    version = (status.get('Zookeeper version') or '').partition('-')[0]
    if 'not currently serving' in answer.words['srvr']:
        return Finding(
            Level.CRITICAL, 'The ZooKeeper server %s serves no client: it has '
            'no leader.' % server, 'Without a majority of the servers, '
            'services can neither report nor read.', 'Start the other ones: '
            '"systemctl start zookeeper"; check their ports 2888 and 3888.')
    text = 'ZooKeeper %s at %s answers in %.0f ms%s.' % (
        version or 'of an unknown version', server, 1000 * answer.seconds,
        ', as %s' % status['Mode'] if 'Mode' in status else '')
    if answer.seconds > SLOW:
        return Finding(
            Level.WARNING, text, 'Slow servers end the sessions of living '
            'hosts.', 'Check the disk of dataDir, the heap of Java and the '
            'network: "echo mntr | nc %s" shows zk_avg_latency and '
            'zk_outstanding_requests.' % server.replace(':', ' '))
    return Finding(Level.OK, text)


def settings(site):
    """Check the settings and limits of the servers."""
    store = site.zookeeper
    silent = []
    for server, answer in store.answers.items():
        if isinstance(answer, OSError):
            continue
        config = _numbers(_fields(answer.words['conf'], '='))
        state = _numbers(_fields(answer.words['mntr'], '\t'))
        if 'tickTime' not in config or 'zk_version' not in \
                answer.words['mntr']:
            silent.append(server)
        found = list(_times(server, config, store.options.recv_timeout))
        found += _limits(server, config, state, store)
        yield from found
        if not found and server not in silent:
            yield Finding(Level.OK, 'The settings and limits of %s fit.'
                          % server)
    if silent:
        yield Finding(
            Level.UNKNOWN, 'These servers do not show settings and limits: %s.'
            % listed(silent), 'tickTime times syncLimit decides whether '
            'living hosts lose their sessions; maxClientCnxns, whether all '
            'processes of a host get one.',
            'In zoo.cfg of each server, and restart it:\n'
            '4lw.commands.whitelist=srvr,ruok,mntr,conf')


def _numbers(fields):
    return {name: int(value) for name, value in fields.items()
            if value.lstrip('-').isdigit()}


def _times(server, config, timeout):
    tick, sync = config.get('tickTime'), config.get('syncLimit')
    if tick is None:
        return
    fix = ('In zoo.cfg of every server; restart one after the other, the '
           'leader last:\ntickTime=%d\nsyncLimit=4\ninitLimit=%d\n'
           'minSessionTimeout=%d' % (
               timeout // 10, max(10, 200000 // timeout), timeout))
    if sync and 2 * sync * tick > timeout:
        yield Finding(
            Level.WARNING, '%s lets another server be silent for %.1f s '
            '(tickTime times syncLimit), more than half of recv_timeout (%.1f '
            's).' % (server, sync * tick / 1000, timeout / 1000),
            'When the leader pauses, or a follower loses its connection to '
            'it, sessions of living hosts end.', fix)
    elif 9 * tick > timeout:
        yield Finding(
            Level.WARNING, '%s has a tickTime of %d ms, more than a ninth of '
            'recv_timeout (%d ms).' % (server, tick, timeout),
            'A host without power is detected up to %.1f s later.'
            % (1.5 * tick / 1000), fix)


def _limits(server, config, state, store):
    most = config.get('maxClientCnxns')
    if most:
        busiest, needed = _most_connections(store)
        if 2 * needed > most:
            yield Finding(
                Level.CRITICAL if needed >= most else Level.WARNING,
                '%s takes %d connections from one address (maxClientCnxns), '
                'and %s needs %d.' % (server, most, busiest, needed),
                'Processes beyond that get no connection: they are seen as '
                'down, or cannot read. When other servers are down, all '
                'connect to one; hosts behind one translated address count '
                'together.', 'In zoo.cfg of every server, and restart it:\n'
                'maxClientCnxns=0')
    files = state.get('zk_max_file_descriptor_count')
    sessions = sum(map(len, store.groups.values()))
    if files is not None and files < sessions + _SPARE:
        yield Finding(
            Level.CRITICAL if files <= sessions else Level.WARNING,
            '%s may have %d files open, and there are %d members.' % (
                server, files, sessions),
            'When the other servers are down, every process that reports or '
            'asks connects to it.',
            'systemctl edit zookeeper\n[Service]\nLimitNOFILE=%d\n\nand '
            'restart it' % max(65536, 2 * sessions))


def _most_connections(store):
    """Return (a host, how many connections it needs at least)."""
    here = sum(one.program == 'keeper' for one in processes.running())
    counts = {'this host': here}
    for group in store.groups:
        for host, nodes in store.members(group).items():
            counts[host] = counts.get(host, 0) + len(nodes)
    return max(counts.items(), key=lambda item: item[1])


def session(site):
    """Open a session, as services do, and check its granted timeout."""
    store = site.zookeeper
    client = store.client
    expected = store.options.recv_timeout / 1000
    granted = getattr(client, 'granted_timeout', None)
    if granted is None:
        yield Finding(Level.UNKNOWN, 'This kazoo does not show the granted '
                      'session timeout.', 'A lost host stays up for that '
                      'long.', 'pip install "kazoo>=2.11"')
    elif granted != expected:
        line = ('minSessionTimeout=%d\ntickTime=%d' % (
            expected * 1000, expected * 100) if granted > expected
            else 'maxSessionTimeout=%d' % (expected * 1000))
        yield Finding(
            Level.WARNING, 'ZooKeeper grants a session timeout of %g s, and '
            'recv_timeout is %g s.' % (granted, expected),
            'A lost host stays up for that long.',
            'In zoo.cfg of every server, and restart it:\n%s\n\nor here:\n'
            '[zookeeper]\nrecv_timeout = %d' % (line, granted * 1000))
    else:
        yield Finding(Level.OK, 'ZooKeeper grants the session timeout of '
                      '%g s.' % granted)
    yield from _clock(store)


def _clock(store):
    """Compare the clock of ZooKeeper's leader with that of this host."""
    # Readers write this empty node every two minutes.
    path = '%s/%s/@clock' % (store.prefix, zk.RECORDS)
    asked = time.time()
    try:
        stat = store.get(store.client.set_async(path, b''))
    except ensemble.UNREADABLE:
        # No reader wrote it yet; or "zookeeper-rights" reports the error.
        return
    took = time.time() - asked
    yield clock('ZooKeeper\'s leader', stat.mtime / 1000 - asked - took / 2,
                took / 2, CLOCK_TOLERANCE,
                'Times in tools and logs cannot be compared; verdicts use the '
                'clock of the leader only.')


def rights(site):
    """Check our permissions, and those of other clients."""
    store = site.zookeeper
    where, why = store.ours.refusal(store.client, store.prefix, store.get)
    if why is not None:
        yield Finding(
            Level.CRITICAL,
            'Permission denied on the ZooKeeper path %s: %s' % (where, why),
            'Services with this configuration cannot join.',
            'The same auth_scheme, username and password, or certificate '
            'subject, in nova.conf of every node.')
        return
    if not store.ours:
        yield Finding(
            Level.WARNING, 'There is no identity: any client that reaches the '
            'servers may write.', 'It can keep a dead host up, take a living '
            'one down, or lock all services out.',
            'On every node:\n[zookeeper]\nauth_scheme = digest\nusername = '
            'nova\npassword = SECRET\n\nand when all have it: '
            'nova-servicegroup zookeeper tighten')
        return
    paths = [store.prefix, '%s/%s' % (store.prefix, zk.RECORDS),
             store.records_directory]
    for group, nodes in store.groups.items():
        paths.append(store.directory(group))
        paths += ['%s/%s' % (store.directory(group), name)
                  for name in nodes[:MOST_NODES]]
    paths += map(store.record, sorted(store.records)[:MOST_NODES])
    found = {path: acl for path, (acl, _) in store.get_all(
        [(path, store.client.get_acls_async(path)) for path in paths])}
    open_ones = [path for path, acl in found.items()
                 if store.ours.open_to_others(acl)]
    others = [path for path, acl in found.items()
              if path not in set(open_ones)
              and not store.ours.is_as_wanted(acl)]
    if open_ones:
        yield Finding(
            Level.CRITICAL, '%d of %d nodes are open to everybody: %s.' % (
                len(open_ones), len(found), listed(open_ones, 3)),
            'Any client that reaches the servers can make a living host look '
            'dead, or a dead one alive.',
            'nova-servicegroup zookeeper tighten')
    if others:
        yield Finding(
            Level.WARNING, '%d of %d nodes have other rights than services '
            'with this configuration give: %s.' % (
                len(others), len(found), listed(others, 3)),
            'Their creator has another identity, or another open_reading.',
            'nova-servicegroup zookeeper tighten --dry-run')
    if not (open_ones or others):
        yield Finding(Level.OK, '%d nodes have the rights of %s.' % (
            len(found), store.ours.name))


def _fields(text, separator):
    """Return {name: value} of the lines of an answer."""
    return {name.strip(): value.strip()
            for name, found, value in (
                line.partition(separator) for line in text.splitlines())
            if found}


def _is_usable(site):
    return site.can_use('zk')


_SERVERS, _SESSION = 'zookeeper-servers', 'zookeeper-session'
CHECKS = [
    Check(_SERVERS, servers, _is_usable),
    Check(_SESSION, session, _is_usable, (_SERVERS,)),
    Check('zookeeper-settings', settings, _is_usable, (_SESSION,)),
    Check('zookeeper-rights', rights, _is_usable, (_SESSION,)),
    Check('certificates', certificates.check,
          lambda site: _is_usable(site) and site.zookeeper.options.use_tls)]
