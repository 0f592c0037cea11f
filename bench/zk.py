# SPDX-License-Identifier: Apache-2.0

"""Measures cost and latency of ten thousand members of one group.

One real ZooKeeper server, one process for all members (sessions.py of the
fixtures), and readers of two kinds, each a process (zk_reader.py): ``keeper``,
the package's own, and ``watch``, a bare socket with the same persistent
recursive watch and nothing else: the minimal cost of a reader.

    python bench/zk.py [--members 1000 10000] [--readers 1 100 20]
        [--deaths 40] [--output bench/results]

Takes about ten minutes, in parts for each number and kind of members. Results
are kept in zk.part.json: after an interruption, run the same command again to
continue with the next part. Needs root, or a limit of open files above the
number of members.

Writes zk.json, zk.svg (the picture), and zk.rst (for the documentation). In
zk.json, for each number of members:

``sessions``
    Each member has its own session, and there are 20 readers at most.
    ``fleet``: seconds until all have joined, CPU of the server for it, and at
    rest, for their pings only. Then, for each kind and number of readers, the
    figures below, with:
    ``restart``, all members die at once and join as fast as they can;
    and with the last number of readers
    ``outage``, the server is stopped gracefully, and started again;
    ``expiry``, the members are killed and their sessions expire.
``nodes``
    A hundred members on each session. The server has little other work, so
    this shows the cost of one change: ``per_change``, bytes to one reader, CPU
    of one reader, CPU of the server for all of them, the mean of deaths and
    joins, minus the cost at rest.

``first_listing_ms`` counts from the query, with an open session (opening it
takes ``session_ms``); ``death_to_known_ms`` from the request to ZooKeeper. All
readers ask, and are notified, at once, on a machine that they share with the
server and the members: their times are those of a busy machine. A keeper's CPU
and memory include those of its parent process. Bytes are those that ``ss``
shows for connections.
"""

import argparse
import contextlib
import json
import math
import pathlib
import re
import statistics
import subprocess
import tempfile
import time

import report

from nova_servicegroup.keeper import listing
from nova_servicegroup.tests.fixtures import asker
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import sessions
from nova_servicegroup.tests.fixtures import talker
from nova_servicegroup.tests.fixtures import zookeeper

HERE = pathlib.Path(__file__).parent
GROUP = '/servicegroups/compute'
KEEPER, WATCH = 'keeper', 'watch'
KINDS = (WATCH, KEEPER)
#: seconds
REST, AWAY = 5.0, 10.0
VIEWS_LIMIT = 120
#: readers, at most, of members with own sessions: with a hundred, two
#: processors are busy for minutes with what is measured elsewhere
MOST_READERS = 20
PER_SESSION = 100
#: members that are asked about at a time in an outage, of those with and of
#: those without a node
ASKED = 200


class Reader(talker.Talker):

    def __init__(self, kind, server):
        super().__init__(HERE / 'zk_reader.py', kind, server.port, GROUP,
                         timeout=VIEWS_LIMIT)
        self.kind = kind
        self.pids = [self.pid]

    def begin(self):
        """Wait for its session; return how long it took, in ms."""
        began = self.hear()
        if self.kind == KEEPER:
            self.pids.append(began['keeper'])
        return began['ms']


class Meter:
    """Counts CPU and bytes of server and readers from now on."""

    def __init__(self, server, readers):
        self._server = server
        self._readers = readers
        self._before = self._now()

    def _now(self):
        pids = [pid for reader in self._readers for pid in reader.pids]
        return (time.monotonic(), report.cpu_seconds(self._server.pid),
                sum(map(report.cpu_seconds, pids)), received(pids))

    def stop(self):
        """Return seconds, the server's CPU, CPU and bytes of a reader."""
        seconds, server, readers, size = (
            now - before for now, before in zip(self._now(), self._before))
        count = len(self._readers) or 1
        return seconds, server, readers / count, size / count


