# SPDX-License-Identifier: Apache-2.0

"""What a stranger can do to the memberships, and what happens to those who
are taken for one.
"""

import contextlib
import logging
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

from kazoo import client as kazoo_client
from kazoo import exceptions as kazoo_exc
from kazoo.handlers import threading as kazoo_threading
from kazoo import security
import pytest

from nova_servicegroup import conf as sg_conf
from nova_servicegroup.drivers import zk
from nova_servicegroup import evzookeeper
from nova_servicegroup.evzookeeper import membership
from nova_servicegroup.liveness import Question
from nova_servicegroup.tests.fixtures import answers
from nova_servicegroup.tests.fixtures import certificates
from nova_servicegroup.tests.fixtures import member as member_process
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import zookeeper

JAAS = """
Server {
  org.apache.zookeeper.server.auth.DigestLoginModule required
  user_nova="%s";
};
"""
USER = {'username': 'nova', 'password': 'hunter2'}
NODE = 'dead-host@0123456789abcdef'


class World:
    """A server of some kind, and how the fleet and others reach it.

    ``options``: those of [zookeeper] that the fleet has
    ``stranger``: arguments of a kazoo client that is somebody else
    ``secrets``: more options of the fleet that are secret
    ``wrong``: (changes to the options, what names the mistake) pairs
    """

    java = ()
    tls = None
    secrets = {}

    def __init__(self, directory):
        self.directory = directory
        self.prepare()
        self.ensemble = zookeeper.Ensemble(
            directory, 1, extra=self.extra, java=self.java, tls=self.tls)


class DigestWorld(World):
    extra = ''
    options = dict(USER, auth_scheme='digest')
    stranger = {'auth_data': [('digest', 'stranger:pw')]}
    wrong = [({'password': 'wrong7'}, 'username and password'),
             ({'username': 'eve'}, 'username and password'),
             ({'auth_scheme': 'none', 'username': None, 'password': None},
              'set [zookeeper] auth_scheme')]

    def prepare(self):
        pass


class SaslWorld(World):
    extra = ('authProvider.sasl='
             'org.apache.zookeeper.server.auth.SASLAuthenticationProvider')
    options = dict(USER, auth_scheme='sasl')
    stranger = {}
    wrong = [({'password': 'wrong7'}, 'username and password'),
             ({'username': 'eve'}, '[zookeeper] username')]

    def prepare(self):
        self.set_password(USER['password'])
        self.java = ['-Djava.security.auth.login.config=%s'
                     % (self.directory / 'jaas.conf')]

    def set_password(self, password):
        (self.directory / 'jaas.conf').write_text(JAAS % password)


class CertificateWorld(World):

    def prepare(self):
        ours = certificates.Authority(self.directory, 'ours')
        theirs = certificates.Authority(self.directory, 'theirs')
        self.stores = {
            'keyStore': (ours.issue('zk1', ['127.0.0.1']).both_file,
                         theirs.issue('zk1-theirs').both_file),
            'trustStore': (ours.ca_file, theirs.ca_file)}
        self.trust_others(None)
        fleet = ours.issue('nova')
        locked = ours.issue('locked', password='hunter2')
        other = ours.issue('other-service')
        forged = theirs.issue('nova-forged')
        self.tls = ours.context(fleet)
        self.extra = '\n'.join([
            'serverCnxnFactory='
            'org.apache.zookeeper.server.NettyServerCnxnFactory',
            'ssl.keyStore.type=PEM',
            'ssl.keyStore.location=%s' % (self.directory / 'keyStore.pem'),
            'ssl.trustStore.type=PEM',
            'ssl.trustStore.location=%s' % (self.directory / 'trustStore.pem'),
            'ssl.clientAuth=need',
            'authProvider.x509='
            'org.apache.zookeeper.server.auth.X509AuthenticationProvider'])
        self.options = {
            'auth_scheme': 'x509', 'use_tls': True, 'ca_file': ours.ca_file,
            'cert_file': fleet.cert_file, 'key_file': fleet.key_file}
        self.secrets = {
            'cert_file': locked.cert_file, 'key_file': locked.key_file,
            'key_password': 'hunter2'}
        self.stranger = {
            'use_ssl': True, 'ca': ours.ca_file,
            'certfile': other.cert_file, 'keyfile': other.key_file}
        self.wrong = [
            ({'cert_file': other.cert_file, 'key_file': other.key_file},
             'cert_file, whose subject'),
            ({'cert_file': forged.cert_file, 'key_file': forged.key_file},
             'refuses our client certificate'),
            ({'ca_file': theirs.ca_file}, '[zookeeper] ca_file'),
            ({'ca_file': '/nonexistent/ca.pem'},
             '[zookeeper] ca_file: cannot read /nonexistent/ca.pem'),
            ({'ca_file': fleet.key_file}, 'holds no certificate'),
            ({'key_file': other.key_file}, 'key_file or key_password'),
            (dict(self.secrets, key_password='wrong7'),
             'key_file or key_password')]

    def trust_others(self, changed):
        """Write the stores; the one that is named is of other people."""
        for name, (ours, theirs) in self.stores.items():
            shutil.copy(theirs if name == changed else ours,
                        self.directory / (name + '.pem'))


