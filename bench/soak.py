# SPDX-License-Identifier: Apache-2.0

"""Two thousand members of each driver, at rest and under churn, for long.

Real stores (MariaDB, memcached, ZooKeeper), a writer and readers for each
driver, all at the same time on one machine:

db    one process for all services: the driver's own heartbeats, saved by a
      light row instead of Nova's object (soak_part.py);
mc    one process for all services, with the driver;
zk    one process with a session and a record for each member, no keepers
      (sessions.py), and some real members, each a process with its keeper.

Stores and the processes that stand for thousands of hosts get a higher
priority: a busy machine must not look like the loss of two thousand hosts.

The readers ask about all members repeatedly. In the first part of the time
nothing changes; then members are stopped, leave, are killed and come back; in
the last part nothing changes.

    python bench/soak.py [--minutes 20] [--members 2000] [--keepers 24]
        [--readers 2] [--interval 10] [--down-time 60]
        [--output bench/results] [--without-picture]

Failures, with exit code 1:

* a *false transition*: an answer other than "up" about a joined member
  (``SLACK`` seconds after it joined), or "up" about one that has ended, past
  the time in which its driver promises to detect that;
* memory, threads or descriptors of a reader, a writer or a keeper that grow:
  the Theil-Sen slope of the samples after the warm-up.

Writes soak.json, soak.rst and soak.svg.
"""

import argparse
import bisect
import collections
import contextlib
import datetime
import json
import os
import pathlib
import platform
import random
import statistics
import sys
import tempfile
import threading
import time

from nova_servicegroup.tests.fixtures import mariadb
from nova_servicegroup.tests.fixtures import member
from nova_servicegroup.tests.fixtures import memcached
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import sessions
from nova_servicegroup.tests.fixtures import talker
from nova_servicegroup.tests.fixtures import zookeeper

HERE = pathlib.Path(__file__).parent
GROUP = '/servicegroups/compute'
DB, MC, ZK = DRIVERS = 'db', 'mc', 'zk'
#: seconds in which a change may come to a reader, beside what is promised and
#: the longest pass that the reader made
SLACK = 5
#: seconds of a ZooKeeper session
SESSION = 4
#: seconds between the passes of a reader
PAUSES = {DB: 2.0, MC: 1.0, ZK: 1.0}
#: parts of the time: no changes, members come and go, no changes
REST, CHURN = 0.4, 0.45
#: seconds between changes of a driver's members
EVERY = 2.0
#: part of the members that may be away
AWAY = 0.05
#: seconds between samples, and the part of them that is warm-up
SAMPLE, WARM_UP = 5.0, 0.25
#: of the stores, and of those that stand for many hosts; as root only
PRIORITY = -10
#: what a process may gain in the time that is judged: MB and part of all
GROWTH_MB, GROWTH_PART = 2.0, 0.05


class Part(talker.Talker):
    """A process of soak_part.py."""

    def __init__(self, what, file, **config):
        file.write_text(json.dumps(config))
        super().__init__(HERE / 'soak_part.py', what, file)


class Reader(Part):

    def __init__(self, number, driver, output, **config):
        self.name = '%s reader %d' % (driver, number)
        self.driver = driver
        self.output = output
        super().__init__('read', output.with_suffix('.config'),
                         driver=driver, output=str(output),
                         pause=PAUSES[driver], **config)

    def begin(self):
        """Wait for its first pass; return its processes by name."""
        keeper = self.hear()['keeper']
        return {self.name: self.pid,
                **({self.name + ', keeper': keeper} if keeper else {})}

    def heard(self):
        """Return ({host: [(at, state, told)]}, passes, longest pass)."""
        answers = collections.defaultdict(list)
        passes = longest = 0
        for line in self.output.read_text().splitlines():
            entry = json.loads(line)
            if isinstance(entry[1], str):
                at, host, state, told = entry
                answers[host].append((at, state, told))
            else:
                _, passes, longest = entry
        return answers, passes, longest


