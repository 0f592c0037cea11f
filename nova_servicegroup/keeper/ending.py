# SPDX-License-Identifier: Apache-2.0

"""Detects that a process is about to end, before its pidfd is readable."""

import os

#: flag in /proc/PID/stat of a thread that is ending
_PF_EXITING = 0x4


def is_ending(pid):
    """Return whether all threads of a process are ending.

    The kernel sets the flag before it frees the memory, which takes as long
    as all other steps, and never clears it.
    """
    if pid is None:
        return False
    try:
        for thread in os.listdir('/proc/%d/task' % pid):
            with open('/proc/%d/task/%s/stat' % (pid, thread)) as stat:
                flags = stat.read().rpartition(')')[2].split()[6]
            if not int(flags) & _PF_EXITING:
                return False
    except (OSError, ValueError, IndexError):
        # It has ended, or /proc is hidden: the pidfd decides.
        return False
    return True