WORLDS = {'digest': DigestWorld, 'sasl': SaslWorld, 'x509': CertificateWorld}


@pytest.fixture(scope='module')
def worlds(tmp_path_factory):
    """Start servers of each kind once."""
    with contextlib.ExitStack() as stack:
        made = {}

        def get(kind):
            if kind not in made:
                made[kind] = WORLDS[kind](tmp_path_factory.mktemp(kind))
                stack.enter_context(made[kind].ensemble)
            return made[kind]

        yield get


@pytest.fixture(params=WORLDS)
def world(request, worlds):
    return worlds(request.param)


@pytest.fixture
def session(config):
    """Make a session of the fleet, with changes to its options."""
    made = []

    def make(world, recv_timeout=2000, address=None, **changes):
        config.config(group='zookeeper', **dict(world.options, **changes))
        made.append(evzookeeper.ZKSession(
            address or world.ensemble.address, recv_timeout=recv_timeout,
            retry_interval=1, **sg_conf.zk.security(config.conf)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def refused(action, *args, **kwargs):
    with pytest.raises(kazoo_exc.NoAuthError):
        action(*args, **kwargs)


def errors(caplog):
    # Other tests of this process may have left clients of a message bus.
    return [record.getMessage() for record in caplog.records
            if record.levelno >= logging.ERROR
            and not record.name.startswith('oslo')]


def test_a_stranger_changes_nothing(world, session):
    prefix = '/stranger'
    fleet = session(world)
    member = membership.Membership(fleet, prefix + '/compute', 'host1')
    # A directory without members could be deleted, and made anew.
    view = membership.MembershipMonitor(fleet, prefix + '/conductor')
    assert view.wait(5)
    node = '%s/compute/%s' % (prefix, member.node)
    with world.ensemble.client(**world.stranger) as stranger:
        refused(stranger.create, prefix + '/compute/' + NODE, ephemeral=True)
        refused(stranger.create, prefix + '/scheduler')
        refused(stranger.delete, node)
        refused(stranger.set, node, b'{}')
        refused(stranger.delete, prefix + '/conductor')
        for path in (prefix, prefix + '/compute', node):
            refused(stranger.set_acls, path, [
                security.make_digest_acl('stranger', 'pw', all=True)])
        assert stranger.get_children(prefix + '/compute') == [member.node]
    assert member.refresh(quiet=False)


def test_reading_can_be_closed(world, session):
    prefix = '/closed'
    member = membership.Membership(
        session(world, open_reading=False), prefix + '/compute', 'host1')
    view = membership.MembershipMonitor(
        session(world, open_reading=False), prefix + '/compute')
    assert view.wait(5) and view.get_all() == {'host1'}
    with world.ensemble.client(**world.stranger) as stranger:
        refused(stranger.get_children, prefix)
        refused(stranger.get_children, prefix + '/compute')
        refused(stranger.get, '%s/compute/%s' % (prefix, member.node))


@pytest.mark.parametrize('kind, number', [
    (kind, number) for kind, count in (('digest', 3), ('sasl', 2), ('x509', 7))
    for number in range(count)])
def test_what_is_wrong_is_named_once_at_start(kind, number, worlds, session,
                                              caplog):
    world = worlds(kind)
    membership.Membership(session(world), '/named/compute', 'host1')
    changes, named = world.wrong[number]
    caplog.clear()
    wrong = session(world, **changes)
    membership.Membership(wrong, '/named/compute', 'host2', async_mode=True)
    process.wait_until(lambda: named in caplog.text, 8, named)
    # Attempts go on, words don't.
    time.sleep(3)
    error, = errors(caplog)
    assert named in error
    assert 'wrong7' not in caplog.text


def test_a_reader_that_is_not_who_it_should_be_is_told(worlds, session,
                                                       caplog):
    """It could read, and go on so, until it has something to write."""
    world = worlds('digest')
    membership.Membership(session(world), '/read/compute', 'host1')
    view = membership.MembershipMonitor(
        session(world, password='wrong7'), '/read/compute')
    assert view.wait(5) and view.get_all() == {'host1'}
    process.wait_until(lambda: errors(caplog), 5, 'an error')
    assert 'username and password' in errors(caplog)[0]


@pytest.mark.parametrize('kind, before, after, named', [
    ('sasl', 'authProvider.sasl', '#',
     'no identities of the kind sasl'),
    ('x509', 'clientAuth=need', 'clientAuth=none', 'by no certificate')])
def test_a_server_that_is_not_configured_for_it(
        kind, before, after, named, session, tmp_path, caplog):
    world = WORLDS[kind](tmp_path)
    assert before in world.extra
    world.ensemble = zookeeper.Ensemble(
        tmp_path, 1, extra=world.extra.replace(before, after),
        java=world.java, tls=world.tls)
    with world.ensemble:
        membership.Membership(session(world), '/unready/compute', 'host1',
                              async_mode=True)
        process.wait_until(lambda: errors(caplog), 10, 'an error')
        time.sleep(2)
        error, = errors(caplog)
        assert named in error


def see_it_named_and_mended(broken, named, member, caplog):
    """A failure at run time is logged once, retried, and over when mended.

    :param broken: a context manager
    """
    with broken:
        process.wait_until(lambda: errors(caplog), 15, named)
        time.sleep(3)
        error, = errors(caplog)
        assert named in error
        assert not member.refresh()
    process.wait_until(member.refresh, 15, 'the member back')
    assert len(errors(caplog)) == 1


@contextlib.contextmanager
def restarted(world, change, change_back):
    """Restart the server with something else, and again as it was."""
    server, = world.ensemble.servers
    for action in (change, change_back):
        server.stop()
        action()
        server.start()
        server.wait_ready(lambda: process.listening(server.port), 30)
        if action is change:
            yield
    world.ensemble.wait_serving()


def test_another_digest_password_at_run_time(worlds, session, caplog):
    caplog.set_level(logging.INFO)
    world = worlds('digest')
    fleet = session(world)
    member = membership.Membership(fleet, '/changed/compute', 'host1')

    @contextlib.contextmanager
    def given_to_others():
        path = '/changed/compute'
        with world.ensemble.client(
                auth_data=[('digest', 'nova:hunter2')]) as client:
            acl, _ = client.get_acls(path)
            client.set_acls(path, [
                security.make_digest_acl('nova', 'another', all=True),
                security.make_digest_acl('nova', 'hunter2', admin=True)])
            world.ensemble.expire(fleet.client_id())
            yield
            client.set_acls(path, acl)

    see_it_named_and_mended(given_to_others(), 'username and password',
                            member, caplog)
    process.wait_until(
        lambda: 'path /changed/compute is granted again' in caplog.text, 5,
        'the word of its end')


def test_another_sasl_password_at_run_time(worlds, session, caplog):
    world = worlds('sasl')
    member = membership.Membership(session(world), '/changed/compute', 'host1')
    see_it_named_and_mended(
        restarted(world, lambda: world.set_password('another'),
                  lambda: world.set_password(USER['password'])),
        'username and password', member, caplog)


@pytest.mark.parametrize('store, named', [
    ('keyStore', '[zookeeper] ca_file'),
    ('trustStore', 'refuses our client certificate')])
def test_other_certificates_at_run_time(store, named, worlds, session,
                                        caplog):
    world = worlds('x509')
    member = membership.Membership(session(world), '/changed/compute', 'host1')
    see_it_named_and_mended(
        restarted(world, lambda: world.trust_others(store),
                  lambda: world.trust_others(None)),
        named, member, caplog)


def warnings(caplog):
    # Threads of oslo.messaging that other tests left may complain.
    return [record.getMessage() for record in caplog.records
            if record.levelno == logging.WARNING
            and record.name.startswith('nova_servicegroup')]


def test_without_an_identity_one_warning_says_what_may_happen(
        worlds, config, caplog):
    world = worlds('digest')
    config.config(group='zookeeper', address=world.ensemble.address,
                  sg_prefix='/naked')
    driver, another = zk.ZooKeeperDriver(), zk.ZooKeeperDriver()
    dead = answers.record('dead-host')

    def placed(driver):
        return driver.answer(dead, Question.MAY_PLACE) is True

    assert placed(driver) is placed(another) is False
    try:
        # What it says is true.
        with world.ensemble.client(**world.stranger) as stranger:
            node = stranger.create('/naked/compute/' + NODE, ephemeral=True)
            process.wait_until(lambda: placed(driver), 5, 'a dead host up')
            stranger.delete(node)
            process.wait_until(lambda: not placed(driver), 5, 'the other')
            stranger.set_acls('/naked/compute', security.CREATOR_ALL_ACL)
    finally:
        driver._session.close()
    warning, = warnings(caplog)
    for danger in ('keep a dead host up', 'delete the znode of a living host',
                   'lock every service out', '[zookeeper] auth_scheme'):
        assert danger in warning


def test_an_open_directory_is_told_once_with_the_command(world, session,
                                                         caplog):
    with world.ensemble.client(**world.stranger) as stranger:
        stranger.ensure_path('/old/compute')
        stranger.ensure_path('/old/conductor')
    fleet = session(world)
    for group in ('compute', 'conductor'):
        membership.Membership(fleet, '/old/' + group, 'host1')
    process.wait_until(lambda: warnings(caplog), 5, 'a warning')
    time.sleep(1)
    warning, = warnings(caplog)
    assert 'have permissions on /old that' in warning
    assert 'nova-servicegroup zookeeper tighten' in warning
    assert not errors(caplog)


def test_what_we_make_ourselves_is_not_told(world, session, caplog):
    for open_reading in (True, False):
        fleet = session(world, open_reading=open_reading)
        path = '/ours-%s/compute' % open_reading
        membership.Membership(fleet, path, 'host1')
        membership.Membership(session(world, open_reading=open_reading),
                              path, 'host2')
    time.sleep(1)
    assert not warnings(caplog) and not errors(caplog)
    # It is open to read, which it shall not be now.
    membership.Membership(session(world, open_reading=False),
                          '/ours-True/compute', 'host3')
    process.wait_until(lambda: warnings(caplog), 5, 'a warning')


def test_secrets_are_nowhere_to_be_seen(world, tmp_path):
    config_file = tmp_path / 'nova.conf'
    config_file.write_text('[zookeeper]\n' + ''.join(
        '%s = %s\n' % item
        for item in dict(world.options, **world.secrets).items()))
    assert 'hunter2' in config_file.read_text()
    with member_process.Member(
            tmp_path, 'discreet', world.ensemble.address, prefix='/discreet',
            config_file=str(config_file), log_level='DEBUG') as one:
        one.wait_joined()
        for pid in (one.pid, one.keeper_pid):
            proc = pathlib.Path('/proc/%d' % pid)
            assert b'hunter2' not in (proc / 'cmdline').read_bytes()
            assert b'hunter2' not in (proc / 'environ').read_bytes()
        # What goes wrong doesn't bring it out either.
        server, = world.ensemble.servers
        server.kill()
        process.wait_until(lambda: 'Lost connection' in one.log(), 10,
                           'the loss')
        os.kill(one.keeper_pid, signal.SIGKILL)
        process.wait_until(lambda: 'Starting another one' in one.log(), 10,
                           'another keeper')
        server.start()
        process.wait_until(lambda: 'Recovered connection' in one.log(), 20,
                           'the recovery')
        assert 'hunter2' not in one.log()


def test_a_secure_keeper_is_small(world, session):
    fleet = session(world)
    membership.Membership(fleet, '/small/compute', 'host1')
    status = pathlib.Path('/proc/%d/status' % fleet.keeper_pid).read_text()
    resident = int(status.partition('VmRSS:')[2].split()[0])
    assert resident <= 30 * 1024, '%d KB' % resident
    maps = pathlib.Path('/proc/%d/maps' % fleet.keeper_pid).read_text()
    assert 'greenlet' not in maps


def test_a_key_with_a_password(worlds, session):
    world = worlds('x509')
    one = session(world, **world.secrets)
    assert membership.Membership(one, '/locked/compute', 'host1').node


def test_the_servers_must_be_who_they_should_be(worlds, session, caplog):
    world = worlds('x509')
    address = world.ensemble.address.replace('127.0.0.1', 'localhost')
    session(world, address=address)
    process.wait_until(lambda: errors(caplog), 5, 'an error')
    assert '[zookeeper] address' in errors(caplog)[0]
    assert membership.Membership(
        session(world, address=address, check_hostname=False),
        '/localhost/compute', 'host1').node


def test_tls_with_a_server_that_has_none(worlds, session, caplog):
    world = worlds('digest')
    session(world, use_tls=True)
    process.wait_until(lambda: errors(caplog), 5, 'an error')
    assert 'use_tls' in errors(caplog)[0]


def test_who_has_no_certificate_does_not_even_connect(worlds):
    world = worlds('x509')
    for how in ({}, {'use_ssl': True, 'ca': world.options['ca_file']}):
        stranger = kazoo_client.KazooClient(world.ensemble.address, **how)
        with pytest.raises(kazoo_threading.KazooTimeoutError):
            stranger.start(3)


@pytest.fixture
def tighten(world, tmp_path):
    """Run the command with the fleet's options; return the process."""
    def run(*arguments, prefix, **changes):
        config_dir = tmp_path / 'nova.conf.d'
        config_dir.mkdir(exist_ok=True)
        options = dict(world.options, address=world.ensemble.address,
                       sg_prefix=prefix)
        options.update(changes)
        (config_dir / 'zk.conf').write_text('[zookeeper]\n' + ''.join(
            '%s = %s\n' % item for item in options.items()
            if item[1] is not None))
        done = subprocess.run(
            [sys.executable, '-m', 'nova_servicegroup.cmd.main', 'zookeeper',
             'tighten', '--config-dir', config_dir, *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
            timeout=60)
        assert 'hunter2' not in done.stdout
        assert 'Traceback' not in done.stdout
        return done
    return run


def acls(client, *paths):
    return [client.get_acls(path)[0] for path in paths]


def test_open_directories_are_tightened_by_command(world, session, tighten):
    with world.ensemble.client(**world.stranger) as stranger:
        stranger.ensure_path('/loose/compute')
        stranger.create('/loose/compute/leftover')
        fleet = session(world)
        member = membership.Membership(fleet, '/loose/compute', 'host1')
        paths = ('/loose', '/loose/compute', '/loose/compute/leftover')
        before = acls(stranger, *paths)

        tried = tighten('--dry-run', prefix='/loose')
        assert tried.returncode == 0
        assert '3 of 4 nodes from /loose on would be tightened' in tried.stdout
        assert 'would change /loose/compute: world:anyone:cdrwa -> ' \
            in tried.stdout
        assert acls(stranger, *paths) == before

        done = tighten(prefix='/loose')
        assert done.returncode == 0
        assert '3 of 4 nodes from /loose on were tightened' in done.stdout
        refused(stranger.create, '/loose/compute/' + NODE, ephemeral=True)
        refused(stranger.create, '/loose/conductor')
        refused(stranger.delete, '/loose/compute/leftover')
        for path in paths:
            refused(stranger.set_acls, path, security.OPEN_ACL_UNSAFE)
        after = acls(stranger, *paths)
        ours, = acls(stranger, '/loose/compute/' + member.node)
        assert after == [ours] * 3

        again = tighten(prefix='/loose')
        assert again.returncode == 0
        assert again.stdout == '0 of 4 nodes from /loose on were tightened.\n'
        assert acls(stranger, *paths) == after

        # The option for reading is put into effect as well.
        closed = tighten(prefix='/loose', open_reading=False)
        assert closed.returncode == 0
        assert '4 of 4 nodes' in closed.stdout
        refused(stranger.get_children, '/loose/compute')
    assert member.refresh(quiet=False)
    assert membership.Membership(
        session(world, open_reading=False), '/loose/compute', 'host2').node


def test_nobody_is_locked_out_by_mistake(world, session, tighten):
    """Neither services without the identity nor those of another one."""
    directory = '/mixed/compute'
    naked = dict.fromkeys(('username', 'password'), None)
    if world.tls is not None:
        naked = {}
    old = session(world, **dict(naked, auth_scheme='none'))
    member = membership.Membership(old, directory, 'old-host')
    refused_to = tighten(prefix='/mixed')
    assert refused_to.returncode == 1
    assert '%s/%s (old-host) was not made by' % (
        directory, member.node) in refused_to.stdout
    assert 'Nothing was changed.' in refused_to.stdout
    with world.ensemble.client(**world.stranger) as stranger:
        for acl in acls(stranger, '/mixed', directory):
            assert acl == security.OPEN_ACL_UNSAFE
        assert tighten('--dry-run', prefix='/mixed').returncode == 0
        assert tighten('--force', prefix='/mixed').returncode == 0
        refused(stranger.create, directory + '/' + NODE, ephemeral=True)


def test_the_command_says_what_is_wrong(world, session, tighten):
    membership.Membership(session(world), '/wrong/compute', 'host1')
    for changes, named in world.wrong[:2] + [
            ({'auth_scheme': 'none', 'username': None, 'password': None},
             'set [zookeeper] auth_scheme'),
            ({'address': 'h1:x'}, '[zookeeper] address'),
            ({'address': ''}, 'write host:port')]:
        done = tighten(prefix='/wrong', **changes)
        assert done.returncode == 1
        assert named in done.stdout



def session_password(session_id):
    """Return the password of a session as ZooKeeper makes it: from its id.

    java.util.Random, seeded with the id and a constant.
    """
    state = (session_id ^ 0xB3415C00 ^ 0x5DEECE66D) & (2 ** 48 - 1)
    made = b''
    for _ in range(4):
        state = (state * 0x5DEECE66D + 11) & (2 ** 48 - 1)
        made += (state >> 16).to_bytes(4, 'little')
    return made


@pytest.mark.parametrize('open_reading', [True, False])
def test_rights_do_not_keep_a_session_alive(open_reading, worlds, session,
                                            caplog):
    """What the documentation says of ACLs: a stranger ends a session."""
    caplog.set_level(logging.INFO)
    world = worlds('digest')
    fleet = session(world, open_reading=open_reading)
    member = membership.Membership(fleet, '/victim-%s/compute' % open_reading,
                                   'host1')
    before = fleet.client_id()
    with world.ensemble.client() as stranger:
        if open_reading:
            stat = stranger.exists('/victim-True/compute/' + member.node)
            found = stat.ephemeralOwner
        else:
            # They are counted up.
            found = before[0]
            assert 0 < stranger.client_id[0] - found < 1000
    assert session_password(found) == before[1]
    world.ensemble.expire((found, session_password(found)))
    process.wait_until(lambda: fleet.client_id() != before, 10, 'its end')


def test_enforced_authentication_is_no_cure(session, tmp_path, caplog):
    """It keeps a stranger from closing a session, not from taking it."""
    world = SaslWorld(tmp_path)
    world.ensemble = zookeeper.Ensemble(
        tmp_path, 1, java=world.java, extra=world.extra +
        '\nenforce.auth.enabled=true\nenforce.auth.schemes=sasl')
    with world.ensemble:
        fleet = session(world)
        membership.Membership(fleet, '/enforced/compute', 'host1')
        number, password = fleet.client_id()
        assert password == session_password(number)
        world.ensemble.expire((number, password))
        process.wait_until(lambda: 'suspended' in caplog.text, 5, 'the theft')
        process.wait_until(fleet.is_connected, 5, 'the session back')
        assert fleet.client_id() == (number, password)


@pytest.mark.parametrize('wanted, granted, setting', [
    (4000, 1500, 'maxSessionTimeout'), (500, 1000, 'minSessionTimeout')])
def test_what_the_servers_grant_is_told_and_counts(
        wanted, granted, setting, session, tmp_path, caplog):
    with zookeeper.Ensemble(tmp_path, 1,
                            extra='maxSessionTimeout=1500') as ensemble:
        one = evzookeeper.ZKSession(ensemble.address, timeout=10,
                                    recv_timeout=wanted)
        try:
            ensemble.expire(one.client_id())
            process.wait_until(one.is_connected, 10, 'another session')
            time.sleep(0.5)
            logged = [text for text in warnings(caplog) if 'grants' in text]
            assert len(logged) == 1
            for part in ('%d ms' % granted, '%d ms' % wanted, setting,
                         '[zookeeper] recv_timeout'):
                assert part in logged[0]
            # The keeper's own clock ends the session when the servers do.
            ensemble.kill()
            began = time.monotonic()
            process.wait_until(lambda: one.state() == evzookeeper.SUSPENDED,
                               2, 'the loss')
            process.wait_until(lambda: one.state() == evzookeeper.EXPIRED, 5,
                               'the end of the session')
            passed = time.monotonic() - began
            assert granted / 1000 - 0.2 < passed < granted / 1000 + 1.5
        finally:
            one.close()


def test_a_timeout_that_is_granted_is_not_told(worlds, session, caplog):
    fleet = session(worlds('digest'), recv_timeout=2000)
    membership.Membership(fleet, '/granted/compute', 'host1')
    time.sleep(0.5)
    assert not warnings(caplog)
