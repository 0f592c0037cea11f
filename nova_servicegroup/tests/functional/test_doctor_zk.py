# SPDX-License-Identifier: Apache-2.0

"""The doctor on real ZooKeepers, each finding made to happen."""

import shutil
import time

from kazoo import security
import pytest

from nova_servicegroup.tests.fixtures import certificates
from nova_servicegroup.tests.fixtures import compute as computes
from nova_servicegroup.tests.fixtures import findings
from nova_servicegroup.tests.fixtures.findings import found
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import texts
from nova_servicegroup.tests.fixtures import zookeeper

DIGEST = {'auth_scheme': 'digest', 'username': 'nova', 'password': 'hunter2'}
OPEN = security.OPEN_ACL_UNSAFE
RECV_TIMEOUT = 4000



@pytest.fixture(scope='module')
def ensemble(tmp_path_factory):
    """An ensemble as the documentation wants it."""
    with zookeeper.Ensemble(tmp_path_factory.mktemp('ensemble'),
                            settings=zookeeper.documented_settings()) as made:
        yield made


@pytest.fixture
def compute(tmp_path, ensemble, request):
    made = computes.Compute(
        tmp_path / 'compute', ensemble,
        '/' + request.node.name.partition('[')[0],
        recv_timeout=RECV_TIMEOUT, **DIGEST)
    yield made
    made.close()


def alone(directory, **how):
    """Return a Compute with a server of its own, which runs."""
    return computes.Compute(
        directory / 'compute',
        zookeeper.Ensemble(directory / 'server', 1, **how).start(),
        '/servicegroups', recv_timeout=RECV_TIMEOUT)


def test_all_is_well_on_a_compute(compute):
    compute.join('a', 'b')
    compute.start('a-conductor', 'a', group='conductor').wait_joined()
    compute.start('a-conductor-2', 'a', group='conductor').wait_joined()
    compute.run('list')  # somebody has asked: ZooKeeper's time is known
    result = found(compute.run, 0)
    assert set(result) == {
        'configuration', 'zookeeper-servers', 'zookeeper-session',
        'zookeeper-settings', 'zookeeper-rights', 'duplicate-hosts',
        'records'}
    shown = compute.run('doctor', *(word for name in findings.ELSEWHERE
                                    for word in ('--skip', name))).stdout
    text = ' '.join(shown.split())
    assert text.startswith('SERVICEGROUP OK - 12 ok OK configuration: ')
    for server in compute.ensemble.servers:
        assert 'ZooKeeper 3.' in text and 'at %s answers in' % (
            server.address) in text
    assert 'leader and of this host agree to 0.' in text
    assert 'grants the session timeout of 4 s' in text
    assert 'All 2 members of the group compute have a record.' in text


def test_a_host_without_nova_is_told(compute):
    row = found(compute.run, 3, '--only', 'nova', skip=()).the_one('nova')
    assert row['Level'] == 'UNKNOWN'
    assert 'There is no nova for' in row['What']


def test_without_an_identity_everybody_may_write(tmp_path, ensemble):
    compute = computes.Compute(tmp_path, ensemble, '/open',
                               recv_timeout=RECV_TIMEOUT)
    row = found(compute.run, 1).the_one('zookeeper-rights')
    assert row['Level'] == 'WARNING'
    assert 'auth_scheme = digest' in row['Fix']


def test_nodes_that_are_open_are_tightened(compute):
    with compute.ensemble.client() as client:
        client.create(compute.prefix + '/compute', acl=OPEN, makepath=True)
    compute.join('a')
    row = found(compute.run, 2).the_one('zookeeper-rights')
    assert '2 of ' in row['What'] and 'open to everybody' in row['What']
    # The fix, as it is printed.
    compute.run(*row['Fix'].split()[1:])
    assert not any(found(compute.run, 0).values())


def test_another_password_is_refused(compute):
    compute.join('a')
    compute.config.write_text(
        compute.config.read_text().replace('hunter2', 'hunter3'))
    row = found(compute.run, 2).the_one('zookeeper-rights')
    assert 'username and password' in row['What']
    assert 'hunter' not in str(row)


