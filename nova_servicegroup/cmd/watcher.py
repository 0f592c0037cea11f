# SPDX-License-Identifier: Apache-2.0

"""Checks all services repeatedly, and returns the changes."""

from __future__ import annotations

import datetime
import math
import time
import typing

from nova_servicegroup.cmd import base
from nova_servicegroup import exception
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State
from nova_servicegroup.liveness import Verdict

#: seconds for which a list of services is used, at least
RELOAD = 1.0
#: reading the list takes at most one part in so many of the time
SHARE = 5
#: seconds that a database may take for an answer
TIMEOUT = 5.0


class Transition(typing.NamedTuple):
    """A change of a service's state.

    :param at: when it was seen here, aware UTC datetime
    :param host: name of the host, str
    :param binary: nova-compute, or another
    :param cell: name of its cell, or None
    :param old: liveness.State; None for a new service
    :param new: liveness.State; None for a deleted one
    :param reason: the liveness.Reason of the new state, or None
    :param service: the current deployment.Service; for a deleted one the last
    """

    at: typing.Any
    host: str
    binary: str
    cell: str | None
    old: typing.Any
    new: typing.Any
    reason: typing.Any
    service: typing.Any


class Watcher:
    """The services of a deployment, and their states at the last check.

    With db, Nova's record is the evidence. A record read some time ago makes
    no service down: that waits until it is read again. If its cell doesn't
    answer for ``Deployment.record_lasts``, the service is unknown.

    Not thread-safe.

    :param deployment: a Deployment
    :param group: only the services of this group
    :param is_wanted: ``is_wanted(record)`` returns whether to check it
    """

    def __init__(self, deployment, group=None, is_wanted=lambda record: True,
                 monotonic=time.monotonic, utcnow=None):
        self._deployment = deployment
        self._group = group
        self._is_wanted = is_wanted
        self._monotonic = monotonic
        self._utcnow = utcnow or (
            lambda: datetime.datetime.now(datetime.timezone.utc))
        self._records = {}          # by (binary, host, cell)
        self._reload_at = float('-inf')
        self._listed_at = float('-inf')
        self._read_at = {}          # cell -> when its list was asked for
        #: (binary, host, cell) -> Service at the last check
        self.services = {}
        #: errors that hide some services, as texts
        self.failures = []

    @property
    def list_age(self):
        """Seconds since all services were listed; math.inf if never."""
        return self._monotonic() - self._listed_at

    def check(self):
        """Check all services; return the changes, a list of Transition.

        The first list of a cell is no change. Blocks as the driver does;
        raises nothing when a store or database is unavailable, see
        ``failures``.
        """
        known_cells = set(self._read_at)
        self._reload()
        now = self._utcnow()
        checked = {key: self._service(key, record)
                   for key, record in self._records.items()}
        changes = []
        for key in [*checked, *(set(self.services) - set(checked))]:
            before, after = self.services.get(key), checked.get(key)
            old, new = before and before.state, after and after.state
            if old is not new and key[2] in known_cells:
                changes.append(Transition(
                    now, key[1], key[0], key[2], old, new,
                    after and after.verdict.reason, after or before))
        self.services = checked
        return changes

    def _service(self, key, record):
        before, lasts = self.services.get(key), self._deployment.record_lasts
        if lasts == math.inf or before is None or before.record is not record:
            return self._deployment.service(record, key[2])
        # This record was judged before: only time has passed since.
        if before.verdict.reason is Reason.FORCED_DOWN:
            return before
        if self._monotonic() - self._read_at[key[2]] > lasts:
            return before._replace(verdict=Verdict(
                State.UNKNOWN, Reason.OUTAGE, before.seen_at))
        after = self._deployment.service(record, key[2])
        # If the silence of others was checked, the database was read again.
        is_new = (after.state in (State.UP, State.UNKNOWN)
                  or after.verdict.silence is not None)
        return after if is_new else before

    def _reload(self):
        began = self._monotonic()
        if began < self._reload_at:
            return
        try:
            self._read(began)
        finally:
            took = self._monotonic() - began
            self._reload_at = began + max(RELOAD, min(
                SHARE * took, self._deployment.record_lasts / 2))

    def _read(self, began):
        try:
            found = {(record['binary'], record['host'], cell): record
                     for record, cell in self._deployment.records(self._group)
                     if self._is_wanted(record)}
        except (base.CommandError, exception.ServiceGroupUnavailable) as e:
            self.failures = [str(e)]
            return
        cells = self._deployment.listed_cells
        self._read_at.update(dict.fromkeys(cells, began))
        self.failures = list(self._deployment.failures)
        if self.failures:
            # Services in a cell that doesn't answer were not deleted.
            found.update((key, record) for key, record in self._records.items()
                         if key[2] not in cells)
        else:
            self._listed_at = self._monotonic()
        self._records = found