def received(pids):
    """Return how many bytes processes have received on connections."""
    wanted = re.compile('pid=(%s),' % '|'.join(map(str, pids or ['none'])))
    listed = subprocess.run(
        ['ss', '-tinpHO', 'state', 'established'], check=True,
        capture_output=True, text=True).stdout.splitlines()
    found = (re.search(r'bytes_received:(\d+)', line) for line in listed
             if wanted.search(line))
    # Nothing is said of a connection that has received nothing.
    return sum(int(match[1]) for match in found if match)


def memory_mb(pids):
    """Return the most memory that processes have had, in MB."""
    return round(sum(
        int(re.search(r'VmHWM:\s+(\d+)', pathlib.Path(
            '/proc/%d/status' % pid).read_text())[1])
        for pid in pids) / 1024, 1)


def spread(times_ms):
    """Return the figures of a list of times."""
    ordered = sorted(times_ms) or [math.nan]
    return {'count': len(ordered),
            'median': round(statistics.median(ordered), 1),
            'p90': round(ordered[math.ceil(len(ordered) * 0.9) - 1], 1),
            'max': round(ordered[-1], 1)}


def at_rest(server, readers):
    """Return the figures of a second in which nothing happens."""
    time.sleep(1)
    meter = Meter(server, readers)
    time.sleep(REST)
    seconds, *used = meter.stop()
    return [figure / seconds for figure in used]


def wait_for_views(fleet, readers):
    """Wait until all readers have the right view, or VIEWS_LIMIT.

    :returns: the report of each reader
    """
    found = []

    def reports():
        # Sessions may be lost on a busy machine, and come back.
        awaited = fleet.ask('state')['checksum']
        found[:] = [reader.ask('report') for reader in readers]
        return all(r['checksum'] == awaited for r in found)

    try:
        process.wait_until(reports, VIEWS_LIMIT, 'views of the fleet',
                           interval=0.25)
    except process.NotReady as e:
        report.say('A hiccup: %s' % e)
    return found


@contextlib.contextmanager
def opened_readers(kind, count, server, fleet):
    """Yield readers that have listed, and the figures of that."""
    with contextlib.ExitStack() as stack:
        readers = []
        for _ in range(count):
            readers.append(Reader(kind, server))
            stack.callback(readers[-1].kill)
        connected = [reader.begin() for reader in readers]
        meter = Meter(server, readers)
        for reader in readers:
            reader.tell('watch')
        listed = [reader.hear()['ms'] for reader in readers]
        _, server_s, reader_s, size = meter.stop()
        figures = {'session_ms': spread(connected),
                   'first_listing_ms': spread(listed),
                   'first_listing': {'server_cpu_s': round(server_s, 3),
                                     'reader_cpu_s': round(reader_s, 3),
                                     'reader_bytes': round(size)}}
        wait_for_views(fleet, readers)
        resting = at_rest(server, readers)
        figures['at_rest'] = {
            'server_cpu': round(resting[0], 4),
            'reader_cpu': round(resting[1], 5),
            'reader_bytes_per_s': round(resting[2])}
        yield readers, figures, resting
        figures['reader_memory_mb'] = memory_mb(readers[0].pids)


def changes(server, fleet, readers, members, deaths, resting):
    """Kill and join members; return when that was known, and its cost."""
    pause = 0.1
    for reader in readers:
        reader.ask('gone')
    meter = Meter(server, readers)
    died = {}
    for number in range(deaths):
        death = fleet.ask('die', member=number * 7919 % members)
        if death is not None:
            died[death['host']] = death['at']
        time.sleep(pause)
        fleet.ask('join')
        time.sleep(pause)
    seconds, *used = meter.stop()
    # A keeper that has yet to check who owns the nodes checks so many a
    # second: that of a member that joins instead of another one's. It may
    # have finished meanwhile, so the cost at rest is the mean of two.
    seconds -= deaths / listing.CHECKS_PER_SECOND
    resting = map(statistics.mean, zip(resting, at_rest(server, readers)))
    times, unseen = [], 0
    for reader in readers:
        gone = reader.ask('gone')['gone']
        # A reader that was late may find the member back in one listing.
        seen = [host for host in died if gone.get(host, 0) >= died[host]]
        times += [(gone[host] - died[host]) * 1000 for host in seen]
        unseen += len(died) - len(seen)
    wait_for_views(fleet, readers)
    server_s, reader_s, size = (
        (figure - rest * seconds) / (2 * deaths)
        for figure, rest in zip(used, resting))
    return {'death_to_known_ms': spread(times), 'deaths_unseen': unseen,
            'per_change': {'server_cpu_ms': round(server_s * 1000, 2),
                           'reader_cpu_ms': round(reader_s * 1000, 2),
                           'reader_bytes': round(size)}}