def test_another_rule_of_reading_is_no_danger(compute):
    compute.join('a')
    with open(compute.config, 'a') as config:
        config.write('open_reading = false\n')
    row = found(compute.run, 2).the_one('zookeeper-rights')
    assert 'tighten' in row['Fix']


def test_two_machines_with_one_name(compute):
    compute.join('a')
    compute.start('b1', 'b').wait_joined()
    compute.start('b2', 'b', boot_id='another').wait_joined()
    row = found(compute.run, 2).the_one('duplicate-hosts')
    assert 'b (boot ids' in row['What'] and 'another' in row['What']
    assert 'host = ANOTHER-NAME' in row['Fix']


def test_the_page_shows_what_is_printed(compute):
    compute.start('one', 'c1').wait_joined()
    compute.start('two', 'c1', boot_id='0').wait_joined()
    compute.config.write_text(compute.config.read_text().replace(
        'recv_timeout = 4000', 'recv_timeout = 3000'))
    skipped = [word for name in findings.ELSEWHERE
               for word in ('--skip', name)]
    done = compute.run('doctor', '--timeout', '300', *skipped, code=2)
    command, _, shown = texts.block('doc/source/admin/doctor.rst',
                                    'doctor').partition('\n')
    assert command == '$ nova-servicegroup doctor'
    # A compute without Nova.
    shown, _, nova = shown.partition('OK       nova: ')
    texts.assert_printed(shown, done.stdout)
    assert nova


def test_a_host_that_was_rebooted_is_one(compute):
    compute.start('b1', 'b').wait_joined()
    compute.start('b2', 'b', boot_id='before').wait_joined()
    compute.lose('b2')  # its node stays until its session ends
    assert not found(compute.run, 0)['duplicate-hosts']


def test_nodes_and_records_that_do_not_belong(compute):
    compute.join('a', 'b')
    with compute.ensemble.client(auth_data=[
            ('digest', 'nova:hunter2')]) as client:
        acl, _ = client.get_acls(compute.prefix + '/compute')
        client.create(compute.prefix + '/compute/old-style', b'', acl)
        client.create(compute.prefix + '/compute/c@0123456789abcdef',
                      b'{"version": "0.9"}', acl, ephemeral=True)
        rows = found(compute.run, 1)['records']
    assert [row['Level'] for row in rows] == ['WARNING'] * 3
    texts = [row['What'] for row in rows]
    assert 'no memberships: old-style' in texts[0]
    assert texts[1] == 'Members without a record: c.'
    assert '1 of 0.9' in texts[2]


def test_members_records_and_services_of_nova(compute, cells):
    """Each that is in only one or two of the three is a finding."""
    compute.join('a', 'gone', 'stranger')
    compute.members['gone'].kill()
    process.wait_until(
        lambda: compute.states()['gone'] == 'ended', 20, 'its end')
    for host in ('a', 'forged', 'quiet'):
        cells.add_service('cell1', host, age=7200)
    cells.configure(servicegroup_driver='zk',
                    service_down_time=computes.GRACE)
    with open(cells.config, 'a') as config:
        config.write(compute.config.read_text().partition('\n\n')[2])
    with compute.ensemble.client(auth_data=[
            ('digest', 'nova:hunter2')]) as client:
        group = compute.prefix + '/compute/'
        a, = (name for name in client.get_children(group)
              if name.startswith('a@'))
        client.create(group + 'forged@0123456789abcdef',
                      client.get(group + a)[0],
                      client.get_acls(group + a)[0], ephemeral=True)
        rows = [row for row in found(
            cells.command, 1, '--only', 'records', '--only',
            'mixed-deployment').rows if row['Level'] != 'OK']
        assert [row['What'].partition(', on')[0] for row in rows] == [
            'Services that were never in the store of zk',
            'Members without a record: forged.',
            'Members that are no computes of this Nova: stranger.',
            'Records of hosts that Nova does not have: gone.']
        never, *_, left = rows
        assert never['What'].endswith(', on: quiet.')
        assert 'openstack compute service delete' in never['Fix']
        command, identity, delete = left['Fix'].splitlines()
        assert command == 'zkCli.sh -server %s' % compute.ensemble.address
        assert identity == 'addauth digest nova:PASSWORD'
        # No host counts as removed because its cell is away.
        (cells.directory / 'cell2').unlink()
        (cells.directory / 'cell2').mkdir()
        rows = found(cells.command, 1, '--only', 'records')['records']
        assert [row['What'].partition(': ')[0] for row in rows] == [
            'Not all services are known', 'Members without a record']
        client.delete(delete.partition(' ')[2])
    assert 'gone' not in compute.states()


