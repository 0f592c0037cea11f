# SPDX-License-Identifier: Apache-2.0

"""The drivers, by their names in ``servicegroup_driver``.

Dotted names: a driver's module is imported when it is selected, since it may
import modules that must wait until Nova has chosen its concurrency.
"""

DRIVERS = {
    'db': 'nova_servicegroup.drivers.db.DbDriver',
    'zk': 'nova_servicegroup.drivers.zk.ZooKeeperDriver',
    'mc': 'nova_servicegroup.drivers.mc.MemcachedDriver',
}
