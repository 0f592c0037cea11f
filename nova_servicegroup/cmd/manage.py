# SPDX-License-Identifier: Apache-2.0

"""``nova-manage service``: lists and manages the services of all cells.

The category that Nova had until its release 13, with its columns, signs and
exit codes. New: the verdict and the time come from the driver, all cells are
queried, and the unknown state has its own sign.

Exit codes:

* 0: success.
* 1: arguments are missing; a cell or the API database doesn't answer; or the
  state of a service is unknown (sign ``???``). Errors are on stderr.
* 2: no such service or host.
* 255: Nova's own code for unexpected errors, with a traceback.
"""

import collections
import datetime
import functools
import inspect
import sys

from nova.cmd import common
from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects

from nova_servicegroup import api
from nova_servicegroup.cmd import cells
from nova_servicegroup.cmd import rpc
from nova_servicegroup import exception
from nova_servicegroup import liveness

_SIGNS = {liveness.State.UP: ':-)', liveness.State.ENDED: 'XXX',
          liveness.State.DOWN: 'XXX', liveness.State.UNKNOWN: '???'}

FAILED = 1
NOT_FOUND = 2

_SERVICE_ROW = '%-16s %-36s %-16s %-10s %-5s %-10s'
_PROJECT_ROW = '%-25s%16s%8s%8s%8s'
_TOTAL_ROWS = {'total': '%-16s(total)%26s%8s%8s',
               'used_now': '%-16s(used_now)%23s%8s%8s',
               'used_max': '%-16s(used_max)%23s%8s%8s'}

# Nova's API processes write them for their version; they have no heartbeats.
_NEVER_REPORT = ('nova-osapi_compute', 'nova-metadata')


class _Failure(Exception):
    """Ends a command with one line on stdout and an exit code."""

    def __init__(self, text, code):
        super().__init__(text)
        self.code = code


_ARGUMENT_HELP = {'host': 'Name of the host in Nova.',
                  'service': 'Binary of the service: nova-compute, ...'}


def _command(*names, required=True):
    """Make a method a command whose errors are one line and an exit code.

    Nova's main() turns every exception, and a missing argument, into a
    traceback and exit code 255.

    :param names: its arguments, of host and service
    :param required: whether they are required
    """
    def decorate(method):
        # Nova's parser passes arguments with an option by name, and those
        # without by position.
        @functools.wraps(method)
        def run(self, host=None, service=None):
            given = {'host': host, 'service': service}
            missing = [name for name in names if given[name] is None]
            if required and missing:
                print(method.__doc__)
                print('Missing arguments: %s' % ', '.join(missing))
                return FAILED
            try:
                return method(self, *(given[name] for name in names))
            except _Failure as e:
                print('error: %s' % e)
                return e.code
            except exception.ServiceGroupError as e:
                print('error: %s' % e)
                return FAILED

        run.description = inspect.cleandoc(method.__doc__)
        for name in reversed(names):
            common.args('--' + name, metavar='<%s>' % name,
                        help=_ARGUMENT_HELP[name])(run)
        return run
    return decorate


