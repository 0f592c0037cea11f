# SPDX-License-Identifier: Apache-2.0

"""Debian 12's own packages of Nova: in, each driver, an update, and out.

Every command and block is as README and the installation page print it.
"""

import configparser
import re
import signal

import pytest

from nova_servicegroup.tests.fixtures import clone
from nova_servicegroup.tests.fixtures import debian as debians
from nova_servicegroup.tests.fixtures import memcached
from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import texts
from nova_servicegroup.tests.fixtures import zookeeper

pytestmark = pytest.mark.long

PAGE = 'doc/source/install/debian.rst'
SERVICES = ('nova-conductor', 'nova-compute')
BASE = clone.ROOT / '.venvs/debian-12'
#: what an update of Nova replaces, and restarts
UPDATED = ('python3-nova', 'nova-common', 'nova-compute', 'nova-conductor')
INIT_FILE = '/usr/lib/python3/dist-packages/nova/servicegroup/__init__.py'

class Host:
    """A Debian with Nova, its nova.conf, and its services."""

    def __init__(self, debian, plumbing):
        self.debian = debian
        self._plain = (debian.path('/etc/nova/nova.conf').read_text(),
                       plumbing)
        debian.path('/etc/nova/nova-compute.conf').write_text(
            '[DEFAULT]\ncompute_driver = fake.FakeDriver\n')
        self.configure()

    def configure(self, *blocks):
        """Write nova.conf: Debian's own, what tests need, and these blocks.

        Each option goes into its section, as people are told to do it: the
        scripts of Debian's packages fail on a file with two [DEFAULT].
        """
        config = configparser.RawConfigParser(default_section=None,
                                              strict=False)
        config.optionxform = str
        for block in (*self._plain, *blocks):
            config.read_string(block)
        with open(self.debian.path('/etc/nova/nova.conf'), 'w') as f:
            config.write(f)

    def restart(self, expected=True):
        """Restart the services with new logs; wait for the compute to join.

        :param expected: it is to come up, and not to end
        """
        for name in SERVICES:
            self.debian.run('/etc/init.d/' + name, 'stop', check=False)
            self.debian.path('/var/log/nova/%s.log' % name).unlink(
                missing_ok=True)
        for name in SERVICES:
            self.debian.run('/etc/init.d/' + name, 'start')
        if expected:
            self.wait(lambda: self.is_running('nova-compute')
                      and 'Starting compute node' in self.log('nova-compute'),
                      60, 'nova-compute starts')

    def wait(self, condition, timeout, what):
        """Wait; show the logs when it is not to be."""
        try:
            process.wait_until(condition, timeout, what)
        except process.NotReady as e:
            raise process.NotReady('%s\n%s' % (e, '\n'.join(
                '== %s\n%s' % (name, self.log(name)[-4000:])
                for name in SERVICES))) from None

    def is_running(self, name):
        return self.debian.run('pgrep', '-f', '/usr/bin/' + name,
                               check=False).returncode == 0

    def log(self, name):
        path = self.debian.path('/var/log/nova/%s.log' % name)
        return path.read_text() if path.exists() else ''

    def signal(self, number):
        """Send nova-compute, and no keeper of it, a signal."""
        self.debian.run('pkill', '-%d' % number, '-o', '-f',
                        '/usr/bin/nova-compute')

    def states(self, command):
        """Return {binary: sign} as a command lists it."""
        # Its exit code is 1 while a state is unknown.
        listed = self.debian.run(*command.split(), check=False).stdout
        return {row[0]: row[4] for row in map(str.split, listed.splitlines())
                if len(row) > 4 and row[0] in SERVICES}

    def wait_states(self, timeout, command=None, **expected):
        """Wait until the services have these signs."""
        command = command or texts.block('README.rst', 'check').strip()
        expected = {'nova-' + name: sign for name, sign in expected.items()}
        self.wait(lambda: self.states(command) == expected, timeout,
                  '%s: %s' % (command, expected))


