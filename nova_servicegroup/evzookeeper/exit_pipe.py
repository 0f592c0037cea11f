# SPDX-License-Identifier: Apache-2.0

"""A pipe that breaks the moment its process is killed.

Before anybody hears of the end of a process the kernel frees its memory,
which takes 15 ms for a nova-compute. Its threads end at once, though, and a
thread may have a table of files of its own. So one thread holds the writing
end of a pipe in such a table, where no child inherits it either, and does
nothing else. Whoever has the reading end sees the kill within 2 ms.
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
    """Return the descriptor to watch for a hang-up; the same at every call.

    From any thread, native or green; the first call blocks for a thread's
    start. Where a thread can't have its own files, as in some containers, the
    pipe breaks when the process closes its files.

    :raises OSError: there is no descriptor left
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
        # No more threads. This process goes on holding the writing end.
        return reader
    tried.wait(_START_LIMIT)
    if held.is_set():
        os.close(writer)
    return reader


def _native_threading():
    # A green thread ends when its process does, not before.
    eventlet = sys.modules.get('eventlet')
    if eventlet is not None and eventlet.patcher.is_monkey_patched('thread'):
        return eventlet.patcher.original('threading')
    return threading


def _hold(writer, held, tried):
    # A handler of signals would meet the wrong files here.
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    libc = ctypes.CDLL(None)
    if libc.unshare(_CLONE_FILES) == 0:
        for name in os.listdir('/proc/thread-self/fd'):
            if int(name) != writer:
                # One of them was only open to list them.
                with contextlib.suppress(OSError):
                    os.close(int(name))
        held.set()
    tried.set()
    while held.is_set():
        libc.pause()


def _forget_in_child():
    global _lock, _made
    _lock = threading.Lock()
    if _made is not None:
        os.close(_made[1])
        _made = None


os.register_at_fork(after_in_child=_forget_in_child)
