# SPDX-License-Identifier: Apache-2.0

"""Queries several cells of Nova at the same time."""

import threading
import time

from nova import context as nova_context


def ask(context, cells, question):
    """Return {uuid: answer} of the cells, an exception for those without one.

    Blocks for ``nova.context.CELL_TIMEOUT`` (60 s) at most. Nova's own
    function for this, scatter_gather_cells, uses a thread pool that delays the
    end of a command: by a second for idle threads, and without limit for one
    that hangs.

    :param cells: list of CellMapping
    :param question: ``question(context)``, run for each cell in a thread
    """
    answers = {}

    def ask_one(cell):
        try:
            with nova_context.target_cell(context, cell) as cell_context:
                answers[cell.uuid] = question(cell_context)
        except Exception as e:
            answers[cell.uuid] = e

    threads = [threading.Thread(target=ask_one, args=(cell,), daemon=True)
               for cell in cells]
    deadline = time.monotonic() + nova_context.CELL_TIMEOUT
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    silent = TimeoutError('not within %s s' % nova_context.CELL_TIMEOUT)
    return {cell.uuid: answers.get(cell.uuid, silent) for cell in cells}
