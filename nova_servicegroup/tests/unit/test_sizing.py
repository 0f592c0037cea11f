# SPDX-License-Identifier: Apache-2.0

"""cmd.sizing: the arithmetic, and where its figures are from."""

import json
import pathlib

import pytest

from nova_servicegroup.cmd import main
from nova_servicegroup.cmd import sizing

RESULTS = pathlib.Path(__file__).resolve().parents[3] / 'bench' / 'results'
#: counts are the same everywhere; times and memory are of a machine
EXACT, ROUGH = 1.1, 2.5


def measured(coefficient):
    """Return what the file has that a coefficient is from, None without."""
    name, *keys = coefficient.source
    path = RESULTS / ('%s.json' % name)
    if not path.exists():
        return None
    found = json.loads(path.read_text())
    for key in keys:
        found = found[key]
    return found / coefficient.per


@pytest.mark.parametrize('name', sizing.MEASURED)
def test_coefficients_are_those_that_were_measured(name):
    coefficient = sizing.MEASURED[name]
    found = measured(coefficient)
    if found is None:
        # The file is written by the next run of the bench.
        assert coefficient.source[0] == 'store'
        return
    of_a_machine = any(unit in name for unit in ('cpu', '_mb', '_s', '_ms'))
    within = ROUGH if of_a_machine else EXACT
    assert coefficient.value / within <= found <= coefficient.value * within


def test_more_hosts_never_cost_less():
    for driver in ('db', 'mc', 'zk'):
        few, many = (sizing.costs(hosts)[driver] for hosts in (100, 1000))
        for one, other in zip(few[:8], many[:8]):
            assert one is None or one <= other


def test_db_costs_as_much_as_its_heartbeats():
    cost = sizing.costs(1000, interval=5)['db']
    assert cost.heartbeats == 200
    assert cost.requests == 200 * sizing.MEASURED['db_statements'].value
    assert cost.connections == cost.reading == cost.reader_mb == 0
    assert cost.lost_s == (25, 30)


def test_zk_costs_as_much_as_its_sessions():
    # Workers of one service have one together.
    cost = sizing.costs(1000, workers=40, services=3)['zk']
    assert cost.connections == 1003
    assert cost.keepers == 3
    assert cost.heartbeats == 3 / 120
    alone = sizing.costs(1000, workers=40, services=100)['zk']
    assert alone.keepers == 40
    assert alone.reader_mb - cost.reader_mb == pytest.approx(
        sizing.MEASURED['zk_shared_keeper_mb'].value * 37 / 40)
    assert cost.lost_s == (4, 8)
    assert sizing.costs(1000, workers=1)['zk'].store_mb == pytest.approx(
        sizing.MEASURED['zk_server_mb_at_1000'].value, rel=0.01)


def test_mc_readers_take_no_more_than_the_network_has():
    for hosts, workers in ((100, 4), (1000, 16), (10000, 40), (50000, 100)):
        cost = sizing.costs(hosts, workers=workers)['mc']
        refresh = sizing.view_refresh(hosts, workers)
        assert refresh >= 1
        assert cost.reading <= 1.1 * sizing.MC_MOST_TRAFFIC
        assert cost.lost_s[1] == 60 + refresh == 60 + cost.refresh


def test_few_hosts_need_no_other_store():
    assert sizing.choice(10).driver == 'db'
    assert '[DEFAULT] servicegroup_driver = db' in sizing.choice(10).settings


def test_many_hosts_are_for_zookeeper():
    found = sizing.choice(1000)
    assert found.driver == 'zk'
    assert any(line.startswith('3 ZooKeeper servers')
               for line in found.settings)
    assert not any('in parts' in why for why in found.why)


def test_what_ten_thousand_hosts_need_is_said():
    found = sizing.choice(10000)
    assert any('in parts of 1666' in why for why in found.why)
    assert any(line.startswith('5 ZooKeeper servers')
               for line in found.settings)
    assert 'LimitNOFILE of a server: 20480' in found.settings
    assert not any('1 MB' in why for why in found.why)
    assert any('1 MB' in why for why in sizing.choice(30000).why)


# The command


def test_the_command_tells_costs_and_choice(capsys):
    assert main.main(['size', '--hosts', '1000', '-f', 'json']) == 0
    output = capsys.readouterr()
    rows = {row['What']: row for row in json.loads(output.out)}
    assert rows['heartbeats written, a second']['db'] == '100'
    assert rows['host without power: down after'] == {
        'What': 'host without power: down after', 'db': '50 to 60 s',
        'mc': '50 to 61 s', 'zk': '4 to 8 s'}
    assert rows['nova-compute killed: no candidate after']['zk'] == '9 ms'
    assert output.err.startswith('Recommended driver: zk\n')
    assert '\n  [DEFAULT] servicegroup_driver = zk\n' in output.err


def test_the_command_takes_interval_workers_and_services(capsys):
    main.main(['size', '--hosts', '1000', '--interval', '5', '--workers',
               '40', '--services', '9', '-f', 'json'])
    rows = {row['What']: row for row in json.loads(capsys.readouterr().out)}
    assert rows['heartbeats written, a second']['db'] == '200'
    assert rows['sessions, connections and open files of the store'][
        'zk'] == '1009'
    assert rows['keepers of all processes that ask'] == {
        'What': 'keepers of all processes that ask', 'db': '0', 'mc': '0',
        'zk': '9'}


@pytest.mark.parametrize('arguments', [
    [], ['--hosts', '0'], ['--hosts', 'many'],
    ['--hosts', '5', '--interval', '-1']])
def test_the_command_refuses_what_is_no_deployment(arguments, capsys):
    with pytest.raises(SystemExit) as caught:
        main.main(['size', *arguments])
    assert caught.value.code == 2
    assert ': error: ' in capsys.readouterr().err
