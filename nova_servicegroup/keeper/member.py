# SPDX-License-Identifier: Apache-2.0

"""A membership that the parent wants: its node and its record."""

import functools
import json
import logging
import os

from kazoo import exceptions as kazoo_exc
from kazoo.protocol import states

from nova_servicegroup.keeper import group
from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import record as records
from nova_servicegroup.keeper import security

#: seconds a living member may need to come back, beside its session timeout
REJOIN_TIME = 2 * security.RECONNECT_MAX_DELAY
#: bytes of a node's data that are looked at; ours has some 200
MAX_DATA = 16384
#: seconds between attempts that are repeated because something was in the way
RETRY = 0.2
#: nodes or records that are written in the place of one that is no good,
#: before a pause
ATTEMPTS = 3
#: seconds per member of a group over which its members spread their search
#: for rivals: each search is a listing, of half a megabyte at 10,000 members
DUPLICATES_SPREAD = 0.03


class Member:
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
        self._told_unwritable = False
        self._record_watch = functools.partial(
            link.submit, self._record_changed)
        # The search for another machine that reports as the same host.
        self._search_at = None
        self._spread = False
        self._touched = False
        self._told = set()

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
            # The node of the old session is its ghost; make another.
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
        for _ in range(ATTEMPTS):
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
                # lost; unless it is the ghost of a session that ended.
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

    # The record.

    def _join_with_record(self):
        """Make node and record in one transaction; tell whether it was."""
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
        """Note the record and its version."""
        self._before = self._version = None
        try:
            raw, stat = self._link.get(self._link.client.get_async(
                self._record_path, watch=watch))
        except kazoo_exc.NoNodeError:
            return
        self._before = records.parse(raw, stat)
        self._version = stat.version

    def _mend_record(self, joining=False):
        """Let the record say that this member lives, and watch it.

        :param joining: a record of another incarnation is an old one, and
            not that of another machine of this name
        """
        now = self._link.monotonic()
        if not joining and self._mended_at is not None:
            # Two machines of one name shall not fight without a pause.
            pause = self._mended_at + self._link.timeout
            if now < pause:
                self._mend_at = pause
                return
        self._mend_at = None
        try:
            for _ in range(ATTEMPTS):
                self._read_record(self._record_watch)
                before = self._before
                if before is not None and before.state == records.JOINED and (
                        before.token == self._token or not joining):
                    return
                if not joining:
                    self._mended_at = now
                if before is not None and before.token == self._token:
                    # It wasn't away.
                    before = before._replace(state=records.JOINED)
                self._put_record(self._joined(before))
        except (kazoo_exc.NoAuthError, kazoo_exc.InvalidACLError) as e:
            if not self._told_unwritable:
                self._told_unwritable = True
                self._link.log(logging.WARNING, (
                    'The record %s cannot be written, so nobody will be told '
                    'how this process ended: %s' % (
                        self._record_path, type(e).__name__)))

    def _put_record(self, data):
        """Write the record if it still is as it was read; tell whether."""
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
            self._mend_at = self._link.monotonic()

    def end_request(self, how, age):
        """Return a started transaction that ends node and record, or None.

        Both, or nothing: only if the record is as it was last read.
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

    def last_word(self, how):
        """Tell how the process ended, as the session ends. In any thread."""
        if self._ended is None and self._record_path is not None and (
                self.node is not None):
            self._ended = how, self._link.monotonic()
            self._delete_node()

    def _end_with_record(self):
        how, last = self._ended
        request = self.end_request(how, self._link.monotonic() - last)
        return request is not None and not any(
            isinstance(one, Exception) for one in self._link.get(request))

    def _write_end(self):
        """Write how it ended when the node is gone, if nobody came since."""
        if self._record_path is None or self._token is None:
            return
        how, last = self._ended
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

    # Another machine of this name.

    def _search(self):
        """Tell when another machine reports as the same host.

        Comes a session's length after joining, when what a rebooted host had
        left behind is gone. The other one is told by touching its node, and
        searches for itself.
        """
        link = self._link
        try:
            # Since 3.9.3 this needs the right to read, too.
            directory = link.get(link.client.exists_async(self.path))
            if directory is not None and not (self._spread or self._touched):
                # Ten thousand that start together shall not list together.
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
            if name == self.node or name in self._told or \
                    data.get('boot_id') in (None, self._boot_id):
                continue
            self._told.add(name)
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
    """Return (name, data, stat) for every node that stands for a host."""
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
    """Return the data of a node as a dict, {} for what isn't ours.

    Only what ours has: texts, integers and nulls.
    """
    try:
        data = json.loads(raw) if len(raw) <= MAX_DATA else {}
    except (ValueError, RecursionError):
        data = {}
    if not isinstance(data, dict):
        return {}
    return {name: value for name, value in data.items()
            if value is None or isinstance(value, (str, int))}
