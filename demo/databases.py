# SPDX-License-Identifier: Apache-2.0

"""Creates Nova's databases, empty, and the mapping of one cell.

Like ``nova-manage api_db sync``, ``db sync`` and ``cell_v2 create_cell``, in
one process. Takes the arguments of nova-manage.
"""

# As in Nova's own commands: before anything else of Nova.
from nova import monkey_patch; monkey_patch.patch(backend='threading')  # noqa

import sys

from nova import config
from nova import context
from nova.db import migration
from nova import objects
from oslo_config import cfg
from oslo_utils import uuidutils


def main():
    config.parse_args(sys.argv)
    objects.register_all()
    migration.db_sync(database='api')
    migration.db_sync(database='main')
    objects.CellMapping(
        context.get_admin_context(), name='cell1',
        uuid=uuidutils.generate_uuid(), disabled=False,
        transport_url=cfg.CONF.transport_url,
        database_connection=cfg.CONF.database.connection).create()


if __name__ == '__main__':
    main()
