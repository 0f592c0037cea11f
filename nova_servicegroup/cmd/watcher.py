# SPDX-License-Identifier: Apache-2.0

"""Checks all services repeatedly, and returns the changes."""

from __future__ import annotations

import datetime
import time
import typing

from nova_servicegroup.cmd import base

#: seconds for which a list of services is used, at least
RELOAD = 1.0
#: reading the list takes at most one part in so many of the time
SHARE = 5


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
        self._records = None        # by (binary, host, cell)
        self._reload_at = float('-inf')
        self._listed_at = float('-inf')
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

        The first call returns none. Blocks as the driver does; raises nothing
        when Nova's database is unavailable, see ``failures``.
        """
        is_first = self._records is None
        self._reload()
        now = self._utcnow()
        checked = {
            key: self._deployment.service(record, key[2])
            for key, record in (self._records or {}).items()}
        changes = []
        for key in [*checked, *(set(self.services) - set(checked))]:
            before, after = self.services.get(key), checked.get(key)
            old, new = before and before.state, after and after.state
            if old is not new and not is_first:
                changes.append(Transition(
                    now, key[1], key[0], key[2], old, new,
                    after and after.verdict.reason, after or before))
        self.services = checked
        return changes

    def _reload(self):
        began = self._monotonic()
        if began < self._reload_at:
            return
        try:
            self._read()
        finally:
            took = self._monotonic() - began
            self._reload_at = began + max(RELOAD, SHARE * took)

    def _read(self):
        try:
            found = {(record['binary'], record['host'], cell): record
                     for record, cell in self._deployment.records(self._group)
                     if self._is_wanted(record)}
        except base.CommandError as e:
            self.failures = [str(e)]
            return
        self.failures = list(self._deployment.failures)
        if not self.failures:
            self._listed_at = self._monotonic()
        if self.failures and self._records:
            # Services in a cell that doesn't answer were not deleted.
            found = {**self._records, **found}
        self._records = found
