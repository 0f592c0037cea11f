# SPDX-License-Identifier: Apache-2.0

"""Memberships in groups, and monitors of groups."""

import datetime
import logging
import threading
import time
import typing

from nova_servicegroup.evzookeeper import exceptions
from nova_servicegroup.keeper.absences import BACK
from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import protocol

LOG = logging.getLogger(__name__)


class Membership:
    """The membership of this process in a group, by an ephemeral node.

    The constructor joins. The membership outlasts a lost session, the end of
    a keeper and a wiped ensemble; it ends with ``leave`` or the process.

    :param session: a ZKSession
    :param basepath: path of the group's directory; created if it is missing
    :param name: name of the member, such as the host's
    :param data: dict of JSON values for the node
    :param async_mode: don't wait for the node
    :param pulse_timeout: seconds without a call of ``refresh`` after which
        the process counts as hung and the keeper deletes the node; None: never
    :param timeout: seconds to wait for the node
    :param records: path of the directory for the record of how the member
        ended; None: no record
    :raises ZooKeeperException: unless ``async_mode``, there is no node within
        ``timeout``; the keeper retries until ``leave``
    """

    def __init__(self, session, basepath, name, data=None, async_mode=False,
                 pulse_timeout=None, timeout=5.0, records=None):
        self._session = session
        self._path = basepath
        self._records = records
        self._name = name
        self._data = dict(data or {})
        self._pulse_timeout = pulse_timeout
        self._reason = 'it has not joined yet'
        self._node = None
        self._last_node = None
        self._number = None
        self._refreshed_at = None
        self._changed = threading.Event()
        self.rejoin(timeout=None if async_mode else timeout)

    def rejoin(self, timeout=5.0):
        """Join again after ``leave``; raises as the constructor."""
        if self._number is None:
            self._refreshed_at = time.monotonic()
            self._number = self._session.add_member(self)
        if timeout is not None and not self._wait_for_node(timeout):
            raise exceptions.NotJoined(
                '%s is no member of %s after %.1f s: %s' % (
                    self._name, self._path, timeout, self._why()))

    def refresh(self, quiet=True, timeout=2.0):
        """Send a pulse; return whether the node exists.

        Waits for the keeper only, not for ZooKeeper.

        :param quiet: don't raise
        :raises ZooKeeperException: the node doesn't exist
        """
        try:
            if self._number is None:
                raise exceptions.NotJoined('%s left %s' % (
                    self._name, self._path))
            self._refreshed_at = time.monotonic()
            self._session.pulse(self._number, timeout)
        except exceptions.RequestFailed as e:
            if quiet:
                return False
            raise exceptions.NotJoined(
                '%s has no node in %s: %s; the session is %s' % (
                    self._name, self._path, e, self._session.why())) from e
        except exceptions.ZooKeeperException:
            if quiet:
                return False
            raise
        return True

    def leave(self, timeout=1.5, how='left'):
        """Delete the node; return whether that was confirmed in time.

        If not, the keeper deletes it as soon as ZooKeeper answers; at the
        latest it ends with the process.

        :param how: the state to record: 'left', or 'stopped' for a process
            that is about to end
        """
        number, self._number = self._number, None
        if number is None:
            return True
        try:
            self._session.remove_member(number, timeout, how)
        except exceptions.ZooKeeperException as e:
            LOG.warning('%s may still be seen in %s for a while, and until '
                        'this process ends at most: %s', self._name,
                        self._path, e)
            return False
        finally:
            self._node = self._last_node = None
            self._changed.clear()
        return True

    @property
    def node(self):
        """Name of the node, None while there is none."""
        return self._node

    # Called by the session.

    def description(self):
        return {'path': self._path, 'records': self._records,
                'host': self._name, 'data': self._data,
                'pulse_timeout': self._pulse_timeout, 'node': self._last_node,
                # A new keeper gives a hung process no more time.
                'silent': time.monotonic() - self._refreshed_at}

    def node_is(self, node, reason):
        self._node, self._reason = node, reason
        self._last_node = node or self._last_node
        if node is None:
            self._changed.clear()
        else:
            self._changed.set()

    def _wait_for_node(self, timeout):
        return self._changed.wait(timeout)

    def _why(self):
        return '%s; the session is %s' % (self._reason, self._session.why())


class Absence(typing.NamedTuple):
    """What is known of a member that has no node.

    :param state: 'stopped', 'left', 'killed' or 'hung' if it ended by what
        its own keeper wrote; or 'missed'
    :param last: its last sign of life, or when it was first missed, seconds
        since 1970 in ZooKeeper's time
    :param sure: its time to come back is over, or how it ended was seen from
        here
    """

    state: str
    last: float
    sure: bool


