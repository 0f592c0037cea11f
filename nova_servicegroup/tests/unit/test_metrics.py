# SPDX-License-Identifier: Apache-2.0

"""What is counted, and how Prometheus gets it."""

import configparser
import datetime
import json
import logging
import math
import os
import pathlib
import re
import subprocess
import sys
import time

import prometheus_client
from prometheus_client import parser
import pytest

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import deployment
from nova_servicegroup.cmd import exporter
from nova_servicegroup.cmd import main
from nova_servicegroup.cmd import metrics as metrics_command
from nova_servicegroup.cmd import watcher
from nova_servicegroup.integration import guru
from nova_servicegroup import liveness
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State
from nova_servicegroup.memcached import polling
from nova_servicegroup import metrics
from nova_servicegroup.tests import contract
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import texts
from nova_servicegroup.tests.unit import test_heartbeat

AT = datetime.datetime(2026, 11, 21, 10, tzinfo=datetime.timezone.utc)
CONTRIB = texts.ROOT / 'contrib'
P = 'nova_servicegroup_'


def samples(text):
    """Return {(name, labels as a frozenset): value} of an exposition."""
    return {(one.name, frozenset(one.labels.items())): one.value
            for family in parser.text_string_to_metric_families(text)
            for one in family.samples}


def value(found, name, **labels):
    return found.get((P + name, frozenset(labels.items())))


# In a process of Nova

@pytest.fixture
def service():
    return contract.FakeService('host1', contract.GROUP, None)


@pytest.fixture
def stub(config, tmp_path, service):
    def join():
        driver = test_heartbeat.StubDriver()
        driver.join('host1', contract.GROUP, service)
        return driver
    config.config(group='servicegroup', metrics_dir=str(tmp_path))
    return join


def own_file(directory, service):
    return directory / ('nova_servicegroup_%s_%d.prom' % (
        service.binary, os.getpid()))


def test_off_costs_nothing_and_imports_nothing():
    code = ('import sys, nova_servicegroup.api, '
            'nova_servicegroup.drivers.zk, nova_servicegroup.drivers.mc, '
            'nova_servicegroup.drivers.db;'
            'print("prometheus_client" in sys.modules)')
    done = subprocess.run([sys.executable, '-c', code], text=True,
                          capture_output=True, check=True)
    assert done.stdout == 'False\n'


def test_off_by_default(config, tmp_path, service):
    assert config.conf.servicegroup.metrics_dir is None
    driver = test_heartbeat.StubDriver()
    driver.join('host1', contract.GROUP, service)
    (beating,) = driver._heartbeats.values()
    assert beating._metrics is None


def test_heartbeats_are_counted_by_result(stub, service, tmp_path):
    driver = stub()
    (timer,) = service.tg.timers
    driver.failing = True
    timer.fire()
    driver.failing = False
    timer.fire()
    found = samples(own_file(tmp_path, service).read_text())
    names = {'service': service.binary, 'process': str(os.getpid()),
             'driver': 'stub'}
    assert value(found, 'heartbeats_total', result='stored', **names) == 2
    assert value(found, 'heartbeats_total', result='failed', **names) == 1
    assert value(found, 'heartbeat_seconds_count', **names) == 3
    assert 0 < value(found, 'heartbeat_seconds_sum', **names) < 1
    assert abs(time.time() - value(
        found, 'heartbeat_stored_timestamp_seconds', **names)) < 10
    # Nothing names the host.
    assert not any(label == 'host' for _, labels in found
                   for label, _ in labels)


def test_a_service_that_never_reported_is_seen(stub, service, tmp_path,
                                               monkeypatch):
    monkeypatch.setattr(test_heartbeat.StubDriver, 'failing', True)
    stub()
    (timer,) = service.tg.timers
    names = {'service': service.binary, 'process': str(os.getpid()),
             'driver': 'stub'}

    def stored_at():
        return value(samples(own_file(tmp_path, service).read_text()),
                     'heartbeat_stored_timestamp_seconds', **names)

    first = stored_at()
    assert abs(time.time() - first) < 10
    timer.fire()
    assert stored_at() == first
    monkeypatch.setattr(test_heartbeat.StubDriver, 'failing', False)
    timer.fire()
    assert stored_at() > first


