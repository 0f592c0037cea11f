# SPDX-License-Identifier: Apache-2.0

"""The doctor on real databases and memcacheds."""

import json
import os
import re
import subprocess
import sys
import threading
import time
import types

import pytest

from nova_servicegroup.cmd import deployment
from nova_servicegroup.cmd import doctor as command
from nova_servicegroup import doctor
from nova_servicegroup.doctor import members
from nova_servicegroup.doctor import nova as nova_checks
from nova_servicegroup.doctor import processes
from nova_servicegroup.doctor import site as sites
from nova_servicegroup.doctor import zookeeper
from nova_servicegroup import liveness
from nova_servicegroup.memcached import wire
from nova_servicegroup.tests.fixtures.findings import found
from nova_servicegroup.tests.fixtures import memcached
from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process


def test_the_output_for_people(cells):
    cells.configure(service_down_time=10)
    done = cells.command('doctor', '--only', 'configuration', '--only',
                         'database', code=2)
    summary, empty, *lines = done.stdout.splitlines()
    assert summary == 'SERVICEGROUP CRITICAL - 1 critical, 4 ok'
    assert lines[:8] == [
        'CRITICAL configuration: report_interval is 10 s and '
        'service_down_time 10 s:', '         every service would be down '
        'between two heartbeats.',
        '         Why: With no lost heartbeats a living service is down.',
        '         Fix: [DEFAULT]', '              service_down_time = 60', '',
        '              on every node', '']
    assert lines[8].startswith('OK       database: The API database')
    assert '\033' not in done.stdout
    assert command.printed([{'Level': 'OK', 'Check': 'c', 'What': 'w',
                             'Why': None, 'Fix': None}], True).endswith(
        '\033[32mOK\033[0m       c: w\n')
    # One line on stderr for other formats, so that stdout can be parsed.
    done = cells.command('doctor', '--only', 'configuration', '-f', 'value',
                         '-c', 'Level', '-c', 'Check', code=2)
    assert done.stdout == 'CRITICAL configuration\n'
    assert done.stderr == 'SERVICEGROUP CRITICAL - 1 critical\n'


@pytest.mark.parametrize('options, level, expected', [
    ({'report_interval': 60, 'service_down_time': 60}, 'CRITICAL',
     'every service would be down'),
    ({'report_interval': 30, 'service_down_time': 60}, 'WARNING',
     'less than 3 heartbeats'),
    ({'report_interval': 0}, 'CRITICAL', 'report_interval = 10'),
    ({'outage_policy': 'down'}, 'WARNING', 'outage_policy is down'),
    ({'mass_failure_threshold': 2}, 'WARNING', 'turns the guard off'),
    ({'also_report': 'mc,x'}, 'CRITICAL', 'x'),
    ({'also_report': 'zk', 'recv_timeout': 40000}, 'WARNING',
     'more than half of service_down_time'),
    ({'also_report': 'mc', 'view_refresh': 30}, 'WARNING',
     'more than a quarter of service_down_time'),
    ({'also_report': 'mc', 'memcache_servers': ''}, 'CRITICAL',
     '[cache] memcache_servers')])
def test_options_that_do_not_fit(tmp_path, options, level, expected):
    options = {'memcache_servers': 'localhost:11211', **options}
    sections = {
        'DEFAULT': ('report_interval', 'service_down_time'),
        'servicegroup': ('outage_policy', 'mass_failure_threshold',
                         'also_report', 'view_refresh'),
        'cache': ('memcache_servers',), 'zookeeper': ('recv_timeout',)}
    config = nova.write_config(tmp_path / 'nova.conf', {
        section: {name: options[name] for name in names if name in options}
        for section, names in sections.items()})
    with open(config, 'a') as file:
        file.write('address = zk1:2181\n')
    site = sites.Site([str(config)])
    row, = [one for one in nova_checks.configuration(site)
            if one.level is not doctor.Level.OK]
    assert (row.level.name, expected in row.what) == (level, True), row
    assert row.fix


def test_cells_that_do_not_answer(cells):
    (cells.directory / 'cell2').unlink()
    (cells.directory / 'cell2').mkdir()
    result = found(cells.command, 2)
    row, = result['database']
    assert '(cell2) does not answer' in row['What']
    (cells.directory / 'api').unlink()
    (cells.directory / 'api').mkdir()
    result = found(cells.command, 2)
    row, = result['database']
    assert 'The API database does not answer' in row['What']
    assert result['mixed-deployment'][0]['Level'] == 'UNKNOWN'


