# SPDX-License-Identifier: Apache-2.0

"""Memberships in ZooKeeper, held by a keeper process.

Every process that joins has one ephemeral node,
``<sg_prefix>/<group>/<host>@<token>``; a host is up while it has at least
one. The node exists for as long as the process lives: its keeper, a small
child process, holds the session and monitors it. Each compute also has a
record, ``<sg_prefix>/@last/compute/<host>``, in which its keeper writes how
its process ended.

For the operator:

* A process that is killed, crashes or stops gets no new instances after some
  milliseconds; one that hangs, after ``service_down_time``; a busy one stays
  up. Its host is down ``[servicegroup] restart_grace`` after its last sign of
  life.
* A host that loses power or network is down within two ``[zookeeper]
  recv_timeout``; it detects the loss before that. If many disappear together,
  they are doubted.
* Queries are answered from memory: ZooKeeper notifies each reader of changes
  in a group. During an outage of ZooKeeper, the last state is valid for
  ``service_down_time`` seconds.
* Without changes, only one node is written, by each keeper of readers every
  two minutes, to read ZooKeeper's time. Every keeper costs ZooKeeper a
  connection and a ping each third of ``recv_timeout``.
* Only the clock of ZooKeeper's leader matters.
* Two machines with the same host name are one member; both log it.
* A keeper needs about 21 MB; ``ps`` shows its parent. The workers of one
  service share one. Killing it is harmless. A systemd unit that kills both at
  once loses immediate detection: see contrib/systemd.
"""

import datetime
import logging
import math
import os
import time

from nova_servicegroup import conf
from nova_servicegroup.drivers import base
from nova_servicegroup.drivers import common
from nova_servicegroup.drivers import joined
from nova_servicegroup.drivers import zk_details
from nova_servicegroup import evzookeeper
from nova_servicegroup.evzookeeper import exceptions as zk_exc
from nova_servicegroup.evzookeeper import membership as zk_membership
from nova_servicegroup import exception
from nova_servicegroup.keeper import names
from nova_servicegroup import liveness
from nova_servicegroup.liveness import Reason
from nova_servicegroup import metrics
from nova_servicegroup import records

LOG = logging.getLogger(__name__)

OPEN = (
    'This service has no identity for ZooKeeper: an unauthenticated client of '
    'its servers can keep a dead host up by a znode in its name, can delete '
    'the znode of a living host, and can lock every service out of the '
    'directories. Set [zookeeper] auth_scheme, or let no other host reach the '
    'servers.')

#: seconds; a pulse is a round trip to the keeper only
PULSE_TIMEOUT = 2.0
#: seconds between the first queries of a new reader
FIRST_PAUSE = 0.05
#: seconds that a start waits for ZooKeeper, at most
JOIN_TIMEOUT = 5.0

#: the directory of the records, beside those of the groups; no quoted topic
#: has this name
RECORDS = '@last'

_ENDS = {end.name.lower(): end for end in liveness.End}


def _moment(seconds):
    """Return seconds since 1970 as an aware UTC datetime, or None.

    A record written by others may hold any number.
    """
    try:
        return datetime.datetime.fromtimestamp(seconds, datetime.timezone.utc)
    except (OverflowError, ValueError, OSError):
        return None


