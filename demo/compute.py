# SPDX-License-Identifier: Apache-2.0

"""A nova-compute without conductor, placement and message server.

It differs from Nova's own command in two ways: it writes to the database
directly, not through RabbitMQ and a conductor, and it doesn't report to
placement. Takes the arguments of nova-compute.
"""

# As in Nova's own command: before anything else of Nova.
from nova import monkey_patch; monkey_patch.patch(backend='threading')  # noqa

import sys

from nova.compute import resource_tracker
from nova.compute import rpcapi as compute_rpcapi
from nova import config
from nova import objects
from nova.scheduler.client import report
from nova import service
from oslo_config import cfg
from oslo_log import log as logging
from oslo_service import opts as oslo_service_opts


class NoPlacement:
    """A placement without allocations, with the one method that is needed."""

    @staticmethod
    def get_allocations_for_resource_provider(_context, _uuid):
        return report.ProviderAllocInfo(allocations={})


def main():
    config.parse_args(sys.argv)
    logging.setup(cfg.CONF, 'nova')
    oslo_service_opts.register_service_opts(cfg.CONF)
    objects.register_all()
    report.SchedulerReportClient = NoPlacement
    resource_tracker.ResourceTracker._update_to_placement = (
        lambda *args, **kwargs: None)
    server = service.Service.create(
        binary='nova-compute', topic=compute_rpcapi.RPC_TOPIC)
    service.serve(server, workers=1, no_fork=True)
    service.wait()


if __name__ == '__main__':
    main()
