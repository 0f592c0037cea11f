# SPDX-License-Identifier: Apache-2.0

"""What make shows while it installs: tools/with-progress."""

import contextlib
import os
import pathlib
import pty
import signal
import subprocess

WITH_PROGRESS = pathlib.Path(__file__).parents[3] / 'tools/with-progress'


def on_a_terminal(*command, keys=b''):
    """Run tools/with-progress on a terminal; return (output, exit code).

    :param keys: what is typed when it has shown something
    """
    pid, terminal = pty.fork()
    if pid == 0:
        # A run in the background may have been told to ignore it.
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        os.execv(WITH_PROGRESS, [WITH_PROGRESS, 'Installing', *command])
    shown = b''
    with open(terminal, 'rb+', buffering=0) as stream:
        # Linux says EIO at the end.
        with contextlib.suppress(OSError):
            while part := stream.read(1000):
                shown += part
                if keys and b'Installing' in shown:
                    stream.write(keys)
                    keys = b''
    return shown.decode(), os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_long_installation_is_told_and_wiped_off():
    shown, code = on_a_terminal('sleep', '3')
    assert shown.startswith('\rInstalling ... 2 s')
    assert shown.endswith('\r\033[K')
    assert code == 0


def test_an_interrupted_installation_leaves_no_process():
    shown, code = on_a_terminal('sleep', '31.4159', keys=b'\x03')
    assert code == 130
    # Its own terminal would not have ended if somebody still wrote there.
    assert shown.endswith('\r\033[K')
    assert subprocess.run(['pgrep', '-f', 'sleep 31.4159']).returncode == 1


def test_in_a_pipe_only_a_failure_is_told():
    def run(script):
        return subprocess.run([WITH_PROGRESS, 'Installing', 'sh', '-c',
                               script], capture_output=True, text=True)
    done = run('echo told; sleep 2.5')
    assert (done.returncode, done.stdout, done.stderr) == (0, '', '')
    done = run('echo told; echo why >&2; exit 7')
    assert (done.returncode, done.stdout, done.stderr) == (
        7, '', 'told\nwhy\n')