def test_what_zookeeper_lost_is_counted(stub, service, tmp_path):
    driver = stub()
    driver.name = 'zk'
    (timer,) = service.tg.timers
    timer.fire()
    names = {'service': service.binary, 'process': str(os.getpid())}

    def losses():
        timer.fire()
        found = samples(own_file(tmp_path, service).read_text())
        return [value(found, 'zookeeper_losses_total', what=what, **names)
                for what in ('connection', 'session', 'keeper')]

    assert losses() == [0, 0, 0]
    for state in ('suspended', 'connected', 'suspended', 'expired',
                  'connecting', 'connected', 'no keeper', 'closed'):
        metrics.session_state(state)
    assert losses() == [2, 1, 1]


def test_a_session_of_a_process_without_metrics(config):
    metrics.session_state('expired')
    assert metrics.of_process(config.conf, 'nova-compute') is None


def test_who_leaves_takes_the_file_along(stub, service, tmp_path):
    driver = stub()
    assert own_file(tmp_path, service).exists()
    driver.leave('host1', contract.GROUP)
    assert not own_file(tmp_path, service).exists()


def test_files_of_earlier_processes_go(stub, service, tmp_path, config):
    old, young, other = (
        tmp_path / ('nova_servicegroup_%s.prom' % name) for name in (
            service.binary + '_1', service.binary + '_2', 'nova-other_3'))
    for path in (old, young, other):
        path.write_text('')
    long_ago = time.time() - contract.DOWN_TIME - 1
    os.utime(old, (long_ago, long_ago))
    os.utime(other, (long_ago, long_ago))
    stub()
    assert not old.exists()
    assert young.exists() and other.exists()


def test_a_folder_that_is_missing_costs_one_line(stub, service, tmp_path,
                                                 caplog, config):
    config.config(group='servicegroup', metrics_dir=str(tmp_path / 'none'))
    stub()
    (timer,) = service.tg.timers
    timer.fire()
    logged = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert len(logged) == 1
    assert '[servicegroup] metrics_dir' in logged[0].getMessage()
    assert service.model_disconnected is False
    # Once it is there, all is counted.
    (tmp_path / 'none').mkdir()
    timer.fire()
    found = samples(own_file(tmp_path / 'none', service).read_text())
    assert 3 in found.values()


def test_without_prometheus_client_there_are_heartbeats(
        stub, service, tmp_path, caplog, monkeypatch):
    monkeypatch.setitem(sys.modules, 'prometheus_client', None)
    stub()
    service.tg.timers[0].fire()
    logged = [r.getMessage() for r in caplog.records
              if r.levelno >= logging.WARNING]
    assert len(logged) == 1 and 'nova-servicegroup[metrics]' in logged[0]
    assert not list(tmp_path.iterdir())


def test_a_forked_child_counts_for_itself(stub, service, tmp_path):
    stub()
    child = os.fork()
    if not child:
        code = 1
        try:
            metrics.of_process(
                service_conf(), service.binary).beat('stub', True, 0.1)
            code = 0
        finally:
            os._exit(code)
    assert os.waitpid(child, 0)[1] == 0
    path = tmp_path / ('nova_servicegroup_%s_%d.prom' % (
        service.binary, child))
    found = samples(path.read_text())
    assert value(found, 'heartbeats_total', result='stored', driver='stub',
                 service=service.binary, process=str(child)) == 1


def service_conf():
    import nova.conf
    return nova.conf.CONF


# Of the services of a host

def test_local_tells_all_processes_together(tmp_path):
    registry = prometheus_client.CollectorRegistry()
    registry.register(exporter.Local(str(tmp_path), 60))
    for name in ('1', '2', '3'):
        (tmp_path / ('nova_servicegroup_nova-conductor_%s.prom' % name)
         ).write_text(
            '# HELP nova_servicegroup_heartbeats_total Heartbeats\n'
            '# TYPE nova_servicegroup_heartbeats_total counter\n'
            'nova_servicegroup_heartbeats_total{process="%s"} 4.0\n' % name)
    os.utime(tmp_path / 'nova_servicegroup_nova-conductor_3.prom', (1, 1))
    (tmp_path / 'nova_servicegroup_nova-compute_4.prom').write_text('{{{')
    (tmp_path / 'others.prom').write_text('others 1\n')
    text = prometheus_client.generate_latest(registry).decode()
    assert text.count('# TYPE') == 1
    assert samples(text) == {
        (P + 'heartbeats_total', frozenset({('process', name)})): 4
        for name in ('1', '2')}


