# SPDX-License-Identifier: Apache-2.0

"""The API that Nova asks: who joins, who left, who is up."""

import random

from oslo_config import cfg
from oslo_log import log as logging
from oslo_utils import importutils

from nova_servicegroup import conf as sg_conf
from nova_servicegroup import drivers
from nova_servicegroup import exception
from nova_servicegroup.integration import guru
from nova_servicegroup.integration import scheduler
from nova_servicegroup import liveness
from nova_servicegroup import records

LOG = logging.getLogger(__name__)

_FORCED_DOWN = records.Reader('forced_down')


class API:
    """The servicegroup API of one caller.

    Making one opens nothing and is cheap; what drivers need is shared by all
    of them in a process. All methods may be called from any thread or green
    thread.

    :param args: handed to the driver, as are ``kwargs``
    :param conf: the configuration, by default oslo.config's global one, which
        is Nova's
    :raises ConfigurationError: an interval or the driver's name can't be used
    """

    def __init__(self, *args, conf=None, **kwargs):
        conf = cfg.CONF if conf is None else conf
        settings = sg_conf.settings(conf)
        self._ensure_down_time_exceeds_interval(conf)
        settings.refresh()
        self._driver, *self._also_report = [
            importutils.import_object(driver, *args, conf=conf, **kwargs)
            for driver in self._driver_classes(conf)]
        guru.add_section(self._driver, *self._also_report)

    @staticmethod
    def _ensure_down_time_exceeds_interval(conf):
        # Nova commit 94e2cbd6de: otherwise every service flaps.
        report_interval, service_down_time = sg_conf.check_intervals(conf)
        if service_down_time <= report_interval:
            longer = int(report_interval * 2.5)
            LOG.warning('Report interval must be less than service down time. '
                        'service_down_time is %(down)s s and report_interval '
                        '%(interval)s s; using service_down_time = %(longer)s '
                        's. Set it in nova.conf on every node.',
                        {'down': service_down_time,
                         'interval': report_interval, 'longer': longer})
            conf.set_override('service_down_time', longer)

    @staticmethod
    def _driver_classes(conf):
        """Return the dotted names: who answers, then who is told besides."""
        known = 'one of %s' % ', '.join(sorted(drivers.DRIVERS))
        try:
            chosen = drivers.DRIVERS[conf.servicegroup_driver]
        except (KeyError, ValueError) as e:
            raise exception.ConfigurationError(
                '[DEFAULT] servicegroup_driver names no driver: %s. Set it to '
                '%s.' % (e, known)) from e
        classes = [chosen]
        for name in conf.servicegroup.also_report:
            if name not in drivers.DRIVERS:
                raise exception.ConfigurationError(
                    '[servicegroup] also_report names %r, which is no driver: '
                    'each name must be %s.' % (name, known))
            if drivers.DRIVERS[name] not in classes:
                classes.append(drivers.DRIVERS[name])
        return classes

    def join(self, member, group, service=None):
        """Make ``member`` a member of ``group`` and keep it one.

        Publishes at once, so it blocks for one round trip to the store,
        ``report_interval`` at most; a store that can't be reached doesn't
        make it fail.

        :param member: host name, str
        :param group: topic, str
        :param service: the nova.service.Service; its ``tg`` carries the
            heartbeat
        :raises InvalidMember: member, group or service is missing
        """
        for driver in (self._driver, *self._also_report):
            driver.join(member, group, service)
        if group == 'scheduler':
            scheduler.install()

    def leave(self, member, group):
        """Take back what this process joined; nothing if it didn't.

        Blocks for two seconds at most and never raises.
        """
        for driver in (self._driver, *self._also_report):
            driver.leave(member, group)

    def get_all(self, group):
        """Return the hosts of ``group`` that are up, sorted, as a list.

        Disabled services count; services that are forced down, or whose
        process ended, don't. Reads Nova's service list once, so it blocks for
        a database query.

        :raises ServiceGroupUnavailable: it can't be told of all of them
        """
        hosts = set()
        for service in self._driver.list_services(group):
            state = self.verdict(service).state
            if state is liveness.State.UNKNOWN:
                raise exception.ServiceGroupUnavailable(
                    self._driver.name, 'it cannot tell who is up')
            if state is liveness.State.UP:
                hosts.add(service['host'])
        return sorted(hosts)

    def get_one(self, group):
        """Return one host of ``get_all(group)`` at random, or None."""
        hosts = self.get_all(group)
        return random.choice(hosts) if hosts else None

    def service_is_up(self, member):
        """Return True or False: may Nova not act as if the host were gone?

        Logs nothing when it is up: the scheduler asks a thousand times per
        request (Nova commit 93f29574c4). Raises nothing when the driver can't
        tell; ``[servicegroup] outage_policy`` is the answer then.

        :param member: a nova.objects.Service, or a dict with ``host``,
            ``topic`` and the record's times
        """
        # Nova commit e6c5b4bcf7: the operator's word comes first.
        if _is_forced_down(member):
            return False
        return self._driver.is_up(member)

    def answer(self, member, question):
        """Return what ``service_is_up`` says to a certain question.

        :param question: a liveness.Question
        :returns: True, False, or None for a host to take if there is no
            better one (MAY_PLACE only)
        """
        if _is_forced_down(member):
            return False
        return self._driver.answer(member, question)

    def verdict(self, member):
        """Return the liveness.Verdict on a service, for tools that explain."""
        if _is_forced_down(member):
            return liveness.Verdict(liveness.State.DOWN,
                                    liveness.Reason.FORCED_DOWN)
        return self._driver.verdict(member)

    def get_updated_time(self, member):
        """Return when the service was last known to be well.

        While Nova is told that a service is up although nothing was heard of
        it, that is now: tools that judge by this time agree with the state.

        :returns: a datetime in UTC, or None
        """
        if _is_forced_down(member):
            return self._driver.recorded_time(member)
        return self._driver.updated_time(member)

    def last_sign_of_life(self, member):
        """Return when the service was last known to be well, in truth."""
        return self._driver.recorded_time(member)


def _is_forced_down(member):
    try:
        return _FORCED_DOWN[type(member)](member)
    except (KeyError, AttributeError):
        return member.get('forced_down')
