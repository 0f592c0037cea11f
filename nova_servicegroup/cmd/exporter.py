# SPDX-License-Identifier: Apache-2.0

"""The metrics of a deployment, or of the processes of one host.

Both are collectors of prometheus_client, which calls them from the threads of
its server, while the command checks the services.
"""

from __future__ import annotations

import collections
import glob
import os
import time

from prometheus_client import core
from prometheus_client import Counter
from prometheus_client import Histogram
from prometheus_client import parser

from nova_servicegroup.cmd import base
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State
from nova_servicegroup import metrics

_PREFIX = 'nova_servicegroup_'
#: seconds, the upper bounds of the time until an end or a loss is detected
BUCKETS = (0.1, 0.5, 1, 2, 5, 10, 20, 30, 45, 60, 90, 120, 300)


class Deployment:
    """The states that a Watcher sees, as metrics.

    ``check`` and ``collect`` may run in different threads.

    :param watched: a watcher.Watcher
    :param driver: the drivers.base.Driver that it uses
    :param version: of this package, str
    :param registry: a CollectorRegistry for the counters
    :param per_host: whether to export the state of each host, too
    """

    def __init__(self, watched, driver, version, registry, per_host=False,
                 monotonic=time.monotonic):
        self._watched = watched
        self._driver = driver
        self._version = version
        self._per_host = per_host
        self._monotonic = monotonic
        self._transitions = Counter(
            _PREFIX + 'transitions', 'Changes of state that were seen, with '
            'the reason for the new one.',
            ['group', 'old', 'new', 'reason'], registry=registry)
        self._detection = Histogram(
            _PREFIX + 'detection_seconds', 'From the last sign of life until '
            'it was seen here that a service is not up any more.',
            ['group', 'state'], buckets=BUCKETS, registry=registry)
        self._seen = None
        registry.register(self)

    def check(self):
        """Check all services; return the changes, as the Watcher does."""
        began = self._monotonic()
        changes = self._watched.check()
        for change in changes:
            self._count(change)
        # In one assignment, as another thread reads it.
        self._seen = (list(self._watched.services.values()),
                      len(self._watched.failures),
                      self._monotonic() - began, time.time())
        return changes

    def _count(self, change):
        self._transitions.labels(
            change.service.group,
            change.old.value if change.old else 'absent',
            change.new.value if change.new else 'deleted',
            code(change.reason)).inc()
        seen_at = change.service.seen_at
        if (change.old is State.UP and seen_at is not None
                and change.new in (State.ENDED, State.DOWN)
                and change.reason is not Reason.FORCED_DOWN):
            # The times may be from the clocks of two machines.
            seconds = max(0, (change.at - seen_at).total_seconds())
            self._detection.labels(
                change.service.group, change.new.value).observe(seconds)

    def collect(self):
        """Yield the metrics, for prometheus_client."""
        info = _gauge('info', 'The driver, and the version of this package.',
                      'driver', 'version')
        info.add_metric([self._driver.name, self._version], 1)
        yield info
        if self._seen is None:
            return
        services, failures, seconds, at = self._seen
        yield _gauge('look_timestamp_seconds', 'When all services were last '
                     'checked, since 1970.', value=at)
        yield _gauge('look_seconds', 'How long that took.', value=seconds)
        yield _gauge('unreadable_cells', 'Cells, or databases, that do not '
                     'list their services.', value=failures)
        yield _gauge(
            'list_age_seconds', 'Since when Nova\'s list of services was not '
            'read in full.', value=self._watched.list_age)
        groups = sorted({one.group for one in services})
        yield self._view_ages(groups)
        yield from self._members(services, groups)

    def _view_ages(self, groups):
        family = _gauge('view_age_seconds', 'Age of this process\'s view of a '
                        'group.', 'group')
        for group in groups:
            age = self._driver.view_age(group)
            family.add_metric([group], self._watched.list_age
                              if age is None else age)
        return family

    def _members(self, services, groups):
        states = collections.Counter(
            (one.group, one.state) for one in services)
        members = _gauge('members', 'Services by state. "ended": the process '
                         'ended, the host is alive. "unknown": in doubt.',
                         'group', 'state')
        for group in groups:
            for state in State:
                members.add_metric([group, state.value], states[group, state])
        yield members
        doubted = _gauge('doubted_members', 'Services whose state is unknown, '
                         'by the reason.', 'group', 'reason')
        for (group, reason), number in collections.Counter(
                (one.group, one.verdict.reason) for one in services
                if one.state is State.UNKNOWN).items():
            doubted.add_metric([group, code(reason)], number)
        yield doubted
        forced = _gauge('forced_down_members', 'Services that the operator '
                        'forced down.', 'group')
        for group in groups:
            forced.add_metric([group], sum(
                one.group == group
                and one.verdict.reason is Reason.FORCED_DOWN
                for one in services))
        yield forced
        if self._per_host:
            each = _gauge('member_state', 'The state that a service is in.',
                          'host', 'service', 'cell', 'state')
            for one in services:
                # prometheus_client can't encode every name.
                each.add_metric([base.printable(one.host), one.binary,
                                 one.cell or '', one.state.value], 1)
            yield each


def code(reason):
    """Return the label of a Reason; '' for None."""
    return reason.name.lower() if reason else ''


def _gauge(name, text, *labels, value=None):
    return core.GaugeMetricFamily(_PREFIX + name, text, labels=labels or None,
                                  value=value)


class Local:
    """The metrics that the services of this host write.

    :param directory: [servicegroup] metrics_dir
    :param stale_after: age in seconds after which a file belongs to an ended
        process
    """

    def __init__(self, directory, stale_after):
        self._pattern = os.path.join(glob.escape(directory),
                                     _PREFIX + '*.prom')
        self._stale_after = stale_after

    def collect(self):
        """Return the metrics of all files, merged by name."""
        families = {}
        for path in sorted(glob.glob(self._pattern)):
            try:
                if metrics.is_stale(path, self._stale_after):
                    continue
                with open(path) as file:
                    found = list(parser.text_fd_to_metric_families(file))
            except (OSError, ValueError):
                # It was removed, or is not ours.
                continue
            for family in found:
                known = families.setdefault(family.name, family)
                if known is not family:
                    known.samples += family.samples
        return families.values()
