# SPDX-License-Identifier: Apache-2.0

"""A script: one nova.service.Service of the Nova that runs it.

``python one_service.py nova.conf SECONDS`` starts Nova's own Service with
Nova's base manager, in the concurrency mode that this release and the
environment choose, without a message bus and on the SQLite databases of the
configuration, which it makes. After SECONDS it stops it in order and prints
what happened, as JSON.
"""

import json
import sys
import time

import nova.cmd.conductor  # noqa: F401, chooses the concurrency as Nova does

from nova import config
from nova import context as nova_context
from nova.db.api import api as api_db
from nova.db.api import models as api_models
from nova.db.main import api as main_db
from nova.db.main import models as main_models
from nova import objects
from nova import service
from nova.servicegroup import api
from oslo_log import log as logging


def make_databases():
    for database, models in ((main_db, main_models), (api_db, api_models)):
        engine = database.context_manager.writer.get_engine()
        models.BASE.metadata.create_all(engine)
    context = nova_context.get_admin_context()
    for uuid, name in ((objects.CellMapping.CELL0_UUID, 'cell0'),
                       ('00000000-0000-4000-8000-000000000001', 'cell1')):
        objects.CellMapping(
            context, uuid=uuid, name=name, transport_url='fake:/',
            database_connection=api.CONF.database.connection + (
                '0' if name == 'cell0' else '')).create()
    with nova_context.target_cell(
            context, objects.CellMapping.get_by_uuid(
                context, objects.CellMapping.CELL0_UUID)) as cell0:
        engine = main_db.get_context_manager(cell0).writer.get_engine()
        main_models.BASE.metadata.create_all(engine)


def main(path, seconds):
    config.parse_args(['nova-conductor', '--config-file', path])
    logging.setup(api.CONF, 'nova')
    objects.register_all()
    make_databases()
    server = service.Service.create(
        host='one', binary='nova-conductor', topic='conductor',
        manager='nova.manager.Manager')
    server.start()
    time.sleep(seconds)
    record = objects.Service.get_by_host_and_binary(
        nova_context.get_admin_context(), 'one', 'nova-conductor')
    up = server.servicegroup_api.service_is_up(record)
    server.stop()
    print(json.dumps({
        'driver': type(server.servicegroup_api._driver).__module__,
        'beats': record.report_count, 'up': up,
        'eventlet': 'eventlet' in sys.modules and
                    sys.modules['eventlet'].patcher.is_monkey_patched('time'),
    }))


if __name__ == '__main__':
    main(sys.argv[1], float(sys.argv[2]))
