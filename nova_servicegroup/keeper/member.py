# SPDX-License-Identifier: Apache-2.0

"""A membership that the parent wants: its node and its record."""

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

#: seconds a living member may need to come back, beside its session timeout
REJOIN_TIME = 2 * security.RECONNECT_MAX_DELAY


#: seconds between attempts that are repeated because something was in the way
RETRY = 0.2


class Member(own_record.OwnRecord, duplicates.Search):
    """A membership, the node that stands for it, and its host's record.

    :param link: the Registrar: connection, clock, and way to the parent
    :param number: what the parent calls it
    :param path: directory of its group
    :param records_path: directory of the records, None for a group without
    :param host: what it is a member as
    :param data: dict for the node
    :param node: name of the node that an earlier keeper made, or None
    """

    def __init__(self, link, number, path, records_path, host, data, node):
        self._link = link
        self.number = number
        self.path = path
        self.host = host
        self._data = json.dumps(data).encode()
        self._boot_id = data.get('boot_id')
        self.node = node        # name of the node, made or about to be made
        self.session = None     # id of the session that node belongs to
        self.left = False
        self._ended = None      # (how, monotonic time of the last sign)
        self._done = False      # the node is there, or away, as wanted
        self._retry_at = 0
        self._asked = []        # requests that wait for the outcome
        self._watch = functools.partial(link.submit, self._node_changed)
        self._record_path = records_path and '%s/%s' % (
            records_path, names.quote(host))
        self._token = node and node.rpartition('@')[2]
        self._silent_since = None   # its session was lost
        self._before = None     # the Record as it was last read
        self._version = None    # of the record's node, None if there is none
        self._mend_at = None    # when to look at the record
        self._mended_at = None
        self._unwritable_logged = False
        self._record_watch = functools.partial(
            link.submit, self._record_changed)
        # The search for another machine that reports as the same host.
        self._search_at = None
        self._spread = False
        self._touched = False
        self._reported = set()

    @property
    def node_path(self):
        return '%s/%s' % (self.path, self.node)

    # What is wanted.

    def live(self):
        """The node shall be there."""
        if not self.left:
            self._ended = None
            self._begin()

    def end(self, how, age):
        """The node shall be away.

        :param how: one of record.ENDS
        :param age: seconds since the last sign of life
        """
        if not self.left:
            self._ended = how, self._link.monotonic() - age
            self._begin()

    @property
    def tried(self):
        """Whether there may be anything that stands for it."""
        return self._token is not None

    def leave(self, how, seq):
        """As ``end``, for good; ``seq`` is answered then."""
        self.end(how, 0)
        self.left = True
        self._answer('it left')
        self._asked.append(seq)

    def _begin(self):
        self._done = False
        self._retry_at = 0

    def connected(self, attached):
        """There is a connection.

        :param attached: with the session that made the node
        """
        self._begin()
        if not attached or (self.session is not None
                            and self.session != self._link.session):
            # The node of the old session is stale; make another.
            if self.node is not None:
                self._silent_since = self._link.lost_at
            self.node = None

    def delay(self, until):
        """The connection is slow: do nothing before."""
        self._retry_at = max(self._retry_at, until)

    def due(self):
        """Return when there is something to do for it, or None."""
        if not self._done:
            return self._retry_at
        times = [t for t in (self._search_at, self._mend_at) if t is not None]
        return max(min(times), self._retry_at) if times else None

    # The thread's work.

    def reconcile(self):
        """Do what is due; tell whether this membership is over."""
        now = self._link.monotonic()
        due = self.due()
        if due is None or now < due:
            return False
        if self._done:
            if self._mend_at is not None and now >= self._mend_at:
                self._mend_record()
            if self._search_at is not None and now >= self._search_at:
                self._search()
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
                # Made by an earlier keeper, or by an attempt whose answer was
                # lost; unless it is a stale one, of a session that ended.
                made = False
            stat = link.get(link.client.exists_async(
                self.node_path, watch=self._watch))
            owner = stat and stat.ephemeralOwner
            if owner == link.session:
                if self._record_path is not None:
                    self._mend_record(joining=made)
                self._silent_since = None
                return
            if owner and (owner, ) == (link.client.client_id or ())[:1]:
                # kazoo has another session, and the news of it wait. The
                # node is good, but it is that session's.
                self.session = owner
                break
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
            # It has gone with its session.
            self._write_end()
        self.node = None

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
                # At once, but not in a race with whoever deletes it.
                self._retry_at = self._link.monotonic() + RETRY
        elif event.type == states.EventType.CHANGED:
            # So says another machine of our name that has found us.
            self._done = False
            self._touched = True
            self._search_at = self._link.monotonic()