def restart(server, fleet, readers):
    """Kill all members and let them join again; return the cost."""
    for reader in readers:
        reader.ask('gone')
    expired = fleet.ask('state')['expired']
    meter = Meter(server, readers)
    joined = fleet.ask('restart')
    ended = time.monotonic()
    reports = wait_for_views(fleet, readers)
    seconds, server_s, reader_s, size = meter.stop()
    result = {'die_s': round(joined['die_seconds'], 2),
              'join_s': round(joined['join_seconds'], 2),
              'known_to_all_after_s': round(
                  max(0, max(r['last'] for r in reports) - ended), 2),
              'sessions_expired': fleet.ask('state')['expired'] - expired,
              'server_cpu_s': round(server_s, 2),
              'reader_cpu_s': round(reader_s, 2),
              # A connection that was lost takes its count away.
              'reader_bytes': round(size) if size > 0 else None}
    if readers[0].kind == KEEPER:
        views = [reader.ask('gone')['views'] for reader in readers]
        result['views'] = max(map(len, views))
        result['views_per_s'] = round(max(map(rate, views)), 2)
    return result


def rate(moments):
    """Return how many of the moments there are in a second."""
    if len(moments) < 2:
        return 0
    return (len(moments) - 1) / (moments[-1] - moments[0])


def outage(server, fleet, readers, members):
    """Stop and start the server; return the members wrongly called down."""
    expired = fleet.ask('state')['expired']
    with asker.Asker(server.address) as judge:
        judge.ask('watch', hosts=list(map(sessions.host, range(members))),
                  most=ASKED)
        server.stop()
        time.sleep(AWAY)
        began = time.monotonic()
        server.start()
        server.wait_ready(lambda: server.mode, 60)
        served = time.monotonic()
        back = wait_back(fleet, members)
        wait_for_views(fleet, readers)
        exact_at = time.monotonic()
        answers = judge.ask('report')
    return {'away_s': AWAY,
            'server_start_s': round(served - began, 2),
            'fleet_back_s': round(back - served, 2),
            'views_exact_s': round(exact_at - served, 2),
            'sessions_expired': fleet.ask('state')['expired'] - expired,
            'answers': answers['answers'],
            'wrong_downs': len(answers['not_up'])}


def wait_back(fleet, members):
    """Wait for all members, VIEWS_LIMIT at most; return when."""
    try:
        process.wait_until(lambda: fleet.ask('state')['there'] == members,
                           VIEWS_LIMIT, 'the fleet is back', interval=0.2)
    except process.NotReady as e:
        report.say('A hiccup: %s' % e)
    return time.monotonic()


def expiry(server, fleet, readers):
    """Kill the fleet; return when the readers knew."""
    # For a time after an outage, readers doubt every death.
    time.sleep(8)
    for reader in readers:
        reader.ask('gone')
    meter = Meter(server, readers)
    fleet.kill()
    killed = time.monotonic()
    # All of them end with their sessions, however late.
    process.wait_until(
        lambda: all(r.ask('report')['nodes'] == 0 for r in readers),
        VIEWS_LIMIT, 'all are gone', interval=0.25)
    _, server_s, reader_s, size = meter.stop()
    gone = [reader.ask('gone')['gone'].values() for reader in readers]
    return {'first_gone_s': round(min(map(min, gone)) - killed, 2),
            'last_gone_s': round(max(map(max, gone)) - killed, 2),
            'server_cpu_s': round(server_s, 2),
            'reader_cpu_s': round(reader_s, 2),
            'reader_bytes': round(size)}


