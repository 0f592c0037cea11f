# SPDX-License-Identifier: Apache-2.0

"""Compares the services in Nova's database with the members in the store."""

import collections
import shlex
import time

from oslo_utils import importutils

from nova_servicegroup.cmd import base
from nova_servicegroup.doctor import Check
from nova_servicegroup.doctor import ensemble
from nova_servicegroup.doctor import Finding
from nova_servicegroup.doctor import Level
from nova_servicegroup.doctor import listed
from nova_servicegroup.doctor import Unreachable
from nova_servicegroup.doctor import zookeeper
from nova_servicegroup import drivers
from nova_servicegroup import exception
from nova_servicegroup.keeper import names
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State

_COMPUTE = 'compute'
#: number of services for which a fix has a command each
_MOST_COMMANDS = 5
_WHY_TWO = ('Nova takes two machines with one name for one host: both may run '
            'the same instance, and heartbeats of one hide the loss of the '
            'other.')
_FIX_TWO = ('On one of them: "systemctl stop nova-compute", then\n[DEFAULT]\n'
            'host = ANOTHER-NAME\n\nin its nova.conf, and start it again.')


def duplicates(site):
    """Find two machines that report as one host."""
    found = False
    if site.has_database:
        cells = collections.defaultdict(set)
        for record, cell in site.records:
            if record['binary'] == 'nova-compute':
                cells[record['host']].add(cell)
        twice = {host for host, where in cells.items() if len(where) > 1}
        if twice:
            found = True
            yield Finding(
                Level.CRITICAL, 'These hosts are in several cells: %s.'
                % listed('%s (%s)' % (host, ', '.join(sorted(cells[host])))
                         for host in twice), _WHY_TWO, _FIX_TWO + ' If the '
                'host was moved, delete its old service: '
                'openstack compute service delete ID')
    if site.can_use('zk'):
        several = _several_machines(site.zookeeper)
        if several:
            # After a reboot the old znode remains until its session expires.
            time.sleep(1.5 * getattr(
                site.zookeeper.client, 'granted_timeout', 10))
            several = _several_machines(ensemble.Store(site.conf), several)
        if several:
            found = True
            yield Finding(
                Level.CRITICAL, 'Two machines report as one host: %s.'
                % listed('%s (boot ids %s)' % (host, ' and '.join(sorted(
                    boots))) for host, boots in several.items()),
                _WHY_TWO, _FIX_TWO)
    if not found:
        yield Finding(Level.OK, 'No two machines report as one host.')


def _several_machines(store, only=None):
    """Return {host: boot ids} of hosts with znodes of several machines."""
    found = {}
    for group in store.groups:
        for host, paths in store.members(group).items():
            if len(paths) > 1 and (only is None or host in only):
                boots = {about.get('boot_id')
                         for about in store.data(paths).values()} - {None}
                if len(boots) > 1:
                    found[host] = boots
    if only is not None:
        store.close()
    return found


def mixed(site):
    """Find services that report by another driver than the readers use."""
    found = False
    for finding in _mixed(site):
        found = True
        yield finding
    if not found:
        yield Finding(Level.OK, 'No service reports by another driver than '
                      'is configured here.')


def _mixed(site):
    ours = site.deployment.driver
    records = site.records
    expected = site.conf.servicegroup.also_report
    states = {_key(record, cell): ours.verdict(record).state
              for record, cell in records}
    yield from _never_here(ours, records, states)
    for other in _other_drivers(site):
        there = [(record, cell) for record, cell in records
                 if other.verdict(record).state is State.UP]
        elsewhere = [record['host'] for record, cell in there
                     if states[_key(record, cell)] is not State.UP]
        both = [record['host'] for record, cell in there
                if states[_key(record, cell)] is State.UP]
        if elsewhere:
            yield Finding(
                Level.CRITICAL, 'Services that report by %s and not by %s, '
                'on: %s.' % (other.name, ours.name, listed(elsewhere)),
                'They are alive, but are down or in doubt for Nova.',
                'In nova.conf on these hosts, as on this one:\n[DEFAULT]\n'
                'servicegroup_driver = %s\n\nand restart their services. "'
                'nova-servicegroup migrate check" shows which are missing.'
                % ours.name)
        if both and other.name not in expected:
            yield Finding(
                Level.WARNING, 'Services that report by %s, too, on: %s.' % (
                    other.name, listed(both)),
                'Their configuration differs from that of this host, where '
                'also_report does not name %s.' % other.name,
                'The same on every node:\n[servicegroup]\nalso_report = %s\n\n'
                'or without %s, when the migration is over.' % (
                    ','.join([*expected, other.name]), other.name))


