# SPDX-License-Identifier: Apache-2.0

"""Members without a nova-compute, many in one process.

``light.py HOST,HOST... --config-file PATH``: each host has a record in Nova's
services, and joins through the configured driver, as a nova-compute does when
it starts.
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
    """The attributes of a nova-compute that a driver needs."""

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
