# SPDX-License-Identifier: Apache-2.0

"""The options of all drivers, of ``mc`` and ``zk``, and of the metrics.

``service_down_time``, ``report_interval`` and ``servicegroup_driver`` are
Nova's own and are only read here.
"""

from oslo_config import cfg

from nova_servicegroup.conf import common
from nova_servicegroup.conf import mc
from nova_servicegroup.conf import metrics
from nova_servicegroup.conf import zk
from nova_servicegroup import exception
from nova_servicegroup import liveness


def list_opts():
    """Return the options for oslo.config's generator.

    :returns: list of (OptGroup, or None for [DEFAULT]; list of options)
    """
    return [(common.GROUP, common.OPTS + mc.OPTS + metrics.OPTS),
            (None, mc.DEFAULT_OPTS),
            (zk.GROUP, zk.OPTS)]


def register_opts(conf):
    """Register the options with ``conf``. Idempotent."""
    for group, opts in list_opts():
        if isinstance(group, cfg.OptGroup):
            conf.register_group(group)
        conf.register_opts(opts, group=group)


class Settings:
    """A copy of the options that each query reads.

    Reading an option from CONF costs about a microsecond, and the scheduler
    asks a thousand times per request (Nova commit 956b37dcf0). A new ``API``
    refreshes the copy, also for earlier drivers.
    """

    def __init__(self, conf):
        self.conf = conf
        self.refresh()

    def refresh(self):
        self.report_interval = self.conf.report_interval
        self.service_down_time = self.conf.service_down_time
        group = self.conf.servicegroup
        self.outage_policy = group.outage_policy
        self.rules = liveness.Rules(
            down_time=self.service_down_time,
            restart_grace=(self.service_down_time
                           if group.restart_grace is None
                           else group.restart_grace),
            threshold=group.mass_failure_threshold,
            window=group.mass_failure_window,
            outage_grace=group.outage_grace)


def settings(conf):
    """Return the Settings of ``conf``; registers the options if needed."""
    try:
        return _settings[id(conf)]
    except KeyError:
        register_opts(conf)
        made = _settings.setdefault(id(conf), Settings(conf))
        # On SIGHUP, Nova reads its configuration again.
        conf.register_mutate_hook(lambda conf, fresh: made.refresh())
        return made


# By id, as ConfigOpts can't be hashed; a Settings keeps its ConfigOpts alive.
_settings = {}


def check_intervals(conf):
    """Return the intervals; refuse those that can't work.

    :returns: (report_interval, service_down_time) in seconds
    :raises ConfigurationError: when one of them isn't positive
    """
    for name, example in (('report_interval', 10), ('service_down_time', 60)):
        value = getattr(conf, name)
        if value is None or value <= 0:
            raise exception.ConfigurationError(
                '[DEFAULT] %s is %s, but must be at least 1 second: set '
                '%s = %s in nova.conf.' % (name, value, name, example))
    return conf.report_interval, conf.service_down_time
