# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup upgrade check``, with OpenStack's library for it."""

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import doctor
from nova_servicegroup.cmd import progress

#: the checks of the doctor whose findings can stop an upgrade, and for whom
#: an upgrade is what they are about
CHECKS = ('nova', 'configuration', 'database', 'memcached',
          'zookeeper-servers', 'zookeeper-session', 'duplicate-hosts',
          'mixed-deployment', 'records')
TIMEOUT = 300


class Check(base.Command):
    """Check whether services may be restarted with this version.

    To be run with the new code, before Nova's services are restarted with it:
    is each option one that this version takes, can its store be used, does
    every service report to it, and is everybody's version known to it. The
    checks are those of "nova-servicegroup doctor", which tells more.

    Exit code, as oslo.upgradecheck has it: 0 success; 1 warnings, the upgrade
    may be done; 2 a failure, mend it first; 255 something nobody foresaw.
    """

    error_code = 2

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('--json', action='store_true',
                            help='print the results as JSON')
        return doctor.add_nova(parser)

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
    """Return what oslo.upgradecheck runs, from what the doctor found.

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
