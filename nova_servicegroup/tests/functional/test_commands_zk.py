# SPDX-License-Identifier: Apache-2.0

"""The operator's commands on a compute that has no database, with zk."""

import datetime
import json
import time

import pytest

from nova_servicegroup.tests.fixtures import compute as computes
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import zookeeper


@pytest.fixture(scope='module')
def ensemble(tmp_path_factory):
    with zookeeper.Ensemble(tmp_path_factory.mktemp('ensemble')) as ensemble:
        yield ensemble


@pytest.fixture
def compute(tmp_path, ensemble, request):
    made = computes.Compute(tmp_path, ensemble, '/' + request.node.name)
    yield made
    made.close()


def test_list_show_and_explain(compute):
    compute.join('a', 'b')
    assert compute.states() == {'a': 'up', 'b': 'up'}
    shown = json.loads(compute.run('show', 'a', '-f', 'json').stdout)
    assert shown['pid'] == compute.members['a'].pid
    assert shown['node'].startswith('a@') and shown['boot_id']
    joined = datetime.datetime.fromisoformat(shown['joined_at'])
    age = datetime.datetime.now(datetime.timezone.utc) - joined
    assert 0 <= age.total_seconds() < 60

    compute.members['a'].kill()
    killed_at = time.monotonic()
    process.wait_until(lambda: compute.states()['a'] == 'ended', 10, 'ended')
    why = compute.explain('a')
    assert time.monotonic() - killed_at < computes.GRACE
    assert why['reason'] == 'its process was killed or has crashed'
    assert 'reported by its keeper' in why['evidence'][0]
    assert 'the operator forced it down is not known' in why['evidence'][-1]
    assert why['answers']['safe'] == {'may_place': False,
                                      'service_is_up': True}
    assert any(change.startswith('in ') and 'restart_grace is over' in change
               for change in why['changes'])


def test_a_mass_failure_is_doubted_and_explained(compute):
    hosts = ['h%d' % number for number in range(6)]
    compute.join(*hosts)
    assert set(compute.states().values()) == {'up'}
    compute.lose(*hosts[:4])
    process.wait_until(
        lambda: compute.states() == {
            **dict.fromkeys(hosts[:4], 'unknown'),
            **dict.fromkeys(hosts[4:], 'up')}, 60, 'the doubt')
    why = process.wait_until(
        lambda: (found := compute.explain('h0'))['reason'].startswith(
            'too much') and found, 60, 'the loss')
    assert 'Of 6 computes' in why['rule']
    assert '4 are silent and 0 are back' in why['rule']
    assert why['answers'] == {
        'safe': {'may_place': None, 'service_is_up': True},
        'up': {'may_place': True, 'service_is_up': True},
        'down': {'may_place': False, 'service_is_up': False}}

    done = compute.run('leave', 'compute', 'h5', code=1)
    assert 'gives signs of life' in done.stderr
    for host in ('h0', 'h1'):
        compute.run('leave', 'compute', host)
    # The others are judged by the silence of these two as before.
    process.wait_until(lambda: compute.states() == {
        'h0': 'down', 'h1': 'down', 'h2': 'unknown', 'h3': 'unknown',
        'h4': 'up', 'h5': 'up'}, 60, 'the two that left')
    assert compute.explain('h1')['reason'] == 'it was taken out of the group'
    # A reader that has just begun first waits whether it comes back.
    process.wait_until(
        lambda: '4 are silent' in compute.explain('h2')['rule'], 60,
        'four that count')
    compute.join('h0')
    assert compute.states()['h0'] == 'up'


def test_watch_tells_of_a_kill_at_once(compute):
    compute.join('a', 'b')
    watching = process.Process(
        'watch', compute.words('-v', 'watch', '--interval', '0.05', '--json'),
        compute.directory, env=compute.env)

    def lines():
        return [line for line in watching.log().splitlines()
                if line.startswith('{')]

    with watching:
        process.wait_until(
            lambda: 'Watching 2 services.' in watching.log(), 60, 'the watch')
        compute.members['a'].kill()
        killed_at = datetime.datetime.now(datetime.timezone.utc)
        process.wait_until(lines, 30, 'a line', interval=0.01)
        change = json.loads(lines()[0])
    assert (change['host'], change['old'], change['new']) == (
        'a', 'up', 'ended')
    seen_at = datetime.datetime.fromisoformat(
        change['at'].replace('Z', '+00:00'))
    # Not when its session runs out.
    assert (seen_at - killed_at).total_seconds() < computes.RECV_TIMEOUT / 1000
    compute.run('watch', '--until', 'ended', '--timeout', '10', 'a')
    compute.run('watch', '--until', 'up', '--timeout', '1', 'a', code=124)


def test_zookeeper_away_is_told(compute):
    compute.config.write_text(compute.config.read_text().replace(
        compute.ensemble.address, '127.0.0.1:%d' % process.free_port()))
    done = compute.run('list', code=1)
    assert 'refused). Check the servers of [zookeeper] address' in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_nova_manage_needs_a_nova(compute):
    done = compute.run('manage', 'service', 'list', code=1)
    assert done.stderr.startswith('nova-manage cannot be imported')
    assert len(done.stderr.splitlines()) == 1
