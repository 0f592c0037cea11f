# SPDX-License-Identifier: Apache-2.0

"""Counts living hosts that are called down in outages of the ensemble.

Thousands of members (sessions.py of the fixtures), some real readers
(asker.py), and an ensemble of three with the documented zoo.cfg, which is
stopped gracefully or killed, and started again after some time, with or
without its data. Each reader is asked ten times a second, all the time: about
25 random members without a node in its view, about 25 of the others (to ask
twenty readers about all of ten thousand would need too many processors), and
about those that will be killed. While the members return, some of those that
are back are killed.

    python bench/outage.py [--members 10000] [--readers 20]
        [--away 3 10 60] [--ways stop kill] [--repeat 5] [--wipes 1]
        [--kills 10] [--threshold 0.5] [--output bench/results]

``--threshold`` is the readers' mass_failure_threshold; with 1.1 mass failures
are not doubted, and only the rules for the return of members prevent a wrong
"down".

By default, this takes about 45 minutes. Results are kept in outage.part.json:
after an interruption, run the same command again to continue with the next
outage. Needs root: members, servers and readers, which have machines of their
own in a deployment, get the same high priority; they open thousands of files.

Writes outage.json and outage.rst, also when the figures are bad, and ends with
an error then. For each outage:

``answers``, ``wrong``, ``wrong_hosts``
    Number of answers to callers that may act on a lost host; how many of them
    were "down", and for how many members. All of these are wrong: a killed
    member is not lost for ``restart_grace``, a minute.
``kill_known_ms``
    For each kill and each reader, from sending the end of the session until a
    scheduler stops placing instances there.
``slowest_pass_s``
    The longest time between two answers about one member; all share one
    machine.
``serving_s``, ``back_s``, ``not_back``, ``expired``
    Time until all servers serve again, and from then until all members are
    back (three minutes at most); number of members still missing, and of lost
    sessions. One machine may be too small for all of it.
"""

import argparse
import collections
import contextlib
import datetime
import functools
import json
import math
import os
import pathlib
import platform
import random
import statistics
import tempfile
import time

from nova_servicegroup.tests.fixtures import asker
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import sessions
from nova_servicegroup.tests.fixtures import zookeeper

HERE = pathlib.Path(__file__).parent
GROUP = '/servicegroups/compute'
#: members that a reader is asked for at a time, of those with and of those
#: without a node
MOST = 25
URGENT = -15
STOP, KILL, WIPE = 'stop', 'kill', 'wipe'
#: seconds
INTERVAL = 0.1
BACK_LIMIT = 180
KILL_PAUSE = 0.5
#: how long after the return of the last member to wait for a late "down"
AFTERMATH = 20
MEMORY = '/dev/shm'
AUTOGROUP = pathlib.Path('/proc/sys/kernel/sched_autogroup_enabled')
#: of each server
HEAP = '-Xms1g', '-Xmx1g'
#: how soon a kill has to be known
KNOWN_LIMIT_MS = 1000


