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
    service set --down" does for one host. It skips a host that was not up
    when it was listed, and is up now.

    --undo removes forced_down, but, as in Nova's API, not from a host that was
    evacuated and whose nova-compute has not started since.

    Exit code: 0 if all were changed, or there was nothing to do; 1 otherwise,
    also if a host was skipped, or the answer is not "yes".
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
        changed = [self._set(deployment, one, parsed_args) for one in chosen]
        return int(not all(changed) or bool(deployment.failures))

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

    def _set(self, deployment, shown, parsed_args):
        """Write and report the change of a service; return if it was made."""
        from nova import exception as nova_exception
        from nova import objects
        from oslo_db import exception as db_exc
        try:
            # The confirmation and the changes before may have taken long.
            record = objects.Service.get_by_id(shown.record._context,
                                               shown.record.id)
            now = deployment.unforced(record, shown.cell)
            if _must_be_skipped(shown, now, parsed_args):
                self.app.stdout.write(
                    '%s: not changed, since it is %s now.\n' % (
                        shown.host, now.state.value))
                return False
            if parsed_args.undo and _awaits_restart(record):
                self.app.stderr.write(
                    '%s: not changed: it was evacuated. Start its '
                    'nova-compute first, so that it gives up what runs '
                    'elsewhere now, and try again.\n' % shown.host)
                return False
            record.forced_down = not parsed_args.undo
            record.save()
        except (nova_exception.NovaException, db_exc.DBError) as e:
            self.app.stderr.write('%s: not changed: %s\n' % (
                shown.host, str(e).partition('\n')[0]))
            return False
        self.app.stdout.write('%s: %s.\n' % (
            shown.host, 'judged by its signs of life again'
            if parsed_args.undo else 'forced down'))
        return True


def _must_be_skipped(shown, now, parsed_args):
    """Return whether a service changed so that the operator's choice is void.

    :param shown: the Service that the operator saw
    :param now: the same, as it is now
    """
    if parsed_args.undo:
        return parsed_args.back and not now.is_alive
    return now.is_alive and not shown.is_alive


def _awaits_restart(record):
    """Return whether a host may still run instances evacuated from it."""
    from nova import objects
    return bool(objects.MigrationList.get_by_filters(record._context, {
        'source_compute': record.host, 'status': 'done',
        'migration_type': objects.fields.MigrationType.EVACUATION}))
