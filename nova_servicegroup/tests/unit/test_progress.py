# SPDX-License-Identifier: Apache-2.0

"""What is shown while a command takes its time."""

import io
import sys
import time
from unittest import mock

import pytest

from nova_servicegroup.cmd import main
from nova_servicegroup.cmd import progress
from nova_servicegroup.cmd import tighten
from nova_servicegroup.tests.fixtures import tree as nova_tree


class Terminal(io.StringIO):

    def __init__(self, is_terminal):
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self):
        return self._is_terminal


@pytest.fixture(autouse=True)
def hurried(monkeypatch):
    monkeypatch.setattr(progress, 'DELAY', 0.2)
    monkeypatch.setattr(progress, '_UPDATE', 0.05)


def shown(seconds, is_terminal=True):
    stream = Terminal(is_terminal)
    with progress.Progress('Asking', stream):
        time.sleep(seconds)
    return stream.getvalue()


def test_what_takes_long_is_told_and_wiped_off():
    text = shown(0.5)
    assert text.startswith('\rAsking ... 0 s')
    assert text.endswith('\r\033[K')


def test_one_inside_of_another_is_silent():
    stream = Terminal(True)
    with progress.Progress('Checking', stream):
        inner = shown(0.5)
    assert inner == ''
    assert stream.getvalue().startswith('\rChecking ... ')
    assert shown(0.5)


def test_what_is_quick_is_not():
    assert shown(0) == ''


@pytest.mark.parametrize('verb', ['install', 'status'])
def test_who_drops_in_is_told_what_takes_long(tmp_path, monkeypatch, verb):
    nova_tree.make(tmp_path)
    slow = tmp_path / 'python'
    slow.write_text('#!/bin/sh\nsleep 0.5\nexec %s "$@"\n' % sys.executable)
    slow.chmod(0o755)
    arguments = ['--nova', str(tmp_path), '--python', str(slow)]
    if verb == 'status':
        main.main(['dropin', 'install', *arguments])
    monkeypatch.setattr(sys, 'stderr', Terminal(True))
    assert main.main(['dropin', verb, *arguments]) == 0
    assert 'Starting the Python of this Nova ...' in sys.stderr.getvalue()


def test_who_tightens_is_told_what_takes_long(monkeypatch):
    def connected(*arguments):
        time.sleep(0.5)
        return mock.Mock()

    monkeypatch.setattr(tighten, '_connected', connected)
    monkeypatch.setattr(sys, 'stderr', Terminal(True))
    with tighten.connection(None, 'zk1:2181'):
        text = sys.stderr.getvalue()
    assert text.startswith('\rConnecting to ZooKeeper ...')


def test_a_pipe_is_told_nothing():
    assert shown(0.5, is_terminal=False) == ''
