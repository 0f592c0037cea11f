# SPDX-License-Identifier: Apache-2.0

"""``python -m nova_servicegroup.keeper``: started by evzookeeper only.

Standard input is the socket, standard output the parent's exit pipe. The
first argument only labels the process for ``ps``. With the second, ``shared``,
the socket is one to listen to: see keeper/sharing.py.
"""

import contextlib
import os
import signal
import site
import socket
import sys
import threading

#: workers that may wait for a shared keeper
BACKLOG = 1024


def main():
    # A service manager, uWSGI or Ctrl-C signals the keeper, too, when it
    # stops the service. But the keeper ends after its parent.
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP,
                   signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2,
                   signal.SIGPIPE):
        signal.signal(number, signal.SIG_IGN)
    # A parent's thread that blocks signals, as uWSGI's do, would block the
    # alarm that ends an orphan.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    sock, exit_pipe = socket.socket(fileno=os.dup(0)), os.dup(1)
    shared = sys.argv[2:] == ['shared']
    if shared:
        if os.fork():
            # The keeper is no child of the worker that starts it.
            os._exit(0)
        # From now on workers connect, and learn this process's id.
        sock.listen(BACKLOG)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    os.close(null)
    _sort_path()
    try:
        if shared:
            from nova_servicegroup.keeper import sharing
            keeper = sharing.SharedKeeper(sock)
        else:
            from nova_servicegroup.keeper import loop
            keeper = loop.Keeper(sock, exit_pipe)
    except ImportError as e:
        _fail(sock, '%s. Install nova-servicegroup with its requirements '
              'where Nova is installed.' % e)
    except Exception as e:
        _fail(sock, repr(e))
    threading.excepthook = keeper.thread_failed
    keeper.run()
    # Don't wait for kazoo's threads.
    os._exit(0)


def _sort_path():
    """Move PYTHONPATH behind the standard library.

    It may name a whole site-packages, with old copies of standard modules.
    """
    named = os.environ.get('PYTHONPATH', '').split(os.pathsep)
    own = site.getsitepackages()
    sys.path.sort(
        key=lambda place: 1 if place in named else 2 * (place in own))


def _fail(sock, reason):
    from nova_servicegroup.keeper import protocol
    with contextlib.suppress(OSError):  # shared: it is connected to nobody
        sock.sendall(protocol.encode('failed', reason=reason))
    os._exit(1)


if __name__ == '__main__':
    main()
