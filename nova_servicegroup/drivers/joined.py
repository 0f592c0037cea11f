# SPDX-License-Identifier: Apache-2.0

"""Finds out whether most of Nova's services have ever joined the store.

A host that never joined is down, unless most of its group never joined: then
the deployment is changing its driver, or this reader uses other servers or
another prefix than the members.
"""

import threading
import time

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

#: seconds for which a result is cached
REFRESH = 1.0
#: share of the time for repeated listings of Nova's services
LISTING_SHARE = 0.02
#: seconds between two listings, at most
LISTING_PAUSE = 60.0


class Joined:
    """Counts which services of one group have joined. Thread-safe.

    :param where: the store, for messages
    """

    def __init__(self, where, monotonic=time.monotonic):
        self._where = where
        self._monotonic = monotonic
        self._listing = threading.Lock()
        self._list_after = float('-inf')
        self._hosts = None
        self._most, self._until = False, float('-inf')
        self._logged = False

    def most(self, list_services, is_known):
        """Return whether at least half of Nova's services have joined.

        False if they were never listed. Blocks for a listing now and then.

        :param list_services: returns Nova's service records of the group
        :param is_known: ``is_known(host)``: whether the host has ever joined
        """
        self._list(list_services)
        now = self._monotonic()
        if self._hosts is not None and now >= self._until:
            joined = sum(map(is_known, self._hosts))
            self._most = 2 * joined >= len(self._hosts)
            self._until = now + REFRESH
            self._log(joined)
        return self._most

    def _list(self, list_services):
        now = self._monotonic()
        if now < self._list_after or not self._listing.acquire(
                blocking=self._hosts is None):
            return
        try:
            if self._monotonic() < self._list_after:
                return
            try:
                self._hosts = {service['host'] for service in list_services()}
            except Exception:
                # An outage of the database or a conductor: Nova's query must
                # not fail.
                LOG.debug('Cannot list the services of Nova', exc_info=True)
            took = self._monotonic() - now
            self._list_after = now + min(took / LISTING_SHARE, LISTING_PAUSE)
        finally:
            self._listing.release()

    def _log(self, joined):
        if self._most:
            self._logged = False
        elif not self._logged:
            self._logged = True
            LOG.error(
                'Only %(joined)d of %(all)d compute services have ever joined '
                'in %(where)s, so nothing can be told of the others: Nova '
                'takes them for up. A deployment that changes its driver '
                'reports through both first ([servicegroup] also_report). Or '
                'do other nodes report to other servers, or under another '
                'prefix?', {'joined': joined, 'all': len(self._hosts),
                            'where': self._where})