def test_a_timeout_that_is_not_granted(compute):
    compute.config.write_text(compute.config.read_text().replace(
        'recv_timeout = 4000', 'recv_timeout = 3000'))
    result = found(compute.run, 1)
    row, = result['zookeeper-session']
    assert 'grants a session timeout of 4 s, and recv_timeout is 3 s' in (
        row['What'])
    assert 'minSessionTimeout=3000' in row['Fix']
    assert 'recv_timeout = 4000' in row['Fix']
    # Which is too short for these servers' ticks, too.
    assert 'more than half of recv_timeout' in (
        result['zookeeper-settings'][0]['What'])


def test_limits_and_ticks_of_the_servers(tmp_path):
    compute = alone(tmp_path, settings=zookeeper.STOCK_SETTINGS.replace(
        'maxClientCnxns=0', 'maxClientCnxns=6'),
        extra='4lw.commands.whitelist=srvr,mntr,conf')
    with compute.ensemble:
        compute.start('a', 'a').wait_joined()
        for number in range(3):
            compute.start('w%d' % number, 'a',
                          group='conductor').wait_joined()
        try:
            # All keepers of this machine count, also those of other tests.
            rows = found(compute.run, (1, 2))['zookeeper-settings']
        finally:
            compute.close()
    texts = [row['What'] for row in rows]
    assert 'tickTime of 2000 ms, more than a ninth' in texts[0]
    assert 'tickTime=400' in rows[0]['Fix']
    assert '6 connections from one address (maxClientCnxns)' in texts[1]
    assert 'maxClientCnxns=0' in rows[1]['Fix']


def test_servers_that_do_not_tell_their_settings(tmp_path):
    # As ZooKeeper comes: srvr alone is allowed.
    compute = alone(tmp_path, settings=zookeeper.STOCK_SETTINGS)
    with compute.ensemble:
        result = found(compute.run, 1)
    row, = result['zookeeper-settings']
    assert row['Level'] == 'UNKNOWN'
    assert '4lw.commands.whitelist=srvr,ruok,mntr,conf' in row['Fix']
    assert not result['zookeeper-servers']


@pytest.fixture
def hurt(tmp_path):
    """An ensemble of its own, for what is done to servers."""
    with zookeeper.Ensemble(tmp_path / 'ensemble',
                            settings=zookeeper.documented_settings()) as made:
        yield computes.Compute(tmp_path / 'compute', made, '/servicegroups',
                               recv_timeout=RECV_TIMEOUT)


def test_servers_that_are_lost(hurt):
    first, second, third = hurt.ensemble.servers
    first.freeze()
    try:
        began = time.monotonic()
        row, = found(hurt.run, 1)['zookeeper-servers']
        assert time.monotonic() - began < 40
    finally:
        first.thaw()
    assert first.address in row['What'] and row['Level'] == 'WARNING'
    first.kill()
    row, = found(hurt.run, 1)['zookeeper-servers']
    assert '%s cannot be used: Connection refused' % first.address in (
        row['What'])
    second.kill()
    process.wait_until(lambda: third.mode == '', 30, 'no leader')
    result = found(hurt.run, 2)
    levels = [row['Level'] for row in result['zookeeper-servers']]
    assert levels == ['WARNING', 'WARNING', 'CRITICAL']
    assert 'it has no leader' in result['zookeeper-servers'][2]['What']
    assert result['zookeeper-session'][0]['Level'] == 'CRITICAL'
    assert 'no connection' in result['zookeeper-session'][0]['What']
    assert result['records'][0]['Level'] == 'UNKNOWN'
    third.kill()
    rows = found(hurt.run, 2)['zookeeper-servers']
    assert len(rows) == 1 and 'No ZooKeeper server can' in rows[0]['What']


