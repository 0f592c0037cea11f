# SPDX-License-Identifier: Apache-2.0

"""Tells that something goes on, when it takes long and somebody looks."""

import sys
import threading
import time

#: seconds after which whoever waits wants to know what for
PATIENCE = 2.0
_TURN = 0.5


class Progress:
    """A line on the terminal while something takes more than two seconds.

    Silent when stderr is no terminal. It is gone when that something is done::

        with Progress('Asking the cells'):
            ...

    One inside of another shows nothing: two would overwrite each other.

    :param text: what goes on
    :param stream: by default stderr
    """

    _shown = None

    def __init__(self, text, stream=None):
        self._text = text
        self._stream = stream or sys.stderr
        self._done = threading.Event()
        self._thread = None

    def __enter__(self):
        if self._stream.isatty() and Progress._shown is None:
            Progress._shown = self
            self._thread = threading.Thread(target=self._show, daemon=True)
            self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._done.set()
        if self._thread is not None:
            self._thread.join()
            Progress._shown = None

    def _show(self):
        began = time.monotonic()
        pause = PATIENCE
        shown = False
        while not self._done.wait(pause):
            shown, pause = True, _TURN
            self._stream.write('\r%s ... %d s' % (
                self._text, time.monotonic() - began))
            self._stream.flush()
        if shown:
            self._stream.write('\r\033[K')
            self._stream.flush()
