# SPDX-License-Identifier: Apache-2.0

"""The keeper's view of a group: its listing and its records."""

import collections
import functools
import logging
import math
import struct

from kazoo import exceptions as kazoo_exc
from kazoo.protocol import states

from nova_servicegroup.keeper import absences
from nova_servicegroup.keeper import group_records
from nova_servicegroup.keeper import listing
from nova_servicegroup.keeper import lookback
from nova_servicegroup.keeper import returns
from nova_servicegroup.keeper import security
from nova_servicegroup.keeper import watches

#: seconds after which a directory is listed even without an event
SAFETY_CHECK = 120
#: seconds of pause after reporting changes, for each of them, and the limits:
#: where thousands restart, a report costs as much as ten changes
PAUSE_PER_CHANGE, SHORTEST_PAUSE, LONGEST_PAUSE = 0.002, 0.01, 0.1
ATTEMPTS = 3
#: owners of nodes that belong to no session: persistent nodes, containers
NO_SESSION = (0, -0x8000000000000000)


class Group(group_records.GroupRecords):
    """The view of a directory that the parent watches.

    :param link: the Registrar: connection, clock, and messages to the parent
    :param path: the directory, as the parent names it
    :param chroot: prefix of all paths
    :param records_path: the directory of its records, or None
    :param bound: seconds after which nothing prolongs the time to rejoin
    :param known: nodes that are in the parent's view
    """

    def __init__(self, link, path, chroot, records_path, bound, known):
        self._name = path
        self.path = chroot + path
        self._link = link
        self._records_path = records_path and chroot + records_path
        self._watch = functools.partial(link.submit, self._directory_changed)
        self._record_watch = functools.partial(
            link.submit, self._record_changed)
        self._owners = listing.OwnerCheck()
        self._pace = listing.Pace()
        self._absences = absences.Absences(
            returns.Returns(0, 0, bound), records_path is not None)
        self._members = set(known)  # nodes in the parent's view
        if known:
            now = link.monotonic()
            self._absences.changed(known, (), now, link.time(now))
        self._listed = set()    # names of all nodes
        self._events = collections.deque()  # (type, path) of the nodes'
        self._events_at = 0     # not before
        self._unposted = []     # (name, whether it joined or left)
        # Whether this connection has a persistent watch, None before the
        # request; and how many connections in a row were lost during it.
        self._watched = None
        self._lost_with_it = 0
        self._unwatchable_logged = False
        self._founded = None
        self._synced = False    # this connection's server is up to date
        self._recorded = False  # the records' names were listed
        self._ends_likely = True    # most records to read tell of an end
        self._bound = bound
        self._look_back = lookback.LookBack(bound)
        self._connected_at = 0
        self._urgent = False    # a host was missed since the last reading
        self._dirty = True
        self._list_at = 0       # no listing before
        self._not_before = 0
        self._safety_at = 0
        self._read_at = self._urgent_at = self._write_at = 0
        self._warned = False

    def connected(self, now):
        """Start again with a new connection, maybe to another server."""
        self._dirty = True
        self._not_before = 0
        self._synced = self._recorded = False
        self._watched = None
        self._list_at = 0
        # Hosts may have returned during the loss of the connection.
        self._look_back = lookback.LookBack(self._bound)
        self._connected_at = now
        waits = self._absences.returns
        waits.together = self._link.timeout
        waits.rejoin = max(self._link.timeout / 2,
                           2 * security.RECONNECT_MAX_DELAY)
        waits.connected(now)

    def believe(self, names):
        """Add nodes of another parent's view, before the first listing."""
        self._change(names - self._members, set())

    def disconnected(self, now):
        self._absences.returns.disconnected(now)

    def delay(self, until):
        """Do nothing before a time."""
        self._not_before = until

    def due(self, now):
        """Return when to call ``refresh``."""
        if self._events:
            return max(self._not_before, self._events_at)
        return max(self._not_before, min(
            self._list_due(now), self._chores_due(now)))

    def _list_due(self, now):
        # Events may show that a host is back, which needs no confirmation.
        if self._dirty or (
                self._absences.wants_listing and not self._events):
            return self._list_at
        due = self._safety_at
        silent = self._silence_due(now)
        if silent is not None:
            due = min(due, silent)
        return max(due, self._list_at)

    def _silence_due(self, now):
        """Return when the first host becomes silent, or None."""
        if self._look_back.going_on:
            return None
        return self._absences.returns.due(now)

    def _chores_due(self, now):
        due = self._owners.due(now)
        due = math.inf if due is None else due
        if self._look_back.going_on or self._absences.unread(1):
            due = min(due, self._read_at)
            if self._urgent:
                due = min(due, self._urgent_at)
        return min(due, self._write_at) if self._absences.unwritten else due

    def refresh(self):
        """Do what is due; blocks while ZooKeeper answers."""
        now = self._link.monotonic()
        if now < self.due(now):
            return
        try:
            if now >= self._list_due(now):
                self._list_all(now)
            else:
                self._apply_events()
            if now >= self._read_at:
                self._read(group_records.READS)
            elif self._urgent and now >= self._urgent_at:
                self._read(group_records.URGENT_READS)
            if now >= self._write_at:
                self._write_missed(now)
        except self._link.DISCONNECTED:
            self._dirty = True
            raise
        except kazoo_exc.KazooException as e:
            self._dirty = True
            self.delay(now + self._link.retry_interval)
            self._link.post('unreadable', path=self._name,
                            reason=self._link.rights.reason(self.path, e))
            return
        self._events_at = now + min(LONGEST_PAUSE, max(
            SHORTEST_PAUSE, PAUSE_PER_CHANGE * len(self._unposted)))
        self._link.post('view', path=self._name, nodes=self._unposted,
                        absences=self._absences.changes(),
                        founded=self._founded)
        self._unposted = []

    # The nodes.

    def _list_all(self, began):
        # First, so that an event during the listing sets it again.
        self._dirty = False
        silent_at = self._silence_due(began)
        if silent_at is not None and began >= silent_at:
            # A server that is behind may not show that a host returned.
            self._synced = False
        if began >= self._safety_at:
            self._recorded = False
        self._take_events()
        listed = self._list()
        self._owners.changed(listed - self._listed, self._listed - listed)
        self._listed = listed
        self._check_owners()
        members = self._listed - self._owners.non_members
        self._change(members - self._members, self._members - members)
        self._absences.confirm(began, judged=not self._look_back.going_on)
        now = self._link.monotonic()
        if not self._recorded and self._records_path is not None:
            self._absences.records_listed(self._list_records(), now,
                                          self._link.time(now))
            self._recorded = True
        self._list_at = now + self._pace.pause(len(self._listed), now)
        self._safety_at = now + self._link.jitter(0.5, 1) * SAFETY_CHECK

    def _apply_events(self):
        """Apply the events of the persistent watch, without a listing."""
        made, deleted = self._take_events()
        self._owners.changed(made, deleted)
        self._listed |= made
        self._listed -= deleted
        gone = self._check_owners(made)
        non_members = self._owners.non_members
        self._change(made - gone - non_members - self._members,
                     (deleted | gone | non_members) & self._members)

    def _take_events(self):
        """Return the names of created and of deleted nodes, two sets."""
        changed = {}            # name -> whether its node was created
        while self._events:
            kind, path = self._events.popleft()
            name = path[len(self.path) + 1:]
            if not name:
                self._dirty = True
            elif kind in (watches.CREATED, watches.DELETED):
                changed[name] = kind == watches.CREATED
        made = {name for name, made in changed.items() if made}
        deleted = changed.keys() - made
        for name in deleted - self._members:
            # It may have returned for an instant; its record shows that.
            self._absences.record_changed(name.partition('@')[0])
        return made - self._listed, deleted

    def _change(self, joined, left):
        """Apply changes of members' nodes, two sets of names."""
        if not joined and not left:
            return
        self._members |= joined
        self._members -= left
        now = self._link.monotonic()
        self._absences.changed(joined, left, now, self._link.time(now))
        self._urgent = self._urgent or bool(left)
        self._unposted += [(name, True) for name in joined]
        self._unposted += [(name, False) for name in left]

    def _list(self):
        """Return the names of all nodes, and watch for changes."""
        if self._watched is None:
            self._watched = self._add_watch()
        children = functools.partial(
            self._link.client.get_children_async, self.path,
            watch=None if self._watched else self._watch)
        if not self._synced:
            # The listing must include all members that joined before it.
            self._link.get(self._link.client.sync_async(self.path))
            self._synced = True
        try:
            return set(self._link.get(children()))
        except kazoo_exc.NoNodeError:
            self._link.make_directory(self.path)
            return set(self._link.get(children()))

    def _add_watch(self):
        """Request a persistent watch; return whether there is one."""
        if self._lost_with_it < ATTEMPTS and self._link.watches.supported:
            # A server that doesn't know the request may close the connection.
            self._lost_with_it += 1
            try:
                self._link.get(self._link.watches.add_async(
                    self.path, self._node_changed))
            except self._link.DISCONNECTED:
                raise
            except (kazoo_exc.KazooException, struct.error):
                self._lost_with_it = 0
            else:
                self._lost_with_it = 0
                return True
        if not self._unwatchable_logged:
            self._unwatchable_logged = True
            self._link.log(logging.INFO, (
                'There are no persistent watches here, which ZooKeeper has '
                'since 3.6: every change of %s costs a listing of it.' %
                self.path))
        return False

    def _check_owners(self, joined=frozenset()):
        """Check the owners of some nodes; return the names of missing ones.

        :param joined: names of new nodes, which come first
        """
        requests = [
            (name, self._link.client.exists_async(
                '%s/%s' % (self.path, name)))
            for name in self._owners.next(self._link.monotonic(), joined)]
        gone, owned, non_members = set(), set(), set()
        for name, request in requests:
            stat = self._link.get(request)
            if stat is None:
                gone.add(name)
            elif stat.ephemeralOwner in NO_SESSION:
                non_members.add(name)
            else:
                owned.add(name)
        self._listed -= gone
        self._owners.checked(owned, non_members)
        self._owners.changed(set(), gone)
        if self._owners.non_members and not self._warned:
            self._warned = True
            self._link.log(logging.WARNING, (
                'There are znodes in %s that are no memberships, %r for one; '
                'they are ignored.' % (
                    self.path, min(self._owners.non_members))))
        return gone

    def _node_changed(self, kind, path):
        """Note an event of the persistent watch, in kazoo's thread.

        Wakes the registrar once for all events that wait, not for each.
        """
        self._events.append((kind, path))
        if len(self._events) == 1:
            self._link.submit(self._awake)

    def _awake(self):
        """Do nothing: ``refresh`` applies the events that wait."""

    def _directory_changed(self, event):
        # Ignores session events: each new session begins with a listing.
        if event.type != states.EventType.NONE:
            self._dirty = True
