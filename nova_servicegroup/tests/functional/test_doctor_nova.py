# SPDX-License-Identifier: Apache-2.0

"""The doctor, and "upgrade check", with the Nova that runs here."""

import json
import sys
import time

import pytest

from nova_servicegroup.tests.fixtures import findings
from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process


def of(tree):
    """Return the arguments that choose a tree of Nova."""
    return ['--nova', tree, '--python', sys.executable]


def of_nova(cells, code, *arguments):
    """Look at Nova alone: at the one that this Python imports, by default."""
    return findings.found(cells.command, code, '--only', 'nova', *arguments,
                          skip=())


def test_all_is_well_with_db(cells, plugin_tree):
    cells.add_service('cell1', 'a')
    cells.add_service('cell2', 'b')
    cells.add_service('cell0', 'boss', 'nova-conductor')
    result = findings.found(
        cells.command, 0, *of(plugin_tree),
        skip=['processes', 'descriptors', 'units'])
    assert not any(result.values())
    text = result.text
    assert 'uses the driver db of nova-servicegroup' in text
    assert 'by the drop-in' in text
    assert 'report_interval is 10 s and service_down_time 3600 s' in text
    for name in ('The API database', 'The database of cell1',
                 'The database of cell2'):
        assert '%s (SQLite 3.' % name in text
    assert '3 of 3 services are up by db.' in text


def test_a_nova_that_does_not_load_it(cells):
    row = of_nova(cells, 1).the_one('nova')
    assert row['Level'] == 'WARNING'
    assert 'does not load nova-servicegroup' in row['What']
    # The fix, as it is printed.
    hook = row['Fix'].split('\n\nand ')[0].partition('\n')[2]
    with open(cells.config, 'a') as config:
        config.write(hook.partition('\n\n')[2])
    cells.config.write_text(cells.config.read_text().replace(
        '[DEFAULT]\n', hook.partition('\n\n')[0] + '\n'))
    assert 'by the configuration hook' in of_nova(cells, 0).text


@pytest.mark.parametrize('driver, expected', [
    ('zk', '[zookeeper] address'),
    ('zookeeper', "but found 'zookeeper'")])
def test_a_nova_that_does_not_start(cells, driver, expected):
    cells.configure(servicegroup_driver=driver, config_source='liveness')
    with open(cells.config, 'a') as config:
        config.write('[liveness]\ndriver = nova_servicegroup\n')
    row = of_nova(cells, 2).the_one('nova')
    assert row['Level'] == 'CRITICAL'
    assert 'does not start with this configuration' in row['What']
    assert expected in row['What']


def test_zk_without_hook_or_drop_in_does_not_start(cells):
    cells.configure(servicegroup_driver='zk')
    with open(cells.config, 'a') as config:
        config.write('[zookeeper]\naddress = 127.0.0.1:1\n')
    row = of_nova(cells, 2).the_one('nova')
    assert row['Level'] == 'CRITICAL' and 'do not start with zk' in row['Why']


def test_a_drop_in_of_another_version(cells, tmp_path):
    tree = nova.make_plugin_tree(tmp_path / 'tree')
    file = tree / 'nova/servicegroup/__init__.py'
    file.write_text(file.read_text().replace('takes it out', 'takes it off'))
    row = of_nova(cells, 1, *of(tree)).the_one('nova')
    assert 'by another version' in row['What']
    assert 'nova-servicegroup dropin install --nova %s' % tree in row['Fix']


def test_no_nova_is_unknown(cells, tmp_path):
    row = of_nova(cells, 3, *of(tmp_path)).the_one('nova')
    assert row['Level'] == 'UNKNOWN' and '--nova PATH' in row['Fix']


def test_a_database_that_hangs_holds_nobody(cells):
    """A server whose connections are taken, and never answered."""
    with process.socket.create_server((process.LOOPBACK, 0)) as server:
        cells.config.write_text(cells.config.read_text().replace(
            cells.url('api'), 'mysql+pymysql://u@%s:%d/api' % (
                server.getsockname())))
        began = time.monotonic()
        result = findings.found(cells.command, 2)
        # And not for as long as its connections would take.
        assert time.monotonic() - began < 120
    row, = result['database']
    assert row['Level'] == 'CRITICAL'
    assert 'No answer within 20 s' in row['What']


def test_upgrade_check(cells, plugin_tree):
    def upgrade(code, *arguments):
        return cells.command('upgrade', 'check', *of(plugin_tree), *arguments,
                             code=code).stdout

    cells.add_service('cell1', 'a')
    shown = json.loads(upgrade(0, '--json'))
    assert {one['result'] for one in shown['checks']} == {0}
    assert {one['check'] for one in shown['checks']} == {
        'nova', 'configuration', 'database', 'duplicate-hosts',
        'mixed-deployment', 'services'}
    cells.configure(report_interval=1500)
    assert '| Result: Warning' in upgrade(1)
    cells.configure(servicegroup_driver='zk')
    text = ' '.join(upgrade(2).replace('|', ' ').split())
    assert 'Upgrade Check Results' in text and 'Result: Failure' in text
    assert '[zookeeper] address' in text
    cells.config.unlink()
    done = cells.command('upgrade', 'check', code=2)
    assert 'Failed to find some config files' in done.stderr
