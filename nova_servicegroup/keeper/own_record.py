# SPDX-License-Identifier: Apache-2.0

"""Writes the record of a membership: its join, and how its process ended."""

import functools
import logging

from kazoo import exceptions as kazoo_exc
from kazoo.protocol import states

from nova_servicegroup.keeper import record as records

#: attempts to write a node or a record before a pause
ATTEMPTS = 3


class OwnRecord:
    """The part of a Member that handles its record."""

    def _join_with_record(self):
        """Create node and record in one transaction; return its success."""
        link = self._link
        try:
            self._read_record()
        except kazoo_exc.NoAuthError:
            return False
        join = link.client.transaction()
        join.create(self.node_path, self._data, acl=link.security.acl,
                    ephemeral=True)
        data = self._joined(self._before)
        if self._version is None:
            join.create(self._record_path, data, acl=link.security.acl)
        else:
            join.set_data(self._record_path, data, self._version)
        made, _ = results = link.get(join.commit_async())
        if isinstance(made, kazoo_exc.NodeExistsError):
            raise made
        return not any(isinstance(one, Exception) for one in results)

    def _joined(self, before):
        silent = self._silent_since
        return records.joined(
            self._token, before,
            None if silent is None else self._link.monotonic() - silent)

    def _read_record(self, watch=None):
        """Read the record and its version."""
        self._before = self._version = None
        try:
            raw, stat = self._link.get(self._link.client.get_async(
                self._record_path, watch=watch))
        except kazoo_exc.NoNodeError:
            return
        self._before = records.parse(raw, stat)
        self._version = stat.version

    def _repair_record(self, joining=False):
        """Correct the record if it doesn't say JOINED, and watch it.

        :param joining: whether a record of another incarnation is an old one,
            and not that of another machine of the same name
        """
        now = self._link.monotonic()
        if not joining and self._repaired_at is not None:
            # Two machines of one name must not overwrite it without a pause.
            pause = self._repaired_at + self._link.timeout
            if now < pause:
                self._repair_at = pause
                return
        self._repair_at = None
        try:
            for _ in range(ATTEMPTS):
                self._read_record(self._record_watch)
                before = self._before
                if before is not None and before.state == records.JOINED and (
                        before.token == self._token or not joining):
                    return
                if not joining:
                    self._repaired_at = now
                if before is not None and before.token == self._token:
                    # It was never missing.
                    before = before._replace(state=records.JOINED)
                self._put_record(self._joined(before))
        except (kazoo_exc.NoAuthError, kazoo_exc.InvalidACLError) as e:
            if not self._unwritable_logged:
                self._unwritable_logged = True
                self._link.log(logging.WARNING, (
                    'The record %s cannot be written, so nobody will be told '
                    'how this process ended: %s' % (
                        self._record_path, type(e).__name__)))

    def _put_record(self, data):
        """Write the record if it is unchanged; return whether it was."""
        link = self._link
        try:
            if self._version is not None:
                link.get(link.client.set_async(
                    self._record_path, data, self._version))
                return True
            create = functools.partial(
                link.client.create_async, self._record_path, data,
                acl=link.security.acl)
            try:
                link.get(create())
            except kazoo_exc.NoNodeError:
                link.make_directory(self._record_path.rpartition('/')[0])
                link.get(create())
        except (kazoo_exc.BadVersionError, kazoo_exc.NodeExistsError,
                kazoo_exc.NoNodeError):
            return False
        return True

    def _record_changed(self, event):
        if event.type != states.EventType.NONE and self._ended is None:
            self._repair_at = self._link.monotonic()

    def end_request(self, how, age):
        """Start a transaction that deletes the node and records the end.

        It fails if the record has changed since it was last read.

        :returns: an AsyncResult, or None if the record is not the member's
        """
        if self.node is None or self._before is None or (
                self._before.token != self._token):
            return None
        end = self._link.client.transaction()
        end.set_data(self._record_path,
                     records.ended(self._token, how, age, self._before),
                     self._version)
        end.delete(self.node_path)
        return end.commit_async()

    def end_now(self, how):
        """Record how the process ended, before the session ends.

        May be called from any thread.
        """
        if self._ended is None and self._record_path is not None and (
                self.node is not None):
            self._ended = how, self._link.monotonic()
            self._delete_node()

    def _end_with_record(self):
        how, last = self._ended
        if how is None:
            return False
        request = self.end_request(how, self._link.monotonic() - last)
        return request is not None and not any(
            isinstance(one, Exception) for one in self._link.get(request))

    def _write_end(self):
        """Record the end after the node, if there is no later incarnation."""
        how, last = self._ended
        if how is None or self._record_path is None or self._token is None:
            return
        for _ in range(ATTEMPTS):
            try:
                self._read_record()
                if self._before is None or self._before.state == how or (
                        self._before.token != self._token):
                    return
                if self._put_record(records.ended(
                        self._token, how, self._link.monotonic() - last,
                        self._before)):
                    return
            except kazoo_exc.NoAuthError:
                return