# Of a deployment

class Deployment:
    """Services whose verdicts the test sets."""

    def __init__(self):
        self.verdicts = {}
        self.failures = []
        self.listed_cells = {'cell1'}
        self.record_lasts = math.inf

    def records(self, group=None):
        return [({'host': host, 'binary': 'nova-' + group, 'topic': group},
                 'cell1') for host, group in self.verdicts]

    def service(self, record, cell):
        state, reason, age = self.verdicts[record['host'], record['topic']]
        seen_at = None if age is None else AT - datetime.timedelta(
            seconds=age)
        return deployment.Service(
            record, cell, liveness.Verdict(state, reason, seen_at), seen_at)


class Driver:
    name = 'zk'
    age = 0

    def view_age(self, group):
        return self.age


@pytest.fixture
def clock():
    return [1000.0]


@pytest.fixture
def exported(clock):
    made = Deployment()
    made.clock = clock
    made.registry = prometheus_client.CollectorRegistry()
    made.driver = Driver()
    made.exporter = exporter.Deployment(
        watcher.Watcher(made, monotonic=lambda: clock[0], utcnow=lambda: AT),
        made.driver, '1.0.0', made.registry, monotonic=lambda: clock[0])

    def check():
        clock[0] += 10
        made.exporter.check()
        return samples(
            prometheus_client.generate_latest(made.registry).decode())
    made.check = check
    return made


UP = State.UP, Reason.PRESENT, 0


def test_before_the_first_look_there_is_who_it_is(exported):
    found = samples(
        prometheus_client.generate_latest(exported.registry).decode())
    assert value(found, 'info', driver='zk', version='1.0.0') == 1
    assert len(found) == 1


def test_members_by_state_and_group(exported):
    exported.verdicts = {
        ('a', 'compute'): UP, ('b', 'compute'): UP,
        ('c', 'compute'): (State.UNKNOWN, Reason.MASS_FAILURE, 70),
        ('d', 'compute'): (State.UNKNOWN, Reason.OUTAGE, None),
        ('e', 'compute'): (State.DOWN, Reason.FORCED_DOWN, None),
        ('f', 'conductor'): (State.ENDED, Reason.KILLED, 1)}
    found = exported.check()

    def members(group):
        return [value(found, 'members', group=group, state=state)
                for state in ('up', 'ended', 'down', 'unknown')]

    assert members('compute') == [2, 0, 1, 2]
    assert members('conductor') == [0, 1, 0, 0]
    for reason in 'mass_failure', 'outage':
        assert value(found, 'doubted_members', group='compute',
                     reason=reason) == 1
    assert value(found, 'forced_down_members', group='compute') == 1
    assert value(found, 'forced_down_members', group='conductor') == 0
    assert value(found, 'unreadable_cells') == 0
    assert not any(label == 'host' for _, labels in found
                   for label, _ in labels)


def test_hosts_are_named_for_those_who_want_it(exported):
    exported.exporter._per_host = True
    exported.verdicts = {('a', 'compute'): UP, ('\udced', 'compute'): UP}
    found = exported.check()
    assert value(found, 'member_state', host=r'\udced',
                 service='nova-compute', cell='cell1', state='up') == 1
    assert value(found, 'member_state', host='a', service='nova-compute',
                 cell='cell1', state='up') == 1


def test_transitions_have_a_cause_and_a_latency(exported):
    exported.verdicts = {('a', 'compute'): UP, ('b', 'compute'): UP}
    exported.check()
    exported.verdicts['a', 'compute'] = State.ENDED, Reason.KILLED, 0.25
    exported.verdicts['b', 'compute'] = State.UNKNOWN, Reason.OUTAGE, 50
    found = exported.check()
    assert value(found, 'transitions_total', group='compute', old='up',
                 new='ended', reason='killed') == 1
    assert value(found, 'transitions_total', group='compute', old='up',
                 new='unknown', reason='outage') == 1
    names = {'group': 'compute', 'state': 'ended'}
    assert value(found, 'detection_seconds_count', **names) == 1
    assert value(found, 'detection_seconds_sum', **names) == 0.25
    # Doubt is no detection, nor is what the operator says.
    exported.verdicts['a', 'compute'] = UP
    exported.check()
    exported.verdicts['a', 'compute'] = State.DOWN, Reason.FORCED_DOWN, 3
    found = exported.check()
    assert value(found, 'transitions_total', group='compute', old='up',
                 new='down', reason='forced_down') == 1
    assert [key for key in found if 'detection_seconds_count' in key[0]] == [
        (P + 'detection_seconds_count', frozenset(names.items()))]
    del exported.verdicts['b', 'compute']
    assert value(exported.check(), 'transitions_total', group='compute',
                 old='unknown', new='deleted', reason='') == 1


