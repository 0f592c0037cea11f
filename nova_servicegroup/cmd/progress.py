# SPDX-License-Identifier: Apache-2.0

"""Shows progress on a terminal."""

import sys
import threading
import time

#: seconds until the line appears, and between its updates
DELAY = 2.0
_UPDATE = 0.5


class Progress:
    """A line on the terminal if an operation takes more than two seconds.

    Silent if stderr is no terminal. It disappears when the operation ends::

        with Progress('Asking the cells'):
            ...

    A nested one shows nothing: two would overwrite each other.

    :param text: name of the operation
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
        pause = DELAY
        shown = False
        while not self._done.wait(pause):
            shown, pause = True, _UPDATE
            self._stream.write('\r%s ... %d s' % (
                self._text, time.monotonic() - began))
            self._stream.flush()
        if shown:
            self._stream.write('\r\033[K')
            self._stream.flush()
