# SPDX-License-Identifier: Apache-2.0

"""``nova-manage service`` as the operator runs it: Nova's own command.

Real SQLite databases of an API and two cells, and a process per command from
a Nova with the plug-in dropped in.
"""

import re
import socket
import subprocess
import uuid

import pytest

from nova_servicegroup.cmd import rpc
from nova_servicegroup.tests.fixtures.cells import COUNTING
from nova_servicegroup.tests.fixtures.cells import DOWN_TIME
from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process

# Runs the command, with a short limit for cells, then names the threads that
# are left on stderr.
SHORT_LIMIT = '''
import sys
import threading
from nova import context
from nova.cmd import manage
context.CELL_TIMEOUT = 0.5
code = manage.main()
print('THREADS', *(thread.name for thread in threading.enumerate()),
      file=sys.stderr)
sys.exit(code)
'''
HEADER = ('Binary           Host                                 Zone        '
          '     Status     State Updated_At\n')


def line(*columns):
    return '%-16s %-36s %-16s %-10s %-5s %-10s\n' % columns


@pytest.mark.parametrize('mode', [nova.EVENTLET, nova.THREADING])
def test_list_shows_every_cell_and_no_api_row(cells, mode):
    seen = cells.add_service('cell1', 'alive')
    dead = cells.add_service('cell1', 'dead', age=DOWN_TIME + 60)
    cells.add_service('cell2', 'forced', forced_down=1, disabled=1)
    cells.add_service('cell1', 'new', last_seen_up=None, updated_at=None)
    cells.add_service('cell0', 'boss', 'nova-conductor')
    for binary in ('nova-osapi_compute', 'nova-metadata'):
        cells.add_service('cell0', 'boss', binary, topic=None)
    cells.insert('api', 'aggregates', id=1, name='rack', uuid='a')
    cells.insert('api', 'aggregate_hosts', aggregate_id=1, host='alive')
    cells.insert('api', 'aggregate_metadata', aggregate_id=1,
                 key='availability_zone', value='north')
    done = cells.manage('list', mode=mode)
    assert done.stdout == HEADER + ''.join([
        line('nova-compute', 'alive', 'north', 'enabled', ':-)', seen),
        line('nova-compute', 'dead', 'nova', 'enabled', 'XXX', dead),
        line('nova-compute', 'forced', 'nova', 'disabled', 'XXX', seen),
        line('nova-compute', 'new', 'nova', 'enabled', ':-)', None),
        line('nova-conductor', 'boss', 'internal', 'enabled', ':-)', seen)])
    assert 'error' not in done.stderr


@pytest.mark.parametrize('arguments, hosts', [
    (['--host', 'a'], ['a', 'a']),
    (['--service', 'nova-compute'], ['a', 'ab']),
    (['a', 'nova-compute'], ['a']),
    (['ab', '--service', 'nova-conductor'], []),
])
def test_list_takes_exact_names(cells, arguments, hosts):
    cells.add_service('cell1', 'a')
    cells.add_service('cell2', 'ab')
    cells.add_service('cell0', 'a', 'nova-conductor')
    done = cells.manage('list', *arguments)
    header, *rows = done.stdout.splitlines(keepends=True)
    assert header == HEADER
    assert [row.split()[1] for row in rows] == hosts


def test_list_costs_as_many_statements_for_10000_services_as_for_two(cells):
    cells.insert('cell0', 'services', **cells.service('boss', 'nova-x'))
    cells.insert('cell1', 'services', **cells.service('c'))
    few = cells.manage('list', program=COUNTING)
    cells.insert_many('cell1', 'services', [
        cells.service('c%04d' % number) for number in range(9998)])
    many = cells.manage('list', program=COUNTING)
    assert len(many.stdout.splitlines()) == 1 + 10000
    counted = [next(row.split()[1:] for row in done.stderr.splitlines()
                    if row.startswith('STATEMENTS')) for done in (few, many)]
    assert counted[0] == counted[1]
    # The cells, the services of three cells, the zones.
    assert int(counted[1][1]) <= 6


def test_list_goes_on_when_a_cell_is_away(cells):
    cells.add_service('cell1', 'here')
    cells.add_service('cell2', 'there')
    (cells.directory / 'cell2').unlink()
    (cells.directory / 'cell2').mkdir()
    done = cells.manage('list', code=1)
    assert [row.split()[1] for row in done.stdout.splitlines()[1:]] == ['here']
    errors = [row for row in done.stderr.splitlines()
              if row.startswith('error: ')]
    assert len(errors) == 1
    assert '(cell2) does not answer: ' in errors[0]
    assert 'Traceback' not in done.stderr


