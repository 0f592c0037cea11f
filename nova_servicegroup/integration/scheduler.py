# SPDX-License-Identifier: Apache-2.0

"""Lets Nova's scheduler prefer hosts that are certainly up.

``ComputeFilter`` asks about one host at a time, so it can't know whether a
request has a better candidate than a doubted one. Nova documents
``filter_all`` as the method for decisions about all hosts.
"""

import copy
import functools
import sys

from nova_servicegroup import liveness


def install():
    """Make Nova's ComputeFilter prefer hosts that are certainly up.

    Called in a nova-scheduler, which has loaded its filters by then, so that
    nothing is imported here. Idempotent; does nothing without the filter.
    """
    module = sys.modules.get('nova.scheduler.filters.compute_filter')
    compute_filter = getattr(module, 'ComputeFilter', None)
    if compute_filter is None or hasattr(
            compute_filter.filter_all, 'knows_doubt'):
        return
    compute_filter.filter_all = _certain_first(compute_filter.filter_all)


def _certain_first(filter_all):
    @functools.wraps(filter_all)
    def certain_first(compute_filter, hosts, spec):
        hosts = list(hosts)
        asking = copy.copy(compute_filter)
        asking.servicegroup_api = _Placement(compute_filter.servicegroup_api)
        certain = list(filter_all(asking, hosts, spec))
        if certain:
            return certain
        return [host for host in hosts if
                id(host.service) in asking.servicegroup_api.doubted]

    certain_first.knows_doubt = True
    return certain_first


class _Placement:
    """An API for one filter run, which notes the services in doubt."""

    def __init__(self, api):
        self._api = api
        self.doubted = set()

    def __getattr__(self, name):
        return getattr(self._api, name)

    def service_is_up(self, service):
        up = self._api.answer(service, liveness.Question.MAY_PLACE)
        if up is None:
            self.doubted.add(id(service))
        return bool(up)