class MembershipMonitor:
    """This process's view of a group.

    :param session: a ZKSession
    :param basepath: path of the group's directory
    :param records: path of the directory of its records, or None
    :param bound: seconds after which returning members no longer prolong the
        time that others have to rejoin
    :param cb_func: called with the names of all members (None when the view
        becomes stale) after each change, in a thread of the session; must not
        block
    :raises ValueError: the session already has a monitor of this group
    """

    def __init__(self, session, basepath, cb_func=None, utcnow=None,
                 monotonic=time.monotonic, records=None, bound=600):
        self.path = basepath
        self._records = records
        self._bound = bound
        self._session = session
        self._callback = cb_func
        self._utcnow = utcnow or _utcnow
        self._monotonic = monotonic
        #: host -> {node: when it was first seen, aware UTC datetime}
        self.members = {}
        #: host -> Absence, if it has no node
        self.absences = {}
        #: host -> (start, end) of the last absence of a returned host, in
        #: ZooKeeper's time
        self.gaps = {}
        #: creation of the records' directory, in ZooKeeper's time
        self.founded = None
        #: whether ``members`` matches ZooKeeper
        self.fresh = False
        #: monotonic time since when it doesn't; None before the first listing
        self.stale_since = None
        self.reason = 'it has not been listed yet'
        self._listed = threading.Event()
        self._created_at = time.monotonic()
        session.add_monitor(self)

    def wait(self, timeout):
        """Wait for the first listing; return whether there was one.

        :param timeout: seconds since the monitor was created; later calls do
            not block
        """
        return self._listed.wait(max(0, timeout - self.age))

    @property
    def age(self):
        """Seconds since the monitor was created."""
        return time.monotonic() - self._created_at

    def get_all(self):
        """Return the names of the members as a set, without blocking.

        Returns None before the first listing and while the view is stale.
        """
        return set(self.members) if self.fresh else None

    def get_member_details(self, name, timeout=5.0):
        """Read the nodes of a member from ZooKeeper.

        Two machines that report as one host have a node each.

        :returns: list of (node, data, about): data as passed to Membership,
            about a dict of the node's ``owner`` (session id) and
            ``created_ms``; [] if there is no such member
        :raises ZooKeeperException: the nodes can't be read
        """
        return [tuple(entry) for entry in self._session.ask(
            'details', timeout, path=self.path, host=name)]

    def close(self):
        """Stop updating. The keeper watches until the session is closed."""
        self._session.remove_monitor(self)
        self.unreadable('closed')

    # Called by the session, always in one thread.

    def description(self):
        """Return the request for a new keeper, which sends all absences."""
        self.absences, self.gaps = {}, {}
        return {'path': self.path, 'records': self._records,
                'bound': self._bound,
                'known': [node for nodes in list(self.members.values())
                          for node in nodes]}

    def seen(self, joined, left, absences, founded):
        for state in absences.values():
            _check_absence(state)
        # Readers take no lock. A host is added to one dict before it is
        # removed from the other, so they always find it.
        now = self._utcnow()
        changed = joined or left or not self.fresh
        for node in joined:
            host = names.host(node)
            if host is not None:
                self.members[host] = {**self.members.get(host, {}), node: now}
        for quoted, state in absences.items():
            host = names.unquote(quoted)
            if state is None or state[0] == BACK:
                self.absences.pop(host, None)
            else:
                self.absences[host] = Absence(*state)
            if state is not None and state[0] == BACK:
                self.gaps[host] = tuple(state[1:])
            else:
                self.gaps.pop(host, None)
        for node in left:
            host = names.host(node)
            rest = {other: since
                    for other, since in self.members.get(host, {}).items()
                    if other != node}
            if rest:
                self.members[host] = rest
            else:
                self.members.pop(host, None)
        self.founded = founded
        self.fresh = True
        self.stale_since = None
        self._listed.set()
        if changed:
            self._call_back()

    def unreadable(self, reason):
        self.reason = reason
        was_fresh, self.fresh = self.fresh, False
        if was_fresh:
            self.stale_since = self._monotonic()
            self._call_back()

    def _call_back(self):
        if self._callback is not None:
            try:
                self._callback(self.get_all())
            except Exception:
                LOG.exception('The callback of the monitor of %s failed',
                              self.path)


def _check_absence(state):
    """Raise ProtocolError if a host's entry in ``absences`` is invalid."""
    if state is None:
        return
    kinds = (str, (int, float), (int, float, bool))
    if not (isinstance(state, list) and len(state) == 3
            and all(map(isinstance, state, kinds))):
        raise protocol.ProtocolError('the absence %.100r' % (state,))


def _utcnow():
    return datetime.datetime.now(datetime.timezone.utc)
