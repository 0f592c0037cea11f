# SPDX-License-Identifier: Apache-2.0

"""``nova-servicegroup zookeeper``: what the zk driver keeps in ZooKeeper."""

from nova_servicegroup.cmd import base


class Tighten(base.Command):
    """Let only the identity of the Nova services change what is in ZooKeeper.

    Gives all znodes from [zookeeper] sg_prefix down the ACL that services with
    the identity of nova.conf use. Run it when all services have that identity.
    A second run finds nothing to do.
    """

    def get_parser(self, prog_name):
        parser = super().get_parser(prog_name)
        parser.add_argument('--dry-run', action='store_true',
                            help='print what would be done')
        parser.add_argument('--force', action='store_true',
                            help='even if there are members that have '
                                 'another identity or none')
        return parser

    def take_action(self, parsed_args):
        from nova_servicegroup.cmd import tighten
        tighten.run(self.app.options.config_file, self.app.options.config_dir,
                    parsed_args.dry_run, parsed_args.force)
