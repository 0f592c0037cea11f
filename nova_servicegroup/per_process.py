# SPDX-License-Identifier: Apache-2.0

"""Objects that all drivers of one process share.

One nova-api process makes 243 driver objects before it forks. Memberships,
clients and views are made on first use. A forked child drops its parent's
without closing them: that would close the parent's sessions, too.
"""

import os
import threading

# By process id: a fork in C, such as uWSGI's, calls no Python hook.
_objects = {}
_locks = {}


def get(key, make):
    """Return this process's object for ``key``, made by ``make()`` if new.

    Safe from any thread or green thread. ``make`` runs under a re-entrant
    lock, so it may get other shared objects, but must not wait for another
    thread.

    :param key: hashable; names the kind and the configuration
    """
    pid = os.getpid()
    key = pid, key
    try:
        return _objects[key]
    except KeyError:
        with _locks.setdefault(pid, threading.RLock()):
            if key not in _objects:
                _objects[key] = make()
            return _objects[key]


def find(key):
    """Return this process's object for ``key``, None if there is none.

    Takes no lock.
    """
    return _objects.get((os.getpid(), key))


def forget():
    """Drop every object, closing none of them. For the forked child."""
    _locks.clear()
    _objects.clear()


os.register_at_fork(after_in_child=forget)
