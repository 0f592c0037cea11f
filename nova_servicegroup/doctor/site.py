# SPDX-License-Identifier: Apache-2.0

"""What the checks look at: a configuration, and what it leads to."""

import functools

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import deployment
from nova_servicegroup import exception


class Site:
    """An installation, as one of its hosts sees it.

    Opens nothing by itself; what it gives is made when it is first asked for,
    and may block for as long as the servers that it needs.

    :param config_files: nova.conf and others; Nova's own places by default
    :param config_dirs: folders of configuration files
    :param nova: the folder that holds ``nova/``, None: that of this Python
    :param python: the interpreter that runs that Nova
    :raises CommandError: the configuration can't be read
    """

    def __init__(self, config_files=(), config_dirs=(), nova=None,
                 python=None):
        self.config_files = config_files
        self.config_dirs = config_dirs
        self.nova = nova
        self.python = python
        #: what this package needs of nova.conf
        self.conf = deployment.read(config_files, config_dirs)
        #: the driver that answers, as configured
        self.driver = self.conf.servicegroup_driver

    @property
    def has_database(self):
        return bool(self.conf.api_database.connection)

    def uses(self, driver):
        """Tell whether services here report or are judged by a driver."""
        return driver in (self.driver, *self.conf.servicegroup.also_report)

    @functools.cached_property
    def deployment(self):
        """A Deployment with Nova's database, which fails soon.

        :raises CommandError: the configuration can't be used
        """
        found = deployment.Deployment(self.config_files, self.config_dirs)
        if found.has_database:
            _fail_soon(found.conf)
        return found

    @functools.cached_property
    def records(self):
        """[(service record of Nova, name of its cell)].

        :raises CommandError: nobody can tell
        """
        return self.deployment.records()

    @property
    def services_known(self):
        """How many services Nova has, as far as it was asked already."""
        return len(vars(self).get('records', ()))

    @functools.cached_property
    def zookeeper(self):
        """The doctor.ensemble.Store.

        :raises ConfigurationError: its options can't work
        """
        from nova_servicegroup.doctor import ensemble
        return ensemble.Store(self.conf)

    @functools.cached_property
    def memcached(self):
        """The memcached.servers.Servers.

        :raises ConfigurationError: the options can't work
        """
        from nova_servicegroup.memcached import configured
        return configured.Servers(self.conf)

    def can_use(self, driver):
        """Tell whether a driver is used here, and configured so that it can.

        If it isn't, the check "configuration" tells of it.
        """
        try:
            return self.uses(driver) and {
                'zk': lambda: self.zookeeper, 'mc': lambda: self.memcached,
                'db': lambda: self.has_database}[driver]()
        except exception.ConfigurationError:
            return False

    def close(self):
        """End what was begun; blocks for seconds at most."""
        if 'zookeeper' in vars(self):
            self.zookeeper.close()

    def hosts(self, group):
        """Return Nova's hosts of a group, a set; None without a database."""
        if not self.has_database:
            return None
        if self.deployment.failures:
            raise base.CommandError('Not all cells list their services')
        return {record['host'] for record, _ in self.records
                if record['topic'] == group}


def _fail_soon(conf):
    """Let databases that can't be reached be told of, not waited for."""
    from nova.db.api import api as api_db
    from nova.db.main import api as main_db
    for group in ('database', 'api_database'):
        conf.set_override('max_retries', 1, group=group)
        conf.set_override('retry_interval', 0, group=group)
    # Read when the configuration was, and not used yet.
    main_db.configure(conf)
    api_db.configure(conf)
