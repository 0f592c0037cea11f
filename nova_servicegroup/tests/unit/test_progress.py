# SPDX-License-Identifier: Apache-2.0

"""What is told while a command takes its time."""

import io
import time

import pytest

from nova_servicegroup.cmd import progress


class Terminal(io.StringIO):

    def __init__(self, is_terminal):
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self):
        return self._is_terminal


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(progress, 'PATIENCE', 0.2)
    monkeypatch.setattr(progress, '_TURN', 0.05)


def shown(seconds, is_terminal=True):
    stream = Terminal(is_terminal)
    with progress.Progress('Asking', stream):
        time.sleep(seconds)
    return stream.getvalue()


def test_what_takes_long_is_told_and_wiped_off():
    told = shown(0.5)
    assert told.startswith('\rAsking ... 0 s')
    assert told.endswith('\r\033[K')


def test_what_is_quick_is_not():
    assert shown(0) == ''


def test_a_pipe_is_told_nothing():
    assert shown(0.5, is_terminal=False) == ''
