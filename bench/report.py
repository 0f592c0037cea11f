# SPDX-License-Identifier: Apache-2.0

"""Shared by the benchmarks: facts of the machine, tables, pictures."""

import datetime
import json
import os
import platform
import time

#: of a driver, in all pictures
COLORS = {'zk': '#0b6e4f', 'mc': '#35649a', 'db': '#7a5195',
          'nova-mc': '#e08e45', 'nova-db': '#b23a48'}
LABELS = {'zk': 'zk', 'mc': 'mc', 'db': 'db',
          'nova-mc': "Nova's mc", 'nova-db': "Nova's db"}


def about(**more):
    """Return date and machine of a benchmark, for its JSON."""
    return {
        'when': datetime.date.today().isoformat(),
        'machine': '%s, %d cores, Linux %s, Python %s, for everything' % (
            platform.machine(), os.cpu_count(), platform.release(),
            platform.python_version()),
        'load_average_before': round(os.getloadavg()[0], 1), **more}


def cpu_seconds(pid):
    """Return the processor time of a process, to the nanosecond."""
    # The kernel's name for the clock, as clock_getcpuclockid() makes it:
    # /proc has nothing finer than 10 ms.
    return time.clock_gettime(~pid << 3 | 2)


def say(text):
    """Show progress."""
    print(text, flush=True)


def write(directory, name, result):
    """Write a result as JSON; return the path of the picture beside it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / ('%s.json' % name)).write_text(
        json.dumps(result, indent=1) + '\n')
    return directory / ('%s.svg' % name)


def table(title, heads, lines):
    """Return a csv-table of reStructuredText."""
    def row(cells):
        return ', '.join('"%s"' % cell for cell in cells)
    return '.. csv-table:: %s\n   :header: %s\n\n%s\n' % (
        title, row(heads), ''.join('   %s\n' % row(line) for line in lines))


def measured(about):
    """Return a paragraph with date and machine."""
    return 'Measured on %s: %s.\n\n' % (about['when'], about['machine'])


def pyplot():
    """Return matplotlib's, for pictures in files."""
    import matplotlib
    matplotlib.use('svg')
    # The same picture from the same figures.
    matplotlib.rcParams['svg.hashsalt'] = 'bench'
    from matplotlib import pyplot
    return pyplot


def save(figure, path):
    """Write a figure with nothing cut off."""
    figure.savefig(path, metadata={'Date': None}, bbox_inches='tight')
    say('Written to %s' % path)
