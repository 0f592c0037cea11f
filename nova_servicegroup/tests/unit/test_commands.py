# SPDX-License-Identifier: Apache-2.0

"""The operator's commands: a process each, on real databases of Nova."""

import configparser
import datetime
import json
import re
import shutil
import threading
import time
import uuid

from oslo_config import cfg
import pytest
import yaml

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import deployment
from nova_servicegroup.cmd import rpc
from nova_servicegroup import exception
from nova_servicegroup.integration import report_count
from nova_servicegroup import liveness
from nova_servicegroup.memcached import wire
from nova_servicegroup.tests.fixtures.cells import DOWN_TIME
from nova_servicegroup.tests.fixtures import memcached
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import texts


#: a name of a host that others could write
ODD = 'a\x1b[2J\nb'
#: what a service writes that is stopped gracefully
STOPPED = report_count.Counter(0, None, 1, 0).last(liveness.End.STOPPED)


@pytest.fixture
def outage(cells):
    """Six of ten computes of a cell fell silent together."""
    for number in range(6):
        cells.add_service('cell2', 'c%d' % number, age=DOWN_TIME + 60)
    for number in range(4):
        cells.add_service('cell2', 'b%d' % number)
    cells.add_service('cell1', 'forced', age=60, forced_down=1, disabled=1,
                      updated_at=cells.now)
    cells.add_service('cell1', 'stopped', report_count=STOPPED)
    cells.add_service('cell0', 'boss', 'nova-conductor')
    cells.add_service('cell0', 'boss', 'nova-osapi_compute', topic=None)
    return cells


def rows(done):
    return json.loads(done.stdout)


def test_list_shows_every_cell_and_why(outage):
    shown = {row['Host']: row
             for row in rows(outage.command('list', '--long', '-f', 'json'))}
    assert sorted(shown) == sorted(
        ['boss', 'forced', 'stopped'] + ['b%d' % n for n in range(4)]
        + ['c%d' % n for n in range(6)])
    assert shown['c0']['State'] == 'unknown'
    assert shown['c0']['Reason'].startswith('too much of its group is silent')
    assert (shown['c0']['Place There'], shown['c0']['Answer to Nova']) == (
        'no', 'up')
    assert shown['c0']['Cell'] == 'cell2'
    assert shown['b0']['State'] == 'up'
    assert shown['b0']['Last Seen'] == outage.now.isoformat() + 'Z'
    assert shown['forced']['Reason'] == 'the operator forced it down'
    assert (shown['forced']['State'], shown['forced']['Forced Down'],
            shown['forced']['Status']) == ('down', True, 'disabled')
    # Not when somebody forced it down.
    assert shown['forced']['Last Seen'] == (
        outage.now - datetime.timedelta(seconds=60)).isoformat() + 'Z'
    assert shown['boss']['Group'] == 'conductor'


@pytest.mark.parametrize('arguments, hosts', [
    (['--down'], ['forced']),
    (['--ended', '--down'], ['forced', 'stopped']),
    (['--unknown'], ['c0', 'c1', 'c2', 'c3', 'c4', 'c5']),
    (['--group', 'conductor'], ['boss'])])
def test_list_chooses(outage, arguments, hosts):
    done = outage.command('list', '-f', 'value', '-c', 'Host', *arguments)
    assert done.stdout.split() == hosts
    # In a pipe nothing but the doubt itself is printed.
    assert 'Asking' not in done.stderr and 'eventlet' not in done.stderr


def test_list_goes_on_when_a_cell_is_away(outage):
    (outage.directory / 'cell2').unlink()
    (outage.directory / 'cell2').mkdir()
    done = outage.command('list', '-f', 'value', '-c', 'Host', code=1)
    assert done.stdout.split() == ['forced', 'stopped', 'boss']
    assert 'error: cell ' in done.stderr
    assert '(cell2) does not answer: ' in done.stderr


@pytest.mark.parametrize('option, url', [
    ('database_connection', 'mysql+pymysql://nova:x@secret@h/nova'),
    ('database_connection', 'mysql+pymysql://nova:x@y:secret@h/nova'),
    ('transport_url', 'rabbit://nova:secret#x@h/')])
