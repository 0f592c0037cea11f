# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup leave``: removes a member that can't leave itself."""

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import progress
from nova_servicegroup import liveness

#: attempts to write a value that another program writes at the same time
_ATTEMPTS = 5


class Leave(base.Command):
    """Remove a member from its group, as if it had left: it is down at once.

    For a service that was removed for good, or whose host is known to be dead.
    The command writes the same to the store as a service that leaves. For many
    hosts, and with Nova's own means, use "force-down". The last sign of life
    doesn't change, so the verdicts on other members don't either. The command
    refuses a living service: stop it first. When it starts again it is a
    member again.

    With zk only members of the group compute leave a record.
    """

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('group', metavar='GROUP', choices=liveness.GROUPS,
                            help='compute, conductor or scheduler')
        parser.add_argument('host', metavar='HOST',
                            help='name of the host in Nova')
        return parser

    def take_action(self, parsed_args):
        deployment = self.deployment()
        group, host = parsed_args.group, parsed_args.host
        with progress.Progress('Looking for %s' % host):
            found = [deployment.unforced(record, cell)
                     for record, cell in deployment.records(group)
                     if record['host'] == host]
        if len(found) != 1:
            raise base.CommandError(
                'There is no service of the group %s on a host named %s: '
                '"nova-servicegroup list --group %s" shows all names.' % (
                    group, host, group) if not found else
                'Several cells have a host named %s: remove the wrong service '
                'with "openstack compute service delete".' % host)
        service, = found
        if service.is_alive:
            raise base.CommandError(
                '%s on %s gives signs of life, and would be a member again at '
                'once: stop the service.' % (service.binary, host))
        _LEAVE[deployment.driver.name](deployment, service.record)
        self.app.stdout.write('%s left the group %s. It is down.\n' % (
            host, group))


def _from_database(deployment, record):
    from nova_servicegroup.integration import report_count
    counter = report_count.Counter(record.report_count, None, 0, 0)
    record.report_count = counter.last(liveness.End.LEFT)
    # Otherwise Nova would set the current time.
    record.last_seen_up = record.last_seen_up
    record.save()


def _from_memcached(deployment, record):
    from nova_servicegroup.memcached import servers
    from nova_servicegroup.memcached import wire
    driver = deployment.driver
    store = driver._servers
    key = wire.key(*driver.key(record), prefix=store.prefix)
    there, failed = 0, []
    for server in (store[index] for index in store.of(key)):
        try:
            there += _leave_server(server, key, store.timeout)
        except (servers.ServerLost, servers.ServerRefused) as e:
            failed.append(str(e))
    if failed or not there:
        raise base.CommandError('; '.join(failed) or (
            'No memcached server holds a heartbeat of it, so there is nothing '
            'that it could leave.'))


def _leave_server(server, key, timeout):
    """Write the leave to one server; return if it had a heartbeat."""
    from nova_servicegroup.memcached import wire
    for _ in range(_ATTEMPTS):
        found = server.gets(key, timeout)
        if found is None:
            return False
        flags, data, token = found
        try:
            stamp = wire.decode(flags, data).stamp
        except wire.Unreadable as e:
            raise base.CommandError(
                'What memcached holds in its name is no heartbeat: %s.' % e
            ) from e
        if server.put(key, wire.encode(stamp, None, {}), token, timeout):
            return True
    raise base.CommandError('Somebody writes its heartbeats all the time: '
                            'stop the service.')


def _from_zookeeper(deployment, record):
    from kazoo import exceptions as kazoo_exc

    from nova_servicegroup.cmd import tighten
    from nova_servicegroup import conf as sg_conf
    from nova_servicegroup.keeper import record as records
    from nova_servicegroup.keeper import security
    driver, conf = deployment.driver, deployment.conf
    group, host = driver.key(record)
    path = driver.record_path(group, host)
    if path is None:
        raise base.CommandError(
            'With zk a member of the group %s is gone when its session ends: '
            'there is nothing that it could leave.' % group)
    last = driver.observe(record).last
    with tighten.connection(
            security.Security(**sg_conf.zk.security(conf)),
            sg_conf.zk.hosts(conf)) as client:
        try:
            before = records.parse(
                *client.get_async(path).get(timeout=tighten.LIMIT))
            if before is None:
                raise base.CommandError(
                    'The data of %s is no record of a member: delete it.'
                    % path)
            age = 0 if last is None else max(0, driver.now() - last)
            client.set_async(
                path, records.ended(before.token, 'left', age, before),
                version=before.version).get(timeout=tighten.LIMIT)
        except kazoo_exc.NoNodeError as e:
            raise base.CommandError(
                'ZooKeeper has no record of %s, so there is nothing that it '
                'could leave.' % host) from e
        except kazoo_exc.BadVersionError as e:
            raise base.CommandError(
                'The record of %s was changed just now: look again.' % host
            ) from e


_LEAVE = {'db': _from_database, 'mc': _from_memcached,
          'zk': _from_zookeeper}