@pytest.mark.parametrize('section, option, check, url', [
    ('api_database', 'connection', 'database',
     'mysql+pymysql://u:x@secret@h/d'),
    ('api_database', 'connection', 'database',
     'mysql+pymysql://u:x@y:secret@h/d'),
    ('DEFAULT', 'transport_url', 'database', 'rabbit://u:secret#x@h'),
    ('DEFAULT', 'transport_url', 'nova', 'rabbit://u:secret#x@h')])
def test_malformed_urls_keep_their_secret(cells, section, option, check, url):
    cells.config.write_text(re.sub(
        r'(\[%s\][^[]*\n%s = ).*' % (section, option), r'\g<1>' + url,
        cells.config.read_text()))
    row = found(cells.command, 2, '--only', check, skip=()).the_one(check)
    assert 'secret' not in str(row)
    assert '[%s] %s' % (section, option) in row['What']
    assert '%40 for @' in row['What']


# Services that are down, or in doubt


def test_everybody_is_in_doubt(cells):
    for number in range(6):
        cells.add_service('cell1', 'c%d' % number, age=9000)
    row = found(cells.command, 2).the_one('services')
    assert row['Level'] == 'CRITICAL'
    assert row['What'] == (
        'The state of 6 of 6 services is unknown: too much of its group is '
        'silent at the same time (6).')
    assert 'nova-servicegroup list --unknown' in row['Fix']
    assert 'nova-servicegroup force-down --silent' in row['Fix']
    done = cells.command('upgrade', 'check', '--json', code=2)
    result, = [one for one in json.loads(done.stdout)['checks']
               if one['check'] == 'services']
    assert result['result'] == 2 and 'unknown' in result['details']


def test_services_that_are_down(cells):
    for number in range(20):
        cells.add_service('cell1', 'up%d' % number)
    cells.add_service('cell1', 'off', age=9000, forced_down=1)
    # Not together.
    for number in range(6):
        cells.add_service('cell1', 'c%d' % number,
                          age=9000 + 50000 * number)
    cells.add_service('cell0', 'boss', 'nova-conductor', age=9000)
    row = found(cells.command, 1).the_one('services')
    assert row['Level'] == 'WARNING'
    assert row['What'] == (
        '7 of 28 services are down, and not forced down: nova-compute on c0, '
        'nova-compute on c1, nova-compute on c2, nova-compute on c3, '
        'nova-compute on c4 and 2 more.')
    first = row['Fix'].splitlines()[0].split()
    assert first == ['nova-servicegroup', 'explain', 'c0', '--service',
                     'nova-compute']
    assert 'down' in cells.command(*first[1:]).stdout


def test_a_command_of_a_fix_runs_nothing_else(cells):
    for number in range(3):
        cells.add_service('cell1', 'up%d' % number)
    cells.add_service('cell1', 'a;b\nc', age=9000)
    row = found(cells.command, 1).the_one('services')
    assert row['Fix'].startswith(
        "nova-servicegroup explain 'a;b\\nc' --service nova-compute\n")


@pytest.mark.parametrize('reasons, level', [
    ('RETURNING HEARTBEAT', 'WARNING'), ('RETURNING RETURNING', 'CRITICAL'),
    ('OUTAGE HEARTBEAT', 'CRITICAL'), ('MASS_FAILURE SILENT', 'CRITICAL')])
def test_how_bad_a_doubt_is(reasons, level):
    states = {'HEARTBEAT': 'UP', 'SILENT': 'DOWN'}
    found = [deployment.Service(
        {'host': 'h', 'binary': 'nova-compute', 'topic': 'compute'}, None,
        liveness.Verdict(liveness.State[states.get(name, 'UNKNOWN')],
                         liveness.Reason[name]), None)
        for name in reasons.split()]
    site = types.SimpleNamespace(
        records=[(one, None) for one in found], driver='db',
        deployment=types.SimpleNamespace(
            failures=[], service=lambda record, cell: record))
    assert doctor.worst(members.services(site)).name == level


def test_an_absent_cell_is_no_absent_host(tmp_path):
    """Whatever asks first: only then it is known which cells answer."""
    class Deployment:
        failures = []

        def records(self):
            self.failures = ['cell B does not answer']
            return [({'host': 'a', 'topic': 'compute'}, 'A')]

    site = sites.Site([str(nova.write_config(tmp_path / 'nova.conf', {
        'api_database': {'connection': 'sqlite://'}}))])
    site.deployment = Deployment()
    assert site.hosts('compute') is None