def start_fleet(server, members, per_session):
    """Return a new fleet on an empty server, and the figures of its start."""
    fleet = sessions.Fleet(server.address, GROUP)
    meter = Meter(server, [])
    joined = fleet.ask('start', members=members, per_session=per_session)
    _, server_s, *_ = meter.stop()
    return fleet, {'sessions': math.ceil(members / per_session),
                   'all_joined_s': round(joined['seconds'], 2),
                   'joining_server_cpu_s': round(server_s, 2),
                   'server_cpu_at_rest': round(at_rest(server, [])[0], 4)}


def measure(server, members, per_session, arguments):
    """Return the figures of one fleet."""
    with contextlib.ExitStack() as stack:
        fleet, started = start_fleet(server, members, per_session)
        stack.callback(fleet.kill)
        result = {'fleet': started}
        say(members, 'fleet', started)
        counts = [count for count in arguments.readers
                  if per_session > 1 or count <= MOST_READERS]
        for kind in KINDS:
            for count in counts:
                with opened_readers(kind, count, server, fleet) as (
                        readers, figures, resting):
                    changed = changes(server, fleet, readers, members,
                                      arguments.deaths, resting)
                    for name in ('death_to_known_ms', 'deaths_unseen'):
                        figures[name] = changed[name]
                    if per_session > 1:
                        figures['per_change'] = changed['per_change']
                    else:
                        figures['restart'] = restart(server, fleet, readers)
                        if (kind, count) == (KEEPER, counts[-1]):
                            figures['outage'] = outage(
                                server, fleet, readers, members)
                            figures['expiry'] = expiry(
                                server, fleet, readers)
                result.setdefault(kind, {})[str(count)] = figures
                say(members, '%d of %s' % (count, kind), figures)
        result['server_memory_mb'] = memory_mb([server.pid])
    return result


def say(members, what, figures):
    report.say('%6d members, %s: %s' % (members, what, json.dumps(figures)))


def measure_part(members, per_session, arguments):
    """Return the figures of one fleet on a server of its own.

    A machine that is busy with something else may make it fail: it has three
    attempts, and ``hiccups`` says what ended the others.
    """
    hiccups = []
    while True:
        try:
            with contextlib.ExitStack() as stack:
                directory = stack.enter_context(
                    tempfile.TemporaryDirectory(prefix='sg-bench-'))
                ensemble = stack.enter_context(
                    zookeeper.Ensemble(directory, size=1))
                with ensemble.client() as client:
                    client.ensure_path(GROUP)
                return dict(measure(ensemble.servers[0], members,
                                    per_session, arguments), hiccups=hiccups)
        except AssertionError as e:
            hiccups.append(str(e))
            report.say('A hiccup, once more: %s' % e)
            if len(hiccups) == 3:
                raise


def measure_all(about, arguments):
    """Return the figures of all fleets, those of an earlier run included."""
    part = arguments.output / 'zk.part.json'
    results = {}
    if part.exists():
        earlier = json.loads(part.read_text())
        if earlier['asked'] == about['asked']:
            results = earlier['members']
    for members in arguments.members:
        for name, per_session in (('sessions', 1), ('nodes', PER_SESSION)):
            if name in results.setdefault(str(members), {}):
                continue
            results[str(members)][name] = measure_part(
                members, per_session, arguments)
            part.write_text(json.dumps(
                {'asked': about['asked'], 'members': results}))
    part.unlink()
    return results


def broken_promises(results):
    """Return the promises of the keeper that the figures don't meet."""
    broken = []
    for members, result in results.items():
        for count, figures in result['sessions'][KEEPER].items():
            if figures.get('outage', {}).get('wrong_downs'):
                broken.append('%s members, %s keepers: %s' % (
                    members, count, figures['outage']))
    return broken


