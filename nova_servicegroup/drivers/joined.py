# SPDX-License-Identifier: Apache-2.0

"""Whether most of Nova's services have ever joined the store that is asked.

A host that the store has never heard of is down, unless most of its group are
such: then a deployment is about to change its driver, or this reader asks
other servers, or another prefix, than the others report to.
"""

import threading
import time

from oslo_log import log as logging

LOG = logging.getLogger(__name__)

#: seconds for which an answer is used again
REFRESH = 1.0
#: part of the time that may go into listing Nova's services again
LISTING_SHARE = 0.02
#: seconds after which they are listed again at the latest
LISTING_PAUSE = 60.0


class Joined:
    """The services of one group, for one process. Safe from any thread.

    :param where: what is asked, for messages
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

        False while they can't be listed. Blocks for a listing now and then.

        :param list_services: returns Nova's service records of the group
        :param is_known: ``is_known(host)``: the store has heard of it
        """
        self._list(list_services)
        now = self._monotonic()
        if self._hosts is not None and now >= self._until:
            joined = sum(map(is_known, self._hosts))
            self._most = 2 * joined >= len(self._hosts)
            self._until = now + REFRESH
            self._tell(joined)
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
                # A database or a conductor that is away: no reason for Nova's
                # question to fail.
                LOG.debug('Cannot list the services of Nova', exc_info=True)
            took = self._monotonic() - now
            self._list_after = now + min(took / LISTING_SHARE, LISTING_PAUSE)
        finally:
            self._listing.release()

    def _tell(self, joined):
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