def test_a_url_of_a_cell_is_malformed(cells, option, url):
    cells.execute('api', 'UPDATE cell_mappings SET %s = ? '
                  'WHERE name = "cell2"' % option, url)
    for words, code in (('list',), 1), (('doctor', '--only', 'database'), 2):
        done = cells.command(*words, code=code)
        shown = done.stdout + done.stderr
        assert 'secret' not in shown
        text = ' '.join(shown.split())
        assert option in text and '%40 for @' in text


def test_a_url_that_only_nova_cannot_parse_keeps_its_secret(cells):
    """SQLAlchemy takes it, and Nova logs a traceback for each cell."""
    config = configparser.RawConfigParser(default_section=None)
    config.read(cells.config)
    config['database']['connection'] = 'mysql+pymysql://u:secret#x@h/nova'
    with open(cells.config, 'w') as file:
        config.write(file)
    shown = cells.command('list').stderr
    assert '[database]/connection' in shown and 'secret' not in shown


def test_show(outage):
    shown = rows(outage.command('show', 'c1', '-f', 'json'))
    assert (shown['host'], shown['state'], shown['cell'], shown['driver'],
            shown['report_count'], shown['forced_down']) == (
        'c1', 'unknown', 'cell2', 'db', 1, False)


def test_explain_for_people_and_for_programs(outage):
    shown = outage.command('explain', 'c1').stdout
    assert shown.startswith('c1 (nova-compute in cell2): UNKNOWN, too much of')
    text = ' '.join(shown.split())
    assert 'Of 10 computes' in text and '6 are silent and 0 are back' in text
    assert 'reported by nova-conductor, which stamped last_seen_up' in text
    assert 'safe (set) up down May I place an instance there? no yes no ' \
        'May I act as if the host were gone? no: up no: up yes: down' in text
    shown = rows(outage.command('explain', 'c1', '-f', 'json'))
    assert shown['answers']['safe'] == {'may_place': False,
                                        'service_is_up': True}
    assert shown['state'] == 'unknown'
    done = outage.command('explain', 'c1', '-c', 'state', '-c', 'driver')
    assert done.stdout == 'state: unknown\ndriver: db\n'


def test_the_page_shows_what_explain_prints(cells):
    cells.configure(service_down_time=60)
    for number in range(20):
        cells.add_service('cell1', 'h%d' % number if number else 'a',
                          age=0 if number > 10 else 70)
    texts.assert_printed(
        texts.block('doc/source/cli/nova-servicegroup.rst', 'explain'),
        cells.command('explain', 'a').stdout)


@pytest.mark.parametrize('arguments, expected', [
    (['show', 'nobody'], 'There is no service on a host named nobody'),
    (['explain', 'boss', '--service', 'nova-compute'],
     '--service nova-conductor'),
])
def test_names_that_are_not_there(outage, arguments, expected):
    done = outage.command(*arguments, code=1)
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_without_a_database_only_zk_will_do(cells):
    cells.config.write_text('[DEFAULT]\nservicegroup_driver = mc\n')
    done = cells.command('list', code=1)
    assert 'no [api_database] connection' in done.stderr
    assert '--config-file' in done.stderr
    cells.config.write_text('[DEFAULT]\nservicegroup_driver = zk\n')
    done = cells.command('list', code=1)
    assert '[zookeeper] address' in done.stderr


def test_a_store_that_is_away_is_no_loss_of_anybody(cells):
    """With the configuration hook, too, by which Nova knows zk."""
    cells.configure(servicegroup_driver='zk', config_source='liveness')
    with open(cells.config, 'a') as config:
        config.write('[liveness]\ndriver = nova_servicegroup\n'
                     '[zookeeper]\naddress = 127.0.0.1:%d\n'
                     'first_listing_timeout = 1\n' % process.free_port())
    cells.add_service('cell1', 'a')
    cells.add_service('cell2', 'forced', forced_down=1)
    shown = {row['Host']: (row['State'], row['Reason']) for row in
             rows(cells.command('list', '-f', 'json'))}
    assert shown == {
        'a': ('unknown', 'the store cannot be reached'),
        'forced': ('down', 'the operator forced it down')}
    why = rows(cells.command('explain', 'a', '-f', 'json'))
    assert why['answers']['safe'] == {'may_place': None,
                                      'service_is_up': True}
    # That is no silence.
    done = cells.command('force-down', '--silent', '--yes')
    assert done.stdout == 'There is no compute to do that for.\n'


