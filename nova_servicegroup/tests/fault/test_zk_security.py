# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

"""What a stranger can do to the memberships, and what happens to those who
are taken for one.
"""

import contextlib
import logging
import time

from kazoo import exceptions as kazoo_exc
from kazoo import security
import pytest

from nova_servicegroup import conf as sg_conf
from nova_servicegroup import evzookeeper
from nova_servicegroup.evzookeeper import membership
from nova_servicegroup.tests.fixtures import certificates
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
    ``wrong``: (changes to the options, what names the mistake) pairs
    """

    java = ()
    tls = None

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
        self.server = ours.issue('zk1', ['127.0.0.1', 'localhost'])
        fleet = ours.issue('nova')
        locked = ours.issue('locked', password='hunter2')
        other = ours.issue('other-service')
        forged = theirs.issue('nova-forged')
        self.tls = ours.context(fleet)
        self.extra = '\n'.join([
            'serverCnxnFactory='
            'org.apache.zookeeper.server.NettyServerCnxnFactory',
            'ssl.keyStore.type=PEM',
            'ssl.keyStore.location=' + self.server.both_file,
            'ssl.trustStore.type=PEM',
            'ssl.trustStore.location=' + ours.ca_file,
            'ssl.clientAuth=need',
            'authProvider.x509='
            'org.apache.zookeeper.server.auth.X509AuthenticationProvider'])
        self.options = {
            'auth_scheme': 'x509', 'use_tls': True, 'ca_file': ours.ca_file,
            'cert_file': fleet.cert_file, 'key_file': fleet.key_file}
        self.stranger = {
            'use_ssl': True, 'ca': ours.ca_file,
            'certfile': other.cert_file, 'keyfile': other.key_file}
        self.wrong = [
            ({'cert_file': other.cert_file, 'key_file': other.key_file},
             'cert_file, whose subject'),
            ({'cert_file': forged.cert_file, 'key_file': forged.key_file},
             'does not take our certificate'),
            ({'ca_file': theirs.ca_file}, '[zookeeper] ca_file'),
            ({'ca_file': '/nonexistent/ca.pem'},
             '[zookeeper] ca_file: cannot read /nonexistent/ca.pem'),
            ({'ca_file': fleet.key_file}, 'holds no certificate'),
            ({'key_file': other.key_file}, 'key_file or key_password'),
            ({'cert_file': locked.cert_file, 'key_file': locked.key_file,
              'key_password': 'wrong7'}, 'key_file or key_password')]


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
            retry_interval=1, **sg_conf.zookeeper_security(config.conf)))
        return made[-1]

    yield make
    for one in made:
        one.close()


def refused(action, *args, **kwargs):
    with pytest.raises(kazoo_exc.NoAuthError):
        action(*args, **kwargs)


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
    errors = [record for record in caplog.records
              if record.levelno >= logging.ERROR]
    assert len(errors) == 1 and named in errors[0].getMessage()
    assert 'wrong7' not in caplog.text