@pytest.fixture(scope='module')
def host(make_cloud, tmp_path_factory):
    """A Debian with a Nova of its packages, whose databases are made.

    MariaDB, RabbitMQ and placement are those of a cloud without a Nova.
    """
    with make_cloud(controllers=()) as cloud, debians.Debian(
            tmp_path_factory.mktemp('debian') / 'root', BASE,
            (*SERVICES, 'patch', 'procps')) as debian:
        url = {}
        for name in ('nova', 'nova_api', 'nova_cell0'):
            cloud.database.query('mysql', 'CREATE DATABASE debian_' + name)
            url[name] = cloud.database.url('debian_' + name)
        sections = cloud.nova_conf('deb')
        for option in ('state_path', 'my_ip', 'default_log_levels',
                       'servicegroup_driver', 'compute_driver'):
            del sections['DEFAULT'][option]
        sections['DEFAULT'].update(service_down_time=10)
        sections['database'] = {'connection': url['nova']}
        sections['api_database'] = {'connection': url['nova_api']}
        del sections['oslo_concurrency']
        del sections['key_manager']
        host = Host(debian, nova.write_config(
            tmp_path_factory.mktemp('conf') / 'nova.conf',
            sections).read_text())
        for arguments in ('api_db sync', 'cell_v2 map_cell0 '
                          '--database_connection ' + url['nova_cell0'],
                          'db sync', 'cell_v2 create_cell --name cell1'):
            debian.run('nova-manage', *arguments.split())
        clone.with_repository(debian.path('/root/nova-servicegroup'))
        debian.run('chown', '-R', 'root:root', '/root/nova-servicegroup')
        yield host


def store(name, address):
    """Return the snippet of a driver, with the address of a server here."""
    snippet = (clone.ROOT / ('etc/nova/snippets/%s.conf' % name)).read_text()
    return re.sub(r'127\.0\.0\.1:\d+', address, snippet)


def test_in_each_driver_an_update_and_out(host, tmp_path):
    debian = host.debian
    hook = texts.block('README.rst', 'hook')
    pristine = debian.path(INIT_FILE).read_bytes()
    before = set(debian.path('/usr/local').rglob('*'))

    # Installed as the README says, and loaded by nova.conf alone.
    debian.shell(texts.block('README.rst', 'install-debian'),
                 cwd='/root/nova-servicegroup')
    upgraded = debian.run('pip', 'list', '--path',
                          '/usr/local/lib/python3.11/dist-packages').stdout
    assert upgraded.split()[4:6:2] == ['nova-servicegroup'], upgraded
    host.configure(hook, store('db', ''))
    host.restart()
    host.wait_states(60, conductor=':-)', compute=':-)')
    host.signal(signal.SIGTERM)
    host.wait_states(20, conductor=':-)', compute='XXX')
    assert 'Left the compute group as deb.' in host.log('nova-compute')

    with memcached.Memcached() as server:
        host.configure(hook, store('mc', server.address))
        host.restart()
        host.wait_states(60, conductor=':-)', compute=':-)')
        host.signal(signal.SIGKILL)
        host.wait_states(40, conductor=':-)', compute='XXX')

    with zookeeper.Server(tmp_path / 'zookeeper') as server:
        zk = store('zk', server.address)
        host.configure(hook, zk, '[DEFAULT]\nservice_down_time = 600\n')
        host.restart()
        host.wait_states(60, conductor=':-)', compute=':-)')
        host.signal(signal.SIGKILL)
        host.wait_states(30, conductor=':-)', compute='XXX')

        # An update of Nova's packages: the hook isn't touched.
        debian.run('apt-get', 'install', '-y', '--reinstall', *UPDATED)
        assert debian.path(INIT_FILE).read_bytes() == pristine
        host.restart()
        host.wait_states(60, conductor=':-)', compute=':-)')
        assert host.states('nova-manage service list') == {}

        # The drop-in beside it, kept in place by a package.
        debian.shell(texts.block(PAGE, 'install-trigger'),
                     cwd='/root/nova-servicegroup')
        host.wait_states(60, 'nova-manage service list',
                         conductor=':-)', compute=':-)')
        updated = debian.run('apt-get', 'install', '-y', '--reinstall',
                             *UPDATED).stdout
        assert 'nova-servicegroup' in debian.path(INIT_FILE).read_text()
        assert (updated.index('Installed the drop-in in /usr/lib')
                < updated.index('Setting up nova-compute '))
        # Now it is enough alone, too.
        host.configure(zk)
        host.restart()
        host.wait_states(60, 'nova-manage service list',
                         conductor=':-)', compute=':-)')

        # Out again.
        host.configure(store('db', ''))
        host.restart()
        debian.shell(texts.block(PAGE, 'remove-debian'))
        assert debian.path(INIT_FILE).read_bytes() == pristine
        assert debian.run('dpkg', '-V', 'python3-nova').stdout == ''
        left = {path for path in debian.path('/usr/local').rglob('*')
                if not path.is_dir()} - before
        assert left == set()
        host.restart()
        host.configure(zk)
        host.restart(expected=False)
        host.wait(lambda: "Valid values are [db, mc], but found 'zk'"
                  in host.log('nova-compute'), 60, 'zk is refused')