def _key(record, cell):
    return record['binary'], record['host'], cell


def _never_here(ours, records, states):
    """Yield the Finding about services that never reported to the store."""
    try:
        never = [record['host'] for record, cell in records
                 if states[_key(record, cell)] is not State.UP
                 and ours.observe(record).last is None]
    except exception.ServiceGroupUnavailable as e:
        raise Unreachable(str(e), 'See the checks of the store.') from e
    if never:
        yield Finding(
            Level.WARNING, 'Services that were never in the store of %s, on: '
            '%s.' % (ours.name, listed(never)),
            'They run without this package, with another driver, or no longer '
            'at all.',
            'Install the package there, and restart their services. For those '
            'that no longer exist: openstack compute service delete ID')


def _other_drivers(site):
    """Return the configured drivers except the one that answers."""
    conf = site.deployment.conf
    found = []
    for name in sorted(set(drivers.DRIVERS) - {site.driver}):
        if name == 'zk' and not site.conf.zookeeper.address:
            continue
        try:
            found.append(importutils.import_object(
                drivers.DRIVERS[name], conf=conf))
        except exception.ConfigurationError:
            # This deployment has no such store.
            continue
    return found


def services(site):
    """Find services that are down, or in doubt."""
    found = [site.deployment.service(record, cell)
             for record, cell in site.records]
    yield from _unlisted(site)
    unknown = [one for one in found if one.state is State.UNKNOWN]
    down = [one for one in found if one.state is State.DOWN
            and one.verdict.reason is not Reason.FORCED_DOWN]
    if unknown:
        yield _in_doubt(unknown, found)
    if down:
        yield _down(down, found)
    if not (unknown or down):
        yield Finding(Level.OK, '%d of %d services are up by %s.' % (
            sum(one.is_alive for one in found), len(found), site.driver))


def _unlisted(site):
    if site.deployment.failures:
        yield Finding(
            Level.UNKNOWN, 'Not all services are known: %s.'
            % '; '.join(site.deployment.failures),
            'Those of other cells are not checked.',
            'nova-servicegroup doctor --only database')


def _in_doubt(unknown, found):
    reasons = collections.Counter(one.verdict.reason for one in unknown)
    computes = [one for one in found if one.group == _COMPUTE]
    everywhere = (reasons.keys() & {Reason.MASS_FAILURE, Reason.OUTAGE}
                  or computes and all(one.state is State.UNKNOWN
                                      for one in computes))
    return Finding(
        Level.CRITICAL if everywhere else Level.WARNING,
        'The state of %d of %d services is unknown: %s.' % (
            len(unknown), len(found), '; '.join(
                '%s (%d)' % (reason.value, count)
                for reason, count in reasons.most_common())),
        'Lost hosts among them are not detected: with outage_policy = safe '
        'they count as up, and are not evacuated.',
        'nova-servicegroup list --unknown\n\nRepair what they have in common: '
        'message bus, store, network. Living hosts come back by themselves. '
        'If hosts are lost, fence them, then:\n'
        'nova-servicegroup force-down --silent')


def _down(down, found):
    return Finding(
        Level.WARNING,
        '%d of %d services are down, and not forced down: %s.' % (
            len(down), len(found), listed(
                '%s on %s' % (one.binary, one.host) for one in down)),
        'Nova does not use them. Instances of a lost compute are gone until '
        'it is evacuated.',
        '\n'.join([
            *(shlex.join(base.printable(
                ['nova-servicegroup', 'explain', one.host,
                 '--service', one.binary])) for one in down[:_MOST_COMMANDS]),
            '', 'says why. Start the service; if its host is lost, fence it '
            'first, then:', 'openstack server evacuate SERVER', '',
            'If the service no longer exists:',
            'openstack compute service delete ID']))


