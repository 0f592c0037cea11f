# SPDX-License-Identifier: Apache-2.0

"""Checks the permissions on the directories that the keeper uses."""

import logging
import time

from kazoo import exceptions as kazoo_exc

from nova_servicegroup.keeper import security

#: seconds between attempts without a result
RETRY = 1.0


class Rights:
    """Tests the keeper's permissions, and logs each problem once.

    With an identity, tests each directory on its first use; without one, when
    ZooKeeper has refused a request. After a refusal, repeats the test until
    it succeeds.

    :param ours: a Security
    :param get: waits for an AsyncResult and returns its value
    :param log: ``log(level, text)`` logs in the parent
    """

    def __init__(self, ours, get, log, retry_interval,
                 monotonic=time.monotonic):
        self._ours = ours
        self._get = get
        self._log = log
        self._retry_interval = retry_interval
        self._monotonic = monotonic
        self._due = {}          # directory -> when to test, None: never
        self._refused = {}      # directory -> why
        self._logged = set()    # logged reasons, until nothing is refused
        self._open_logged = False

    def use(self, path):
        """Add a directory."""
        self._due.setdefault(path, 0 if self._ours else None)

    def due(self):
        """Return when to call ``check``, None for never."""
        return min((t for t in self._due.values() if t is not None),
                   default=None)

    def check(self, client):
        """Test the directories that are due; blocks as ``get`` does."""
        now = self._monotonic()
        for path, due in list(self._due.items()):
            if due is not None and now >= due:
                self._due[path] = now + RETRY
                try:
                    self._check(client, path)
                except kazoo_exc.KazooException:
                    # No result; the next request reports such an error.
                    pass

    def reason(self, path, error):
        """Return the text of an error; a refusal makes the test due."""
        text = ('%s: %s' % (type(error).__name__, error)).rstrip(': ')
        if isinstance(error, (kazoo_exc.NoAuthError,
                              kazoo_exc.InvalidACLError)):
            if self._due[path] is None:
                self._due[path] = 0
            if path in self._refused:
                text += ': ' + self._refused[path]
        return text

    def _check(self, client, path):
        where, why = self._ours.refusal(client, path, self._get)
        if why is not None:
            self._due[path] = self._monotonic() + self._retry_interval
            self._refused[path] = why
            if why not in self._logged:
                self._logged.add(why)
                self._log(logging.ERROR, 'Permission denied on the ZooKeeper '
                          'path %s: %s' % (where, why))
            return
        if self._refused.pop(path, None) and not self._refused:
            self._logged.clear()
            self._log(logging.INFO, 'Permission on the ZooKeeper path %s is '
                      'granted again.' % path)
        if self._ours and not self._open_logged:
            self._warn_of_open(client, path)
        self._due[path] = None

    def _warn_of_open(self, client, path):
        """Log a warning if a directory was created without an identity."""
        for directory in filter(None, (path.rpartition('/')[0], path)):
            try:
                acl, _ = self._get(client.get_acls_async(directory))
            except (kazoo_exc.NoNodeError, kazoo_exc.NoAuthError):
                continue
            if self._ours.open_to_others(acl):
                self._open_logged = True
                self._log(logging.WARNING, (
                    'Unauthenticated clients of ZooKeeper have permissions '
                    'on %s that only %s should have: run "%s" once all '
                    'services have this identity.' % (
                        directory, self._ours.name, security.TIGHTEN)))
                return
