# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup migrate check``: is every service in the new store?"""

from nova_servicegroup.cmd import base

OK = 'ok'
_WORST = {OK: 0, 'not running': 1, 'missing': 2, 'cannot tell': 2}


class Check(base.Lister):
    """Check that every service is in the store of the new driver.

    Run it in a migration before services use the new driver. It asks the
    driver of [servicegroup] also_report, or of --to, about each service, and
    compares the answers with those of the driver in use. It lists the missing
    services.

    Exit code, as of oslo.upgradecheck: 0 if no service is missing; 1 if only
    services are missing that are down now, too; 2 if a service is up now and
    would not be after the change, if a store cannot tell, or if a cell does
    not answer.
    """

    error_code = 2

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('--to', metavar='DRIVER',
                            help='db, mc or zk; by default the one of '
                                 '[servicegroup] also_report')
        parser.add_argument('--all', action='store_true',
                            help='list all services')
        return parser

    def take_action(self, parsed_args):
        from nova_servicegroup.cmd import progress
        deployment = self.deployment()
        deployment.require_database(
            'Only Nova\'s database lists all services')
        driver = _driver_to_come(deployment, parsed_args.to)
        with progress.Progress('Asking both stores'):
            rows = [_compare(deployment.driver, driver, record, cell)
                    for record, cell in deployment.records()]
        self.exit_code = max([_WORST[row[-1]] for row in rows], default=0)
        if self.print_failures(deployment):
            self.exit_code = 2
        self.app.stderr.write(
            '%d of %d services are in the store of %s.\n' % (
                sum(row[-1] == OK for row in rows), len(rows), driver.name))
        return (
            ('Binary', 'Host', 'Cell', 'By %s' % deployment.driver.name,
             'By %s' % driver.name, 'Result'),
            [row for row in rows if parsed_args.all or row[-1] != OK])


def _driver_to_come(deployment, name):
    from oslo_utils import importutils

    from nova_servicegroup import drivers
    conf = deployment.conf
    candidates = [name] if name else [
        other for other in conf.servicegroup.also_report
        if other != conf.servicegroup_driver]
    if len(candidates) != 1:
        raise base.CommandError(
            'It is not clear which driver to check: name it with --to DRIVER. '
            '[servicegroup] also_report is "%s".' % ','.join(
                conf.servicegroup.also_report))
    if candidates[0] not in drivers.DRIVERS:
        raise base.CommandError('--to %s is no driver: give one of %s.' % (
            candidates[0], ', '.join(sorted(drivers.DRIVERS))))
    return importutils.import_object(drivers.DRIVERS[candidates[0]],
                                     conf=conf)


def _compare(old, new, record, cell):
    """Return the row of a service."""
    from nova_servicegroup.liveness import Reason
    from nova_servicegroup.liveness import State
    before, after = old.verdict(record), new.verdict(record)
    if after.state is State.UP:
        result = OK
    elif (before.state is State.UNKNOWN
            or after.reason in (Reason.OUTAGE, Reason.UNREADABLE)):
        result = 'cannot tell'
    elif before.state is not State.UP:
        # A process as short as this can't be sure with mc that a service
        # never reported.
        result = 'not running'
    elif after.state is State.UNKNOWN:
        result = 'cannot tell'
    else:
        result = 'missing'
    return (record['binary'], record['host'], cell, before.state.value,
            after.state.value, result)
