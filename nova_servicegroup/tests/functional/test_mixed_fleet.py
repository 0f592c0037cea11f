# SPDX-License-Identifier: Apache-2.0

"""A fleet half in-tree, half plug-in: both halves see the same."""

import itertools

import pytest

from nova_servicegroup.tests.fixtures import nova

TREES = (nova.PLUGIN, nova.IN_TREE)
MODES = (nova.THREADING, nova.EVENTLET)

APIS = TREES
COMPUTES = {'%s-%s' % (tree, mode): {'tree': tree, 'mode': mode}
            for tree, mode in itertools.product(TREES, MODES)}


@pytest.fixture(scope='module', params=TREES)
def mixed(request, make_cloud):
    """Controllers of one tree, and computes and APIs of both."""
    with make_cloud(tree=request.param, report_interval=2,
                    service_down_time=8,
                    controllers=('conductor', 'scheduler')) as cloud:
        services = [cloud.start_api(tree, tree=tree, wait=False)
                    for tree in APIS]
        services += [cloud.start_compute(host, wait=False, **how)
                     for host, how in COMPUTES.items()]
        for service in services:
            service.wait_started()
        yield cloud


def _states(cloud):
    """Return {(binary, host): state}, which every reader must agree on."""
    first, second = ({(row['binary'], row['host']): row['state']
                      for row in cloud.os_services(api)} for api in APIS)
    assert first == second
    by_manage = {(row['Binary'], row['Host']):
                 {':-)': 'up', 'XXX': 'down'}[row['State']]
                 for row in cloud.service_list()}
    assert by_manage == first
    return first


def _restart(cloud, compute):
    cloud.restart(compute, wait=False).wait_started()
    # The in-tree driver reports for the first time after five seconds.
    limit = 2 if compute.tree == nova.PLUGIN else 10
    for api in APIS:
        cloud.wait_state(compute.host, 'up', limit, api=api)


def test_all_agree_on_who_lives_and_who_died(mixed):
    computes = [mixed.services['nova-compute', host] for host in COMPUTES]
    mixed.wait_beats(30, *computes)
    states = _states(mixed)
    assert len(states) == len(COMPUTES) + 2
    assert set(states.values()) == {'up'}

    for compute in computes:
        compute.kill()
        for api in APIS:
            mixed.wait_state(compute.host, 'down', 20, api=api)
        states = _states(mixed)
        assert [host for (binary, host), state in states.items()
                if state == 'down'] == [compute.host]
        _restart(mixed, compute)


def test_only_the_plug_in_doubts_that_all_of_them_died(mixed):
    computes = [mixed.services['nova-compute', host] for host in COMPUTES]
    mixed.wait_beats(30, *computes)
    for compute in computes:
        compute.kill()
    for host in COMPUTES:
        mixed.wait_state(host, 'down', 20, api=nova.IN_TREE)
        assert mixed.state(host, api=nova.PLUGIN) == 'up'
    for compute in computes:
        _restart(mixed, compute)
