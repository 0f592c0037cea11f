# SPDX-License-Identifier: Apache-2.0

"""The services that this host can see, and their states.

If nova.conf has the API database, Nova lists the services. Otherwise, on a
compute, the zk driver's directories do, without Nova.
"""

from __future__ import annotations

import math
import typing

from oslo_config import cfg

from nova_servicegroup import api
from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import progress
from nova_servicegroup.cmd import urls
from nova_servicegroup import conf as sg_conf
from nova_servicegroup import drivers
from nova_servicegroup import exception
from nova_servicegroup import liveness

# Options of Nova with its defaults, for hosts without Nova.
_NOVA_OPTS = [cfg.StrOpt('servicegroup_driver', default='db'),
              cfg.IntOpt('report_interval', default=10),
              cfg.IntOpt('service_down_time', default=60)]
_DATABASE_OPTS = [cfg.StrOpt('connection', secret=True)]


class Service(typing.NamedTuple):
    """A service, and the verdict on it.

    :param record: a nova.objects.Service, or a dict without Nova
    :param cell: name of its cell, None if unknown
    :param verdict: a liveness.Verdict
    :param seen_at: the last sign of life, aware UTC datetime or None
    """

    record: typing.Any
    cell: str | None
    verdict: liveness.Verdict
    seen_at: typing.Any

    @property
    def host(self):
        return self.record['host']

    @property
    def binary(self):
        return self.record['binary']

    @property
    def group(self):
        return self.record['topic']

    @property
    def state(self):
        return self.verdict.state

    @property
    def is_alive(self):
        return self.state is liveness.State.UP

    @property
    def is_doubted_silence(self):
        """Whether it is unknown because it is silent together with others."""
        return (self.state is liveness.State.UNKNOWN
                and self.verdict.silence is not None)


class Deployment:
    """A deployment, as one of its hosts sees it. Blocks.

    :param config_files: nova.conf and others; by default where Nova looks
    :param config_dirs: folders of configuration files
    :param timeout: seconds that a database may take for an answer, by default
        a minute
    :raises CommandError: the configuration can't be used here
    """

    def __init__(self, config_files=(), config_dirs=(), timeout=None):
        conf = read(config_files, config_dirs)
        if conf.servicegroup_driver not in drivers.DRIVERS:
            raise base.CommandError(
                '[DEFAULT] servicegroup_driver is %r, which is no driver: set '
                'it to one of %s.' % (conf.servicegroup_driver,
                                      ', '.join(sorted(drivers.DRIVERS))))
        #: whether Nova's databases can list the services
        self.has_database = bool(conf.api_database.connection)
        if self.has_database:
            conf = _read_as_nova(arguments(config_files, config_dirs))
        elif conf.servicegroup_driver != 'zk':
            if not conf.config_file and not conf.config_dir:
                raise base.CommandError(
                    'There is no nova.conf where Nova looks for it, such as '
                    '/etc/nova/nova.conf: name it with --config-file PATH.')
            raise base.CommandError(
                'This host\'s configuration has no [api_database] connection, '
                'so the services cannot be listed: run this on a '
                'controller, or name its nova.conf with --config-file. Only '
                'the zk driver is enough by itself, and [DEFAULT] '
                'servicegroup_driver is %s.' % conf.servicegroup_driver)
        self.conf = conf
        self._timeout = timeout
        #: errors that hide some services, as texts
        self.failures = []
        #: names of the cells that listed their services, None if unknown
        self.listed_cells = set()
        self.api = api.API(conf=conf)
        self.driver = self.api._driver
        if self.driver.name == 'db':
            self.driver.list_heartbeats = _bounded(
                self.driver.list_heartbeats, timeout)

    def require_database(self, why):
        """Raise an error if Nova's database is not configured.

        :param why: why it is needed, the start of a sentence
        :raises CommandError: it is not configured
        """
        if not self.has_database:
            raise base.CommandError(
                '%s, and this host\'s configuration has no [api_database] '
                'connection: run it on a controller, or name its nova.conf '
                'with --config-file.' % why)

    def records(self, group=None):
        """Return [(record, name of its cell or None)], sorted.

        :param group: only those of this topic
        :raises CommandError: the services can't be listed
        """
        found = (self._records_of_nova() if self.has_database
                 else self._records_of_the_store(group))
        return sorted(
            ((record, cell) for record, cell in found
             if record['topic'] and group in (None, record['topic'])),
            key=lambda pair: (pair[0]['binary'] or '', pair[0]['host'] or ''))

    def _records_of_nova(self):
        from nova import context as nova_context
        from nova import objects

        from nova_servicegroup.cmd import cells
        try:
            answers, self.failures = cells.ask(
                nova_context.get_admin_context(),
                objects.ServiceList.get_all, timeout=self._timeout)
        except cells.CellsUnknown as e:
            raise base.CommandError(str(e)) from e
        self.listed_cells = {cell.name or cell.uuid for cell, _ in answers}
        return [(record, cell.name or cell.uuid)
                for cell, records in answers for record in records]

    def _records_of_the_store(self, group):
        self.listed_cells = {None}
        return [({'host': host, 'topic': topic, 'binary': 'nova-' + topic,
                  'updated_at': None}, None)
                for topic in ([group] if group else liveness.GROUPS)
                for host in self.driver.known_hosts(topic)]

    @property
    def record_lasts(self):
        """Seconds after which a record that was read proves nothing.

        math.inf, unless the record itself is the driver's evidence. By then a
        service that reports may look silent in a record read long ago.
        """
        if self.driver.name != 'db':
            return math.inf
        return self.conf.service_down_time - self.conf.report_interval

    def services(self, group=None):
        """Return a list of Service, sorted by binary and host."""
        with progress.Progress('Asking about the services'):
            return [self.service(record, cell)
                    for record, cell in self.records(group)]

    def service(self, record, cell=None):
        """Return the Service of a record."""
        verdict = self.api.verdict(record)
        if verdict.reason is liveness.Reason.FORCED_DOWN:
            seen_at = self.driver.verdict(record).seen_at
            return Service(record, cell, verdict, seen_at)
        return Service(record, cell, verdict, verdict.seen_at)

    def unforced(self, record, cell=None):
        """Return the Service by its evidence, without forced_down."""
        verdict = self.driver.verdict(record)
        return Service(record, cell, verdict, verdict.seen_at)

    def find(self, host, binary=None):
        """Return (record, cell) of one service.

        :param binary: nova-compute by default, or the only one of the host
        :raises CommandError: there is none, or more than one
        """
        with progress.Progress('Looking for %s' % host):
            found = [(record, cell) for record, cell in self.records()
                     if record['host'] == host]
        if not found:
            raise base.CommandError(
                'There is no service on a host named %s%s: "nova-'
                'servicegroup list" shows all names.' % (
                    host, '' if not self.failures else
                    ' in the cells that answer'))
        wanted = binary or 'nova-compute'
        chosen = [pair for pair in found if pair[0]['binary'] == wanted]
        if not chosen and not binary and len(found) == 1:
            chosen = found
        if not chosen:
            raise base.CommandError(
                'There is no %s on %s: choose one of its services with '
                '--service %s.' % (wanted, host, ' or '.join(sorted(
                    {record['binary'] for record, _ in found}))))
        if len(chosen) > 1:
            raise base.CommandError(
                '%s on %s is in several cells: %s. Two hosts must not have '
                'one name.' % (wanted, host, ', '.join(
                    str(cell) for _, cell in chosen)))
        return chosen[0]