def test_a_configuration_that_is_not_there(cells):
    shutil.move(cells.config, cells.directory / 'elsewhere')
    done = cells.command('list', code=1)
    assert 'Failed to find some config files' in done.stderr
    assert 'Traceback' not in done.stderr


@pytest.mark.parametrize('section, option, value, expected', [
    ('DEFAULT', 'servicegroup_driver', 'zoo', "is 'zoo', which is no driver"),
    ('DEFAULT', 'report_interval', 'soon', "'soon'"),
    ('zookeeper', 'recv_timeout', 'fast', "'fast'"),
    ('servicegroup', 'outage_policy', 'raise', '[safe, up, down]'),
    ('api_database', 'connection', 'nowhere', 'no URL'),
    ('api_database', 'connection', 'sqlite+x://', 'no URL'),
    ('api_database', 'connection', 'mysql://u:secret@h/d', 'MySQLdb'),
    ('api_database', 'connection', 'mysql+pymysql://u:secret@127.0.0.1:1/d',
     'The API database does not answer'),
    ('api_database', 'connection', 'mysql+pymysql://u:x@secret@h/d', '%40'),
    ('api_database', 'connection', 'mysql+pymysql://u:x@y:secret@h/d', '%40'),
    ('DEFAULT', 'transport_url', 'rabbit://u:secret#x@h', '%23 for #'),
    ('DEFAULT', 'transport_url', '://u:secret@h', 'rabbit://')])
def test_a_value_that_cannot_be_used(cells, section, option, value, expected):
    config = configparser.RawConfigParser(default_section=None)
    config.read(cells.config)
    config.read_dict({section: {option: value}})
    with open(cells.config, 'w') as file:
        config.write(file)
    # As Nova has them, which tries for minutes.
    cells.config.write_text(cells.config.read_text().replace(
        'max_retries = 1', 'max_retries = 10'))
    begin = time.monotonic()
    done = cells.command('list', code=1)
    assert time.monotonic() - begin < 10
    assert expected in done.stderr and 'secret' not in done.stderr
    assert 'does not answer' in expected or (
        '[%s] %s' % (section, option) in done.stderr)
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize('arguments', [
    ['list'], ['list', '-f', 'value'], ['list', '-f', 'csv'],
    ['show', ODD], ['explain', ODD]])
def test_a_name_of_a_host_controls_no_terminal(cells, arguments):
    cells.add_service('cell1', ODD)
    shown = cells.command(*arguments).stdout
    assert r'\x1b[2J' in shown
    assert shown.replace('\n', '').isprintable()


def test_programs_get_the_name_of_a_host_as_it_is(cells):
    cells.add_service('cell1', ODD)
    assert rows(cells.command('list', '-f', 'json'))[0]['Host'] == ODD
    assert rows(cells.command('show', ODD, '-f', 'json'))['host'] == ODD
    assert yaml.safe_load(
        cells.command('list', '-f', 'yaml').stdout)[0]['Host'] == ODD


@pytest.mark.parametrize('value, shown', [
    ('h\u00f6st-1', 'h\u00f6st-1'), ('\udced', r'\udced'),
    ('\u202e', r'\u202e'), ([{'a': '\r'}, None, 1.5],
                            [{'a': r'\r'}, None, 1.5])])
def test_printable(value, shown):
    assert base.printable(value) == shown


def test_no_configuration_at_all(monkeypatch):
    for name in ('find_config_files', 'find_config_dirs'):
        monkeypatch.setattr(cfg, name, lambda *args, **kwargs: [])
    with pytest.raises(base.CommandError, match='--config-file PATH'):
        deployment.Deployment()


