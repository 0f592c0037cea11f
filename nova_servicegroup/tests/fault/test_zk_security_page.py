# SPDX-License-Identifier: Apache-2.0

"""The configurations of the page on security, as they stand there.

Only names, ports and paths are put in; the servers and the processes are
real.
"""

import pathlib
import re
import ssl
import subprocess
import textwrap

from kazoo import client as kazoo_client
from kazoo import exceptions as kazoo_exc
from kazoo.handlers import threading as kazoo_threading
import pytest

from nova_servicegroup.tests.fixtures import certificates
from nova_servicegroup.tests.fixtures import member
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import zookeeper

PAGE = (pathlib.Path(__file__).parents[3] /
        'doc/source/admin/zookeeper-security.rst').read_text()
BLOCKS = {name: textwrap.dedent(text) for name, text in re.findall(
    r'^\.\. code-block:: \w+\n   :name: ([\w-]+)\n\n((?:   .*\n|\n)+)', PAGE,
    re.MULTILINE)}
HOSTS = 'zk1.example.org:%d,zk2.example.org:%d,zk3.example.org:%d'


class Page:
    """The blocks of the page, with what differs between two places put in."""

    def __init__(self, directory):
        self.directory = directory
        self.used = set()

    def block(self, name, *replaced):
        """Return a block; each (old, new) pair must occur in it."""
        self.used.add(name)
        text = BLOCKS[name]
        for old, new in replaced:
            assert old in text, '%s: no %r in it' % (name, old)
            text = text.replace(old, str(new))
        return text

    def member(self, name, port, host, server, *replaced, **what):
        """Run a process with the plug-in's configuration ``name``."""
        directory = self.directory / host
        directory.mkdir()
        config_file = directory / 'nova.conf'
        config_file.write_text(self.block(
            name, (HOSTS % (port, port, port), server.address), *replaced))
        # With time to join before it complains.
        return member.Member(directory, host, None, interval=4,
                             config_file=str(config_file), **what)


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    page = Page(tmp_path_factory.mktemp('page'))
    yield page
    # Only where all of them ran.
    if page.used >= {'digest', 'sasl', 'tls', 'tls-per-host'}:
        assert page.used == set(BLOCKS)


@pytest.fixture(scope='module')
def tls_server(page):
    """A server as the page configures it, with the page's certificates."""
    process.program('openssl', 'openssl')
    subprocess.run(
        ['sh', '-ec', page.block(
            'certificates', ('DNS:zk1.example.org', 'IP:127.0.0.1'))],
        cwd=page.directory, check=True, capture_output=True)
    tls = ssl.create_default_context(cafile=page.directory / 'ca.pem')
    tls.load_cert_chain(page.directory / 'nova.pem',
                        page.directory / 'nova.key')
    # As Python 3.13 does it by default.
    tls.verify_flags |= ssl.VERIFY_X509_STRICT
    server = zookeeper.Server(page.directory / 'server', tls=tls)
    config = page.directory / 'server/zoo.cfg'
    block = page.block('tls-server', ('secureClientPort=2281',
                                      'secureClientPort=%d' % server.port),
                       ('/etc/zookeeper/tls', page.directory))
    config.write_text(config.read_text() + block)
    class_path, = re.findall('^CLASSPATH="(.*)"$', page.block(
        'tls-class-path', ('/etc/zookeeper/conf', server.directory)),
        re.MULTILINE)
    server.command[server.command.index('-cp') + 1] = class_path
    with server:
        server.wait_ready(lambda: server.mode, 60)
        yield server


def connects(server, **how):
    """Tell whether a kazoo client gets a session."""
    stranger = kazoo_client.KazooClient(server.address, **how)
    try:
        stranger.start(3)
    except kazoo_threading.KazooTimeoutError:
        return False
    stranger.stop()
    return True


def test_client_certificates(page, tls_server):
    with page.member('tls', 2281, 'host1', tls_server,
                     ('/etc/nova/zookeeper', page.directory)) as one:
        one.wait_joined()
        assert 'ERROR' not in one.log() and 'WARNING' not in one.log()
        assert not connects(tls_server)
        assert not connects(tls_server, use_ssl=True,
                            ca=page.directory / 'ca.pem')
        others = certificates.Authority(page.directory, 'others')
        forged = others.issue('nova-forged')
        assert not connects(
            tls_server, use_ssl=True, ca=page.directory / 'ca.pem',
            certfile=forged.cert_file, keyfile=forged.key_file)
        with page.member('tls', 2281, 'host2', tls_server,
                         ('/etc/nova/zookeeper', page.directory)) as two:
            two.wait_joined()


def test_a_certificate_for_each_host(page, tls_server):
    """Made as that of the fleet; the directories are another fleet's."""
    commands = page.block(
        'certificates', ('/CN=nova', '/CN=compute1'),
        ('nova.', 'compute1.')).partition('# For the Nova services.')[2]
    subprocess.run(['sh', '-ec', commands], cwd=page.directory, check=True,
                   capture_output=True)
    with page.member('tls-per-host', 2281, 'compute1', tls_server,
                     ('/etc/nova/zookeeper', page.directory),
                     prefix='/per-host') as one:
        one.wait_joined()
        with page.member(
                'tls-per-host', 2281, 'compute2', tls_server,
                ('/etc/nova/zookeeper/compute1', page.directory / 'nova'),
                ('/etc/nova/zookeeper', page.directory),
                prefix='/per-host') as two:
            two.wait_joined()
            assert 'WARNING' not in one.log() + two.log()
            # No certificate beside the password.
            client = kazoo_client.KazooClient(
                tls_server.address, use_ssl=True,
                ca=page.directory / 'ca.pem',
                certfile=page.directory / 'nova.pem',
                keyfile=page.directory / 'nova.key')
            client.start(10)
            for path in ('/per-host', '/per-host/compute'):
                assert [acl.id.scheme for acl in client.get_acls(path)[0]] == [
                    'digest', 'world']
            client.stop()


@pytest.mark.parametrize('kind', ['digest', 'sasl'])
def test_username_and_password(kind, page, tmp_path):
    how = {}
    if kind == 'sasl':
        users = tmp_path / 'jaas.conf'
        users.write_text(page.block('sasl-users'))
        how['extra'] = page.block('sasl-server')
        how['java'] = [page.block('sasl-java', (
            '/etc/zookeeper/conf/jaas.conf', users)).strip()]
    with zookeeper.Ensemble(tmp_path, 1, **how) as ensemble:
        with page.member(kind, 2181, kind, ensemble) as one:
            one.wait_joined()
            assert 'ERROR' not in one.log() and 'WARNING' not in one.log()
            with ensemble.client() as stranger:
                with pytest.raises(kazoo_exc.NoAuthError):
                    stranger.create('/servicegroups/compute/a')