class World:
    """The ensemble, the members and the readers of all outages."""

    def __init__(self, stack, arguments):
        self.members = arguments.members
        # In memory: three servers that share one disk with the rest of this
        # machine wait for it for seconds, and sessions run out.
        directory = stack.enter_context(tempfile.TemporaryDirectory(
            prefix='sg-bench-',
            dir=MEMORY if os.path.isdir(MEMORY) else None))
        self.ensemble = stack.enter_context(zookeeper.Ensemble(
            directory, settings=zookeeper.documented_settings(), java=HEAP))
        self.fleet = stack.enter_context(
            sessions.Fleet(self.ensemble.address, GROUP))
        self.fleet.ask('start', members=self.members)
        self.hosts = list(map(sessions.host, range(self.members)))
        self.readers = [
            stack.enter_context(asker.Asker(
                self.ensemble.address,
                mass_failure_threshold=arguments.threshold))
            for _ in range(arguments.readers)]
        for reader in self.readers:
            reader.ask('watch', hosts=self.hosts, interval=INTERVAL,
                       most=MOST)

    def outage(self, way, away, kills):
        """Cause one outage; return its figures."""
        victims = random.sample(range(self.members), kills)
        for reader in self.readers:
            reader.ask('expect', hosts=list(map(sessions.host, victims)))
        self.reports()
        expired = self.fleet.ask('state')['expired']
        if way == KILL:
            self.ensemble.kill()
        else:
            self.ensemble.stop()
        time.sleep(away)
        began = time.monotonic()
        if way == WIPE:
            self.ensemble.wipe()
        else:
            self.ensemble.start()
        served = time.monotonic()
        killed = self.kill_some(victims)
        late = self.wait_back(self.members - len(killed))
        back = time.monotonic()
        time.sleep(AFTERMATH)
        reports = self.reports()
        # The dead live again, and the readers know it, before the next one.
        self.fleet.ask('join')
        self.wait_back(self.members)
        time.sleep(3)
        self.reports()
        return dict(
            judged(reports, killed), way=way, away_s=away,
            serving_s=round(served - began, 1), back_s=round(back - served, 1),
            not_back=late,
            expired=self.fleet.ask('state')['expired'] - expired)

    def wait_back(self, count):
        """Wait for ``count`` members; return how many are still missing."""
        deadline = time.monotonic() + BACK_LIMIT
        while (missing := count - self.fleet.ask('state')['there']) and (
                time.monotonic() < deadline):
            time.sleep(0.2)
        return missing

    def kill_some(self, victims):
        """Kill members as soon as they are back, one after the other.

        :returns: host -> when
        """
        killed = {}
        for member in victims:
            death = process.wait_until(
                functools.partial(self.fleet.ask, 'die', member=member),
                BACK_LIMIT, 'a member is back', interval=0.01)
            killed[death['host']] = death['at']
            time.sleep(KILL_PAUSE)
        return killed

    def reports(self):
        return [reader.ask('report') for reader in self.readers]


@contextlib.contextmanager
def priority():
    """Put all processes of the benchmark before the rest of the machine.

    Linux gives each session of processes the same share of a processor
    (sched_autogroup_enabled), whatever the priority of its processes.
    """
    os.setpriority(os.PRIO_PROCESS, 0, URGENT)
    if not AUTOGROUP.exists():
        yield
        return
    before = AUTOGROUP.read_text()
    AUTOGROUP.write_text('0')
    try:
        yield
    finally:
        AUTOGROUP.write_text(before)


def judged(reports, killed):
    """Return how many answers were wrong, and when the kills were known."""
    known = [(report['refused'][host] - at) * 1000
             if host in report['refused'] else None
             for report in reports for host, at in killed.items()]
    # A killed member is only ended, not lost, for a while: refusing it before
    # the kill, or calling it down before or soon after, is wrong.
    wrong = collections.Counter(host for report in reports
                                for host, at in report['refused'].items()
                                if at < killed.get(host, math.inf))
    for report in reports:
        wrong.update(report['not_up'])
    return {'answers': sum(report['answers'] for report in reports),
            'wrong': sum(wrong.values()), 'wrong_hosts': len(wrong),
            'wrong_examples': [report['examples'] for report in reports
                               if report['examples']][:2],
            'kills': len(killed), 'kills_unseen': known.count(None),
            'kill_known_ms': spread([t for t in known if t is not None]),
            'slowest_pass_s': round(max(
                report['longest'] for report in reports), 2)}


def spread(times):
    if not times:
        return None
    return {'median': round(statistics.median(times), 1),
            'max': round(max(times), 1)}


def plan(arguments):
    """Return (way, seconds away) for each outage, in order."""
    found = [(way, away) for away in arguments.away for way in arguments.ways
             for _ in range(arguments.repeat)]
    return found + [(WIPE, min(arguments.away))] * arguments.wipes