def test_list_goes_on_when_a_cell_hangs(cells):
    cells.add_service('cell1', 'here')
    with socket.create_server(('127.0.0.1', 0)) as mute:
        cells.execute(
            'api', 'UPDATE cell_mappings SET database_connection = ? '
            'WHERE name = "cell2"', 'mysql+pymysql://nova:secret@127.0.0.1:%d'
            '/nova' % mute.getsockname()[1])
        done = cells.manage('list', code=1, mode=nova.THREADING,
                            program=SHORT_LIMIT)
    assert [row.split()[1] for row in done.stdout.splitlines()[1:]] == ['here']
    assert '(cell2) does not answer: not within 0.5 s' in done.stderr
    assert 'secret' not in done.stderr


def test_no_idle_thread_delays_the_end(cells):
    cells.add_service('cell1', 'here')
    done = cells.manage('list', mode=nova.THREADING, program=SHORT_LIMIT)
    assert 'THREADS MainThread\n' in done.stderr


def test_list_says_when_the_driver_can_not_tell(cells):
    cells.configure(
        servicegroup_driver='mc',
        memcached_servers='127.0.0.1:%d' % process.free_port())
    for host in ('a', 'b', 'c'):
        cells.add_service('cell1', host, forced_down=int(host == 'b'))
    done = cells.manage('list', code=1)
    # What the driver logs comes before.
    table = done.stdout[done.stdout.index(HEADER):]
    assert [row.split()[4] for row in table.splitlines()[1:]] == [
        '???', 'XXX', '???']
    errors = [row for row in done.stderr.splitlines()
              if row.startswith('error: ')]
    assert len(errors) == 1
    assert 'the state of 2 of 3 services is unknown: ' in errors[0]


def test_an_unknown_driver_is_told_in_one_line(cells):
    cells.configure(servicegroup_driver='carrier-pigeon')
    cells.add_service('cell1', 'a')
    done = cells.manage('list', code=1)
    assert done.stdout.startswith('error: ')
    assert 'servicegroup_driver' in done.stdout
    assert len(done.stdout.splitlines()) == 1


def test_the_api_database_away_is_told_in_one_line(cells):
    (cells.directory / 'api').unlink()
    (cells.directory / 'api').mkdir()
    done = cells.manage('list', code=1)
    assert done.stdout.startswith('error: The API database does not answer: ')
    assert len(done.stdout.splitlines()) == 1


def test_a_host_without_a_database_is_told_in_one_line(cells):
    cells.config.write_text(re.sub(r'(?m)^connection *=.*\n', '',
                                   cells.config.read_text()))
    done = cells.manage('list', code=1)
    assert done.stdout.startswith(
        "error: This host's nova.conf has no [api_database] connection: ")
    assert len(done.stdout.splitlines()) == 1


def test_what_drivers_warn_of_is_for_the_logs_of_services(cells):
    """ZooKeeper without an identity, and nobody there to answer."""
    cells.configure(servicegroup_driver='zk')
    with open(cells.config, 'a') as config:
        config.write('\n[zookeeper]\naddress = 127.0.0.1:1\n'
                     'first_listing_timeout = 0.5\n')
    cells.add_service('cell1', 'a')
    done = cells.manage('list', code=1)
    assert 'error: the state of 1 of 1 services is unknown' in done.stderr
    assert 'no identity' not in done.stderr, done.stderr


def test_disable_and_enable_set_the_one_row(cells):
    cells.add_service('cell1', 'a')
    cells.add_service('cell2', 'b', disabled_reason='disk')
    cells.add_service('cell2', 'b', 'nova-conductor')
    state = 'SELECT host, "binary", disabled, disabled_reason, ' \
            'last_seen_up, version FROM services'
    before = cells.query('cell1', state), cells.query('cell2', state)
    done = cells.manage('disable', '--host', 'b', '--service', 'nova-compute')
    assert done.stdout == 'Service nova-compute on host b disabled.\n'
    assert [row[:4] for row in cells.query('cell2', state)] == [
        ('b', 'nova-compute', 1, 'disk'), ('b', 'nova-conductor', 0, None)]
    done = cells.manage('enable', 'b', 'nova-compute')
    assert done.stdout == 'Service nova-compute on host b enabled.\n'
    assert (cells.query('cell1', state), cells.query('cell2', state)) == before


