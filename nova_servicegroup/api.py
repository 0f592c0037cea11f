# SPDX-License-Identifier: Apache-2.0

"""The servicegroup API that Nova calls."""

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

    Creating one is cheap and opens no connection: the API objects of a process
    share their connections and views. All methods may be called from any
    thread or green thread.

    :param args: passed to the driver, as are ``kwargs``
    :param conf: the configuration, by default oslo.config's global one, which
        is Nova's
    :raises ConfigurationError: an interval or the driver's name is invalid
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
        """Return the names: the driver that answers, then also_report's."""
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
        """Add ``member`` to ``group`` and start its heartbeat.

        Sends the first heartbeat, so it blocks for one round trip to the
        store, ``report_interval`` at most. An unreachable store is no error.

        :param member: host name, str
        :param group: topic, str
        :param service: the nova.service.Service; its ``tg`` runs the
            heartbeat
        :raises InvalidMember: member, group or service is missing
        """
        for driver in (self._driver, *self._also_report):
            driver.join(member, group, service)
        if group == 'scheduler':
            scheduler.install()

    def leave(self, member, group):
        """Remove the member, if this process has joined it.

        Blocks for two seconds at most and never raises.
        """
        for driver in (self._driver, *self._also_report):
            driver.leave(member, group)

    def get_all(self, group):
        """Return the hosts of ``group`` that are up, sorted, as a list.

        Includes disabled services; excludes services that are forced down or
        whose process ended. Blocks for one database query, Nova's list of
        services.

        :raises ServiceGroupUnavailable: the state of a member is unknown
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
        """Return False if Nova may act as if the host were lost, else True.

        Logs nothing about a service that is up: the scheduler asks a thousand
        times per request (Nova commit 93f29574c4). An unknown state raises
        nothing: ``[servicegroup] outage_policy`` decides.

        :param member: a nova.objects.Service, or a dict with ``host``,
            ``topic`` and the record's times
        """
        # Nova commit e6c5b4bcf7: forced_down takes precedence.
        if _is_forced_down(member):
            return False
        return self._driver.is_up(member)

    def answer(self, member, question):
        """Return the answer to one of the questions behind ``service_is_up``.

        :param question: a liveness.Question
        :returns: True, False, or None: use the host if there is no better one
            (MAY_PLACE only)
        """
        if _is_forced_down(member):
            return False
        return self._driver.answer(member, question)

    def verdict(self, member):
        """Return the liveness.Verdict on a service, for tools."""
        if _is_forced_down(member):
            return liveness.Verdict(liveness.State.DOWN,
                                    liveness.Reason.FORCED_DOWN)
        return self._driver.verdict(member)

    def get_updated_time(self, member):
        """Return the time of the last sign of life, as Nova shows it.

        Now, for a silent service that counts as up: tools that judge by this
        time then agree with the state.

        :returns: a datetime in UTC, or None
        """
        if _is_forced_down(member):
            return self._driver.recorded_time(member)
        return self._driver.updated_time(member)

    def last_sign_of_life(self, member):
        """Return the true time of the last sign of life."""
        return self._driver.recorded_time(member)


def _is_forced_down(member):
    try:
        return _FORCED_DOWN[type(member)](member)
    except (KeyError, AttributeError):
        return member.get('forced_down')