def measure(arguments, about):
    """Return the figures of all outages, those of an earlier run included."""
    part = arguments.output / 'outage.part.json'
    done = []
    if part.exists():
        earlier = json.loads(part.read_text())
        if earlier['asked'] == about['asked']:
            done = earlier['outages']
    todo = plan(arguments)[len(done):]
    with contextlib.ExitStack() as stack:
        stack.enter_context(priority())
        world = World(stack, arguments) if todo else None
        for way, away in todo:
            done.append(world.outage(way, away, arguments.kills))
            print(json.dumps(done[-1]), flush=True)
            part.write_text(json.dumps(
                {'asked': about['asked'], 'outages': done}))
    part.unlink()
    return done


def broken_promises(outages):
    return [outage for outage in outages
            if outage['wrong'] or outage['kills_unseen'] or outage['not_back']
            or (outage['kill_known_ms'] or {'max': 0})['max'] > KNOWN_LIMIT_MS]


def table(about, outages):
    """Return the figures for the documentation, a row for a kind of outage."""
    lines = [
        'Measured on %s: {:,} members, %d readers, each asked every %g s; '
        '``mass_failure_threshold`` %g.'.format(about['members']) % (
            about['when'], about['readers'], INTERVAL,
            about['mass_failure_threshold']),
        '%s. %s.' % (about['machine'], about['zookeeper']), '',
        '.. csv-table::',
        '   :header: "ensemble", "away", "times", "answers", "wrong down", '
        '"all members back after", "sessions lost, at most", '
        '"a kill is known, median", "at most"', '']
    kinds = dict.fromkeys((o['way'], o['away_s']) for o in outages)
    for way, away in kinds:
        some = [o for o in outages if (o['way'], o['away_s']) == (way, away)]
        known = [o['kill_known_ms'] for o in some if o['kill_known_ms']]
        cells = [
            {STOP: 'stopped in order', KILL: 'killed', WIPE: 'wiped'}[way],
            '%g s' % away, str(len(some)),
            '{:,}'.format(sum(o['answers'] for o in some)),
            '{:,}'.format(sum(o['wrong'] for o in some)),
            '%.1f s' % max(o['back_s'] for o in some),
            '{:,}'.format(max(o['expired'] for o in some)),
            *('%.0f ms' % of for of in (
                statistics.median(k['median'] for k in known),
                max(k['max'] for k in known)))]
        lines.append('   ' + ', '.join('"%s"' % cell for cell in cells))
    return '\n'.join([*lines, ''])


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--members', type=int, default=10000)
    parser.add_argument('--readers', type=int, default=20)
    parser.add_argument('--away', type=float, nargs='*', default=[3, 10, 60])
    parser.add_argument('--ways', nargs='*', default=[STOP, KILL],
                        choices=[STOP, KILL])
    parser.add_argument('--repeat', type=int, default=5)
    parser.add_argument('--wipes', type=int, default=1)
    parser.add_argument('--kills', type=int, default=10)
    parser.add_argument('--threshold', type=float, default=0.5)
    parser.add_argument('--output', type=pathlib.Path,
                        default=HERE / 'results')
    arguments = parser.parse_args()
    sessions.allow_files(arguments.members + 1000)
    arguments.output.mkdir(parents=True, exist_ok=True)
    about = {
        'when': datetime.date.today().isoformat(),
        'machine': '%s, %d cores, Linux %s, Python %s, for everything' % (
            platform.machine(), os.cpu_count(), platform.release(),
            platform.python_version()),
        'zookeeper': 'Three servers, the documented zoo.cfg, sessions of 4 s',
        'members': arguments.members, 'readers': arguments.readers,
        'mass_failure_threshold': arguments.threshold,
        'asked': [arguments.members, arguments.readers, arguments.away,
                  arguments.ways, arguments.repeat, arguments.wipes,
                  arguments.kills, arguments.threshold],
        'load_average_before': os.getloadavg()[0]}
    outages = measure(arguments, about)
    (arguments.output / 'outage.json').write_text(json.dumps(
        {'about': about, 'outages': outages}, indent=1) + '\n')
    (arguments.output / 'outage.rst').write_text(table(about, outages))
    print(table(about, outages))
    broken = broken_promises(outages)
    if broken:
        raise SystemExit('Not as promised: %d of %d outages' % (
            len(broken), len(outages)))


if __name__ == '__main__':
    main()
