# SPDX-License-Identifier: Apache-2.0

"""What we may do in our directories, and what others may."""

import logging
import time

from kazoo import exceptions as kazoo_exc

from nova_servicegroup.keeper import security

#: seconds between attempts that came to nothing
RETRY = 1.0


class Rights:
    """Tries our rights, and tells of what is wrong, once.

    With an identity they are tried in every directory when it is first used;
    without one, when something was refused. After a refusal they are tried
    again until there is none.

    :param ours: a Security
    :param get: waits for an AsyncResult and returns its value
    :param log: ``log(level, text)`` tells the operator
    """

    def __init__(self, ours, get, log, retry_interval,
                 monotonic=time.monotonic):
        self._ours = ours
        self._get = get
        self._log = log
        self._retry_interval = retry_interval
        self._monotonic = monotonic
        self._due = {}          # directory -> when to try, None: never
        self._refused = {}      # directory -> why
        self._logged = set()    # reasons that were, and aren't all mended
        self._open_logged = False

    def use(self, path):
        """A directory is going to be used."""
        self._due.setdefault(path, 0 if self._ours else None)

    def due(self):
        """Return when to call ``check``, None for never."""
        return min((t for t in self._due.values() if t is not None),
                   default=None)

    def check(self, client):
        """Try what is due; blocks and times out as ``get`` does."""
        now = self._monotonic()
        for path, due in list(self._due.items()):
            if due is not None and now >= due:
                self._due[path] = now + RETRY
                try:
                    self._check(client, path)
                except kazoo_exc.KazooException:
                    # Nobody can tell; whatever is done next finds out why.
                    pass

    def reason(self, path, error):
        """Return the reason of an error; look into it if it is our rights."""
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
            self._look_for_open(client, path)
        self._due[path] = None

    def _look_for_open(self, client, path):
        """Warn of a directory that was made without an identity."""
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
