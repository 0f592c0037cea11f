# SPDX-License-Identifier: Apache-2.0

"""Whether a process is about to end, before anything else tells of it."""

import os

#: flag in /proc/PID/stat of a thread that ends
_PF_EXITING = 0x4


def is_ending(pid):
    """Tell whether all threads of a process are about to end.

    The kernel marks them before it frees the memory, which takes as long as
    all the rest, and nothing brings them back.
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
        # Gone meanwhile, or hidden: the pidfd tells.
        return False
    return True
