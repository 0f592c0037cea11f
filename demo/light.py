# SPDX-License-Identifier: Apache-2.0

"""Members without a nova-compute: a dozen of them cost as much as one.

``light.py HOST,HOST... --config-file PATH``: each host has its record among
Nova's services, and joins through the driver that the configuration names, as
a nova-compute does when it starts.
"""

# As in Nova's own commands: before anything else of Nova.
from nova import monkey_patch; monkey_patch.patch(backend='threading')  # noqa

import signal
import sys

from nova import config
from nova import context
from nova import objects
from nova import servicegroup
from oslo_config import cfg
from oslo_log import log as logging
from oslo_service import service


class Member(service.Service):
    """What a driver needs to know of a nova-compute."""

    binary = 'nova-compute'
    topic = 'compute'
    model_disconnected = False

    def __init__(self, host):
        super().__init__()
        self.host = host
        self.report_interval = cfg.CONF.report_interval
        self.service_ref = objects.Service(
            context.get_admin_context(), host=host, binary=self.binary,
            topic=self.topic, report_count=0)
        self.service_ref.create()


def main():
    config.parse_args(sys.argv[1:])
    logging.setup(cfg.CONF, 'nova')
    objects.register_all()
    api = servicegroup.API()
    for host in sys.argv[1].split(','):
        api.join(host, Member.topic, Member(host))
    signal.pause()


if __name__ == '__main__':
    main()
