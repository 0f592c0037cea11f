# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup list`` and ``show``: the states of services."""

from nova_servicegroup.cmd import base
from nova_servicegroup import liveness

_YES_NO = {True: 'yes', False: 'no', None: 'if need be'}


class List(base.Lister):
    """List the services of Nova, and whether they are up.

    A state is "up"; "ended" if the process ended a short time ago, which
    proves that its host is alive; "down"; or "unknown". "nova-servicegroup
    explain HOST" explains it.

    On a compute without Nova's database it lists the zk driver's directories,
    and doesn't know which hosts are forced down.

    Exit code: 0, or 1 if a cell does not answer, whose services are then
    missing.
    """

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        add_group(parser)
        for option, what in (
                ('--down', 'only those that are down'),
                ('--ended', 'only those whose process ended a short time ago'),
                ('--unknown', 'only those whose state is unknown')):
            parser.add_argument(option, action='append_const', dest='states',
                                const=option[2:], default=[],
                                help=what + '; may be combined')
        parser.add_argument('--long', action='store_true',
                            help='show more columns, including the answers to '
                                 'Nova')
        return parser

    def take_action(self, parsed_args):
        deployment = self.deployment()
        states = parsed_args.states
        services = [
            service for service in deployment.services(parsed_args.group)
            if not states or service.state.value in states]
        self.exit_code = int(self.print_failures(deployment))
        columns = ['Binary', 'Host', 'State', 'Reason', 'Last Seen']
        if parsed_args.long:
            columns += ['Group', 'Cell', 'Status', 'Forced Down',
                        'Place There', 'Answer to Nova']
        return columns, [
            (one.binary, one.host, one.state.value, one.verdict.reason.value,
             as_text(one.seen_at))
            + (self._more(deployment, one) if parsed_args.long else ())
            for one in services]

    @staticmethod
    def _more(deployment, service):
        record = service.record
        place = deployment.api.answer(record, liveness.Question.MAY_PLACE)
        is_there = deployment.api.answer(record, liveness.Question.IS_GONE)
        return (service.group, service.cell, status(record),
                record.get('forced_down', None), _YES_NO[place],
                'up' if is_there else 'down')


class Show(base.ShowOne):
    """Show all data of a service.

    The data beside the last sign of life depends on the driver: zk has the
    process, boot and version of each incarnation.
    """

    def get_parser(self, prog_name):
        return add_service(super().get_parser(prog_name))

    def take_action(self, parsed_args):
        deployment = self.deployment()
        record, cell = deployment.find(parsed_args.host, parsed_args.service)
        service = deployment.service(record, cell)
        shown = {
            'host': service.host, 'binary': service.binary,
            'group': service.group, 'cell': cell,
            'state': service.state.value,
            'reason': service.verdict.reason.value,
            'last_seen': as_text(service.seen_at),
            'status': status(record),
            'disabled_reason': record.get('disabled_reason', None),
            'forced_down': record.get('forced_down', None),
            'driver': deployment.driver.name}
        shown.update(deployment.driver.details(record))
        return list(shown), list(shown.values())


def add_group(parser):
    """Add the option for a group to a parser."""
    parser.add_argument('--group', metavar='GROUP', choices=liveness.GROUPS,
                        help='only this group: compute, conductor or '
                             'scheduler')


def add_service(parser):
    """Add the arguments for a host and one of its services to a parser."""
    parser.add_argument('host', metavar='HOST',
                        help='name of the host in Nova')
    parser.add_argument('--service', metavar='BINARY',
                        help='which of its services; by default '
                             'nova-compute, or the only one')
    return parser


def as_text(moment, timespec='seconds'):
    """Return a time in UTC in ISO 8601 format; None for None.

    :param timespec: seconds or milliseconds
    """
    return moment and moment.replace(tzinfo=None).isoformat(
        timespec=timespec) + 'Z'


def status(record):
    """Return enabled or disabled; None if unknown."""
    disabled = record.get('disabled', None)
    return None if disabled is None else 'disabled' if disabled else 'enabled'
