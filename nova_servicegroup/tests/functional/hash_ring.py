# SPDX-License-Identifier: Apache-2.0

"""The hash ring of Nova's ironic driver, in a process of its own.

``python hash_ring.py nova.conf`` makes the ring anew for each line that it
reads, and prints the hosts in it as JSON, or what was raised as a string.
There is no Ironic: the ring needs Nova's database and the servicegroup only.
"""

import json
import sys

import nova.cmd.compute  # noqa: F401, chooses the concurrency as Nova does

from nova import config
from nova import context as nova_context
from nova import objects
from nova import servicegroup
from nova.virt.ironic import driver
from oslo_log import log as logging


def main(path):
    config.parse_args(['nova-compute', '--config-file', path])
    logging.setup(config.CONF, 'nova')
    objects.register_all()
    # Without its __init__, which connects to Ironic.
    ironic = driver.IronicDriver.__new__(driver.IronicDriver)
    ironic.servicegroup_api = servicegroup.API()
    # The computes of these tests have the fake driver.
    ironic._get_hypervisor_type = lambda: 'fake'
    for _ in sys.stdin:
        try:
            ironic._refresh_hash_ring(nova_context.get_admin_context())
            answer = sorted(ironic.hash_ring.nodes)
        except Exception as e:
            answer = repr(e)
        sys.stdout.write(json.dumps(answer) + '\n')
        sys.stdout.flush()


if __name__ == '__main__':
    main(sys.argv[1])
