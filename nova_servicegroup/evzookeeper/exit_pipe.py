# SPDX-License-Identifier: Apache-2.0

"""A pipe that shows within 2 ms that its process was killed.

The kernel frees the memory of a process before it reports its end; for a
nova-compute that takes 15 ms. Its threads end at once, though, and a thread
can have its own file table. So one idle thread holds the writing end of a pipe
in such a table, where no child inherits it either.
"""

import contextlib
import ctypes
import os
import signal
import sys
import threading

_CLONE_FILES = 0x400
#: seconds that a thread may take to start
_START_LIMIT = 1.0

_lock = threading.Lock()
_made = None    # (process id, reading end)


def reading_end():
    """Return the descriptor to poll for a hang-up, the same at every call.

    May be called from any thread, native or green; the first call blocks
    while a thread starts. Where a thread can't have its own file table, as in
    some containers, the hang-up comes when the process closes its files.

    :raises OSError: no descriptor is left
    """
    global _made
    with _lock:
        if _made is None or _made[0] != os.getpid():
            _made = os.getpid(), _make()
        return _made[1]


def _make():
    reader, writer = os.pipe()
    native = _native_threading()
    held, tried = native.Event(), native.Event()
    try:
        native.Thread(target=_hold, args=(writer, held, tried), daemon=True,
                      name='exit_pipe').start()
    except RuntimeError:
        # No thread is left. The process itself holds the writing end.
        return reader
    tried.wait(_START_LIMIT)
    if held.is_set():
        os.close(writer)
    return reader


def _native_threading():
    # A green thread has no file table of its own.
    eventlet = sys.modules.get('eventlet')
    if eventlet is not None and eventlet.patcher.is_monkey_patched('thread'):
        return eventlet.patcher.original('threading')
    return threading


def _hold(writer, held, tried):
    # A signal handler must not run with this file table.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    libc = ctypes.CDLL(None)
    if libc.unshare(_CLONE_FILES) == 0:
        for name in os.listdir('/proc/thread-self/fd'):
            if int(name) != writer:
                # The listing's own descriptor is closed already.
                with contextlib.suppress(OSError):
                    os.close(int(name))
        held.set()
    tried.set()
    while held.is_set():
        libc.pause()


def _reset_in_child():
    global _lock, _made
    _lock = threading.Lock()
    if _made is not None:
        os.close(_made[1])
        _made = None


os.register_at_fork(after_in_child=_reset_in_child)