class ZooKeeperDriver(zk_details.Details, common.Driver):
    """See the module's text."""

    name = 'zk'
    promises = frozenset([base.Promise.SEES_LEAVE, base.Promise.SEES_KILL,
                          base.Promise.SEES_STOP,
                          base.Promise.PLACES_IN_DOUBT,
                          base.Promise.KNOWS_OUTAGE,
                          base.Promise.READER_CLOCK,
                          base.Promise.LOCAL_READS])
    recovered_text = 'Recovered connection to ZooKeeper for reporting ' \
                     'service status.'

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        # They raise ConfigurationError for invalid options.
        conf.zk.hosts(self.conf)
        conf.zk.security(self.conf)
        # The views that this driver has used, by process: after a fork in C
        # a view still looks fresh. One with a closed session doesn't.
        self._views = {}

    def surely_up(self, record):
        try:
            group, host = records.KEY[type(record)](record)
            view, doubted = self._views[os.getpid(), group]
            return view.fresh and host in view.members and not doubted
        except (KeyError, AttributeError, TypeError):
            return False

    def updated_time(self, record):
        if self.surely_up(record):
            return _moment(self.wall())
        return super().updated_time(record)

    def observe(self, record):
        group, host = self.key(record)
        view = self._view(group)
        member = self._member(view, group, host)
        # A new process, such as nova-manage, waits until missing members had
        # the time to come back.
        while member.doubt is Reason.RETURNING and view.age < (
                self.conf.zookeeper.first_listing_timeout):
            time.sleep(FIRST_PAUSE)
            member = self._member(view, group, host)
        return member

    def _member(self, view, group, host):
        # Members again: a host that joined meanwhile is in one of the two.
        nodes = view.members.get(host)
        absence = None if nodes else view.absences.get(host)
        nodes = nodes or view.members.get(host)
        if nodes and self._within_grace(view):
            return self._present(view, host, nodes)
        if not view.fresh:
            return liveness.Member(host, None, doubt=Reason.OUTAGE)
        if absence is not None:
            return self._missing(group, host, absence)
        # After the servers lost all data, a lost host looks as if it had never
        # joined, until all had the time to join again.
        young = view.founded is not None and (
            self.now() - view.founded < self.settings.rules.outage_grace)
        empty = not (view.members or view.absences)
        doubted = young or empty or (
            group == liveness.GUARDED and not self._most_joined(view, group))
        return liveness.Member(
            host, None, reason=Reason.NEVER,
            doubt=Reason.UNSEEN if doubted else None)

    def _most_joined(self, view, group):
        """Return whether most of Nova's computes have ever joined here."""
        count = self.shared(('joined', group), lambda: joined.Joined(
            'ZooKeeper at %s' % self._path(group), self.monotonic))
        return count.most(
            lambda: self.list_services(group),
            lambda host: host in view.members or host in view.absences)

    def _present(self, view, host, nodes):
        gap = view.gaps.get(host)
        return liveness.Member(
            host, math.inf, True, gap=gap and liveness.Gap(*gap),
            reason=Reason.PRESENT, seen_at=max(nodes.values()))

    def _missing(self, group, host, absence):
        """Return the Member of a host that has no node."""
        end = _ENDS.get(absence.state)
        if group != liveness.GUARDED and absence.sure:
            # So a restart is hidden, as for computes.
            end = liveness.End.GONE
        doubt = None
        if not absence.sure and (end is None or self.now() - absence.last
                              >= self.settings.rules.restart_grace):
            # An old record may be of an incarnation before the last one.
            doubt = Reason.RETURNING
        return liveness.Member(
            host, absence.last, end=end, doubt=doubt, reason=Reason.GONE,
            seen_at=_moment(absence.last))

    def load_group(self, record):
        group = self.key(record)[0]
        view = self._view(group)
        if not view.fresh:
            raise exception.ServiceGroupUnavailable(self.name, view.reason)
        members = [self._present(view, host, nodes)
                   for host, nodes in list(view.members.items())]
        members += [self._missing(group, host, absence)
                    for host, absence in list(view.absences.items())]
        # This reader's session is open, so the path works.
        return liveness.Group(members, 0, path_seen=math.inf)

    def now(self):
        # ZooKeeper's time: no other host's clock matters.
        return self.monotonic() + self._session.ahead

    def recorded_time(self, record):
        try:
            group, host = self.key(record)
        except exception.InvalidMember:
            return records.changed_at(record)
        view = self._view(group)
        if host in view.members and self._within_grace(view):
            return records.as_aware(self.utcnow())
        absence = view.absences.get(host)
        times = (absence and _moment(absence.last),
                 records.changed_at(record))
        return max((t for t in times if t is not None), default=None)

    def publish(self, heartbeat):
        znodes = self.shared('znodes', dict)
        key = heartbeat.member, heartbeat.group
        znode = znodes.get(key)
        if znode is not None:
            znode.refresh(quiet=False,
                          timeout=min(PULSE_TIMEOUT, heartbeat.interval / 2))
            return
        # If it can't join now, it retries by itself.
        znodes[key] = znode = zk_membership.Membership(
            self._session, self._path(heartbeat.group), heartbeat.member,
            data=zk_details.about(heartbeat, self.utcnow()),
            async_mode=True,
            pulse_timeout=self.settings.service_down_time,
            records=self._records(heartbeat.group))
        znode.rejoin(timeout=min(JOIN_TIMEOUT, heartbeat.interval / 2))

    def withdraw(self, heartbeat, end, timeout):
        znode = self.shared('znodes', dict).pop(
            (heartbeat.member, heartbeat.group), None)
        if znode is not None:
            znode.leave(timeout, how=end.name.lower())

    def classify_error(self, error, heartbeat):
        if isinstance(error, zk_exc.ZooKeeperException):
            return base.Failure(
                logging.WARNING,
                'Lost connection to ZooKeeper for reporting service status. '
                'The %s service on host %s is seen as it was for a while, and '
                'comes back by itself; check the ensemble. (%s)'
                % (heartbeat.service.binary, heartbeat.member, error))
        return super().classify_error(error, heartbeat)

    @property
    def _session(self):
        return self.store or self.shared('session', self._make_session)

    def _make_session(self):
        options = self.conf.zookeeper
        security = conf.zk.security(self.conf)
        if security['auth'] is None:
            LOG.warning(OPEN)
        session = evzookeeper.ZKSession(
            options.address, recv_timeout=options.recv_timeout,
            retry_interval=options.sg_retry_interval,
            clock='%s/%s/@clock' % (options.sg_prefix, RECORDS), **security)
        session.add_connection_callback(metrics.session_state)
        return session

    def _view(self, group):
        """Return the view of a group, after one wait for its first listing."""
        view = self.shared(
            ('view', group), lambda: zk_membership.MembershipMonitor(
                self._session, self._path(group),
                records=self._records(group),
                bound=self.settings.rules.outage_grace))
        self._views[os.getpid(), group] = view, self.groups.doubted
        view.wait(self.conf.zookeeper.first_listing_timeout)
        return view

    def _within_grace(self, view):
        """Return whether the view is fresh, or was a short time ago."""
        if view.fresh:
            return True
        stale_since = view.stale_since
        return (stale_since is not None and self.monotonic() - stale_since
                <= self.settings.service_down_time)

    def _path(self, group):
        return '%s/%s' % (self.conf.zookeeper.sg_prefix, names.quote(group))

    def _records(self, group):
        """Return the directory of a group's records, or None."""
        if group != liveness.GUARDED:
            # A host may have many processes in the other groups.
            return None
        return '%s/%s/%s' % (self.conf.zookeeper.sg_prefix, RECORDS,
                             names.quote(group))
