# SPDX-License-Identifier: Apache-2.0

"""Three computes on the db driver, and what fails between them and readers.

A reader asks Nova's API five times a second all the while: nobody who lives
may be down in any answer.
"""

import threading
import time

import pytest

from nova_servicegroup.tests.fixtures import process

HOSTS = ['c1', 'c2', 'c3']
INTERVAL, DOWN_TIME = 1, 8
#: the only hosts that may be down while a test watches
NOBODY = frozenset()


@pytest.fixture(scope='module')
def cloud(make_cloud):
    with make_cloud(report_interval=INTERVAL, service_down_time=DOWN_TIME,
                    # A busy machine starts a nova-compute in half a minute.
                    config={'servicegroup': {'restart_grace': 60}}) as cloud:
        for host in HOSTS:
            cloud.start_compute(host, wait=False)
        for host in HOSTS:
            cloud.services['nova-compute', host].wait_started()
        yield cloud


@pytest.fixture
def computes(cloud):
    """The computes, reporting; they are left so."""
    computes = [cloud.services['nova-compute', host] for host in HOSTS]
    cloud.wait_beats(60, *computes)
    for host in HOSTS:
        cloud.wait_state(host, 'up', 2 * DOWN_TIME)
    return computes


class Watch:
    """What the API answers about computes while a ``with`` block runs."""

    def __init__(self, cloud):
        self._cloud = cloud
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True)
        self.answers = 0
        self.down = set()
        self.errors = []

    def _ask(self):
        while not self._stop.wait(0.2):
            try:
                rows = self._cloud.os_services()
            except Exception as e:
                self.errors.append(repr(e))
                continue
            self.answers += 1
            self.down |= {row['host'] for row in rows
                          if row['binary'] == 'nova-compute'
                          and row['state'] == 'down'}

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *exc_info):
        self._stop.set()
        self._thread.join(60)

    @property
    def text(self):
        return '%d answers of the API, 0 wrong' % self.answers


def signs(cloud):
    """Return {host: sign} as nova-manage shows it, whatever its exit code."""
    try:
        lines = cloud.manage('service', 'list')
    except process.NotReady as e:
        lines = str(e)
    return {words[1]: words[4] for words in map(str.split, lines.splitlines())
            if words[:1] == ['nova-compute']}


@pytest.mark.fault(
    'db', 'message bus away for longer than service_down_time',
    readers='up; nova-manage shows ???', lasts='until it is back',
    logged='ERROR with the numbers when it begins, WARNING at the end; each '
           'service: WARNING "Lost connection to nova-conductor", INFO when '
           'it recovers', ends='the first heartbeat of each compute')
def test_a_lost_message_bus_takes_nobody_down(cloud, computes,
                                              record_property):
    api = cloud.services['nova-api', 'controller']
    mark = api.mark()
    with Watch(cloud) as watch:
        cloud.rabbit.stop()
        time.sleep(2 * DOWN_TIME)
        assert signs(cloud) == dict.fromkeys(HOSTS, '???')
        cloud.rabbit.start()
        cloud.wait_beats(90, *computes)
        time.sleep(DOWN_TIME)
    assert (watch.down, watch.errors) == (NOBODY, [])
    assert watch.answers > 50
    assert signs(cloud) == dict.fromkeys(HOSTS, ':-)')
    assert len(api.lines('Cannot tell whether silent members', mark)) == 1
    api.wait_log('The doubt about the group compute', 30, mark)
    record_property('measured', watch.text)


@pytest.mark.fault(
    'db', 'one host lost (power, or its nova-compute reports no more)',
    readers='down; the others up', lasts='from service_down_time after its '
    'last heartbeat on', logged='DEBUG, at each question',
    ends='its next heartbeat')
def test_one_lost_host_is_down(cloud, computes, record_property):
    computes[1].kill()
    with Watch(cloud) as watch:
        took = cloud.wait_state('c2', 'down', 3 * DOWN_TIME)
        assert signs(cloud) == {'c1': ':-)', 'c2': 'XXX', 'c3': ':-)'}
    assert watch.down == {'c2'}
    record_property('measured', 'down after %.0f s, service_down_time = %d' % (
        took, DOWN_TIME))
    cloud.restart(computes[1])


@pytest.mark.fault(
    'db', 'two of three computes hang', readers='up; nova-manage shows ???',
    lasts='until they run again, or are forced down',
    logged='ERROR when it begins, WARNING at the end',
    ends='a heartbeat; force-down, which changes no other host')
@pytest.mark.long
def test_forcing_one_down_turns_no_other_down(cloud, computes,
                                              record_property):
    def force_down(host, forced):
        cloud.database.query(
            'nova', 'UPDATE services SET forced_down = %s WHERE host = %s '
            'AND deleted = 0', forced, host)

    with Watch(cloud) as watch:
        for compute in computes[:2]:
            compute.freeze()
        time.sleep(2 * DOWN_TIME)
        assert signs(cloud) == {'c1': '???', 'c2': '???', 'c3': ':-)'}
        assert watch.down == NOBODY
        force_down('c1', 1)
        cloud.wait_state('c1', 'down', 5)
        time.sleep(DOWN_TIME)
        assert watch.down == {'c1'}
        force_down('c1', 0)
        for compute in computes[:2]:
            compute.thaw()
        cloud.wait_beats(60, *computes)
    assert watch.down == {'c1'}
    assert watch.errors == []
    record_property('measured', watch.text)


@pytest.mark.fault(
    'db', 'conductor away for longer than service_down_time',
    readers='up; nova-manage shows ???', lasts='until it is back',
    logged='ERROR when it begins, WARNING at the end',
    ends='the first heartbeat of each compute')
@pytest.mark.long
def test_a_lost_conductor_takes_nobody_down(cloud, computes, record_property):
    conductor = cloud.services['nova-conductor', 'controller']
    with Watch(cloud) as watch:
        conductor.kill_all()
        time.sleep(2 * DOWN_TIME)
        assert signs(cloud) == dict.fromkeys(HOSTS, '???')
        cloud.restart(conductor)
        cloud.wait_beats(60, *computes)
        time.sleep(DOWN_TIME)
    assert (watch.down, watch.errors) == (NOBODY, [])
    record_property('measured', watch.text)


@pytest.mark.fault(
    'db', 'a service is stopped and started again',
    readers='up; nova-manage shows XXX; no candidate of the scheduler',
    lasts='at most restart_grace', logged='INFO "Left the compute group"',
    ends='its start; down after restart_grace')
def test_a_restart_is_invisible_to_the_api(cloud, computes, record_property):
    with Watch(cloud) as watch:
        computes[0].sigterm()
        computes[0].wait(30)
        assert signs(cloud) == {'c1': 'XXX', 'c2': ':-)', 'c3': ':-)'}
        cloud.restart(computes[0])
        assert signs(cloud) == dict.fromkeys(HOSTS, ':-)')
    assert (watch.down, watch.errors) == (NOBODY, [])
    record_property('measured', watch.text)
