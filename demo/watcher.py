# SPDX-License-Identifier: Apache-2.0

"""Print which computes are up whenever that changes, one JSON per line.

A reader as nova-api and nova-scheduler are: asks Nova's servicegroup API,
ten times a second. Takes the arguments of a Nova service; ends when its
standard input does.
"""

# As in Nova's own commands: before anything else of Nova.
from nova import monkey_patch; monkey_patch.patch(backend='threading')  # noqa

import json
import sys
import time

from nova import config
from nova import context
from nova import objects
from nova import servicegroup

import tether


def main():
    tether.end_with_parent()
    config.parse_args(sys.argv)
    objects.register_all()
    api = servicegroup.API()
    told = None
    while True:
        up = {service.host: api.service_is_up(service)
              for service in objects.ServiceList.get_by_binary(
                  context.get_admin_context(), 'nova-compute')}
        if up != told:
            told = up
            print(json.dumps(told), flush=True)
        time.sleep(0.1)


if __name__ == '__main__':
    main()