class Members:
    """The members of one driver, and the history of each."""

    #: of the process that stands for all of them
    pid = None

    def __init__(self, driver, hosts):
        self.driver = driver
        self.hosts = hosts
        #: host -> [(at, what)], what one of joined, stop, leave, kill
        self.history = {host: [] for host in hosts}
        self.away = {}      # host -> when it shall be back

    def note(self, host, what, at):
        self.history[host].append((at, what))

    def end(self, host, what, back_at):
        at = time.monotonic()
        self.do(host, what)
        self.note(host, what, at)
        self.away[host] = back_at

    def come_back(self, host):
        self.do(host, 'join')
        self.note(host, 'joined', time.monotonic())
        del self.away[host]

    def do(self, host, what):
        raise NotImplementedError


class Written(Members):
    """The members of a writer process."""

    whats = ('stop', 'leave', 'kill')

    def __init__(self, driver, hosts, directory, **config):
        super().__init__(driver, hosts)
        self.writer = Part('write', directory / (driver + '-writer'),
                           driver=driver, hosts=hosts, **config)
        self.pid = self.writer.pid
        self.processes = {driver + ' writer': self.pid}

    def start(self):
        self.writer.ask('join')
        for host in self.hosts:
            self.note(host, 'joined', time.monotonic())

    def do(self, host, what):
        self.writer.ask(what, host=host)


class Fleet(Members):
    """Sessions without a keeper behind them."""

    whats = ('kill',)

    def __init__(self, count, address):
        super().__init__(ZK, [sessions.host(n) for n in range(count)])
        self.fleet = sessions.Fleet(address, GROUP, SESSION * 1000)
        self.pid = self.fleet.pid
        self.processes = {}

    def start(self):
        self.fleet.ask('start', members=len(self.hosts), per_session=1)
        for host in self.hosts:
            self.note(host, 'joined', time.monotonic())

    def do(self, host, what):
        number = self.hosts.index(host)
        if what == 'join':
            self.fleet.ask('join_one', member=number)
        else:
            # None while its session is away.
            process.wait_until(
                lambda: self.fleet.ask('die', member=number), 60, 'a session')


class Keepers(Members):
    """Processes that are members by the driver, with a keeper each."""

    whats = ('stop', 'kill')
    #: never touched, and watched for what they use
    calm = 2

    def __init__(self, count, address, directory, interval, down_time):
        super().__init__(ZK, ['keeper-%02d' % n for n in range(count)])
        self.members = {host: member.Member(
            directory / host, host, address, interval=interval,
            down_time=down_time) for host in self.hosts}
        self.processes = {}

    def start(self):
        for host in self.hosts:
            self.members[host].start().wait_joined(60)
            self.note(host, 'joined', time.monotonic())
        for host in self.hosts[:self.calm]:
            self.processes['zk member ' + host] = self.members[host].pid
            self.processes['zk member %s, keeper' % host] = (
                self.members[host].keeper_pid)

    def do(self, host, what):
        one = self.members[host]
        if what == 'join':
            # The log of an earlier life would say that it joined.
            one.log_path.unlink()
            one.start().wait_joined(60)
        elif what == 'stop':
            one.stop()
        else:
            one.kill()


class Samples(threading.Thread):
    """Memory, threads and descriptors of processes, every SAMPLE seconds."""

    def __init__(self, processes):
        super().__init__(daemon=True)
        self.processes = processes
        self.began = time.monotonic()
        #: name -> [(seconds, MB, threads, descriptors)]
        self.samples = {name: [] for name in processes}
        self.loads = []
        self._stopping = threading.Event()

    def run(self):
        while not self._stopping.wait(SAMPLE):
            at = round(time.monotonic() - self.began, 1)
            self.loads.append(os.getloadavg()[0])
            for name, pid in self.processes.items():
                # One that ended is missing, which is judged.
                with contextlib.suppress(OSError):
                    self.samples[name].append((at, *usage(pid)))

    def stop(self):
        self._stopping.set()
        self.join()


