# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup force-down``: forces many hosts down, or undoes that."""

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import progress
from nova_servicegroup.cmd import services

_COMPUTE = 'nova-compute'
_ROW = '  %-30s %-16s %-8s %-21s %s\n'
_WARNING = '''
Nova may start their instances elsewhere from then on. A host that still runs
them would run them twice: fence these hosts (power them off) first.
'''


class ForceDown(base.Command):
    """Force hosts down in Nova, or undo that.

    Ends the doubt after a mass failure: --silent selects all computes that are
    unknown because they fell silent together. The command lists them, asks for
    confirmation, and sets Nova's own forced_down, as "openstack compute
    service set --down" does for one host. It skips a host that reports
    meanwhile.

    --undo removes forced_down, but, as in Nova's API, not from a host that was
    evacuated and whose nova-compute has not started since.

    Exit code: 0 if all were changed, or there was nothing to do; 1 otherwise,
    also if the answer is not "yes".
    """

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('hosts', metavar='HOST', nargs='*',
                            help='names of hosts in Nova')
        parser.add_argument('--silent', action='store_true',
                            help='all computes whose silence is doubted; with '
                                 'HOST only those among them')
        parser.add_argument('--undo', action='store_true',
                            help='remove forced_down')
        parser.add_argument('--back', action='store_true',
                            help='with --undo: all computes that were forced '
                                 'down and report again')
        parser.add_argument('--yes', action='store_true',
                            help='do not ask')
        return parser

    def take_action(self, parsed_args):
        self._check(parsed_args)
        deployment = self.deployment()
        deployment.require_database('Nova keeps this in its database')
        chosen = self._choose(deployment, parsed_args)
        if not chosen:
            self.app.stdout.write('There is no compute to do that for.\n')
            return 0
        self._show(chosen, parsed_args.undo)
        if not (parsed_args.yes or self._is_confirmed(len(chosen),
                                                      parsed_args.undo)):
            self.app.stdout.write('Nothing was changed.\n')
            return 1
        # The answer may have taken long.
        now = {(one.host, one.cell)
               for one in self._choose(deployment, parsed_args)}
        failed = False
        for one in chosen:
            if (one.host, one.cell) not in now:
                self.app.stdout.write(
                    '%s: not changed, since it is %s now.\n' % (
                        one.host, 'silent' if parsed_args.back
                        else 'no longer silent'))
            else:
                failed |= self._set(one, not parsed_args.undo)
        return int(failed or bool(deployment.failures))

    @staticmethod
    def _check(parsed_args):
        if parsed_args.undo and parsed_args.silent:
            raise base.CommandError(
                '--silent is for forcing down: choose with HOST or --back '
                'what --undo shall lift.')
        if parsed_args.back and not parsed_args.undo:
            raise base.CommandError('--back is for lifting it: add --undo.')
        if not (parsed_args.hosts or parsed_args.silent or parsed_args.back):
            raise base.CommandError(
                'It is not said for whom: name hosts, or give %s.' % (
                    '--back' if parsed_args.undo else '--silent'))

    def _choose(self, deployment, parsed_args):
        """Return a list of Service, with verdicts without forced_down."""
        with progress.Progress('Asking about the computes'):
            found = [
                deployment.unforced(record, cell)
                for record, cell in deployment.records('compute')
                if record['binary'] == _COMPUTE
                and bool(record['forced_down']) is parsed_args.undo
                and (not parsed_args.hosts
                     or record['host'] in parsed_args.hosts)]
        self.print_failures(deployment)
        missing = set(parsed_args.hosts) - {one.host for one in found}
        if missing:
            raise base.CommandError(
                'There is no nova-compute that is %sforced down on: %s. '
                'Nothing was changed.' % (
                    '' if parsed_args.undo else 'not yet ',
                    ', '.join(sorted(missing))))
        return [one for one in found
                if (not parsed_args.silent or one.is_doubted_silence)
                and (not parsed_args.back or one.is_alive)]

    def _show(self, chosen, undo):
        write = self.app.stdout.write
        write('These %d computes would %s:\n\n' % (
            len(chosen),
            'be judged by their signs of life again' if undo
            else 'be forced down'))
        write(_ROW % ('Host', 'Cell', 'State', 'Last seen', 'Reason'))
        for one in chosen:
            write(_ROW % (one.host, one.cell, one.state.value,
                          services.as_text(one.seen_at) or 'never',
                          one.verdict.reason.value))
        if not undo:
            write(_WARNING)

    def _is_confirmed(self, count, undo):
        if not self.app.stdin.isatty():
            raise base.CommandError(
                'There is no terminal for the confirmation: give --yes. '
                'Nothing was changed.')
        self.app.stdout.write('\n%s %d computes? Type yes to go on: ' % (
            'Lift it for' if undo else 'Force down', count))
        self.app.stdout.flush()
        return self.app.stdin.readline().strip().lower() == 'yes'

    def _set(self, service, forced_down):
        """Write and report the change of one service; return if it failed."""
        from nova import exception as nova_exception
        from oslo_db import exception as db_exc
        record = service.record
        try:
            if not forced_down and _awaits_restart(record):
                self.app.stderr.write(
                    '%s: not changed: it was evacuated. Start its '
                    'nova-compute first, so that it gives up what runs '
                    'elsewhere now, and try again.\n' % service.host)
                return True
            record.forced_down = forced_down
            record.save()
        except (nova_exception.NovaException, db_exc.DBError) as e:
            self.app.stderr.write('%s: not changed: %s\n' % (
                service.host, str(e).partition('\n')[0]))
            return True
        self.app.stdout.write('%s: %s.\n' % (
            service.host, 'forced down' if forced_down
            else 'judged by its signs of life again'))
        return False


def _awaits_restart(record):
    """Return whether a host may still run instances evacuated from it."""
    from nova import objects
    return bool(objects.MigrationList.get_by_filters(record._context, {
        'source_compute': record.host, 'status': 'done',
        'migration_type': objects.fields.MigrationType.EVACUATION}))