def test_the_age_of_what_is_known(exported, clock):
    exported.verdicts = {('a', 'compute'): UP}
    exported.driver.age = 7.5
    found = exported.check()
    assert value(found, 'view_age_seconds', group='compute') == 7.5
    assert value(found, 'list_age_seconds') == 0
    exported.failures = ['cell cell1 does not answer: y']
    exported.check()
    found = exported.check()
    assert value(found, 'list_age_seconds') == 20
    assert value(found, 'unreadable_cells') == 1
    # A driver that judges by Nova's records knows nothing newer than these.
    exported.driver.age = None
    found = exported.check()
    assert value(found, 'view_age_seconds', group='compute') == 30
    exported.driver.age = math.inf
    assert value(exported.check(), 'view_age_seconds',
                 group='compute') == math.inf


# The command

@pytest.mark.parametrize('text, wanted', [
    ('127.0.0.1:9894', ('127.0.0.1', 9894)), ('[::1]:80', ('::1', 80)),
    ('9894', None), (':1', None), ('a:b', None), ('a:0', None),
    ('a:65536', None)])
def test_addresses(text, wanted):
    if wanted is None:
        with pytest.raises(ValueError):
            metrics_command._address(text)
    else:
        assert metrics_command._address(text) == wanted


@pytest.mark.parametrize('arguments, missing, text', [
    ([], True, 'pip install nova-servicegroup.metrics.'),
    (['--textfile', 'x.txt'], False, 'end with .prom'),
    (['--local'], False, 'metrics_dir is not set')])
def test_what_is_missing_is_told(arguments, missing, text, monkeypatch,
                                 tmp_path):
    if missing:
        monkeypatch.setitem(sys.modules, 'prometheus_client', None)
    (tmp_path / 'nova.conf').write_text('')
    application = main.Application()
    application.options = application.parser.parse_args(
        ['--config-file', str(tmp_path / 'nova.conf')])
    factory, parsed = main.parse(['metrics', *arguments])
    with pytest.raises(base.CommandError, match=text):
        factory(application, None).take_action(parsed)


# In contrib

@pytest.mark.parametrize('name, command', [
    ('metrics', 'metrics'), ('notify', 'watch --notify')])
def test_units_start_commands_that_there_are(name, command):
    unit = configparser.ConfigParser(default_section=None)
    unit.read(CONTRIB / ('systemd/nova-servicegroup-%s.service' % name))
    path, *words = unit['Service']['ExecStart'].split()
    assert pathlib.Path(path).name == 'nova-servicegroup'
    assert ' '.join(words) == command and main.parse(words)
    # It is to come back from whatever ends it.
    assert unit['Service']['Restart'] == 'always'


def names_of(path):
    """Return the names of our metrics that a file mentions."""
    return set(re.findall(r'\b%s\w+' % P, path.read_text()))


@pytest.fixture
def known_names(exported, stub, service, tmp_path):
    """The names of all metrics that there are."""
    exported.exporter._per_host = True
    exported.verdicts = {('a', 'compute'): UP,
                         ('b', 'compute'): (State.UNKNOWN, Reason.OUTAGE, 0)}
    exported.check()
    exported.verdicts['a', 'compute'] = State.DOWN, Reason.SILENT, 60
    found = exported.check()
    driver = stub()
    driver.name = 'zk'
    service.tg.timers[0].fire()
    text = own_file(tmp_path, service).read_text()
    found.update(samples(text))
    return {name for name, _ in found}


PROMETHEUS = CONTRIB / 'prometheus'
BOARD = CONTRIB / 'grafana/nova-servicegroup.json'
PAGE = texts.ROOT / 'doc/source/admin/metrics.rst'


@pytest.mark.parametrize('path', [PROMETHEUS / 'alerts.yml', BOARD],
                         ids=lambda path: path.name)
