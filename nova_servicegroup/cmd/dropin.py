# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup dropin``: manage the drop-in of a Nova tree.

Imports nothing of Nova.
"""

import pathlib

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import progress
from nova_servicegroup.integration import dropin

_CHECKING = 'Starting the Python of this Nova'
_PATCH = 'nova-servicegroup-dropin.patch'

#: exit codes of ``dropin status``
_STATUS = {dropin.INSTALLED: 0, dropin.NOT_INSTALLED: 3, dropin.OUTDATED: 4,
           dropin.BROKEN: 5}


class _DropIn(base.Command):
    checks = False
    can_try = False
    can_force = False

    def get_parser(self, prog_name):
        parser = base.add_nova(super().get_parser(prog_name), self.checks)
        if self.can_try:
            parser.add_argument('--dry-run', action='store_true',
                                help='print the unified diff, write nothing')
        if self.can_force:
            parser.add_argument('--force', action='store_true',
                                help='also change a file that is not '
                                     'recognised')
        return parser

    def say(self, text, *values):
        self.app.stdout.write(text % values + '\n')

    def show(self, diff):
        self.app.stdout.write(diff.decode(errors='replace'))


class Install(_DropIn):
    """Install the drop-in in a Nova tree."""

    checks = can_try = can_force = True

    def take_action(self, parsed_args):
        tree = dropin.Tree(parsed_args.nova, parsed_args.python)
        old, new = tree.change(install=True, force=parsed_args.force)
        if old == new:
            self.say('The drop-in is installed already in %s.', tree.file)
        elif parsed_args.dry_run:
            self.show(tree.diff(old, new))
        else:
            with progress.Progress(_CHECKING):
                tree.apply(old, new, check=True)
            self.say('Installed the drop-in in %s. Restart the Nova services '
                     'of this tree.', tree.file)


class Remove(_DropIn):
    """Remove the drop-in's own block, and nothing else, from a Nova tree."""

    can_try = True

    def take_action(self, parsed_args):
        tree = dropin.Tree(parsed_args.nova)
        old, new = tree.change(install=False)
        if old == new:
            self.say('There is no drop-in in %s.', tree.file)
        elif parsed_args.dry_run:
            self.show(tree.diff(old, new))
        else:
            tree.apply(old, new, check=False)
            self.say('Removed the drop-in from %s. Set servicegroup_driver to '
                     'db or mc if it is zk, and restart the Nova services of '
                     'this tree.', tree.file)


class Status(_DropIn):
    """Show whether the drop-in is installed and in effect.

    Exit code: 0 installed, 3 not installed, 4 installed by another version,
    5 installed but without effect.
    """

    checks = True

    def take_action(self, parsed_args):
        tree = dropin.Tree(parsed_args.nova, parsed_args.python)
        with progress.Progress(_CHECKING):
            state, reason = tree.state()
        self.say('%s\nNova %s: the drop-in is %s.', tree.file,
                 tree.version or 'of an unknown version', state)
        if reason:
            self.say('%s', reason)
        return _STATUS[state]


class Export(_DropIn):
    """Write the drop-in as a patch, for packages and images.

    quilt: for a tree that holds nova/, with a series file for quilt. kolla:
    for the patches_path of kolla-build, with the path of the file in the
    image.
    """

    can_force = True

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('-o', '--output', metavar='DIR', required=True,
                            help='folder for the patch and its series file; '
                                 'created if it is missing')
        parser.add_argument('--format', choices=('quilt', 'kolla'),
                            default='quilt', help='by default quilt')
        parser.add_argument('--image-path', metavar='PATH',
                            help='the folder that holds nova/ in the image, '
                                 'for kolla; by default that of this host')
        return parser

    def take_action(self, parsed_args):
        tree = dropin.Tree(parsed_args.nova)
        _, old = tree.change(install=False)
        _, new = tree.change(install=True, force=parsed_args.force)
        place, series = None, _PATCH + ' -p1'
        if parsed_args.format == 'kolla':
            # Its loop takes each word of the series file for a patch.
            place, series = parsed_args.image_path or tree.root, _PATCH
        folder = pathlib.Path(parsed_args.output)
        try:
            folder.mkdir(parents=True, exist_ok=True)
            (folder / _PATCH).write_bytes(tree.diff(old, new, place))
            (folder / 'series').write_text(series + '\n')
        except OSError as e:
            raise dropin.DropInError('Cannot write to %s: %s.' % (
                folder, e.strerror)) from e
        self.say('Wrote %s and its series file to %s.', _PATCH, folder)
