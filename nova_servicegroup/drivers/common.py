# SPDX-License-Identifier: Apache-2.0

"""The base class of the drivers: heartbeats, verdicts and answers.

A driver delivers evidence; ``liveness``, called from here, turns it into
verdicts and answers.
"""

import functools
import random
import time

from oslo_config import cfg
from oslo_log import log as logging
from oslo_utils import timeutils

from nova_servicegroup import conf as sg_conf
from nova_servicegroup.drivers import base
from nova_servicegroup.drivers import heartbeat
from nova_servicegroup import exception
from nova_servicegroup import groups
from nova_servicegroup.integration import service_records
from nova_servicegroup import liveness
from nova_servicegroup import per_process
from nova_servicegroup import records

LOG = logging.getLogger(__name__)


class Driver(base.Driver):
    """Base of the drivers, which implement the methods of ``base.Driver``.

    Creating one opens no connection, starts no thread and logs nothing. All
    methods may be called from any thread or green thread.

    :param conf: the configuration, by default Nova's
    :param monotonic: clock for ages, seconds as float
    :param utcnow: wall clock, naive UTC datetime
    :param jitter: ``jitter(low, high)`` returns a float between, seconds
    :param inventory: ``inventory(group)`` returns Nova's service records, by
        default those of all cells
    :param store: the client of the store, if the driver has one
    """

    def __init__(self, *args, conf=None, monotonic=None, utcnow=None,
                 jitter=None, inventory=None, store=None, **kwargs):
        self.conf = cfg.CONF if conf is None else conf
        self.settings = sg_conf.settings(self.conf)
        # Not at import: eventlet may have patched it since.
        self.monotonic = monotonic or time.monotonic
        self.utcnow = utcnow or timeutils.utcnow
        # The same clock in seconds since 1970, in a fifth of the time.
        self.wall = functools.partial(
            timeutils.utcnow_ts, microsecond=True) if utcnow is None else (
                lambda: utcnow().replace(tzinfo=records.UTC).timestamp())
        self.jitter = jitter or random.uniform
        self.inventory = inventory
        self.store = store

    def join(self, member, group, service=None):
        """See ``API.join``."""
        for value, what in ((member, 'member (a host name)'),
                            (group, 'group (a topic)'),
                            (service, 'service')):
            if not value:
                raise exception.InvalidMember(
                    'The %s driver cannot join the member %r to the group %r: '
                    'the %s is missing.' % (self.name, member, group, what))
        if not service.report_interval:
            # As in-tree; API refuses such a configuration.
            return
        beating = heartbeat.Heartbeat(self, member, group, service)
        self._heartbeats[member, group] = beating
        beating.start()

    def leave(self, member, group):
        """See ``API.leave``."""
        beating = self._heartbeats.pop((member, group), None)
        if beating is not None:
            beating.leave(liveness.End.LEFT)

    def list_services(self, group):
        """Return Nova's service records of a group; blocks.

        :param group: a topic, None for all
        """
        return (self.inventory or service_records.list_services)(group)

    def verdict(self, record, guarded=True):
        """Return the liveness.Verdict on the service of a record.

        :param guarded: doubt it if much of its group is silent, too
        """
        topic = record.get('topic', None)
        # Conductors and schedulers are not evacuated.
        guarded = guarded and topic == liveness.GUARDED
        rules = self.settings.rules
        key = None

        def load():
            return self.load_group(record)

        def group():
            nonlocal key
            key = topic, self.cell_of(record)
            return self.groups.get(key, load)

        try:
            verdict = liveness.judge(
                self.observe(record), group if guarded else None, self.now(),
                rules)
        except exception.InvalidMember:
            # A record of a service that never reports.
            verdict = liveness.Verdict(liveness.State.DOWN,
                                       liveness.Reason.NEVER)
        except exception.ServiceGroupUnavailable as e:
            LOG.debug('Cannot tell whether a service is up: %s', e)
            verdict = liveness.Verdict(liveness.State.UNKNOWN,
                                       liveness.Reason.OUTAGE)
        if verdict.state is liveness.State.UNKNOWN:
            self.groups.note(key, verdict)
        elif verdict.state is not liveness.State.UP:
            LOG.debug('Seems service %(binary)s on host %(host)s is down. '
                      'Last heartbeat was %(seen_at)s: %(reason)s.',
                      {'binary': record.get('binary', None),
                       'host': record.get('host', None),
                       'seen_at': verdict.seen_at,
                       'reason': verdict.reason.value})
        if guarded and self.groups.doubted:
            self._review(record, load)
        return verdict

    def _review(self, record, load):
        try:
            self.groups.review((liveness.GUARDED, self.cell_of(record)), load,
                               self.now(), self.settings.rules)
        except (exception.InvalidMember,
                exception.ServiceGroupUnavailable):
            # The doubt goes on.
            pass

    def answer(self, record, question, policy=None):
        """Return True, False or None; see ``liveness.answer``.

        :param policy: by default that of ``[servicegroup] outage_policy``
        """
        if self.surely_up(record):
            return True
        policy = policy or self.settings.outage_policy
        if (question is liveness.Question.MAY_PLACE and policy == 'safe'
                and base.Promise.PLACES_IN_DOUBT not in self.promises):
            # A silent host is no candidate, in a mass failure either.
            verdict = self.verdict(record, guarded=False)
            return verdict.state is liveness.State.UP
        return liveness.answer(self.verdict(record), question, policy)

    def is_up(self, record):
        """Return False if Nova may act as if the host were lost."""
        return self.surely_up(record) or self.answer(
            record, liveness.Question.IS_GONE)

    def updated_time(self, record):
        """Return a time that agrees with ``is_up``.

        See ``API.get_updated_time``.
        """
        if self.surely_up(record):
            return self.recorded_time(record)
        verdict = self.verdict(record)
        if verdict.state is not liveness.State.UP and liveness.answer(
                verdict, liveness.Question.IS_GONE,
                self.settings.outage_policy):
            # Tools that judge by age (InstanceHA) must agree with Nova.
            return records.as_aware(self.utcnow().replace(microsecond=0))
        return self.recorded_time(record)

    def report(self):
        """Return a report of this process's state, for people.

        Does no I/O, takes no lock and logs nothing, so it may be called at any
        time. Drivers add to it.

        :returns: dict, names to texts, or to dicts of texts
        """
        groups = self.find('groups')
        return {
            'memberships': {
                '%s in %s' % (one.member, one.group): one.state
                for one in (self.find('heartbeats') or {}).values()},
            'groups in doubt': ', '.join(groups.in_doubt()) if groups else ''}

    @property
    def groups(self):
        """The Groups of this process, for this driver and configuration."""
        return self.shared('groups', self._make_groups)

    def _make_groups(self):
        return groups.Groups(self.name, self.monotonic)

    def shared(self, kind, make):
        """Return this process's object of a kind for this driver and conf."""
        return per_process.get((self.name, kind, id(self.conf)), make)

    def find(self, kind):
        """Return the shared object of a kind, or None if there is none yet."""
        return per_process.find((self.name, kind, id(self.conf)))

    @property
    def _heartbeats(self):
        return self.shared('heartbeats', dict)

    @staticmethod
    def key(member):
        """Return (topic, host) of a service record.

        :raises InvalidMember: one of them is missing
        """
        group, host = member['topic'], member['host']
        if not (group and host and isinstance(group, str)
                and isinstance(host, str)):
            raise exception.InvalidMember(
                'The service record of %r has the host %r and the topic %r, '
                'so nothing can be known of it. nova-osapi_compute and '
                'nova-metadata never report: leave their records out.' % (
                    member.get('binary'), host, group))
        return group, host