def _bounded(list_heartbeats, timeout):
    """Return service_records.heartbeats, bounded in time.

    A connection to a host that lost its power hangs for minutes.
    """
    def bounded(record, topic):
        from nova_servicegroup.integration import cells
        try:
            return cells.bounded(
                lambda: list_heartbeats(record, topic), timeout)
        except TimeoutError as e:
            raise exception.ServiceGroupUnavailable(
                'db', 'a cell does not list its services: %s' % e) from e
    return bounded


def arguments(config_files=(), config_dirs=()):
    """Return the command line options for programs of Nova."""
    return [part for option, paths in (('--config-file', config_files),
                                       ('--config-dir', config_dirs))
            for path in paths for part in (option, path)]


def read(config_files=(), config_dirs=()):
    """Return the options that this package needs of nova.conf, without Nova.

    :raises CommandError: it can't be read, or a value in it is invalid
    """
    conf = cfg.ConfigOpts()
    conf.register_opts(_NOVA_OPTS)
    conf.register_opts(_DATABASE_OPTS, group='api_database')
    sg_conf.register_opts(conf)
    try:
        conf(arguments(config_files, config_dirs), project='nova',
             prog='nova-servicegroup')
    except (cfg.Error, ValueError) as e:
        raise base.CommandError(str(e)) from e
    for group, opts in [(None, _NOVA_OPTS), *sg_conf.list_opts()]:
        for opt in opts:
            _check_value(conf, group, opt)
    return conf


def _check_value(conf, group, opt):
    """Refuse an invalid value now; oslo.config checks it only when read."""
    try:
        getattr(conf if group is None else conf[group.name], opt.dest)
    except cfg.NoSuchOptError:
        # It refers to an option of Nova.
        pass
    except ValueError as e:
        raise base.CommandError('[%s] %s in nova.conf cannot be used: %s.' % (
            'DEFAULT' if group is None else group.name, opt.name,
            # Our text replaces the rest.
            str(e).rpartition(' is not valid: ')[2])) from e


def _read_as_nova(options):
    """Return Nova's own configuration, with this package registered."""
    with progress.Progress('Starting Nova\'s libraries'):
        try:
            from nova import config
            from nova import objects
        except ImportError as e:
            raise base.CommandError(
                'This host\'s configuration has an [api_database] connection, '
                'but its Nova cannot be imported (%s): run this with the '
                'Python that Nova runs with.' % e) from e
        from nova_servicegroup.cmd import rpc
        from nova_servicegroup.integration import register
        register.register()
        try:
            config.parse_args(['nova-servicegroup', *options])
        except (cfg.Error, exception.ConfigurationError) as e:
            raise base.CommandError(str(e)) from e
        except Exception as e:
            if not urls.is_malformed(e):
                raise
            # No cause: its text may quote the password.
            raise base.CommandError(urls.TRANSPORT + '.') from None
        objects.register_all()
        _fail_soon(config.CONF)
        rpc.limit_notifications(config.CONF)
        return config.CONF


def _fail_soon(conf):
    """Make databases that can't be reached fail at once."""
    from nova.db.api import api as api_db
    from nova.db.main import api as main_db
    for group in ('database', 'api_database'):
        conf.set_override('max_retries', 1, group=group)
        conf.set_override('retry_interval', 0, group=group)
    # The options were read already, but not used yet.
    main_db.configure(conf)
    api_db.configure(conf)
