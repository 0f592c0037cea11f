# SPDX-License-Identifier: Apache-2.0

"""Queries all cells of a deployment, for the commands."""

from nova import context as nova_context
from nova import objects
from oslo_db import exception as db_exc


class CellsUnknown(Exception):
    """The cells can't be queried; the text says why."""


def ask(context, question, *args):
    """Query all cells in parallel.

    Blocks for ``nova.context.CELL_TIMEOUT`` (60 s) at most.

    :param question: ``question(context, *args)``, run for each cell
    :returns: (list of (CellMapping, answer), list of texts about the cells
        that did not answer)
    :raises CellsUnknown: the API database doesn't answer or knows no cell
    """
    def ask_one(cell_context):
        try:
            return question(cell_context, *args)
        except Exception as e:
            # Returned, as Nova would log a traceback for it.
            return e

    try:
        cells = objects.CellMappingList.get_all(context)
    except db_exc.CantStartEngineError as e:
        raise CellsUnknown(
            'This host\'s nova.conf has no [api_database] connection: run it '
            'on a controller. With the zk driver, "nova-servicegroup list" '
            'works here, too.') from e
    except db_exc.DBError as e:
        raise CellsUnknown('The API database does not answer: %s'
                           % first_line(e)) from e
    except Exception as e:
        # The text may quote the URL, with the password.
        kinds = {kind.__name__ for kind in type(e).__mro__}
        if kinds & {'ArgumentError', 'ValueError'}:     # SQLAlchemy's
            reason = 'it is no URL of a database'
        elif isinstance(e, ImportError):
            reason = e
        else:
            reason = getattr(e, 'strerror', None) or type(e).__name__
        raise CellsUnknown(
            '[api_database] connection in nova.conf cannot be used (%s): '
            'write mysql+pymysql://nova:PASSWORD@HOST/nova_api.' %
            reason) from e
    if not cells:
        raise CellsUnknown('No cell is known; make one with "nova-manage '
                           'cell_v2 create_cell".')
    results = nova_context.scatter_gather_cells(
        context, cells, nova_context.CELL_TIMEOUT, ask_one)
    answers, silent = [], []
    for cell in cells:
        answer = results[cell.uuid]
        if nova_context.is_cell_failure_sentinel(answer):
            silent.append('cell %s does not answer: %s' % (
                cell.identity,
                first_line(answer) if isinstance(answer, Exception)
                else 'not within %s s' % nova_context.CELL_TIMEOUT))
        else:
            answers.append((cell, answer))
    return answers, silent


def first_line(error):
    """Return the text of an exception, in one line."""
    return str(error).strip().partition('\n')[0] or type(error).__name__
