# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup manage``: nova-manage with its service category.

For trees that use the configuration hook, which is loaded too late to add a
category to nova-manage.
"""

import argparse
import sys

from nova_servicegroup.cmd import base


def run(arguments):
    """Run nova-manage with these arguments; return its exit code."""
    try:
        from nova.cmd import manage
    except ImportError as e:
        sys.stderr.write('nova-manage cannot be imported (%s): run this with '
                         'the Python that Nova runs with.\n' % e)
        return 1
    from nova_servicegroup.cmd import manage as sg_manage
    from nova_servicegroup.integration import register
    register.register()
    manage.CATEGORIES.setdefault('service', sg_manage.ServiceCommands)
    sys.argv = ['nova-manage', *arguments]
    return manage.main()


class Manage(base.Command):
    """Run nova-manage with its service category, without a drop-in.

    All arguments are those of nova-manage.
    """

    def get_parser(self, prog_name):
        # No character starts an option of ours: all are nova-manage's.
        parser = argparse.ArgumentParser(
            prog=prog_name, description=self.get_description(),
            prefix_chars='\0', add_help=False)
        parser.add_argument('arguments', nargs=argparse.REMAINDER,
                            help='as for nova-manage: service list')
        return parser

    def take_action(self, parsed_args):
        return run(parsed_args.arguments)
