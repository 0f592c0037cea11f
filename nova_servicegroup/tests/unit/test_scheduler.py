# SPDX-License-Identifier: Apache-2.0

"""Nova's own ComputeFilter, which takes certain candidates first."""

import sys
import types

from nova.scheduler.filters import compute_filter
import pytest

from nova_servicegroup import api as sg_api
from nova_servicegroup.integration import scheduler
from nova_servicegroup.liveness import Question
from nova_servicegroup.tests.unit import test_api

UP, DOWN, DOUBTED = True, False, None

stub = test_api.stub


class FakeAPI:
    """Says what each host's service holds."""

    def answer(self, service, question):
        assert question is Question.MAY_PLACE
        return service['answer']


@pytest.fixture(autouse=True)
def nova_filter(monkeypatch):
    """Nova's filter as it was published, wrapped for this test."""
    monkeypatch.setattr(compute_filter.ComputeFilter, 'filter_all',
                        compute_filter.ComputeFilter.filter_all)


def host(name, answer, disabled=False):
    return types.SimpleNamespace(host=name, service={
        'answer': answer, 'disabled': disabled})


def passed(config, *hosts, times=1):
    for _ in range(times):
        scheduler.install()
    one = compute_filter.ComputeFilter()
    one.servicegroup_api = FakeAPI()
    return [h.host for h in one.filter_all(iter(hosts), None)]


def test_certain_hosts_come_first(config):
    assert passed(config, host('a', DOUBTED), host('b', UP), host('c', DOWN),
                  host('d', DOUBTED), host('e', UP)) == ['b', 'e']


def test_doubted_hosts_are_better_than_none(config):
    assert passed(config, host('a', DOUBTED), host('c', DOWN),
                  host('d', DOUBTED)) == ['a', 'd']


def test_a_disabled_host_is_none(config):
    assert passed(config, host('a', UP, disabled=True), host('b', DOUBTED),
                  host('c', DOUBTED, disabled=True)) == ['b']


def test_kvm_hosts_in_doubt_and_other_hosts_that_are_up(config):
    # The request's own candidates decide, not what else there is.
    kvm = [host('kvm%d' % n, DOUBTED) for n in range(997)]
    ironic = [host('ironic%d' % n, UP) for n in range(3)]
    assert len(passed(config, *kvm)) == 997
    assert passed(config, *kvm, *ironic) == ['ironic0', 'ironic1', 'ironic2']


def test_installing_twice_is_installing_once(config):
    assert passed(config, host('a', DOUBTED), times=2) == ['a']
    assert not hasattr(
        compute_filter.ComputeFilter.filter_all.__wrapped__, '__wrapped__')


def test_who_joins_the_schedulers_gets_it(stub):
    api = sg_api.API()
    plain = compute_filter.ComputeFilter.filter_all
    api.join('a', 'compute', 'service')
    assert compute_filter.ComputeFilter.filter_all is plain
    api.join('a', 'scheduler', 'service')
    assert compute_filter.ComputeFilter.filter_all is not plain


def test_without_a_filter_nothing_happens(monkeypatch):
    monkeypatch.delitem(scheduler.sys.modules,
                        'nova.scheduler.filters.compute_filter')
    scheduler.install()
    # Importing it is the business of the process.
    assert 'nova.scheduler.filters.compute_filter' not in sys.modules