def usage(pid):
    """Return (MB, threads, descriptors) of a process."""
    status = dict(
        line.split(':', 1) for line in pathlib.Path(
            '/proc/%d/status' % pid).read_text().splitlines())
    return (int(status['VmRSS'].split()[0]) / 1024, int(status['Threads']),
            len(os.listdir('/proc/%d/fd' % pid)))


def slope(points):
    """Return the Theil-Sen slope: the median over all pairs of points."""
    points = points[::max(1, len(points) // 200)]
    slopes = [(y2 - y1) / (x2 - x1) for i, (x1, y1) in enumerate(points)
              for x2, y2 in points[i + 1:] if x2 > x1]
    return statistics.median(slopes) if slopes else 0.0


def judge_usage(samples, seconds):
    """Return the figures of each process, with what grows."""
    found = {}
    for name, rows in samples.items():
        late = [row for row in rows if row[0] >= WARM_UP * seconds]
        lasted = late[-1][0] - late[0][0] if late else 0
        growth = [slope([(row[0], row[i]) for row in late]) * lasted
                  for i in (1, 2, 3)]
        median = [statistics.median(row[i] for row in late)
                  for i in (1, 2, 3)] if late else [0, 0, 0]
        grows = [what for what, gained, most in zip(
            ('memory', 'threads', 'descriptors'), growth,
            (max(GROWTH_MB, GROWTH_PART * median[0]), 0.9, 0.9))
            if gained > most]
        if not rows or rows[-1][0] < seconds - 4 * SAMPLE:
            grows.append('ended')
        found[name] = {
            'memory_mb': round(median[0], 1), 'threads': median[1],
            'descriptors': median[2],
            'growth_mb': round(growth[0], 2),
            'growth_threads': round(growth[1], 2),
            'growth_descriptors': round(growth[2], 2), 'bad': grows}
    return found


def promised(driver, what, down_time):
    """Return the seconds after which an ended member is no longer up."""
    return down_time if what == 'kill' and driver != ZK else 0


def answers_in(answers, start, end):
    """Yield the answers that are valid between two moments."""
    first = max(0, bisect.bisect_right(answers, start, key=lambda a: a[0]) - 1)
    for at, state, told in answers[first:]:
        if at >= end:
            return
        yield max(at, start), state, told


def judge(members, answers, began, ended, slack, down_time):
    """Return the false transitions of one reader, a list of dicts.

    :param began: from when on its answers count, monotonic
    """
    false = []
    for host, history in members.history.items():
        for (at, what), (until, _) in zip(
                history, [*history[1:], (ended, None)]):
            if what == 'joined':
                expected, after = 'up', at + slack
            else:
                expected = 'not up'
                after = at + slack + promised(members.driver, what,
                                              down_time)
            after = max(after, began)
            if after >= until:
                continue
            wrong = [(when, state, told) for when, state, told in answers_in(
                answers.get(host, []), after, until)
                if (state == 'up') != (expected == 'up')
                or expected == 'up' and not told]
            if host not in answers:
                wrong.append((after, 'never asked', None))
            false += [{'host': host, 'expected': expected, 'state': state,
                       'told': told, 'after': what,
                       'seconds_after': round(when - at, 1)}
                      for when, state, told in wrong]
    return false


def churn(groups, ends, down_time):
    """Stop and restart members until then; return the number of each kind."""
    done = collections.Counter()
    due = time.monotonic()
    while time.monotonic() < ends:
        for members in groups:
            now = time.monotonic()
            for host in [h for h, at in members.away.items() if at <= now]:
                members.come_back(host)
                done['%s join' % members.driver] += 1
            calm = getattr(members, 'calm', 0)
            there = [h for h in members.hosts[calm:] if h not in members.away]
            if len(members.away) >= max(1, AWAY * len(members.hosts)):
                continue
            host, what = random.choice(there), random.choice(members.whats)
            # Some only restart, some are away for long enough to be down.
            members.end(host, what, now + random.choice(
                (0.5, 3, down_time / 2, down_time * 1.5)))
            done['%s %s' % (members.driver, what)] += 1
        due = max(due + EVERY, time.monotonic() - EVERY)
        time.sleep(max(0, min(due, ends) - time.monotonic()))
    return done


def prepare_database(server, hosts):
    """Make the services table with all rows; return its URL."""
    server.query(None, 'CREATE DATABASE soak')
    url = server.url('soak')
    # Not before it is known whether warnings are wanted.
    from nova.db.main import api as main_db
    from nova.db.main import models
    import soak_part
    soak_part.open_database(url)
    engine = main_db.context_manager.writer.get_engine()
    now = datetime.datetime.now(datetime.timezone.utc).replace(tzinfo=None)
    for model in (models.Service, models.ComputeNode):
        model.__table__.create(engine)
    with engine.begin() as connection:
        connection.execute(models.Service.__table__.insert(), [
            {'host': host, 'topic': 'compute', 'binary': 'nova-compute',
             'report_count': 0, 'disabled': False, 'forced_down': False,
             'version': 66, 'deleted': 0, 'created_at': now,
             'uuid': '00000000-0000-4000-8000-%012d' % number}
            for number, host in enumerate(hosts)])
    engine.dispose()
    return url


def run(arguments, directory, stack):
    """Run the whole test; return the result."""
    hosts = ['compute-%05d.example.org' % n for n in range(arguments.members)]
    times = {'report_interval': arguments.interval,
             'service_down_time': arguments.down_time}
    database = stack.enter_context(mariadb.MariaDB(directory / 'db'))
    memcache = stack.enter_context(memcached.Memcached(directory / 'mc'))
    ensemble = stack.enter_context(
        zookeeper.Ensemble(directory / 'zk', size=1))
    with ensemble.client() as client:
        client.ensure_path(GROUP)
    url = prepare_database(database, hosts)
    options = {
        DB: {'': dict(times, servicegroup_driver=DB)},
        MC: {'': dict(times, servicegroup_driver=MC),
             'cache': {'memcache_servers': [memcache.address]}},
        ZK: {'': dict(times, servicegroup_driver=ZK),
             'zookeeper': {'address': ensemble.address,
                           'recv_timeout': SESSION * 1000}}}
    groups = [
        Written(DB, hosts, directory, options=options[DB], database=url),
        Written(MC, hosts, directory, options=options[MC], database=None),
        Fleet(arguments.members, ensemble.address),
        Keepers(arguments.keepers, ensemble.address, directory,
                arguments.interval, arguments.down_time)]
    for members in groups:
        for name in ('writer', 'fleet'):
            if hasattr(members, name):
                stack.callback(getattr(members, name).kill)
    keepers = groups[-1]
    for one in keepers.members.values():
        stack.callback(one.stop)
    for pid in (database.pid, memcache.process.pid,
                *(server.pid for server in ensemble.servers),
                *(members.pid for members in groups if members.pid)):
        with contextlib.suppress(PermissionError):
            os.setpriority(os.PRIO_PROCESS, pid, PRIORITY)
    for members in groups:
        members.start()
        say('%d members of %s have joined' % (
            len(members.hosts), members.driver))
    asked = {driver: [h for m in groups if m.driver == driver
                      for h in m.hosts] for driver in DRIVERS}
    readers, processes = [], {}
    for driver in DRIVERS:
        for number in range(1, arguments.readers + 1):
            reader = Reader(
                number, driver, directory / ('%s-%d' % (driver, number)),
                hosts=asked[driver], options=options[driver],
                database=url if driver == DB else None)
            stack.callback(reader.kill)
            readers.append(reader)
    for reader in readers:
        processes.update(reader.begin())
    for members in groups:
        processes.update(members.processes)
    # What is seen of the start is not of a soak.
    time.sleep(SLACK)
    samples = Samples(processes)
    began = samples.began
    cpu = {name: process.cpu_seconds(pid) for name, pid in processes.items()}
    samples.start()
    seconds = arguments.minutes * 60
    say('Rest for %d s' % (REST * seconds))
    time.sleep(REST * seconds)
    say('Churn for %d s' % (CHURN * seconds))
    done = churn(groups, began + (REST + CHURN) * seconds,
                 arguments.down_time)
    say('Quiet again for the rest')
    time.sleep(max(0, began + seconds - time.monotonic()))
    ended = time.monotonic()
    samples.stop()
    expired = groups[2].fleet.ask('state')['expired']
    used = {name: round(100 * (process.cpu_seconds(pid) - cpu[name])
                        / (ended - began), 1)
            for name, pid in processes.items()
            if samples.samples[name] and os.path.exists('/proc/%d' % pid)}
    result = assess(arguments, groups, readers, samples, seconds, began,
                    ended, done, used)
    # Of members that lived: then their loss is no fault of the readers.
    result['sessions_expired'] = expired
    return result


def assess(arguments, groups, readers, samples, seconds, began, ended, done,
           used):
    """Return the result for soak.json."""
    result = {'drivers': {}, 'readers': {}, 'false_transitions': [],
              'changes': dict(done)}
    for reader in readers:
        answers, passes, longest = reader.heard()
        slack = SLACK + longest
        false, transitions, doubted = [], 0, 0
        for members in groups:
            if members.driver == reader.driver:
                false += judge(members, answers, began, ended, slack,
                               arguments.down_time)
        for host in answers:
            late = [entry for entry in answers[host] if entry[0] > began]
            transitions += len(late)
            doubted += sum(state == 'unknown' for _, state, _ in late)
        hosts = sum(len(m.hosts) for m in groups
                    if m.driver == reader.driver)
        result['readers'][reader.name] = {
            'passes': passes, 'answers': passes * hosts,
            'longest_pass_s': round(longest, 2),
            'transitions': transitions, 'doubted': doubted,
            'false_transitions': len(false),
            'false_states': dict(collections.Counter(
                entry['state'] for entry in false))}
        for state in sorted({entry['state'] for entry in false}):
            # The first ones of each kind tell enough.
            result['false_transitions'] += [
                dict(entry, reader=reader.name) for entry in false
                if entry['state'] == state][:50]
    result['processes'] = judge_usage(samples.samples, seconds)
    for name, percent in used.items():
        result['processes'][name]['cpu_percent'] = percent
    result['load'] = {
        'median': round(statistics.median(samples.loads), 1),
        'max': round(max(samples.loads), 1)}
    result['samples'] = samples.samples
    return result


def report(result):
    """Return the part for the documentation."""
    asked = result['asked']
    lines = [
        'Measured on %s: %s. %d members of each driver and %d with keepers, '
        '%g minutes; the load of the machine was %s, at most %s, with '
        'everything that ran on it.\n' % (
            result['when'], result['machine'], asked['members'],
            asked['keepers'], asked['minutes'], result['load']['median'],
            result['load']['max'])]
    lines.append('Changes: %s. Sessions of the fleet that ran out: %d.\n' % (
        ', '.join('%d times %s' % (count, what)
                  for what, count in sorted(result['changes'].items())),
        result['sessions_expired']))

    def table(title, heads, rows):
        lines.append('.. csv-table:: %s\n   :header: %s\n\n%s\n' % (
            title, ', '.join('"%s"' % head for head in heads), ''.join(
                '   %s\n' % ', '.join('"%s"' % cell for cell in row)
                for row in rows)))

    table('What the readers answered',
          ['reader', 'answers', 'changed answers', 'of these in doubt',
           'false', 'longest pass'],
          [[name, '{:,}'.format(r['answers']), r['transitions'],
            r['doubted'], ' '.join(
                [str(r['false_transitions'])]
                + ['%s: %d' % item for item in r['false_states'].items()]),
            '%.2f s' % r['longest_pass_s']]
           for name, r in result['readers'].items()])
    table('What the processes used, and gained after the warm-up',
          ['process', 'memory', 'gained', 'threads', 'gained',
           'descriptors', 'gained', 'CPU', 'bad'],
          [[name, '%.1f MB' % p['memory_mb'], '%.2f MB' % p['growth_mb'],
            '%g' % p['threads'], '%g' % p['growth_threads'],
            '%g' % p['descriptors'], '%g' % p['growth_descriptors'],
            '%s %%' % p.get('cpu_percent', '?'), ' '.join(p['bad'])]
           for name, p in result['processes'].items()])
    return '\n'.join(lines)


def as_json(result):
    """Return it as JSON, the samples of a process on one line."""
    rest = {name: value for name, value in result.items()
            if name != 'samples'}
    samples = ',\n'.join(
        '  %s: %s' % (json.dumps(name), json.dumps(
            [[round(value, 2) for value in row] for row in rows]))
        for name, rows in result['samples'].items())
    return '%s,\n "samples": {\n%s\n }\n}\n' % (
        json.dumps(rest, indent=1)[:-2], samples)


def picture(result, path):
    """Draw memory, threads and descriptors over the time."""
    import matplotlib
    matplotlib.use('svg')
    # The same picture from the same figures.
    matplotlib.rcParams['svg.hashsalt'] = 'soak'
    from matplotlib import pyplot
    figure, axes = pyplot.subplots(3, 1, sharex=True, figsize=(9, 11))
    end = result['asked']['minutes']
    for axis, (index, what) in zip(axes, enumerate(
            ('memory, MB', 'threads', 'descriptors'), 1)):
        for number, (name, rows) in enumerate(result['samples'].items()):
            axis.plot([row[0] / 60 for row in rows],
                      [row[index] for row in rows], label=name, linewidth=1,
                      color=pyplot.cm.tab20(number % 20))
        axis.axvspan(end * REST, end * (REST + CHURN), alpha=0.08)
        axis.set_ylabel(what)
        axis.set_ylim(bottom=0)
    axes[0].set_title('%d members of each driver; churn in the shaded part' %
                      result['asked']['members'])
    axes[2].set_xlabel('minutes')
    axes[2].legend(fontsize=7, ncols=4, loc='upper center',
                   bbox_to_anchor=(0.5, -0.2))
    figure.tight_layout()
    figure.savefig(path, metadata={'Date': None})


def say(text):
    print(text, flush=True)


def main():
    parser = argparse.ArgumentParser(
        description=__doc__.partition('\n')[0])
    parser.add_argument('--minutes', type=float, default=20)
    parser.add_argument('--members', type=int, default=2000)
    parser.add_argument('--keepers', type=int, default=24)
    parser.add_argument('--readers', type=int, default=2)
    parser.add_argument('--interval', type=int, default=10)
    parser.add_argument('--down-time', type=int, default=60)
    parser.add_argument('--output', type=pathlib.Path,
                        default=HERE / 'results')
    parser.add_argument('--without-picture', action='store_true')
    arguments = parser.parse_args()
    # Those of eventlet about itself.
    os.environ['PYTHONWARNINGS'] = 'ignore'
    sessions.allow_files(arguments.members + 1000)
    with contextlib.ExitStack() as stack:
        directory = pathlib.Path(stack.enter_context(
            tempfile.TemporaryDirectory(prefix='sg-soak-')))
        result = run(arguments, directory, stack)
    result.update(
        when=datetime.date.today().isoformat(),
        machine='%s, %d cores, Linux %s, Python %s' % (
            platform.machine(), os.cpu_count(), platform.release(),
            platform.python_version()),
        asked={name: value for name, value in vars(arguments).items()
               if name not in ('output', 'without_picture')})
    arguments.output.mkdir(parents=True, exist_ok=True)
    (arguments.output / 'soak.json').write_text(as_json(result))
    (arguments.output / 'soak.rst').write_text(report(result))
    if not arguments.without_picture:
        picture(result, arguments.output / 'soak.svg')
    say(report(result))
    bad = [name for name, p in result['processes'].items() if p['bad']]
    false = sum(r['false_transitions'] for r in result['readers'].values())
    say('%d false transitions; growing: %s' % (
        false, ', '.join(bad) or 'nothing'))
    return 1 if false or bad else 0


if __name__ == '__main__':
    sys.exit(main())
