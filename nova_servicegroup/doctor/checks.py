# SPDX-License-Identifier: Apache-2.0

"""All checks, in their order: those that others need come first."""

from nova_servicegroup.doctor import database
from nova_servicegroup.doctor import members
from nova_servicegroup.doctor import memcached
from nova_servicegroup.doctor import nova
from nova_servicegroup.doctor import processes
from nova_servicegroup.doctor import zookeeper

CHECKS = [*nova.CHECKS, *processes.CHECKS, *database.CHECKS,
          *memcached.CHECKS, *zookeeper.CHECKS, *members.CHECKS]
