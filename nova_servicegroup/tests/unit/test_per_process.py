# SPDX-License-Identifier: Apache-2.0

"""One object of a kind per process, none inherited by fork."""

import ctypes
import os
import signal
import threading

from nova_servicegroup import per_process


def test_one_per_key():
    made = []
    first = per_process.get('a', lambda: made.append(1) or object())
    assert per_process.get('a', lambda: made.append(1) or object()) is first
    assert per_process.get('b', object) is not first
    assert made == [1]


def test_one_for_many_threads():
    ready = threading.Barrier(20)
    got = []

    def ask():
        ready.wait(30)
        got.append(per_process.get('a', object))

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(got) == 20 and len(set(got)) == 1


def test_a_maker_may_ask_for_another():
    assert per_process.get(
        'a', lambda: per_process.get('b', lambda: 'inner')) == 'inner'


def test_a_forked_child_starts_with_nothing():
    parents = per_process.get('a', object)
    pid = os.fork()
    if pid == 0:
        os._exit(0 if per_process.get('a', object) is not parents else 1)
    assert os.waitpid(pid, 0)[1] == 0
    assert per_process.get('a', object) is parents


def test_so_does_one_that_was_forked_in_c():
    # As uWSGI forks its workers: no hook of Python's is called.
    parents = per_process.get('a', object)
    held, go_on = threading.Event(), threading.Event()

    def hold():
        held.set()
        go_on.wait(30)
        return 'b'

    # A lock that is held by a thread which the child hasn't.
    thread = threading.Thread(target=per_process.get, args=('b', hold))
    thread.start()
    assert held.wait(30)
    pid = ctypes.PyDLL(None).fork()
    if pid == 0:
        signal.alarm(10)
        os._exit(0 if per_process.get('a', object) is not parents
                 and per_process.get('b', lambda: 'own') == 'own' else 1)
    status = os.waitpid(pid, 0)[1]
    go_on.set()
    thread.join(30)
    assert status == 0
    assert per_process.get('a', object) is parents
