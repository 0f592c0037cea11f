# SPDX-License-Identifier: Apache-2.0

"""Reads Nova's services table, in all cells that this process can reach."""

from oslo_config import cfg

from nova_servicegroup import exception


def list_services(group=None):
    """Return Nova's service records, without those of API services.

    One query per cell. A process without a database connection (it uses a
    conductor) gets its own cell only. Blocks.

    :param group: only those of this topic
    :returns: list of nova.objects.Service
    :raises ServiceGroupUnavailable: a cell doesn't answer
    """
    # Not at module level: drivers can be imported without Nova.
    from nova import context as nova_context
    from nova import objects
    objects.register_all()
    context = nova_context.get_admin_context()
    if objects.Service.indirection_api or not _cells_are_known():
        services = list(objects.ServiceList.get_all(context))
    else:
        services = [service for answer in _ask_all_cells(
            context, objects.ServiceList.get_all) for service in answer]
    # nova-osapi_compute and nova-metadata have no topic and no heartbeat
    # (Nova commits d89c50f18b and cf7d9bfd71).
    return [service for service in services
            if service['topic'] and group in (None, service['topic'])]


def members():
    """Return the members that have, or had, a record in Nova's services.

    One query per cell, without making objects of the rows. Includes deleted
    records, see ``heartbeats``. A process without a database connection asks a
    conductor, which returns its own cell, without deleted records. Blocks.

    :returns: list of (topic, host, whether it is deleted)
    :raises ServiceGroupUnavailable: a cell doesn't answer
    """
    from nova import context as nova_context
    from nova.db.main import api as main_db
    from nova import objects
    objects.register_all()
    context = nova_context.get_admin_context(read_deleted='yes')
    if objects.Service.indirection_api:
        return [(service.topic, service.host, False)
                for service in objects.ServiceList.get_all(context)]
    read = main_db.pick_context_manager_reader(_member_rows)
    if not _cells_are_known():
        return read(context)
    return [row for rows in _ask_all_cells(context, read) for row in rows]


def _member_rows(context):
    from nova.db.main import api as main_db
    from nova.db.main import models
    service = models.Service
    return [(row.topic, row.host, bool(row.deleted))
            for row in main_db.model_query(
                context, service, read_deleted='yes',
                args=(service.topic, service.host, service.deleted)).filter(
                    service.topic.isnot(None)).all()]


def _ask_all_cells(context, function):
    """Return what ``function(context)`` returns in each cell.

    :raises ServiceGroupUnavailable: a cell doesn't answer
    """
    from nova import context as nova_context

    from nova_servicegroup.integration import cells
    nova_context.load_cells()
    answers = cells.ask(context, nova_context.CELLS, function)
    for cell, answer in answers.items():
        if isinstance(answer, Exception):
            raise exception.ServiceGroupUnavailable(
                cfg.CONF.servicegroup_driver,
                'the cell %s does not list its services' % cell) from answer
    return answers.values()


def heartbeats(record, topic):
    """Return the heartbeat columns of all services in the cell of a record.

    One query, without making objects of the rows. Includes deleted records:
    deleting a host must not change how many count as silent. Blocks.

    :param record: a nova.objects.Service, or a dict
    :returns: list of rows with ``host``, ``last_seen_up``, ``created_at`` and
        ``report_count``
    :raises ServiceGroupUnavailable: the database doesn't answer
    """
    from nova import context as nova_context
    from nova.db.main import api as main_db
    from nova import objects
    objects.register_all()
    context = nova_context.get_admin_context(read_deleted='yes')
    try:
        theirs = getattr(record, '_context', None)
        if theirs is not None:
            context.db_connection = getattr(theirs, 'db_connection', None)
        elif _mapping_of(record) is not None:
            nova_context.set_target_cell(context, _mapping_of(record))
        if objects.Service.indirection_api:
            return [service for service in
                    objects.ServiceList.get_all(context)
                    if service.topic == topic]
        return main_db.pick_context_manager_reader(_heartbeat_rows)(
            context, topic)
    except Exception as e:
        raise exception.ServiceGroupUnavailable(
            cfg.CONF.servicegroup_driver,
            'Nova\'s services cannot be listed (%s)' % type(e).__name__
        ) from e


def _heartbeat_rows(context, topic):
    from nova.db.main import api as main_db
    from nova.db.main import models
    service = models.Service
    return main_db.model_query(
        context, service, read_deleted='yes',
        args=(service.host, service.last_seen_up, service.created_at,
              service.report_count)).filter(service.topic == topic).all()


def cell_of(record):
    """Return an identifier of the cell of a record, None if unknown.

    Queries the API database, once per host, if the record doesn't tell.

    :raises ServiceGroupUnavailable: the API database doesn't answer
    """
    context = getattr(record, '_context', None)
    if context is not None:
        return (getattr(context, 'cell_uuid', None)
                or getattr(context, 'db_connection', None))
    mapping = _mapping_of(record)
    return mapping and mapping.uuid


def _mapping_of(record):
    """Return the CellMapping of a record's host, None if there is none.

    The scheduler's records are plain dicts, without the context that they
    were read with.
    """
    host = record.get('host')
    if host in _mappings or not _cells_are_known():
        return _mappings.get(host)
    from nova import context as nova_context
    from nova import exception as nova_exception
    from nova import objects
    objects.register_all()
    try:
        _mappings[host] = objects.HostMapping.get_by_host(
            nova_context.get_admin_context(), host).cell_mapping
    except nova_exception.HostMappingNotFound:
        return None
    except Exception as e:
        raise exception.ServiceGroupUnavailable(
            cfg.CONF.servicegroup_driver,
            'the API database does not answer (%s)' % type(e).__name__) from e
    return _mappings[host]


#: host -> CellMapping; hosts don't move between cells
_mappings = {}


def _cells_are_known():
    return bool(cfg.CONF.api_database.connection)