def test_a_message_bus_that_is_away_does_not_hold_it_up(cells):
    cells.add_service('cell1', 'a')
    cells.notify_at(process.free_port())
    done = cells.manage('disable', '--host', 'a', '--service', 'nova-compute')
    # nova-manage logs to stdout.
    assert done.stdout.endswith('Service nova-compute on host a disabled.\n')
    assert done.stdout.count('retrying in') == rpc.RETRIES


def test_enable_of_an_unknown_service_exits_with_2(cells):
    cells.add_service('cell1', 'a')
    done = cells.manage('enable', '--host', 'a', '--service', 'nova-x', code=2)
    assert done.stdout == 'error: Could not find binary nova-x on host a.\n'


def test_what_an_absent_cell_may_hold_is_not_called_unknown(cells):
    (cells.directory / 'cell2').unlink()
    (cells.directory / 'cell2').mkdir()
    done = cells.manage('disable', 'a', 'nova-compute', code=1)
    assert 'It may be in a cell that does not answer.' in done.stdout


@pytest.mark.parametrize('arguments, missing', [
    (['enable'], 'host, service'),
    (['disable', '--host', 'a'], 'service'),
    (['describe_resource'], 'host'),
])
def test_missing_arguments_are_named_and_exit_with_1(
        cells, arguments, missing):
    done = cells.manage(*arguments, code=1)
    assert done.stdout.endswith('Missing arguments: %s\n' % missing)


def test_an_unknown_option_exits_with_2(cells):
    cells.manage('list', '--color', code=2)


def test_without_a_drop_in_our_own_command_does_the_same(cells):
    """For trees that the configuration hook serves."""
    seen = cells.add_service('cell1', 'alive')
    (cells.directory / 'hook.conf').write_text(
        '[DEFAULT]\nconfig_source = liveness\n'
        '[liveness]\ndriver = nova_servicegroup\n')
    done = subprocess.run(
        [nova.BIN / 'nova-servicegroup', 'manage', '--config-file',
         cells.config, '--config-file', cells.directory / 'hook.conf',
         'service', 'list', '--host', 'alive'],
        env=nova.environment(mode=nova.EVENTLET), capture_output=True,
        text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout == HEADER + line(
        'nova-compute', 'alive', 'nova', 'enabled', ':-)', seen)


def test_describe_resource_sums_nodes_and_projects(cells):
    node = {'hypervisor_type': 'fake', 'hypervisor_version': 1,
            'cpu_info': '', 'deleted': 0, 'host': 'a', 'mapped': 1,
            'disk_allocation_ratio': 1.0, 'cpu_allocation_ratio': 1.0,
            'ram_allocation_ratio': 1.0}
    for cell, name in (('cell2', 'n1'), ('cell2', 'n2'), ('cell1', 'n3')):
        cells.insert(cell, 'compute_nodes', hypervisor_hostname=name,
                     uuid=str(uuid.uuid4()), vcpus=8, memory_mb=1000,
                     local_gb=50, vcpus_used=2, memory_mb_used=300,
                     local_gb_used=7, **node)
    for project, host, deleted in (('p2', 'a', 0), ('p1', 'a', 0),
                                   ('p2', 'a', 0), ('p2', 'b', 0),
                                   ('p2', 'a', 9)):
        cells.insert('cell2', 'instances', uuid=str(uuid.uuid4()), vcpus=1,
                     memory_mb=100, root_gb=2, ephemeral_gb=1, host=host,
                     node='n1', project_id=project, deleted=deleted)
    done = cells.manage('describe_resource', '--host', 'a')
    assert done.stdout.splitlines() == [
        'HOST                              PROJECT     cpu mem(mb)     hdd',
        'a               (total)                        24    3000     150',
        'a               (used_now)                      6     900      21',
        'a               (used_max)                      3     300       9',
        'a                                      p1       1     100       3',
        'a                                      p2       2     200       6']


def test_describe_resource_of_an_unknown_host_exits_with_2(cells):
    done = cells.manage('describe_resource', 'nobody', code=2)
    assert done.stdout == 'error: Compute host nobody could not be found.\n'
