# SPDX-License-Identifier: Apache-2.0

"""Metrics and reports of real services, in both concurrency modes."""

import datetime
import signal
import subprocess
import urllib.request

import prometheus_client.parser
import pytest

from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import texts
from nova_servicegroup.tests.fixtures import zookeeper

MODES = [nova.THREADING, nova.EVENTLET]
WORKERS = 2
PAGE = 'doc/source/admin/metrics.rst'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp('metrics')


@pytest.fixture(scope='module')
def cloud(make_cloud, folder, tmp_path_factory):
    """A cloud whose services report through ZooKeeper and the database."""
    with zookeeper.Ensemble(tmp_path_factory.mktemp('zk')) as ensemble:
        with make_cloud(driver='zk', config={
                'servicegroup': {'metrics_dir': folder, 'also_report': 'db'},
                'zookeeper': {'address': ensemble.address},
                }, controllers=('conductor', 'api')) as cloud:
            yield cloud


@pytest.fixture(scope='module')
def computes(cloud):
    return {mode: cloud.start_compute(mode, mode=mode) for mode in MODES}


@pytest.fixture(scope='module')
def conductors(cloud):
    """A conductor with workers, in each mode."""
    return {mode: cloud.start_conductor('workers-' + mode, mode=mode,
                                        workers=WORKERS)
            for mode in MODES}


def read(text):
    return [sample for family in
            prometheus_client.parser.text_string_to_metric_families(text)
            for sample in family.samples]


def http(port):
    with urllib.request.urlopen(
            'http://127.0.0.1:%d/metrics' % port, timeout=10) as answer:
        return read(answer.read().decode())


class Exporter(process.Process):
    """nova-servicegroup metrics, with an answer by HTTP."""

    def __init__(self, cloud, *arguments):
        self.port = process.free_port()
        config = nova.write_config(
            cloud.directory / 'conf/metrics.conf',
            cloud.nova_conf('controller'))
        super().__init__(
            'metrics', [nova.BIN / 'nova-servicegroup', '--config-file',
                        config, 'metrics', '--listen',
                        '127.0.0.1:%d' % self.port, *arguments],
            cloud.directory, env=nova.environment())

    def start(self):
        super().start()
        return self.wait_ready(lambda: process.listening(self.port), 60)

    def value(self, name, **labels):
        """Return the sum of what has the labels, None if nothing has."""
        found = [one.value for one in http(self.port)
                 if one.name == 'nova_servicegroup_' + name
                 and labels.items() <= one.labels.items()]
        return sum(found) if found else None


@pytest.mark.parametrize('mode', MODES)
def test_a_compute_writes_its_metrics(mode, computes, folder):
    compute = computes[mode]
    path = folder / ('nova_servicegroup_nova-compute_%d.prom' % compute.pid)

    def stored():
        return {one.labels['driver']: one.value
                for one in read(path.read_text())
                if one.name == 'nova_servicegroup_heartbeats_total'
                and one.labels['result'] == 'stored'}

    process.wait_until(path.exists, 10, 'the file of metrics')
    process.wait_until(lambda: min(stored().values()) > 2, 20,
                       'heartbeats in the metrics')
    assert set(stored()) == {'zk', 'db'}


@pytest.mark.parametrize('mode', MODES)
def test_each_worker_writes_its_own(mode, conductors, folder):
    parent = conductors[mode].pid

    def written():
        pids = [int(path.stem.rpartition('_')[2]) for path in folder.glob(
            'nova_servicegroup_nova-conductor_*.prom')]
        return [pid for pid in pids if parent_of(pid) == parent]

    process.wait_until(lambda: len(written()) == WORKERS, 20,
                       'a file of each worker')


def parent_of(pid):
    return int(process.stat(pid)[1])


@pytest.mark.parametrize('mode', MODES)
def test_a_report_on_a_signal_tells_of_liveness(mode, computes):
    compute = computes[mode]
    before = compute.mark()
    _, number, _ = texts.block(PAGE, 'report-signal').split()
    compute.signal(signal.Signals['SIG' + number.lstrip('-')])
    compute.wait_log('ServiceGroup  ', 20, before)
    compute.wait_log('session = connected', 5, before)
    text = '\n'.join(compute.lines('', before))
    # Here it reports to the database, too.
    texts.assert_printed(texts.block(PAGE, 'report').replace(
        'zk =', 'db = [...] zk =').replace('compute1', mode), text)
    # It goes on as if nothing had been asked.
    assert compute.running


def test_a_deployment_by_http(cloud, computes):
    victim = cloud.start_compute('victim')
    with Exporter(cloud) as exporter:
        process.wait_until(
            lambda: exporter.value('members', group='compute', state='up')
            == 3, 30, 'three computes that are up')
        assert exporter.value('info', driver='zk') == 1
        assert exporter.value('view_age_seconds', group='compute') == 0
        victim.kill()
        process.wait_until(
            lambda: exporter.value('members', group='compute', state='ended')
            == 1, 10, 'the one that was killed')
        assert exporter.value('transitions_total', group='compute', old='up',
                              new='ended', reason='killed') == 1
        assert exporter.value('detection_seconds_count', state='ended') == 1
        # InstanceHA leaves it alone: it looks at these.
        (shown,) = [service for service in cloud.os_services()
                    if service['host'] == 'victim']
        age = datetime.datetime.now(datetime.timezone.utc).replace(
            tzinfo=None) - datetime.datetime.fromisoformat(
                shown['updated_at'])
        assert shown['state'] == 'up' and age.total_seconds() < 5
        # The keeper saw it die; the exporter looks once a second.
        assert exporter.value('detection_seconds_sum', state='ended') < 3


def test_the_services_of_a_host_by_http(cloud, computes):
    with Exporter(cloud, '--local') as exporter:
        for service in 'nova-compute', 'nova-conductor':
            assert exporter.value('heartbeats_total', service=service,
                                  result='stored', driver='zk') > 1
        assert exporter.value('members') is None


def test_a_file_of_a_deployment(cloud, computes, tmp_path):
    path = tmp_path / 'nova.prom'
    config = nova.write_config(tmp_path / 'nova.conf',
                               cloud.nova_conf('controller'))
    with process.Process(
            'metrics-file', [nova.BIN / 'nova-servicegroup', '--config-file',
                             config, 'metrics', '--textfile', path],
            tmp_path, env=nova.environment()) as exporter:
        exporter.wait_ready(path.exists, 60)
        assert 'nova_servicegroup_members{' in path.read_text()


def test_the_port_is_taken(cloud):
    config = nova.write_config(cloud.directory / 'conf/taken.conf',
                               cloud.nova_conf('controller'))
    done = subprocess.run(
        [nova.BIN / 'nova-servicegroup', '--config-file', config, 'metrics',
         '--listen', '127.0.0.1:%d' % cloud.rabbit.port], text=True,
        capture_output=True, env=nova.environment())
    assert done.returncode == 1
    assert 'Choose another with --listen' in done.stderr


@pytest.mark.parametrize('mode', MODES)
def test_a_service_that_stops_takes_its_file_along(mode, cloud, folder):
    compute = cloud.start_compute('stops-' + mode, mode=mode)
    path = folder / ('nova_servicegroup_nova-compute_%d.prom' % compute.pid)
    process.wait_until(path.exists, 10, 'the file of metrics')
    compute.stop()
    assert not path.exists()


def test_who_reads_the_table_sees_reports_beside_zookeeper(cloud, computes):
    """As the page about evacuation says of also_report."""
    cloud.wait_beats(20, *computes.values())
