# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""The drivers by the names that ``servicegroup_driver`` takes.

Dotted names: a driver's module is imported when it is chosen, since some of
them import what must not be imported before Nova has chosen its concurrency.
"""

DRIVERS = {
    'db': 'nova_servicegroup.drivers.db.DbDriver',
    'zk': 'nova_servicegroup.drivers.zk.ZooKeeperDriver',
    'mc': 'nova_servicegroup.drivers.mc.MemcachedDriver',
}