@pytest.fixture
def hang():
    """A function that returns at the end of the test."""
    ended = threading.Event()
    yield lambda *args: ended.wait(60)
    ended.set()


def test_a_cell_that_hangs_does_not_stop_a_verdict(hang):
    bounded = deployment._bounded(hang, 0.1)
    with pytest.raises(exception.ServiceGroupUnavailable,
                       match='does not list its services: not within'):
        bounded({'host': 'a'}, 'compute')
    assert deployment._bounded(lambda *args: args, 1)(1, 2) == (1, 2)


def test_a_database_that_hangs_does_not_stop_a_list(hang, monkeypatch):
    from nova import context as nova_context
    from nova import objects

    from nova_servicegroup.cmd import cells
    objects.register_all()
    mapping = objects.CellMapping(
        uuid=str(uuid.uuid4()), name='cell1', transport_url='none:/',
        database_connection='sqlite://')
    context = nova_context.get_admin_context()
    monkeypatch.setattr(objects.CellMappingList, 'get_all',
                        lambda context: [mapping])
    answers, failures = cells.ask(context, hang, timeout=0.1)
    assert not answers
    assert failures[0].endswith('(cell1) does not answer: not within 0.1 s')
    monkeypatch.setattr(objects.CellMappingList, 'get_all', hang)
    with pytest.raises(cells.CellsUnknown,
                       match='The API database does not answer: not within'):
        cells.ask(context, hang, timeout=0.1)


def test_a_value_may_refer_to_an_option_of_nova(tmp_path):
    config = tmp_path / 'nova.conf'
    config.write_text('[servicegroup]\nmetrics_dir = $state_path/metrics\n')
    assert deployment.read([str(config)]).config_file == [str(config)]


def forced(cells):
    return {host for cell in ('cell1', 'cell2') for host, in cells.query(
        cell, 'SELECT host FROM services WHERE forced_down')}


SILENT = {'c%d' % number for number in range(6)}


def test_force_down_of_all_that_are_silent_together(outage):
    outage.add_service('cell1', 'other', age=9 * DOWN_TIME)
    done = outage.command('force-down', '--silent', answer='yes')
    for host in SILENT:
        assert '%s: forced down.\n' % host in done.stdout
    assert 'These 6 computes would be forced down' in done.stdout
    assert 'fence these hosts' in done.stdout
    assert forced(outage) == SILENT | {'forced'}
    assert not outage.command('list', '--unknown', '-f', 'value').stdout
    again = outage.command('force-down', '--silent', '--yes')
    assert again.stdout == 'There is no compute to do that for.\n'


@pytest.mark.parametrize('answer, expected', [
    ('y', 'Nothing was changed.'), (None, 'give --yes')])
def test_without_a_yes_nothing_is_changed(outage, answer, expected):
    done = outage.command('force-down', '--silent', code=1, answer=answer)
    assert expected in done.stdout + done.stderr
    assert forced(outage) == {'forced'}


def when_c0_is_written(outage, statement):
    outage.execute('cell2', 'CREATE TRIGGER meanwhile '
                   'AFTER UPDATE OF forced_down ON services '
                   "WHEN NEW.host = 'c0' BEGIN %s; END" % statement)


def report(host):
    return "UPDATE services SET last_seen_up = datetime('now') " \
        "WHERE host = '%s'" % host


@pytest.mark.parametrize('hosts', [['--silent'], sorted(SILENT)])
def test_who_comes_back_while_others_are_forced_down_is_skipped(
        outage, hosts):
    when_c0_is_written(outage, report('c1'))
    done = outage.command('force-down', *hosts, '--yes', code=1)
    assert 'c0: forced down.\nc1: not changed, since it is up now.\n' \
        'c2: forced down.\n' in done.stdout
    assert forced(outage) == SILENT - {'c1'} | {'forced'}


def test_who_is_up_is_forced_down_by_name(outage):
    outage.command('force-down', 'b0', '--yes')
    assert forced(outage) == {'b0', 'forced'}


