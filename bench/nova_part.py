# SPDX-License-Identifier: Apache-2.0

"""Processes of real_nova.py that need one tree of Nova or the other.

    python bench/nova_part.py scheduler nova.conf plugin|in-tree
    python bench/nova_part.py list nova.conf

The first one has the parts of a nova-scheduler, and answers lines of JSON. The
second one does, with Nova's own code, what the former ``nova-manage service
list`` did: all services of all cells, with their zones.
"""

import json
import logging
import sys
import time


def configure(program, config_file):
    from nova import config
    config.parse_args([program, '--config-file', config_file])
    logging.disable(logging.CRITICAL)


def scheduler(config_file, tree):
    # As in a nova-scheduler: it decides on green or native threads.
    import nova.cmd.scheduler  # noqa: F401 -- before all else of Nova
    from nova import context
    from nova import objects
    from nova.scheduler import host_manager
    configure('nova-scheduler', config_file)
    objects.register_all()
    admin = context.get_admin_context()
    manager = host_manager.HostManager()
    if tree == 'plugin':
        from nova_servicegroup.integration import scheduler
        # As when the scheduler joins.
        scheduler.install()
    nothing = objects.RequestSpec(
        ignore_hosts=None, force_hosts=None, force_nodes=None,
        requested_destination=None,
        instance_uuid='6ba7b810-9dad-11d1-80b4-00c04fd430c8')
    for line in sys.stdin:
        found = run_filter(manager, admin, nothing, json.loads(line)['runs'])
        print(json.dumps(found), flush=True)


def run_filter(manager, context, spec, runs):
    """Do that part of a request; return its figures.

    :param runs: of the filter, over the same host states
    """
    if not manager._instance_info:
        # What the computes have told it: none has an instance. Nova would
        # query the instances of each host otherwise.
        manager._instance_info = {
            host: {'instances': {}, 'updated': True}
            for host in manager._get_computes_for_cells(
                context, manager.enabled_cells, [])[1]}
    began = time.perf_counter()
    states = list(manager.get_host_states_by_uuids(context, None, spec))
    states_ms = (time.perf_counter() - began) * 1000
    taken = []
    for _ in range(runs):
        cpu, began = time.process_time(), time.perf_counter()
        passed = list(manager.get_filtered_hosts(states, spec))
        taken.append(((time.perf_counter() - began) * 1000,
                      (time.process_time() - cpu) * 1000))
    # The other runs were held up by other work on the machine.
    ms, cpu_ms = map(min, zip(*taken))
    return {'ms': ms, 'cpu_ms': cpu_ms, 'up': len(passed),
            'states_ms': states_ms}


def service_list(config_file):
    # It loads what nova-manage does.
    import nova.cmd.manage  # noqa: F401 -- before all else of Nova
    from nova import availability_zones  # noqa: H306
    from nova import context
    from nova import objects
    from nova import servicegroup
    configure('nova-manage', config_file)
    objects.register_all()
    admin = context.get_admin_context()
    services = availability_zones.set_availability_zones(admin, [
        service for cell in context.scatter_gather_all_cells(
            admin, objects.ServiceList.get_all).values()
        for service in cell if service.topic])
    api = servicegroup.API()
    for service in services:
        print('%-16s %-36s %-16s %-10s %-5s %-10s' % (
            service['binary'], service['host'], service['availability_zone'],
            'disabled' if service['disabled'] else 'enabled',
            ':-)' if api.service_is_up(service) else 'XXX',
            api.get_updated_time(service)))


if __name__ == '__main__':
    {'scheduler': scheduler, 'list': service_list}[sys.argv[1]](*sys.argv[2:])
