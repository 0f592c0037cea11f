# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""The ``nova-servicegroup`` command.

argparse, not cliff: it has to run in any environment that has a Nova, before
anything of that Nova is imported.
"""

import argparse
import pathlib
import sys

from nova_servicegroup import dropin

_PATCH = 'nova-servicegroup-dropin.patch'

#: exit codes of ``dropin status``
_STATUS = {dropin.INSTALLED: 0, dropin.NOT_INSTALLED: 3, dropin.OUTDATED: 4,
           dropin.BROKEN: 5}


def _install(args):
    """Drop the plug-in into a Nova tree."""
    tree = dropin.Tree(args.nova)
    old, new = tree.change(install=True, force=args.force)
    if old == new:
        print('The drop-in is installed already in %s.' % tree.file)
    elif args.dry_run:
        _show(tree.diff(old, new))
    else:
        tree.apply(old, new, check=True)
        print('Installed the drop-in in %s. Restart the Nova services of this '
              'tree.' % tree.file)
    return 0


def _remove(args):
    """Take exactly the drop-in's own block out of a Nova tree."""
    tree = dropin.Tree(args.nova)
    old, new = tree.change(install=False)
    if old == new:
        print('There is no drop-in in %s.' % tree.file)
    elif args.dry_run:
        _show(tree.diff(old, new))
    else:
        tree.apply(old, new, check=False)
        print('Removed the drop-in from %s. Set servicegroup_driver to db or '
              'mc if it is zk, and restart the Nova services of this tree.'
              % tree.file)
    return 0


def _status(args):
    """Tell whether the drop-in is installed and has its effect.

    Exit code: 0 installed, 3 not installed, 4 installed by another version,
    5 installed but without effect.
    """
    tree = dropin.Tree(args.nova)
    state, reason = tree.state()
    print('%s\nNova %s: the drop-in is %s.' % (
        tree.file, tree.version or 'of an unknown version', state))
    if reason:
        print(reason)
    return _STATUS[state]


def _export(args):
    """Write the drop-in as a quilt patch, for packages and images."""
    tree = dropin.Tree(args.nova)
    _, old = tree.change(install=False)
    _, new = tree.change(install=True, force=args.force)
    folder = pathlib.Path(args.output)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / _PATCH).write_bytes(tree.diff(old, new))
        (folder / 'series').write_text('%s -p1\n' % _PATCH)
    except OSError as e:
        raise dropin.DropInError('Cannot write to %s: %s.' % (
            folder, e.strerror)) from e
    print('Wrote %s and its series file to %s.' % (_PATCH, folder))
    return 0


def _manage(args):
    """Run nova-manage with its service category, without a drop-in.

    For trees that use the configuration hook, which comes too late to add to
    the categories of nova-manage itself.
    """
    from nova.cmd import manage

    from nova_servicegroup.cmd import manage as sg_manage
    from nova_servicegroup import register
    register.register()
    manage.CATEGORIES.setdefault('service', sg_manage.ServiceCommands)
    sys.argv = ['nova-manage', *args.arguments]
    return manage.main()


def _tighten(args):
    """Let only the fleet's identity change what is in ZooKeeper.

    Gives all nodes from [zookeeper] sg_prefix down the rights that services
    with the identity of nova.conf give to what they make. Run it once all
    services have that identity; again, it finds nothing to do.
    """
    from nova_servicegroup.cmd import tighten
    from nova_servicegroup import exception
    try:
        tighten.run(args.config_file, args.dry_run, args.force)
    except exception.ServiceGroupError as e:
        print(e, file=sys.stderr)
        return 1
    return 0


def _show(diff):
    sys.stdout.write(diff.decode(errors='replace'))


def _parser():
    parser = argparse.ArgumentParser(
        prog='nova-servicegroup',
        description='Liveness drivers for Nova: into a Nova and out of it.')
    areas = parser.add_subparsers(dest='area', required=True)
    verbs = areas.add_parser(
        'dropin', help='the block in nova/servicegroup/__init__.py'
    ).add_subparsers(dest='verb', required=True)
    for name, function in (('install', _install), ('status', _status),
                           ('remove', _remove), ('export', _export)):
        verb = verbs.add_parser(
            name, help=function.__doc__.splitlines()[0],
            description=function.__doc__)
        verb.set_defaults(function=function)
        verb.add_argument('--nova', metavar='PATH',
                          help='the folder that holds nova/; by default that '
                               'which this Python imports')
        if name in ('install', 'remove'):
            verb.add_argument('--dry-run', action='store_true',
                              help='print the unified diff, write nothing')
        if name in ('install', 'export'):
            verb.add_argument('--force', action='store_true',
                              help='even into a file that is not recognised')
        if name == 'export':
            verb.add_argument('-o', '--output', metavar='DIR', required=True)
    # No character begins an option of ours: all are nova-manage's.
    manage = areas.add_parser('manage', help=_manage.__doc__.splitlines()[0],
                              prefix_chars='\0', add_help=False)
    manage.set_defaults(function=_manage)
    manage.add_argument('arguments', nargs=argparse.REMAINDER)
    tighten = areas.add_parser(
        'zookeeper', help='what the zk driver keeps in ZooKeeper'
    ).add_subparsers(dest='verb', required=True).add_parser(
        'tighten', help=_tighten.__doc__.splitlines()[0],
        description=_tighten.__doc__)
    tighten.set_defaults(function=_tighten)
    tighten.add_argument('--config-file', metavar='PATH', action='append',
                         default=[], help='nova.conf; may be given several '
                         'times; by default it is where Nova finds it')
    tighten.add_argument('--dry-run', action='store_true',
                         help='print what would be done')
    tighten.add_argument('--force', action='store_true',
                         help='although there are members that have another '
                         'identity or none')
    return parser


def main(argv=None):
    """Run the command; return its exit code: 1 when it was refused."""
    args = _parser().parse_args(argv)
    try:
        return args.function(args)
    except dropin.DropInError as e:
        print(e, file=sys.stderr)
        return 1


if __name__ == '__main__':
    sys.exit(main())