def test_one_host_in_two_cells(cells):
    for cell in ('cell1', 'cell2'):
        cells.add_service(cell, 'twin')
    row = found(cells.command, 2).the_one('duplicate-hosts')
    assert 'twin (cell1, cell2)' in row['What']


# ZooKeeper


def test_a_server_that_answers_nothing_is_lost(tmp_path):
    def close_all():
        while True:
            try:
                connection, _ = server.accept()
            except OSError:
                return
            with connection:
                # Unread bytes would reset the connection.
                connection.recv(4)

    with process.socket.create_server((process.LOOPBACK, 0)) as server:
        thread = threading.Thread(target=close_all, daemon=True)
        thread.start()
        config = nova.write_config(tmp_path / 'nova.conf', {
            'zookeeper': {'address': '%s:%d' % server.getsockname()}})
        with pytest.raises(doctor.Unreachable) as lost:
            list(zookeeper.servers(sites.Site([str(config)])))
        server.shutdown(process.socket.SHUT_RDWR)
        thread.join(9)
    assert ('No ZooKeeper server can be used' in str(lost.value)
            and 'closes connections' in str(lost.value))


# memcached


@pytest.fixture
def store(cells):
    with memcached.Memcached(cells.directory / 'memcached') as store:
        use_memcached(cells, store.address)
        yield store


def use_memcached(cells, *addresses, **options):
    cells.configure(servicegroup_driver='mc')
    with open(cells.config, 'a') as config:
        config.write('[cache]\nmemcache_servers = %s\n' % ','.join(addresses))


def report(cells, store, host):
    """Store a heartbeat as a service does."""
    stamp = wire.stamp_of(cells.now)
    store.raw_set(wire.key('compute', host),
                  wire.encode(stamp, cells.now, {}), wire.FLAG_PICKLED)


def test_all_is_well_with_mc(cells, store):
    cells.add_service('cell1', 'a', age=9000)
    report(cells, store, 'a')
    result = found(cells.command, 0)
    assert not any(result.values())
    assert 'memcached 1.' in result.text and 'at %s answers in' % (
        store.address) in result.text
    assert 'The clocks of memcached at' in result.text
    assert '1 of 1 services are up by mc.' in result.text


def test_services_that_report_by_another_driver(cells, store):
    cells.add_service('cell1', 'a')
    cells.add_service('cell2', 'b')
    cells.add_service('cell2', 'c', age=9000)
    cells.add_service('cell2', 'dead', age=9000)
    for host in 'bc':
        report(cells, store, host)
    rows = found(cells.command, 2)['mixed-deployment']
    levels = {row['What']: row['Level'] for row in rows}
    assert levels == {
        'Services that were never in the store of mc, on: a, dead.':
            'WARNING',
        'Services that report by db and not by mc, on: a.': 'CRITICAL',
        'Services that report by db, too, on: b.': 'WARNING'}
    assert 'servicegroup_driver = mc' in rows[1]['Fix']
    with open(cells.config, 'a') as config:
        config.write('[servicegroup]\nalso_report = db\n')
    assert len(found(cells.command, 2)['mixed-deployment']) == 2


def test_memcached_servers_that_are_lost(cells, store):
    lost = '127.0.0.1:%d' % process.free_port()
    use_memcached(cells, store.address, lost)
    row = found(cells.command, 1).the_one('memcached')
    assert '%s cannot be used: no answer' % lost in row['What']
    store.freeze()
    try:
        began = time.monotonic()
        result = found(cells.command, 2, '--only', 'memcached')
        assert time.monotonic() - began < 20
    finally:
        store.thaw()
    row, = result['memcached']
    assert 'No memcached server can be used' in row['What']


def test_limits_of_memcached(cells):
    with memcached.Memcached(cells.directory / 'small', options=(
            '-m', '2', '-c', '64')) as store:
        use_memcached(cells, store.address)
        store.fill(2000, 2000)
        for number in range(70):
            cells.add_service('cell1', 'h%d' % number)
        by_start = {row['What'].partition('; ')[0]: row for row in
                    found(cells.command, 2, '--only', 'memcached', '--only',
                      'database')['memcached']}
    limits = [row for what, row in by_start.items()
              if 'takes 64 connections' in what]
    assert limits[0]['Level'] == 'CRITICAL'
    assert 'Nova has 70 services' in limits[0]['What']
    assert '-c 4096' in limits[0]['Fix']
    evicted, = [row for what, row in by_start.items() if 'evicted' in what]
    assert '-m 128' in evicted['Fix']