@pytest.mark.parametrize('retry, retries', [(None, rpc.RETRIES), (0, 0)])
def test_a_message_bus_that_is_away_does_not_hold_it_up(
        outage, retry, retries):
    outage.notify_at(process.free_port(), retry)
    done = outage.command('force-down', 'c0', '--yes')
    assert done.stdout.endswith('c0: forced down.\n')
    assert done.stderr.endswith(
        "Nova's notification of the change cannot be sent: [Errno 111] "
        'Connection refused\n')
    assert done.stderr.count('retrying in') == retries
    assert 'Traceback' not in done.stderr


def test_a_record_that_is_changed_meanwhile(outage):
    when_c0_is_written(
        outage, "UPDATE services SET forced_down = 1 WHERE host = 'c1';"
        "UPDATE services SET deleted = id WHERE host = 'c2'")
    done = outage.command('force-down', 'c0', 'c1', 'c2', 'c3', '--yes',
                          code=1)
    assert done.stdout.endswith(
        'c0: forced down.\nc1: forced down.\nc3: forced down.\n')
    assert re.search('^c2: not changed: Service .* could not be found',
                     done.stderr, re.MULTILINE)


def test_who_ends_again_is_not_lifted(outage):
    outage.command('force-down', '--silent', '--yes')
    for host in ('c0', 'c1'):
        outage.execute('cell2', report(host))
    when_c0_is_written(outage, 'UPDATE services SET report_count = %d '
                       "WHERE host = 'c1'" % STOPPED)
    done = outage.command('force-down', '--undo', '--back', '--yes', code=1)
    assert 'c1: not changed, since it is ended now.' in done.stdout
    assert forced(outage) == SILENT - {'c0'}


def test_who_is_back_is_lifted_and_nobody_else(outage):
    outage.command('force-down', 'c0', 'c1', 'c2', '--yes')
    assert forced(outage) == {'c0', 'c1', 'c2', 'forced'}
    for host in ('c0', 'c1'):
        outage.execute('cell2', 'UPDATE services SET last_seen_up = ? '
                       'WHERE host = ?', str(outage.now), host)
    outage.insert('cell2', 'migrations', uuid='m', source_compute='c1',
                  migration_type='evacuation', status='done', deleted=0)
    # As Nova refuses it.
    done = outage.command('force-down', '--undo', '--back', '--yes', code=1)
    assert 'c1: not changed: it was evacuated.' in done.stderr
    assert forced(outage) == {'c1', 'c2'}
    # Who says so by name need not be back.
    outage.command('force-down', '--undo', 'c2', '--yes')
    assert forced(outage) == {'c1'}


@pytest.mark.parametrize('arguments, expected', [
    ([], 'name hosts, or give --silent'),
    (['--undo'], 'name hosts, or give --back'),
    (['--back'], 'add --undo'),
    (['--undo', '--silent'], '--silent is for forcing down'),
    (['c0', 'nobody'], 'no nova-compute that is not yet forced down on: '
                       'nobody'),
    (['boss'], 'on: boss')])
def test_force_down_says_what_is_wrong(outage, arguments, expected):
    done = outage.command('force-down', *arguments, '--yes', code=1)
    assert expected in done.stderr
    assert forced(outage) == {'forced'}


@pytest.fixture
def moving(cells):
    """A deployment that reports to a memcached, too, which is empty."""
    with memcached.Memcached(cells.directory / 'memcached') as store:
        cells.configure()
        with open(cells.config, 'a') as config:
            config.write('[servicegroup]\nalso_report = mc\n'
                         '[cache]\nmemcache_servers = %s\n' % store.address)
        cells.store = store
        yield cells


def test_migrate_check(moving):
    def check(code, *arguments):
        done = moving.command('migrate', 'check', '-f', 'json', *arguments,
                              code=code)
        return {row['Host']: row['Result'] for row in rows(done)}, done.stderr

    def report(host):
        # Later than memcached was started: nobody could have reported before.
        stamp = wire.stamp_of(moving.now)
        moving.store.raw_set(wire.key('compute', host),
                             wire.encode(stamp, moving.now, {}),
                             wire.FLAG_PICKLED)

    moving.add_service('cell1', 'a')
    moving.add_service('cell2', 'b')
    moving.add_service('cell2', 'dead', age=9 * DOWN_TIME)
    report('a')
    results, output = check(2)
    assert results == {'b': 'cannot tell', 'dead': 'not running'}
    assert '1 of 3 services are in the store of mc.' in output
    report('b')
    assert check(1)[0] == {'dead': 'not running'}
    report('dead')
    assert check(0)[0] == {}
    assert check(0, '--all')[0] == dict.fromkeys(['a', 'b', 'dead'], 'ok')


