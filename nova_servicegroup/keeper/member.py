# SPDX-License-Identifier: Apache-2.0

"""A membership of the parent's process: its node and its record."""

import collections
import functools
import json
import logging
import os

from kazoo import exceptions as kazoo_exc
from kazoo.protocol import states

from nova_servicegroup.keeper import duplicates
from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import own_record
from nova_servicegroup.keeper import security

#: seconds that a living member may need to rejoin, after its session timeout
REJOIN_TIME = 2 * security.RECONNECT_MAX_DELAY


#: seconds before a failed attempt is repeated
RETRY = 0.2


class Member(own_record.OwnRecord, duplicates.Search):
    """A membership, its node, and its host's record.

    :param link: the Registrar: connection, clock, and messages to the parent
    :param number: the parent's id of the membership
    :param path: directory of its group
    :param records_path: directory of the group's records, or None
    :param host: name of the member
    :param data: dict for the node
    :param node: name of the node that an earlier keeper created, or None
    """

    def __init__(self, link, number, path, records_path, host, data, node):
        self._link = link
        self.number = number
        self.path = path
        self.host = host
        self._data = json.dumps(data).encode()
        self._boot_id = data.get('boot_id')
        self.node = node        # name of the node, which may not exist yet
        self.session = None     # id of the session that owns the node
        # Nodes of earlier sessions, which may not have ended.
        self._replaced = collections.deque(maxlen=own_record.ATTEMPTS)
        self.left = False
        self.released = False   # another keeper has the record now
        self._ended = None      # (how, monotonic time of the last sign)
        self._done = False      # the node exists, or not, as requested
        self._retry_at = 0
        self._asked = []        # requests that wait for a result
        self._watch = functools.partial(link.submit, self._node_changed)
        self._record_path = records_path and '%s/%s' % (
            records_path, names.quote(host))
        self._token = node and node.rpartition('@')[2]
        self._silent_since = None   # when its session was lost
        self._before = None     # the Record as it was last read
        self._version = None    # of the record's node, None if there is none
        self._repair_at = None  # when to check the record
        self._repaired_at = None
        self._unwritable_logged = False
        self._record_watch = functools.partial(
            link.submit, self._record_changed)
        # For the search for duplicates.
        self._search_at = None
        self._spread = False
        self._touched = False
        self._reported = set()

    @property
    def node_path(self):
        return '%s/%s' % (self.path, self.node)

    # The requested state.

    def live(self):
        """Request the node."""
        if not self.left:
            self._ended = None
            self._begin()

    def end(self, how, age):
        """The node shall be away.

        :param how: one of record.ENDS, None if nobody knows
        :param age: seconds since the last sign of life
        """
        if not self.left:
            self._ended = how, self._link.monotonic() - age
            self._begin()

    @property
    def tried(self):
        """Whether there may be a node or a record of it."""
        return self._token is not None

    def leave(self, how, seq):
        """As ``end``, for good; answers ``seq`` afterwards."""
        if self._ended is None or how not in (None, 'killed'):
            self.end(how, 0)
        else:
            # It hung before it was killed, and the record says since when.
            self._begin()
        self.left = True
        self._answer('it left')
        self._asked.append(seq)

    def _begin(self):
        self._done = False
        self._retry_at = 0

    def connected(self, attached):
        """Start again with a new connection.

        :param attached: whether it has the session that owns the node
        """
        self._begin()
        if not attached or (self.session is not None
                            and self.session != self._link.session):
            # The node of the old session is stale; create another.
            if self.node is not None:
                self._silent_since = self._link.lost_at
                self._replaced.append(self.node)
            self.node = None

    def delay(self, until):
        """Do nothing before a time: the connection is slow."""
        self._retry_at = max(self._retry_at, until)

    def due(self):
        """Return when to call ``reconcile``, or None."""
        if self.released and not self.left:
            return None
        if not self._done:
            return self._retry_at
        times = [t for t in (self._search_at, self._repair_at)
                 if t is not None]
        return max(min(times), self._retry_at) if times else None

    # The work.

    def reconcile(self):
        """Do what is due; return whether this membership is over."""
        now = self._link.monotonic()
        due = self.due()
        if due is None or now < due:
            return False
        if self._done:
            if self._repair_at is not None and now >= self._repair_at:
                self._repair_record()
            if self._search_at is not None and now >= self._search_at:
                self._find_duplicates()
            return False
        try:
            if self._ended is None:
                self._create_node()
            else:
                self._delete_node()
        except self._link.DISCONNECTED:
            raise
        except kazoo_exc.KazooException as e:
            self._retry_at = now + self._link.retry_interval
            reason = self._link.rights.reason(self.path, e)
            self._link.post('member', id=self.number, node=None,
                            reason=reason)
            self._answer(reason)
            return False
        self._done = True
        if not self.left:
            self._link.post('member', id=self.number, node=self.node,
                            reason='' if self._ended is None else
                            'taken away, since the process gave no sign')
        self._answer(None)
        return self.left

    def _answer(self, error):
        while self._asked:
            self._link.post('answer', seq=self._asked.pop(), error=error,
                            result=[])

    # The node.

    def _create_node(self):
        link = self._link
        for _ in range(own_record.ATTEMPTS):
            if self.node is None:
                self._token = os.urandom(8).hex()
                self.node = names.node(self.host, self._token)
            self.session = link.session
            made = True
            try:
                self._make_node()
                self._search_at = link.monotonic() + link.timeout + REJOIN_TIME
            except kazoo_exc.NodeExistsError:
                # Created by an earlier keeper, or by an attempt whose answer
                # was lost; or it is a stale one, of an ended session.
                made = False
            stat = link.get(link.client.exists_async(
                self.node_path, watch=self._watch))
            owner = stat and stat.ephemeralOwner
            if owner == link.session:
                if self._record_path is not None:
                    self._repair_record(joining=made)
                self._silent_since = None
                return
            if owner and (owner, ) == (link.client.client_id or ())[:1]:
                # kazoo has another session, whose event is still queued. The
                # node is valid and belongs to that session.
                self.session = owner
                break
            if owner:
                self._replaced.append(self.node)
            self.node = None
        raise kazoo_exc.SessionExpiredError('the session changed meanwhile')

    def _make_node(self):
        link = self._link
        if self._record_path is not None and self._join_with_record():
            return
        create = functools.partial(
            link.client.create_async, self.node_path, self._data,
            acl=link.security.acl, ephemeral=True)
        try:
            link.get(create())
        except kazoo_exc.NoNodeError:
            link.make_directory(self.path)
            link.get(create())

    def _delete_node(self):
        link = self._link
        if self.node is not None and not self._end_with_record():
            try:
                link.get(link.client.delete_async(self.node_path))
            except kazoo_exc.NoNodeError:
                pass
            self._write_end()
        elif self.node is None:
            # It was deleted with its session.
            self._write_end()
        self.node = None
        while self._replaced:
            try:
                link.get(link.client.delete_async(
                    '%s/%s' % (self.path, self._replaced[-1])))
            except (kazoo_exc.NoNodeError, kazoo_exc.NoAuthError):
                # It ends with its session.
                pass
            self._replaced.pop()

    def _node_changed(self, event):
        if event.path != self.node_path or self._ended is not None:
            return
        if event.type == states.EventType.DELETED:
            if self._done:
                self._link.log(logging.WARNING, (
                    'The znode %s was deleted by another client; creating '
                    'it again.' % self.node_path))
                self.node = None
                self._done = False
                # Soon, but not in a race with the other client.
                self._retry_at = self._link.monotonic() + RETRY
        elif event.type == states.EventType.CHANGED:
            # Written by a machine of the same name that found this one.
            self._done = False
            self._touched = True
            self._search_at = self._link.monotonic()
