# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup upgrade check``, with OpenStack's library for it."""

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import progress

#: the checks of the doctor whose findings can stop an upgrade
CHECKS = ('nova', 'configuration', 'database', 'memcached',
          'zookeeper-servers', 'zookeeper-session', 'duplicate-hosts',
          'mixed-deployment', 'services', 'records')
TIMEOUT = 300


class Check(base.Command):
    """Check whether services may be restarted with this version.

    Run it with the new code, before Nova's services are restarted with it. It
    checks that this version accepts all options, that its store can be used,
    that every service reports to it, and that it knows the versions of all
    members. The checks are those of "nova-servicegroup doctor", which shows
    more.

    Exit code, as of oslo.upgradecheck: 0 success; 1 warnings, which allow the
    upgrade; 2 a failure, fix it first; 255 an unexpected error.
    """

    error_code = 2

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('--json', action='store_true',
                            help='print the results as JSON')
        return base.add_nova(parser)

    def take_action(self, parsed_args):
        from oslo_config import cfg
        from oslo_upgradecheck import upgradecheck

        from nova_servicegroup.cmd import deployment
        from nova_servicegroup.doctor import checks
        from nova_servicegroup.doctor import Run
        from nova_servicegroup.doctor import site as sites
        options = self.app.options
        site = sites.Site(options.config_file, options.config_dir,
                          parsed_args.nova, parsed_args.python)
        with progress.Progress('Checking'):
            run = Run([check for check in checks.CHECKS
                       if check.name in CHECKS], site, TIMEOUT)
            findings = run.findings()
        code = upgradecheck.main(
            cfg.ConfigOpts(), 'nova', commands(findings),
            [*deployment.arguments(options.config_file, options.config_dir),
             'upgrade', 'check', *(['--json'] if parsed_args.json else [])])
        base.end(self.app, int(code), run.is_stuck)
        return int(code)


def commands(findings):
    """Return commands for oslo.upgradecheck from the doctor's findings.

    :param findings: list of doctor.Finding
    """
    from oslo_upgradecheck import upgradecheck

    from nova_servicegroup.doctor import Level

    def result(found):
        code = {Level.OK: upgradecheck.Code.SUCCESS,
                Level.CRITICAL: upgradecheck.Code.FAILURE}.get(
                    found.level, upgradecheck.Code.WARNING)
        return upgradecheck.Result(code, ' '.join(
            text.replace('\n', ' ') for text in (
                found.what, found.why, found.fix and 'Fix: ' + found.fix)
            if text))

    class Commands(upgradecheck.UpgradeCommands):
        _upgrade_checks = tuple(
            (found.check, lambda self, found=found: result(found))
            for found in findings)

    return Commands()
