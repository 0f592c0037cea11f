# SPDX-License-Identifier: Apache-2.0

"""The installation to check: its configuration, database and stores."""

import functools

from nova_servicegroup.cmd import deployment
from nova_servicegroup import exception


class Site:
    """An installation, as one of its hosts sees it.

    Opens no connection by itself. Each attribute connects on first use, and
    may block for as long as its servers do.

    :param config_files: nova.conf and others; by default where Nova looks
    :param config_dirs: folders of configuration files
    :param nova: the folder that holds ``nova/``; None for this Python's
    :param python: the interpreter that runs that Nova
    :raises CommandError: the configuration can't be read
    """

    def __init__(self, config_files=(), config_dirs=(), nova=None,
                 python=None):
        self.config_files = config_files
        self.config_dirs = config_dirs
        self.nova = nova
        self.python = python
        #: the options of nova.conf that this package needs
        self.conf = deployment.read(config_files, config_dirs)
        #: name of the driver that answers
        self.driver = self.conf.servicegroup_driver

    @property
    def has_database(self):
        return bool(self.conf.api_database.connection)

    def uses(self, driver):
        """Return whether services here use a driver to report or to read."""
        return driver in (self.driver, *self.conf.servicegroup.also_report)

    @functools.cached_property
    def deployment(self):
        """A Deployment with Nova's database.

        :raises CommandError: the configuration can't be used
        """
        return deployment.Deployment(self.config_files, self.config_dirs)

    @functools.cached_property
    def records(self):
        """[(service record of Nova, name of its cell)].

        :raises CommandError: the services can't be listed
        """
        return self.deployment.records()

    @property
    def services_known(self):
        """Number of Nova's services, 0 if they were not read yet."""
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
        """Return whether a driver is used here, and its options are valid.

        If they aren't, the check "configuration" reports it.
        """
        try:
            return self.uses(driver) and {
                'zk': lambda: self.zookeeper, 'mc': lambda: self.memcached,
                'db': lambda: self.has_database}[driver]()
        except exception.ConfigurationError:
            return False

    def close(self):
        """Close the ZooKeeper session; blocks for seconds at most."""
        if 'zookeeper' in vars(self):
            self.zookeeper.close()

    def hosts(self, group):
        """Return Nova's hosts of a group, a set.

        None without a database, or if a cell doesn't list its services.
        """
        if not self.has_database:
            return None
        # Reading them sets failures.
        records = self.records
        if self.deployment.failures:
            return None
        return {record['host'] for record, _ in records
                if record['topic'] == group}