class ServiceCommands:
    """List Nova's services and their states, enable and disable them."""

    description = 'List services and their states, enable and disable them.'

    @_command('host', 'service', required=False)
    def list(self, host, service):
        """List the services of all cells with the driver's verdict.

        State is ":-)" for up, "XXX" for down, "???" for unknown; then, and
        when a cell doesn't answer, the exit code is 1.
        """
        context = nova_context.get_admin_context()
        servicegroup = api.API()
        answers, silent_cells = _ask_cells(
            context, objects.ServiceList.get_all)
        zones = _zones(context)
        rows = [row for rows in answers for row in rows
                if row.topic and row.binary not in _NEVER_REPORT
                and host in (None, row.host)
                and service in (None, row.binary)]
        rows.sort(key=lambda row: (row.binary, row.host))

        table = [('Binary', 'Host', 'Zone', 'Status', 'State', 'Updated_At')]
        unknown = collections.Counter()
        for row in rows:
            verdict = servicegroup.verdict(row)
            if verdict.state is liveness.State.UNKNOWN:
                unknown[verdict.reason.value] += 1
            table.append((
                row.binary, row.host, _zone(row, zones),
                'disabled' if row.disabled else 'enabled',
                _SIGNS[verdict.state],
                _as_text(_last_sign_of_life(servicegroup, row))))
        # At the end, as nova-manage mixes logs of drivers into its output.
        for row in table:
            print(_SERVICE_ROW % row)
        for reason, count in unknown.items():
            print('error: the state of %d of %d services is unknown: %s.'
                  % (count, len(rows), reason), file=sys.stderr)
        return FAILED if unknown or silent_cells else None

    @_command('host', 'service')
    def enable(self, host, service):
        """Let the scheduler use a service again."""
        return self._set_disabled(host, service, False)

    @_command('host', 'service')
    def disable(self, host, service):
        """Keep the scheduler from using a service."""
        return self._set_disabled(host, service, True)

    @staticmethod
    def _set_disabled(host, binary, disabled):
        # Only the row, as before Nova 13: the scheduler's ComputeFilter reads
        # it. Nova's API also notifies the compute by RPC, which takes a minute
        # for a dead one that still counts as up (ClusterLabs
        # fence-agents#303); the compute's periodic task does that part.
        rows = _find(objects.Service.get_by_host_and_binary, host, binary,
                     not_found='Could not find binary %s on host %s.' % (
                         binary, host))
        rpc.limit_notifications(common.CONF)
        for row in rows:
            row.disabled = disabled
            row.save()
        print('Service %s on host %s %s.' % (
            binary, host, 'disabled' if disabled else 'enabled'))

    @_command('host')
    def describe_resource(self, host):
        """Show a host's resources and their use by instances, by project."""
        found = _find(
            _resources_of, host,
            not_found='Compute host %s could not be found.' % host)
        # Two cells may each have a host of that name.
        nodes, instances = (
            [one for part in parts for one in part] for parts in zip(*found))
        projects = {}
        for instance in instances:
            sums = projects.setdefault(instance.project_id, [0, 0, 0])
            for i, amount in enumerate((
                    instance.vcpus, instance.memory_mb,
                    (instance.root_gb or 0) + (instance.ephemeral_gb or 0))):
                sums[i] += amount or 0
        totals = {
            'total': _sums(nodes, 'vcpus', 'memory_mb', 'local_gb'),
            'used_now': _sums(nodes, 'vcpus_used', 'memory_mb_used',
                              'local_gb_used'),
            'used_max': tuple(map(sum, zip(*projects.values())))
            or (0, 0, 0)}

        print(_PROJECT_ROW % ('HOST', 'PROJECT', 'cpu', 'mem(mb)', 'hdd'))
        for kind, row_format in _TOTAL_ROWS.items():
            print(row_format % (host, *totals[kind]))
        for project in sorted(projects):
            print(_PROJECT_ROW % (host, project, *projects[project]))


def _ask_cells(context, question, *args):
    """Query all cells in parallel; name those that don't answer on stderr.

    :returns: (list of the answers, number of cells that did not answer)
    """
    try:
        answers, silent = cells.ask(context, question, *args)
    except cells.CellsUnknown as e:
        raise _Failure(str(e), FAILED) from e
    for text in silent:
        print('error: %s' % text, file=sys.stderr)
    return [answer for _, answer in answers], len(silent)


def _find(question, *args, not_found):
    """Return the results of the cells, without None."""
    context = nova_context.get_admin_context()
    answers, silent_cells = _ask_cells(context, question, *args)
    found = [answer for answer in answers if answer is not None]
    if not found and silent_cells:
        raise _Failure('%s It may be in a cell that does not answer.'
                       % not_found, FAILED)
    if not found:
        raise _Failure(not_found, NOT_FOUND)
    return found


def _zones(context):
    """Return the availability zones of hosts, {host: set of names}.

    One query for all. Nova's set_availability_zones would write every host
    to its cache, two round trips each.
    """
    zones = {}
    for aggregate in objects.AggregateList.get_by_metadata_key(
            context, 'availability_zone'):
        for host in aggregate.hosts:
            zones.setdefault(host, set()).add(aggregate.availability_zone)
    return zones


def _zone(row, zones):
    if row.topic != 'compute':
        return common.CONF.internal_service_availability_zone
    return (','.join(sorted(zones.get(row.host, ())))
            or common.CONF.default_availability_zone)


def _resources_of(context, host):
    """Return (compute nodes, instances) of a host; None in other cells."""
    try:
        nodes = objects.ComputeNodeList.get_all_by_host(context, host)
    except nova_exception.ComputeHostNotFound:
        return None
    return nodes, objects.InstanceList.get_by_host(context, host,
                                                   expected_attrs=[])


def _sums(things, *names):
    return tuple(sum(getattr(thing, name) for thing in things)
                 for name in names)


def _last_sign_of_life(servicegroup, row):
    try:
        return servicegroup.last_sign_of_life(row)
    except exception.ServiceGroupUnavailable:
        return None


def _as_text(moment):
    """Return a time in UTC in the format of the database rows."""
    if moment is None:
        return None
    if moment.tzinfo is not None:
        moment = moment.astimezone(datetime.timezone.utc)
    return moment.strftime('%Y-%m-%d %H:%M:%S')
