# SPDX-License-Identifier: Apache-2.0

"""The pipe that shows a kill before the kernel reports it."""

import os
import select
import signal
import socket
import subprocess
import sys
import time

import pytest

SERVICE = """
import ctypes, os, signal, socket, sys, threading, time
if 'eventlet' in sys.argv:
    import eventlet
    eventlet.monkey_patch()
from nova_servicegroup.evzookeeper import exit_pipe
if 'forbidden' in sys.argv:
    exit_pipe._CLONE_FILES = 1
sock = socket.socket(fileno=int(sys.argv[1]))
got = []
signal.signal(signal.SIGUSR1, lambda *args: got.append(1))
def fds():
    return {os.readlink('/proc/self/fd/' + name)
            for name in os.listdir('/proc/self/fd')
            if os.path.exists('/proc/self/fd/' + name)}
before = fds()
began = time.monotonic()
reader = exit_pipe.reading_end()
assert time.monotonic() - began < exit_pipe._START_LIMIT
assert exit_pipe.reading_end() == reader
assert os.readlink('/proc/self/fd/%d' % reader) in fds() - before
assert before <= fds()
# What the kernel has to free before it tells of the end.
fat = [bytes(200) for _ in range(500000)]
socket.send_fds(sock, [b'x'], [reader])
for name, fork in ('python', os.fork), ('libc', ctypes.CDLL(None).fork):
    if name in sys.argv and fork() == 0:
        time.sleep(30)
        os._exit(0)
while not sock.send(b'%d ' % len(got)) or len(got) < 20:
    time.sleep(0.02)
sock.send(b'enough')
time.sleep(60)
"""


@pytest.fixture
def start():
    """Start a service; return its process, socket and exit pipe."""
    started = []

    def start(*how):
        ours, theirs = socket.socketpair()
        popen = subprocess.Popen(
            [sys.executable, '-c', SERVICE, str(theirs.fileno()), *how],
            pass_fds=[theirs.fileno()], start_new_session=True)
        theirs.close()
        ours.settimeout(20)
        _, (reader, *_), _, _ = socket.recv_fds(ours, 1, 1)
        started.append((popen, ours, reader))
        return started[-1]

    yield start
    for popen, ours, reader in started:
        os.killpg(popen.pid, signal.SIGKILL)
        popen.wait()
        ours.close()
        os.close(reader)


def broken(descriptor, timeout):
    poll = select.poll()
    poll.register(descriptor, 0)
    return bool(poll.poll(timeout * 1000))


@pytest.mark.parametrize('mode', ['threading', 'eventlet'])
def test_it_tells_of_a_kill_first(start, mode):
    for _ in range(10):
        popen, sock, reader = start(mode)
        popen.kill()
        assert broken(reader, 5)
        began = time.monotonic()
        assert broken(sock, 5)
        # About ten milliseconds are usual, for a hundred megabytes. But on
        # a loaded machine who looks may come too late to see it.
        if time.monotonic() - began > 0.001:
            return
    pytest.fail('the end of the files is seen at the same time')


@pytest.mark.parametrize('mode', ['threading', 'eventlet'])
def test_its_writing_end_is_where_nobody_inherits_it(start, mode):
    popen, _, reader = start(mode)
    pipe = os.readlink('/proc/self/fd/%d' % reader)

    def files(path):
        return [os.readlink(entry.path) for entry in os.scandir(path)]

    main = files('/proc/%d/fd' % popen.pid)
    assert main.count(pipe) == 1, 'its reading end'
    tables = [files(task.path + '/fd')
              for task in os.scandir('/proc/%d/task' % popen.pid)]
    assert [table for table in tables if table != main] == [[pipe]]


@pytest.mark.parametrize('how', ['python', 'libc', 'forbidden'])
def test_it_breaks_whoever_lives_on_and_whatever_is_forbidden(start, how):
    popen, _, reader = start(how)
    assert not broken(reader, 0.3)
    popen.kill()
    assert broken(reader, 5)


def test_it_lasts_as_long_as_the_process_and_gets_no_signals(start):
    popen, sock, reader = start()
    deadline = time.monotonic() + 20
    while not sock.recv(4096).endswith(b'enough'):
        assert time.monotonic() < deadline
        popen.send_signal(signal.SIGUSR1)
        time.sleep(0.01)
    assert not broken(reader, 0)
    task = '/proc/%d/task' % popen.pid
    masks = [line.split()[1] for thread in os.listdir(task)
             for line in open('%s/%s/status' % (task, thread))
             if line.startswith('SigBlk')]
    # The one of its thread: all but KILL and STOP.
    assert len([mask for mask in masks if int(mask, 16)]) == 1
    assert popen.poll() is None