def test_servers_that_are_no_ensemble(tmp_path):
    with zookeeper.Ensemble(tmp_path / '1', 1) as one, \
            zookeeper.Ensemble(tmp_path / '2', 1) as two:
        compute = computes.Compute(tmp_path / 'compute', one, '/x')
        compute.config.write_text(compute.config.read_text().replace(
            one.address, '%s,%s' % (one.address, two.address)))
        row, = found(compute.run, 2)['zookeeper-servers']
    assert 'no ensemble' in row['What']


def test_one_address_of_an_ensemble(compute):
    compute.config.write_text(compute.config.read_text().replace(
        compute.ensemble.address, compute.ensemble.servers[0].address))
    row = found(compute.run, 1).the_one('zookeeper-servers')
    assert 'names one server' in row['What']


@pytest.mark.parametrize('days, code, level', [
    (60, 1, None), (20, 1, 'WARNING'), (2, 2, 'CRITICAL')])
def test_certificates_that_end(tmp_path, days, code, level):
    ours = certificates.Authority(tmp_path, 'ours')
    server = ours.issue('zk1', days=days)
    client = ours.issue('nova', days=days)
    for path, name in ((server.both_file, 'key.pem'),
                       (ours.ca_file, 'trust.pem')):
        shutil.copy(path, tmp_path / name)
    ensemble = zookeeper.Ensemble(
        tmp_path / 'server', 1, tls=ours.context(client), extra='\n'.join([
            'serverCnxnFactory='
            'org.apache.zookeeper.server.NettyServerCnxnFactory',
            'ssl.clientAuth=need', 'ssl.keyStore.type=PEM',
            'ssl.keyStore.location=%s' % (tmp_path / 'key.pem'),
            'ssl.trustStore.type=PEM',
            'ssl.trustStore.location=%s' % (tmp_path / 'trust.pem')]))
    with ensemble:
        compute = computes.Compute(
            tmp_path / 'compute', ensemble, '/servicegroups', use_tls=True,
            ca_file=ours.ca_file, cert_file=client.cert_file,
            key_file=client.key_file)
        rows = found(compute.run, 2)['certificates']
    # The authority's own ends in two days.
    levels = {row['What'].partition(' ends')[0]: row['Level'] for row in rows}
    assert levels.pop('[zookeeper] ca_file') == 'CRITICAL'
    assert levels == ({} if level is None else {
        '[zookeeper] cert_file': level,
        'The certificate of %s' % ensemble.address: level})


def test_a_configuration_that_cannot_work(compute):
    compute.config.write_text(compute.config.read_text().replace(
        'username = nova\n', ''))
    row = found(compute.run, 2).the_one('configuration')
    assert '[zookeeper] username is missing' in row['What']
    assert not set(found(compute.run, 2)) & {'zookeeper-servers', 'records'}


def test_a_clock_that_is_wrong(compute):
    compute.join('a')
    compute.run('list')
    faked = process.program('faketime', 'faketime')
    words = compute.words
    compute.words = lambda *arguments: [faked, '-f', '-30s', *words(
        *arguments)]
    compute.env['FAKETIME_DONT_FAKE_MONOTONIC'] = '1'
    row = found(compute.run, 2).the_one('zookeeper-session')
    assert "30.0 s ahead of this host's" in row['What'].replace('29.9', '30.0')
    assert 'chronyc' in row['Fix']


def test_names_of_checks_that_are_none(compute):
    done = compute.run('doctor', '--only', 'zk', code=3)
    assert 'There is no check zk: they are nova, ' in done.stderr