def rows(results, fleet):
    """Yield (members, readers, kind, figures) in the order of all tables."""
    for members, result in results.items():
        for count in sorted(result[fleet][KEEPER], key=int):
            for kind in (KEEPER, WATCH):
                yield members, count, kind, result[fleet][kind][count]


def size(count):
    """Return a number of bytes as text; None is an unknown one."""
    if count is None:
        return '?'
    if count < 1000:
        return '%d B' % count
    if count < 1e6:
        return '%d kB' % round(count / 1000)
    return '%.1f MB' % (count / 1e6)


def table(title, heads, lines):
    """Return a csv-table of reStructuredText."""
    return report.table(title, heads, [
        (format(int(members), ','), *line) for members, *line in lines])


def tables(about, results):
    """Return the part for the documentation."""
    keys = 'members', 'readers', 'kind'
    parts = ['Measured on %s: %s; %s.\n' % (
        about['when'], about['machine'], about['zookeeper'])]
    parts.append(table(
        'One change, a hundred members on a session',
        [*keys, 'bytes to a reader', 'CPU of a reader', 'CPU of the server',
         'a death is known, median', 'at most'],
        [[members, count, kind, size(r['per_change']['reader_bytes']),
          '%.2f ms' % r['per_change']['reader_cpu_ms'],
          '%.2f ms' % r['per_change']['server_cpu_ms'],
          '%.1f ms' % r['death_to_known_ms']['median'],
          '%.1f ms' % r['death_to_known_ms']['max']]
         for members, count, kind, r in rows(results, 'nodes')]))
    parts.append(table(
        'A session for each member',
        [*keys, 'first listing, at most', 'a death is known, median',
         'at most', 'memory of a reader'],
        [[members, count, kind, '%.0f ms' % r['first_listing_ms']['max'],
          '%.1f ms' % r['death_to_known_ms']['median'],
          '%.1f ms' % r['death_to_known_ms']['max'],
          '%.0f MB' % r['reader_memory_mb']]
         for members, count, kind, r in rows(results, 'sessions')]))
    parts.append(table(
        'All members restarted at once',
        [*keys, 'all have died and joined', 'all readers know, later',
         'views a second', 'bytes to a reader', 'CPU of a reader',
         'CPU of the server'],
        [[members, count, kind,
          '%.1f s' % (r['restart']['die_s'] + r['restart']['join_s']),
          '%.1f s' % r['restart']['known_to_all_after_s'],
          r['restart'].get('views_per_s', ''),
          size(r['restart']['reader_bytes']),
          '%.2f s' % r['restart']['reader_cpu_s'],
          '%.1f s' % r['restart']['server_cpu_s']]
         for members, count, kind, r in rows(results, 'sessions')]))
    parts.append(table(
        'The ensemble, and all hosts at once',
        ['members', 'all joined after', 'CPU of the server, only pinged',
         'its memory', 'ensemble back: fleet whole after',
         'sessions lost', 'members wrongly down for any keeper',
         'all killed: first gone', 'last gone'],
        [[members, '%.1f s' % r['fleet']['all_joined_s'],
          '%.0f %% of a core' % (100 * r['fleet']['server_cpu_at_rest']),
          '%.0f MB' % r['server_memory_mb'],
          '%.1f s' % last['outage']['fleet_back_s'],
          last['outage']['sessions_expired'], last['outage']['wrong_downs'],
          '%.1f s' % last['expiry']['first_gone_s'],
          '%.1f s' % last['expiry']['last_gone_s']]
         for members, r, last in (
             (members, result['sessions'],
              list(result['sessions'][KEEPER].values())[-1])
             for members, result in results.items())]))
    return '\n'.join(parts + quoted(results))


