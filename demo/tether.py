# SPDX-License-Identifier: Apache-2.0

"""Keeps a process from outliving the one that started it."""

import os
import sys
import threading


def end_with_parent():
    """End this process when its standard input does, in a thread's watch."""
    def wait():
        sys.stdin.read()
        os._exit(1)
    threading.Thread(target=wait, daemon=True).start()
