# SPDX-License-Identifier: Apache-2.0

"""The drivers by the names that ``servicegroup_driver`` takes.

Dotted names: a driver's module is imported when it is chosen, since some of
them import what must not be imported before Nova has chosen its concurrency.
"""

DRIVERS = {
    'db': 'nova_servicegroup.drivers.db.DbDriver',
    'zk': 'nova_servicegroup.drivers.zk.ZooKeeperDriver',
    'mc': 'nova_servicegroup.drivers.mc.MemcachedDriver',
}
