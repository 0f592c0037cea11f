# SPDX-License-Identifier: Apache-2.0

"""Queries several cells of Nova at the same time."""

import functools
import threading
import time

from nova import context as nova_context


def ask(context, cells, question, timeout=None):
    """Return {uuid: answer} of the cells, an exception for those without one.

    Nova's own function for this, scatter_gather_cells, uses a thread pool that
    delays the end of a command: by a second for idle threads, and without
    limit for one that hangs.

    :param cells: list of CellMapping
    :param question: ``question(context)``, run for each cell in a thread
    :param timeout: seconds that this blocks at most, by default
        ``nova.context.CELL_TIMEOUT`` (60 s)
    """
    def ask_one(cell):
        with nova_context.target_cell(context, cell) as cell_context:
            return question(cell_context)

    return _call({cell.uuid: functools.partial(ask_one, cell)
                  for cell in cells}, timeout)


def bounded(function, timeout=None):
    """Return ``function()``, which runs in a thread of its own.

    :param timeout: seconds, as for ``ask``
    :raises TimeoutError: it did not end in time; its thread goes on
    """
    answer = _call({None: function}, timeout)[None]
    if isinstance(answer, Exception):
        raise answer
    return answer


def _call(functions, timeout):
    """Call functions, each in a thread; return {key: answer or exception}."""
    if timeout is None:
        timeout = nova_context.CELL_TIMEOUT
    answers = {}

    def call(key, function):
        try:
            answers[key] = function()
        except Exception as e:
            answers[key] = e

    threads = [threading.Thread(target=call, args=item, daemon=True)
               for item in functions.items()]
    deadline = time.monotonic() + timeout
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0, deadline - time.monotonic()))
    silent = TimeoutError('not within %g s' % timeout)
    return {key: answers.get(key, silent) for key in functions}