def records(site):
    """Compare ZooKeeper's members, their records, and Nova's services."""
    store = site.zookeeper
    members = store.members(_COMPUTE)
    known = site.hosts(_COMPUTE)
    count = 0
    # Without all of Nova's hosts, members are not compared with them.
    unlisted = _unlisted(site) if site.has_database else ()
    for found in (unlisted, _strange(store), _without_record(store, members),
                  _not_of_nova(members, known),
                  _left_behind(store, members, known),
                  _versions(store, members)):
        for one in found:
            count += one.level is not Level.OK
            yield one
    if not count:
        yield Finding(Level.OK, 'All %d members of the group compute have a '
                      'record.' % len(members))


def _strange(store):
    for group, nodes in store.groups.items():
        strange = [name for name in nodes if names.host(name) is None]
        if strange:
            yield Finding(
                Level.WARNING, 'Nodes in %s that are no memberships: %s.' % (
                    store.directory(group), listed(strange)),
                'An old driver created them, or another program that uses the '
                'directory.',
                'Upgrade these services; or use different directories:\n'
                '[zookeeper]\nsg_prefix = /servicegroups-NAME')


def _without_record(store, members):
    without = set(members) - store.records
    if without:
        # A member may have joined between the two listings.
        without -= store.list_records()
    if without:
        yield Finding(
            Level.WARNING, 'Members without a record: %s.' % listed(without),
            'The end of their process cannot be recorded: a killed one looks '
            'like a host without power. Not this version of the package '
            'created the nodes.',
            'Upgrade the package there, and restart nova-compute. If a host '
            'runs none, its node is forged: set [zookeeper] auth_scheme.')


def _not_of_nova(members, known):
    foreign = set(members) - known if known is not None else ()
    if foreign:
        yield Finding(
            Level.WARNING, 'Members that are no computes of this Nova: %s.'
            % listed(foreign),
            'Another cloud uses the same directory, or the nodes are forged. '
            'They count when mass failures are detected.',
            'A different one for each cloud, on all its nodes:\n[zookeeper]\n'
            'sg_prefix = /servicegroups-NAME')


def _left_behind(store, members, known):
    left = store.records - set(members) - known if known is not None else ()
    if left:
        yield Finding(
            Level.WARNING, 'Records of hosts that Nova does not have: %s.'
            % listed(left),
            'Removed hosts stay in the lists of missing members.',
            '\n'.join([
                'zkCli.sh -server %s' % store.hosts,
                *(['addauth digest %s:PASSWORD' % store.options.username]
                  if store.options.auth_scheme == 'digest' else []),
                *('delete %s' % store.record(host)
                  for host in sorted(left)[:20])]))


def _versions(store, members):
    paths = [path for nodes in members.values() for path in nodes]
    counts = collections.Counter(
        str(about.get('version')) for about in store.data(
            paths[:zookeeper.MOST_NODES]).values())
    if len(counts) > 1:
        yield Finding(
            Level.WARNING, 'Members are of several versions: %s.' % ', '.join(
                '%d of %s' % (count, version)
                for version, count in sorted(counts.items())),
            'The older ones may not write all that readers need.',
            'Finish the upgrade of nova-servicegroup, and restart Nova\'s '
            'services there.')


_STORES = ('database', 'memcached', 'zookeeper-servers', 'zookeeper-session')
CHECKS = [
    Check('duplicate-hosts', duplicates,
          lambda site: site.has_database or site.can_use('zk'), _STORES,
          # It may wait until a session expires.
          limit=90),
    Check('mixed-deployment', mixed,
          lambda site: site.has_database and site.can_use(site.driver),
          _STORES),
    Check('services', services,
          lambda site: site.has_database and site.can_use(site.driver),
          _STORES),
    Check('records', records, lambda site: site.can_use('zk'), _STORES)]
