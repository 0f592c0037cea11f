# SPDX-License-Identifier: Apache-2.0

"""Members of a group, and those who watch them."""

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
    """This process is a member of a group, by an ephemeral node.

    Joins when it is made, and stays a member: through a lost session, another
    keeper, a wiped ensemble. Only ``leave`` ends it, and the end of the
    process.

    :param session: a ZKSession
    :param basepath: path of the group's directory; made when it is missing
    :param name: name of the member, such as the host's
    :param data: dict of JSON values for the node
    :param async_mode: don't wait for the node
    :param pulse_timeout: take the node away when ``refresh`` wasn't called
        for so many seconds: the process hangs. None: never
    :param timeout: seconds to wait for the node
    :param records: path of a directory in which a record says how the member
        ended; None: nothing says so
    :raises ZooKeeperException: unless ``async_mode``, it hasn't joined in
        time; it goes on trying until ``leave``
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
        """Be a member again after ``leave``; raises as the constructor."""
        if self._number is None:
            self._refreshed_at = time.monotonic()
            self._number = self._session.add_member(self)
        if timeout is not None and not self._wait_for_node(timeout):
            raise exceptions.NotJoined(
                '%s is no member of %s after %.1f s: %s' % (
                    self._name, self._path, timeout, self._why()))

    def refresh(self, quiet=True, timeout=2.0):
        """Give a sign of life; tell whether the node is there.

        Doesn't wait for ZooKeeper, only for the keeper.

        :param quiet: don't raise
        :raises ZooKeeperException: the node isn't there
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
        """Take the node away; tell whether it was seen to go in time.

        Even when not, it goes as soon as ZooKeeper can be told, and with the
        process at the latest.

        :param how: what the record says then: 'left', or 'stopped' for a
            process that is about to end
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

    # What the session calls.

    def description(self):
        return {'path': self._path, 'records': self._records,
                'host': self._name, 'data': self._data,
                'pulse_timeout': self._pulse_timeout, 'node': self._last_node,
                # Who hangs doesn't gain time by another keeper.
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
    """The members of a group as seen from here, kept up to date.

    :param session: a ZKSession
    :param basepath: path of the group's directory
    :param records: path of the directory of its records, None without
    :param bound: seconds after which those who come back no longer prolong
        the time that others have to
    :param cb_func: called with the names of all members (None when the view
        went stale) after each change, in a thread of the session; must not
        block
    :raises ValueError: the session has a monitor of this group already
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
        #: host -> {node: since when it was seen, aware UTC datetime}
        self.members = {}
        #: host -> Absence of those that have no node
        self.absences = {}
        #: host -> (from, to) of those that are back: when they were missing,
        #: in ZooKeeper's time
        self.gaps = {}
        #: when the directory of the records was made, in ZooKeeper's time
        self.founded = None
        #: whether ``members`` is what ZooKeeper holds
        self.fresh = False
        #: monotonic time since when it isn't; None before the first listing
        self.stale_since = None
        self.reason = 'it has not been listed yet'
        self._listed = threading.Event()
        self._made_at = time.monotonic()
        session.add_monitor(self)

    def wait(self, timeout):
        """Wait for the first listing; tell whether there was one.

        :param timeout: seconds, counted from when the monitor was made: who
            asks later doesn't wait at all
        """
        return self._listed.wait(max(0, timeout - self.age))

    @property
    def age(self):
        """Seconds since the monitor was made."""
        return time.monotonic() - self._made_at

    def get_all(self):
        """Return the names of the members, from memory, as a set.

        None before the first listing and while the view is stale: that
        doesn't mean that anybody left.
        """
        return set(self.members) if self.fresh else None

    def get_member_details(self, name, timeout=5.0):
        """Ask ZooKeeper for the nodes that stand for a member.

        Two machines that report under one name are both there.

        :returns: list of (node, data, about) with data as it was joined with
            and about a dict of the node's ``owner`` (session id) and
            ``created_ms``; [] for no member
        :raises ZooKeeperException: nobody can tell
        """
        return [tuple(entry) for entry in self._session.ask(
            'details', timeout, path=self.path, host=name)]

    def close(self):
        """Look no longer. The keeper goes on until the session is closed."""
        self._session.remove_monitor(self)
        self.unreadable('closed')

    # What the session calls, always from one thread.

    def description(self):
        """Return what a new keeper is told. It tells all absences anew."""
        self.absences, self.gaps = {}, {}
        return {'path': self.path, 'records': self._records,
                'bound': self._bound,
                'known': [node for nodes in list(self.members.values())
                          for node in nodes]}

    def seen(self, joined, left, absences, founded):
        for told in absences.values():
            _check_absence(told)
        # Readers take no lock. So that they find a host in one place at
        # least, it is put where it is now before it is taken from the other.
        now = self._utcnow()
        news = joined or left or not self.fresh
        for node in joined:
            host = names.host(node)
            if host is not None:
                self.members[host] = {**self.members.get(host, {}), node: now}
        for quoted, told in absences.items():
            host = names.unquote(quoted)
            if told is None or told[0] == BACK:
                self.absences.pop(host, None)
            else:
                self.absences[host] = Absence(*told)
            if told is not None and told[0] == BACK:
                self.gaps[host] = tuple(told[1:])
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
        if news:
            self._tell()

    def unreadable(self, reason):
        self.reason = reason
        was_fresh, self.fresh = self.fresh, False
        if was_fresh:
            self.stale_since = self._monotonic()
            self._tell()

    def _tell(self):
        if self._callback is not None:
            try:
                self._callback(self.get_all())
            except Exception:
                LOG.exception('The callback of the monitor of %s failed',
                              self.path)


def _check_absence(told):
    """Refuse what keeper.absences can't have told of a host."""
    if told is None:
        return
    kinds = (str, (int, float), (int, float, bool))
    if not (isinstance(told, list) and len(told) == 3
            and all(map(isinstance, told, kinds))):
        raise protocol.ProtocolError('the absence %.100r' % (told,))


def _utcnow():
    return datetime.datetime.now(datetime.timezone.utc)