def test_rules_and_board_use_what_there_is(path, known_names):
    used = names_of(path)
    assert len(used) > 5
    assert used <= known_names


def test_the_page_tells_of_every_metric(known_names):
    described = names_of(PAGE)
    assert known_names - described <= {
        name for name in known_names
        if name.endswith(('_created', '_bucket', '_sum', '_count'))}


def promtool(*arguments, **how):
    done = subprocess.run(
        [process.program('promtool', 'prometheus'), *arguments], text=True,
        capture_output=True, **how)
    assert done.returncode == 0, done.stdout + done.stderr
    return done


def test_promtool_takes_the_alert_rules():
    done = promtool('check', 'rules', PROMETHEUS / 'alerts.yml')
    rules = int(re.search(r'SUCCESS: (\d+) rules found', done.stdout)[1])
    assert rules == (PROMETHEUS / 'alerts.yml').read_text().count('- alert:')
    assert 'duplicate' not in done.stdout.lower()


def test_each_alert_rings_when_it_should():
    promtool('test', 'rules', 'alerts_test.yml', cwd=PROMETHEUS)
    tested = (PROMETHEUS / 'alerts_test.yml').read_text()
    for name in re.findall(r'- alert: (\w+)',
                           (PROMETHEUS / 'alerts.yml').read_text()):
        # Silence when all is well, and one that rings.
        assert 'alertname: %s}' % name in tested, name
        assert 'alertname="%s"' % name in tested, name


def test_promtool_takes_the_queries_of_the_board(tmp_path):
    board = json.loads(BOARD.read_text())
    queries = [target['expr'] for panel in board['panels']
               for target in panel.get('targets', [])]
    assert len(queries) > 8
    rules = tmp_path / 'board.yml'
    rules.write_text(json.dumps({'groups': [{'name': 'board', 'rules': [
        {'record': 'query:%d' % number,
         'expr': query.replace('$__rate_interval', '5m').replace(
             '$__range', '1h')}
        for number, query in enumerate(queries)]}]}))
    promtool('check', 'rules', rules)


def test_promtool_finds_nothing_to_say_of_the_metrics(exported):
    exported.verdicts = {('a', 'compute'): UP}
    exported.check()
    text = prometheus_client.generate_latest(exported.registry).decode()
    promtool('check', 'metrics', input=text)


def test_promtool_finds_nothing_to_say_of_the_file(stub, service, tmp_path):
    stub()
    text = pathlib.Path(own_file(tmp_path, service)).read_text()
    promtool('check', 'metrics', input=text)


# Reports

def test_a_report_that_fails_tells_so(monkeypatch):
    class Broken:
        name = 'broken'

        def report(self):
            raise KeyError('x')

    driver = test_heartbeat.StubDriver()
    monkeypatch.setattr(guru, '_drivers', [Broken(), driver])
    model = guru.section()
    model.set_current_view_type('text')
    text = str(model)
    assert "broken = cannot be told: KeyError('x')" in text
    assert 'groups in doubt = ' in text


def test_a_process_without_reports_needs_none(monkeypatch):
    monkeypatch.delitem(sys.modules, 'oslo_reports.guru_meditation_report',
                        raising=False)
    monkeypatch.setattr(guru, '_drivers', [])
    guru.add_section(test_heartbeat.StubDriver())
    assert guru._drivers == []
    assert 'oslo_reports.guru_meditation_report' not in sys.modules


def test_what_cannot_be_reported_and_who_is_doubted(config, service, clock):
    driver = test_heartbeat.StubDriver(monotonic=lambda: clock[0])
    driver.failing = True
    driver.join('host1', contract.GROUP, service)
    driver.groups.doubted['compute', None] = 990
    clock[0] += 5
    assert driver.report() == {
        'memberships': {'host1 in %s' % contract.GROUP:
                        'cannot report since 5 s'},
        'groups in doubt': 'compute since 15 s'}


def test_the_servers_of_memcached(clock):
    class Server:
        def __init__(self, name):
            self.name = name

    poller = polling.Poller([Server('a'), Server('b'), Server('c')], None,
                            lambda: clock[0], None)
    assert poller.age == math.inf
    poller._status[0].polled_at = 990
    poller._status[1].lost_at = 970
    assert poller.age == 10
    assert poller.report() == {'a': 'answers', 'b': 'lost since 30 s',
                               'c': 'not asked yet'}
