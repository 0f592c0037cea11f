# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup zookeeper``: manages the zk driver's znodes."""

from nova_servicegroup.cmd import base


class Tighten(base.Command):
    """Let only the identity of the Nova services change the znodes.

    Sets the ACL of the identity in nova.conf on all znodes from [zookeeper]
    sg_prefix down. Run it when all services have that identity. A second run
    changes nothing.
    """

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('--dry-run', action='store_true',
                            help='only print the changes')
        parser.add_argument('--force', action='store_true',
                            help='even if there are members with another '
                                 'identity or none')
        return parser

    def take_action(self, parsed_args):
        from nova_servicegroup.cmd import tighten
        tighten.run(self.app.options.config_file, self.app.options.config_dir,
                    parsed_args.dry_run, parsed_args.force)