@pytest.mark.parametrize('old, new, results', [
    ('zk', 'db', {'a': 'ok', 'dead': 'cannot tell'}),
    ('db', 'zk', {'a': 'cannot tell', 'dead': 'cannot tell'})])
def test_migrate_check_of_a_store_that_is_away(cells, old, new, results):
    cells.configure(servicegroup_driver=old)
    with open(cells.config, 'a') as config:
        config.write('[zookeeper]\naddress = 127.0.0.1:%d\n'
                     'first_listing_timeout = 1\n' % process.free_port())
    cells.add_service('cell1', 'a')
    cells.add_service('cell1', 'dead', age=9 * DOWN_TIME)
    done = cells.command('migrate', 'check', '--to', new, '--all', '-f',
                         'json', code=2)
    assert {row['Host']: row['Result'] for row in rows(done)} == results


@pytest.mark.parametrize('arguments, expected', [
    ([], 'name it with --to DRIVER'),
    (['--to', 'pigeon'], '--to pigeon is no driver: give one of db, mc, zk'),
    (['--to', 'zk'], '[zookeeper] address')])
def test_migrate_check_says_what_is_wrong(cells, arguments, expected):
    done = cells.command('migrate', 'check', *arguments, code=2)
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_leave_takes_one_out_and_changes_nothing_for_others(outage):
    # SQLAlchemy writes fractions of a second, too.
    seen = 'SELECT host, substr(last_seen_up, 1, 19) FROM services'
    before = outage.query('cell2', seen)
    for host in ('c0', 'c1'):
        done = outage.command('leave', 'compute', host)
        assert done.stdout == (
            '%s left the group compute. It is down.\n' % host)
    assert outage.query('cell2', seen) == before
    states = {row['Host']: row for row in
              rows(outage.command('list', '-f', 'json'))}
    for host in ('c0', 'c1'):
        assert states[host]['State'] == 'down'
        assert states[host]['Reason'] == 'it was taken out of the group'
    # Four of ten are fewer than half; the two still count.
    assert {states['c%d' % n]['State'] for n in range(2, 6)} == {'unknown'}


@pytest.mark.parametrize('arguments, expected', [
    (['compute', 'b0'], 'gives signs of life'),
    (['compute', 'boss'], 'There is no service of the group compute')])
def test_leave_is_refused(outage, arguments, expected):
    done = outage.command('leave', *arguments, code=1)
    assert expected in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_leave_of_memcached(moving):
    moving.configure(servicegroup_driver='mc')
    with open(moving.config, 'a') as config:
        config.write('[cache]\nmemcache_servers = %s\n'
                     % moving.store.address)
    for host in ('a', 'b', 'never'):
        moving.add_service('cell1', host)
    moment = moving.now - datetime.timedelta(seconds=2 * DOWN_TIME)
    stamp = wire.stamp_of(moment)
    keys = {host: wire.key('compute', host) for host in 'ab'}
    for key in keys.values():
        moving.store.raw_set(key, wire.encode(stamp, moment, {}),
                             wire.FLAG_PICKLED)
    moving.command('leave', 'compute', 'a')
    beat = wire.decode(*moving.store.raw_get(keys['a']))
    assert (beat.end, beat.stamp) == (liveness.End.LEFT, stamp)
    assert wire.decode(*moving.store.raw_get(keys['b'])).end is None
    why = rows(moving.command('explain', 'a', '-f', 'json'))
    assert (why['state'], why['reason']) == (
        'down', 'it was taken out of the group')
    done = moving.command('leave', 'compute', 'never', code=1)
    assert 'No memcached server holds a heartbeat of it' in done.stderr