def quoted(results):
    """Return a substitution for each figure that pages quote."""
    def define(name, text):
        return '.. |%s| replace:: %s' % (name, text)

    found = []
    for members, count, kind, r in rows(results, 'nodes'):
        found.append(define('%s %s %s known' % (kind, members, count),
                            '%.0f ms' % r['death_to_known_ms']['median']))
    for members, count, kind, r in rows(results, 'sessions'):
        name = '%s %s %s ' % (kind, members, count)
        found += [define(name + 'first', '%.0f ms' % r['first_listing_ms'][
                      'max']),
                  define(name + 'memory', '%.0f MB' % r['reader_memory_mb'])]
    for members, result in results.items():
        fleet = result['sessions']['fleet']
        found += [define(members + ' joined', '%.1f s' % fleet[
                      'all_joined_s']),
                  define(members + ' at rest', '%.0f %%' % (
                      100 * fleet['server_cpu_at_rest'])),
                  define(members + ' memory', '%.0f MB' % result['sessions'][
                      'server_memory_mb'])]
    return found + ['']


def picture(results, path):
    """Draw the costs of a change and of a mass restart, keeper and watch."""
    panels = [
        ('Bytes to a reader per change', 'nodes',
         lambda r: r['per_change']['reader_bytes'], size),
        ('CPU of a reader per change', 'nodes',
         lambda r: r['per_change']['reader_cpu_ms'], '%.2f ms'.__mod__),
        ('CPU of the server per change', 'nodes',
         lambda r: r['per_change']['server_cpu_ms'], '%.2f ms'.__mod__),
        ('A death is known, median', 'nodes',
         lambda r: r['death_to_known_ms']['median'], '%.1f ms'.__mod__),
        ('First listing, the last reader', 'sessions',
         lambda r: r['first_listing_ms']['max'], '%.0f ms'.__mod__),
        ('All restarted: bytes to a reader', 'sessions',
         lambda r: r['restart']['reader_bytes'], size),
        ('All restarted: CPU of a reader', 'sessions',
         lambda r: r['restart']['reader_cpu_s'], '%.2f s'.__mod__),
        ('All restarted: CPU of the server', 'sessions',
         lambda r: r['restart']['server_cpu_s'], '%.1f s'.__mod__)]
    colors = {KEEPER: report.COLORS['zk'], WATCH: '#7a9cc6'}
    plot = report.pyplot()
    figure, axes = plot.subplots(2, 4, sharey='row', figsize=(15, 7))
    for axis, (title, fleet, value, text) in zip(axes.flat, panels):
        lines = list(rows(results, fleet))
        bars = axis.barh(
            range(len(lines)), [max(0, value(r) or 0) for *_, r in lines],
            color=[colors[kind] for _, _, kind, _ in lines])
        axis.bar_label(bars, [text(value(r)) for *_, r in lines], padding=3,
                       fontsize=8)
        axis.set_yticks(range(len(lines)), [
            '%s members, %s x %s' % (members, count, kind)
            for members, count, kind, _ in lines], fontsize=8)
        axis.margins(x=0.25)
        axis.set_xticks([])
        axis.set_title(title, fontsize=10)
    axes[0][0].invert_yaxis()
    axes[1][0].invert_yaxis()
    figure.suptitle('What one change and a restart of everybody cost: the '
                    'keeper, and a bare socket with a persistent recursive '
                    'watch')
    figure.tight_layout()
    report.save(figure, path)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--members', type=int, nargs='+',
                        default=[1000, 10000])
    parser.add_argument('--readers', type=int, nargs='+',
                        default=[1, 100, 20])
    parser.add_argument('--deaths', type=int, default=40)
    parser.add_argument('--output', type=pathlib.Path,
                        default=HERE / 'results')
    arguments = parser.parse_args()
    sessions.allow_files(max(arguments.members) + 1000)
    arguments.output.mkdir(parents=True, exist_ok=True)
    about = report.about(
        zookeeper='one server, sessions of 4 s, names of %d bytes' % len(
            'compute-00000.example.org@0123456789abcdef'),
        asked=[arguments.members, arguments.readers, arguments.deaths])
    results = measure_all(about, arguments)
    path = report.write(arguments.output, 'zk',
                        {'about': about, 'members': results})
    (arguments.output / 'zk.rst').write_text(tables(about, results))
    picture(results, path)
    broken = broken_promises(results)
    if broken:
        raise SystemExit('Not as promised:\n' + '\n'.join(broken))


if __name__ == '__main__':
    main()
