# SPDX-License-Identifier: Apache-2.0

"""Finds another machine that reports as the same host, and logs it."""

import json
import logging

from kazoo import exceptions as kazoo_exc

from nova_servicegroup.keeper import group
from nova_servicegroup.keeper import names

#: bytes; larger data of a node is ignored. A member's has some 200
MAX_DATA = 16384
#: seconds per member of a group over which its members spread their searches:
#: each search is a listing, of half a megabyte at 10,000 members
DUPLICATES_SPREAD = 0.03


class Search:
    """The part of a Member that searches for duplicates of its host."""

    def _find_duplicates(self):
        """Log an error if another machine reports as the same host.

        Runs a session timeout after joining, when stale nodes of a rebooted
        host are gone. Writes the other machine's node, which makes it search,
        too.
        """
        link = self._link
        try:
            # Since 3.9.3 this needs the permission to read.
            directory = link.get(link.client.exists_async(self.path))
            if directory is not None and not (self._spread or self._touched):
                # Members that start together must not list together.
                self._spread = True
                self._search_at = link.monotonic() + link.jitter(
                    0, DUPLICATES_SPREAD * directory.numChildren)
                return
            found = nodes(link, self.path, self.host)
        except (kazoo_exc.NoNodeError, kazoo_exc.NoAuthError) as e:
            found = []
            link.log(logging.WARNING, 'Cannot see whether another machine '
                     'reports as the host %s in %s: %s' % (
                         self.host, self.path, type(e).__name__))
        found_us, self._touched = self._touched, False
        self._search_at, self._spread = None, False
        for name, raw, stat in found:
            data = parse(raw)
            if name == self.node or name in self._reported or \
                    data.get('boot_id') in (None, self._boot_id):
                continue
            self._reported.add(name)
            link.log(logging.ERROR, (
                'Two machines report as the host %s in %s: this one (boot id '
                '%s) and another (boot id %s, process %s, since %s). Nova '
                'takes them for one host: give each its own [DEFAULT] host, '
                'or stop the wrong one.' % (
                    self.host, self.path, self._boot_id,
                    data.get('boot_id'), data.get('pid'),
                    data.get('joined_at'))))
            if not found_us:
                try:
                    link.get(link.client.set_async(
                        '%s/%s' % (self.path, name), raw, stat.version))
                except (kazoo_exc.NoNodeError, kazoo_exc.NoAuthError,
                        kazoo_exc.BadVersionError):
                    pass


def nodes(link, path, host):
    """Return (name, data, stat) for each ephemeral node of a host."""
    found = []
    for name in link.get(link.client.get_children_async(path)):
        if names.host(name) == host:
            try:
                raw, stat = link.get(
                    link.client.get_async('%s/%s' % (path, name)))
            except kazoo_exc.NoNodeError:
                continue
            if stat.ephemeralOwner not in group.NO_SESSION:
                found.append((name, raw, stat))
    return found


def parse(raw):
    """Return the data of a node as a dict, {} if it is invalid.

    Keeps only values of the types that members write: str, int and None.
    """
    try:
        data = json.loads(raw) if len(raw) <= MAX_DATA else {}
    except (TypeError, ValueError, RecursionError):
        data = {}
    if not isinstance(data, dict):
        return {}
    return {name: value for name, value in data.items()
            if value is None or isinstance(value, (str, int))}
