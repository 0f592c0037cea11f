# SPDX-License-Identifier: Apache-2.0

"""Data of the zk driver for tools, besides its verdicts."""

import functools
import math
import os
import pathlib

from nova_servicegroup.evzookeeper import exceptions as zk_exc
from nova_servicegroup import exception
from nova_servicegroup.keeper import names
from nova_servicegroup import liveness
from nova_servicegroup import records
from nova_servicegroup import version


class Details:
    """The part of the ZooKeeperDriver that only tools use."""

    def member_details(self, member):
        """Return the nodes of a member; see MembershipMonitor."""
        group, host = self.key(member)
        return self._view(group).get_member_details(host)

    def known_hosts(self, group):
        """Return the hosts of a group with a node or a record, sorted.

        For tools without access to Nova. Blocks for the first listing.

        :raises ServiceGroupUnavailable: ZooKeeper can't be read
        """
        view = self._view(group)
        if not view.fresh:
            raise exception.ServiceGroupUnavailable(self.name, view.reason)
        return sorted(set(view.members) | set(view.absences))

    def record_path(self, group, host):
        """Return the path of a host's record, None in groups without."""
        directory = self._records(group)
        return directory and '%s/%s' % (directory, names.quote(host))

    def witness(self, member):
        if member.alive:
            return 'ZooKeeper, where its session is open'
        if member.end is liveness.End.GONE or member.end is None:
            return 'the first reader that missed its node'
        return ('its keeper, the process beside it on its host, which '
                'outlived it')

    def view_age(self, group):
        return _age(self.find(('view', group)), self.monotonic())

    def report(self):
        found = super().report()
        session = self.find('session')
        if session is not None:
            ident = session.client_id()
            found['session'] = session.why()
            found['session id'] = ident and '0x%x' % (ident[0] & 2 ** 64 - 1)
            found['keeper pid'] = session.keeper_pid
        for group in liveness.GROUPS:
            view = self.find(('view', group))
            if view is not None:
                found['view of %s' % group] = (
                    '%d members, %d are missing, %.0f s old' % (
                        len(view.members), len(view.absences),
                        _age(view, self.monotonic())))
        return found

    def details(self, record):
        group, host = self.key(record)
        absence = self._view(group).absences.get(host)
        if absence is not None:
            return {'record': absence.state}
        try:
            found = self.member_details(record)
        except zk_exc.ZooKeeperException as e:
            return {'nodes': 'cannot be read: %s' % e}
        nodes = [{'node': node, 'session': '0x%x' % about['owner'],
                  **{name: _field(data, name) for name in (
                      'pid', 'boot_id', 'joined_at', 'version')}}
                 for node, data, about in found]
        # One node per process, such as the workers of a conductor.
        return nodes[0] if len(nodes) == 1 else {'nodes': nodes}


def about(heartbeat, now):
    """Return a node's data about its process, as a dict for JSON.

    :param now: naive UTC datetime
    """
    return {'host': heartbeat.member,
            'binary': heartbeat.service.binary,
            'pid': os.getpid(),
            'boot_id': _boot_id(),
            'joined_at': records.as_aware(now).isoformat(),
            'version': version.version()}


@functools.cache
def _boot_id():
    """Return the id of this boot of this machine, or None."""
    try:
        return pathlib.Path(
            '/proc/sys/kernel/random/boot_id').read_text().strip()
    except OSError:
        return None


def _age(view, now):
    if view is not None and view.fresh:
        return 0
    if view is None or view.stale_since is None:
        return math.inf
    return now - view.stale_since


def _field(data, name):
    # Other clients may have written anything.
    return data.get(name) if isinstance(data, dict) else None