def test_a_clock_that_is_wrong(cells, store):
    cells.configure(servicegroup_driver='mc', service_down_time=60)
    with open(cells.config, 'a') as config:
        config.write('[cache]\nmemcache_servers = %s\n' % store.address)
    done = subprocess.run(
        [process.program('faketime', 'faketime'), '-f', '+20s',
         nova.BIN / 'nova-servicegroup', '--config-file', cells.config,
         'doctor', '--only', 'memcached', '--json'], capture_output=True,
        env=dict(nova.environment(), FAKETIME_DONT_FAKE_MONOTONIC='1'))
    row, = [row for row in json.loads(done.stdout) if row['Level'] != 'OK']
    assert done.returncode == 1
    off = re.search(r"is ([\d.]+) s behind this host's", row['What'])
    # memcached tells whole seconds.
    assert 18 < float(off[1]) < 23


@pytest.mark.parametrize('ahead, doubt, level', [
    (5, 0, 'OK'), (-5, 0, 'OK'), (6, 0.5, 'OK'), (7, 0.5, 'WARNING'),
    (-25, 0, 'WARNING'), (31, 0.5, 'CRITICAL')])
def test_how_wrong_a_clock_is(ahead, doubt, level):
    shown = doctor.clock('x', ahead, doubt, 6, 'why')
    assert shown.level.name == level


# Processes and units


SLEEP = 'import sys, time; print("here", flush=True); time.sleep(60)'


@pytest.fixture
def services(tmp_path, monkeypatch):
    """Starts programs by name; no others are seen."""
    own = []
    really = processes.running

    def running():
        return [one for one in really()
                if one.pid in own or one.parent in own
                or one.serves in own]

    monkeypatch.setattr(processes, 'running', running)

    def start(name, code=SLEEP, **how):
        script = tmp_path / name
        script.write_text(code)
        started = process.Process(name, [sys.executable, script], tmp_path,
                                  **how).start()
        started.wait_ready(lambda: 'here' in started.log(), 20)
        own.append(started.pid)
        return started

    yield start
    for one in process.Process.started:
        if one.running and one.directory == tmp_path:
            one.stop()


def a_site(tmp_path, driver):
    config = nova.write_config(tmp_path / 'nova.conf', {
        'DEFAULT': {'servicegroup_driver': driver},
        'zookeeper': {'address': '127.0.0.1:1'}})
    return sites.Site([str(config)])


#: what a keeper looks like from outside
WITH_KEEPER = '''
import os, subprocess, sys
subprocess.run([sys.executable, '-c', %r, '-m', 'nova_servicegroup.keeper',
                'nova-compute[%%d]' %% os.getpid()])
''' % SLEEP
#: one that its workers share, which is nobody's child
WITH_SHARED_KEEPER = '''
import os, sys, time
parent = os.getpid()
if os.fork() == 0:
    if os.fork() == 0:
        os.execl(sys.executable, sys.executable, '-c', %r, '-m',
                 'nova_servicegroup.keeper', 'nova-compute[%%d]' %% parent)
    os._exit(0)
os.wait()
time.sleep(60)
''' % 'import time; print("here", flush=True); time.sleep(20)'


@pytest.mark.parametrize('driver, code, level', [
    ('zk', SLEEP, 'CRITICAL'), ('zk', WITH_KEEPER, 'OK'),
    ('zk', WITH_SHARED_KEEPER, 'OK'),
    ('db', SLEEP, 'OK'), ('db', WITH_KEEPER, 'WARNING')])
def test_services_that_run_with_another_driver(
        services, tmp_path, driver, code, level):
    started = services('nova-compute', code)
    row, = processes.drivers(a_site(tmp_path, driver))
    assert row.level.name == level
    if level != 'OK':
        assert 'nova-compute (pid %d)' % started.pid in row.what


def test_services_that_have_too_few_descriptors(services, tmp_path):
    files = ('import resource; resource.setrlimit(resource.RLIMIT_NOFILE, '
             '(2000, 2000)); a = [open("/dev/null") for _ in range(%d)]\n')
    services('nova-api', files % 10 + SLEEP)
    row, = processes.descriptors(None)
    assert row.level is doctor.Level.OK
    short = services('nova-conductor', files % 1800 + SLEEP)
    row, = processes.descriptors(None)
    assert row.level is doctor.Level.WARNING
    assert 'nova-conductor (pid %d: 18' % short.pid in row.what
    assert 'nova-api' not in row.what and 'LimitNOFILE=65536' in row.fix


