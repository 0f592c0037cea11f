# SPDX-License-Identifier: Apache-2.0

"""Queries all cells of a deployment, for the commands."""

import nova.conf
from nova import objects
from oslo_db import exception as db_exc

from nova_servicegroup.cmd import urls
from nova_servicegroup.integration import cells as nova_cells


class CellsUnknown(Exception):
    """The cells can't be queried; the text says why."""


def ask(context, question, *args, timeout=None):
    """Query all cells at the same time.

    :param question: ``question(context, *args)``, run for each cell
    :param timeout: seconds for the API database, and then for the cells; by
        default a minute
    :returns: (list of (CellMapping, answer), list of texts about the cells
        that did not answer)
    :raises CellsUnknown: the API database doesn't answer or knows no cell
    """
    try:
        cells = nova_cells.bounded(
            lambda: objects.CellMappingList.get_all(context), timeout)
    except db_exc.CantStartEngineError as e:
        raise CellsUnknown(
            'This host\'s nova.conf has no [api_database] connection: run it '
            'on a controller. With the zk driver, "nova-servicegroup list" '
            'works here, too.') from e
    except Exception as e:
        if urls.is_malformed(e, nova.conf.CONF.api_database.connection):
            reason = 'it is no URL of a database'
        elif isinstance(e, (db_exc.DBError, TimeoutError)):
            raise CellsUnknown('The API database does not answer: %s' %
                               urls.reason(e, 'connection')) from e
        elif isinstance(e, ImportError):
            reason = e
        else:
            reason = getattr(e, 'strerror', None) or type(e).__name__
        # No cause: its text may quote the URL, with the password.
        raise CellsUnknown(
            '[api_database] connection in nova.conf cannot be used (%s): '
            'write mysql+pymysql://nova:PASSWORD@HOST/nova_api, and %s.' % (
                reason, urls.ENCODE)) from None
    if not cells:
        raise CellsUnknown('No cell is known; make one with "nova-manage '
                           'cell_v2 create_cell".')
    results = nova_cells.ask(
        context, cells, lambda cell_context: question(cell_context, *args),
        timeout)
    answers, silent = [], []
    for cell in cells:
        answer = results[cell.uuid]
        if isinstance(answer, Exception):
            silent.append('cell %s does not answer: %s' % (
                cell.identity, urls.reason(
                    answer, 'database_connection or transport_url of its cell '
                    'mapping', cell.database_connection)))
        else:
            answers.append((cell, answer))
    return answers, silent