#: what systemd 252 shows: a unit as systemd makes it, and one as it should be
UNITS = '''Id=nova-compute.service
LoadState=loaded
KillMode=mixed
OOMPolicy=stop
TasksMax=40
TasksCurrent=33
MemoryMax=536870912
MemoryCurrent=509870912
LimitCORESoft=infinity
LimitNOFILESoft=512

Id=openstack-nova-conductor.service
LoadState=loaded
KillMode=control-group
OOMPolicy=continue
TasksMax=infinity
TasksCurrent=[not set]
MemoryMax=infinity
MemoryCurrent=[not set]
LimitCORESoft=0
LimitNOFILESoft=1024

Id=nova-novncproxy.service
LoadState=loaded
KillMode=mixed
'''


def test_units_that_kill_the_keeper(tmp_path, monkeypatch):
    program = tmp_path / 'systemctl'
    program.write_text('#!/bin/sh\ncat <<E\n%sE\n' % UNITS)
    program.chmod(0o755)
    monkeypatch.setenv('PATH', '%s:%s' % (tmp_path, os.environ['PATH']))
    *rows, last = processes.units(None)
    assert last.what == '2 units of Nova were read.'
    assert all(row.what.startswith('nova-compute.service has')
               or 'core dumps' in row.what for row in rows)
    assert [row.fix.splitlines()[2] for row in rows] == [
        'KillMode=control-group', 'OOMPolicy=continue', 'LimitCORE=0',
        'TasksMax=512', 'MemoryMax=768M', 'LimitNOFILE=65536']
    assert [row.level.name for row in rows] == [
        'WARNING'] * 3 + ['CRITICAL'] + ['WARNING'] * 2
    program.write_text('#!/bin/sh\necho No bus. >&2\nexit 1\n')
    row, = processes.units(None)
    assert row.level is doctor.Level.UNKNOWN and 'No bus.' in row.what


# How checks are run


def check(name, *findings, needs=(), wait=0, error=None, limit=9):
    def function(site):
        yield from findings
        time.sleep(wait)
        if error is not None:
            raise error
    return doctor.Check(name, function, needs=needs, limit=limit)


FINE = doctor.Finding(doctor.Level.OK, 'fine')


def run(*checks, **how):
    runner = doctor.Run(checks, None, **{'timeout': 9, **how})
    return [(one.check, one.level.name) for one in runner.findings()], runner


def test_a_check_that_hangs_keeps_what_it_found():
    began = time.monotonic()
    results, runner = run(
        check('a', FINE, wait=5, limit=0.3), check('b', needs=('a',)),
        check('c', FINE, needs=('b',)), check('d', FINE))
    assert time.monotonic() - began < 3
    assert results == [('a', 'OK'), ('a', 'CRITICAL'), ('b', 'UNKNOWN'),
                       ('c', 'UNKNOWN'), ('d', 'OK')]
    assert runner.is_stuck


def test_checks_that_fail_and_time_that_is_over():
    results, _ = run(check('a', error=KeyError('x')),
                     check('b', error=doctor.Unreachable('gone', 'come')),
                     check('c', FINE, needs=('a',)), check('d', needs=('b',)))
    assert results == [('a', 'UNKNOWN'), ('b', 'CRITICAL'), ('c', 'OK'),
                       ('d', 'UNKNOWN')]
    results, runner = run(check('a', FINE, wait=0.3), check('b', FINE),
                          timeout=0.2)
    assert results == [('a', 'OK'), ('a', 'CRITICAL'), ('b', 'UNKNOWN')]


@pytest.mark.parametrize('levels, worst', [
    ('', 'OK'), ('OK OK', 'OK'), ('OK UNKNOWN', 'UNKNOWN'),
    ('WARNING UNKNOWN', 'WARNING'), ('UNKNOWN CRITICAL OK', 'CRITICAL')])
def test_the_worst_of_all(levels, worst):
    rows = [FINE._replace(level=doctor.Level[one]) for one in levels.split()]
    assert doctor.worst(rows).name == worst
    assert command.summary(levels.split()).startswith(
        'SERVICEGROUP %s - ' % worst)
