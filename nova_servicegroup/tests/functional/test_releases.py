# SPDX-License-Identifier: Apache-2.0

"""Into every supported release of Nova from PyPI, and out of it again."""

import json
import os
import pathlib
import subprocess
import sys
import sysconfig
import venv

import pytest

from nova_servicegroup.tests.fixtures import texts

ROOT = pathlib.Path(__file__).parents[3]
ONE_SERVICE = pathlib.Path(__file__).with_name('one_service.py')

# Each release with the modes in which its nova-conductor runs.
RELEASES = {'34.0.0': ('threading', 'eventlet'),
            '33.0.2': ('threading', 'eventlet'),
            '32.2.1': ('eventlet',),
            '31.3.1': ('eventlet',)}

CONF = '''[DEFAULT]
servicegroup_driver = %(driver)s
report_interval = 1
service_down_time = 5
transport_url = fake:/
log_file = %(directory)s/nova.log
state_path = %(directory)s
[database]
connection = sqlite:///%(directory)s/main.sqlite
[api_database]
connection = sqlite:///%(directory)s/api.sqlite
'''

HOOK = texts.block('README.rst', 'hook')


@pytest.fixture(scope='module')
def wheel(tmp_path_factory):
    """The plug-in as it would be uploaded."""
    directory = tmp_path_factory.mktemp('wheel')
    subprocess.run([sys.executable, '-m', 'pip', 'wheel', '-q', '--no-deps',
                    '-w', str(directory), str(ROOT)], check=True)
    return next(directory.glob('*.whl'))


class Release:
    """A Nova from PyPI, in an environment of its own.

    What Nova needs is taken from the environment of the tests, which is on
    the path behind the release; only Nova and the plug-in are its own.
    """

    def __init__(self, version, wheel):
        self.version = version
        self.wheel = wheel
        self.home = ROOT / '.venvs' / ('nova-%s' % version)
        self.bin = self.home / 'bin'
        self.packages = self.home / 'lib' / ('python%d.%d' % sys.version_info[
            :2]) / 'site-packages'
        self.file = self.packages / 'nova' / 'servicegroup' / '__init__.py'
        if not self.file.exists():
            venv.create(self.home, with_pip=True, clear=True)
            (self.packages / 'tests-environment.pth').write_text(
                sysconfig.get_path('purelib') + '\n')
            nova = 'nova==%s' % version
            self.pip('install', '--no-compile', '--no-deps',
                     '--ignore-installed', nova)
            self.pip('install', '--no-compile', nova)
        self.pristine = self.file.read_bytes()
        self.install_plugin()

    def pip(self, *arguments):
        subprocess.run([self.bin / 'python', '-m', 'pip', '-q',
                        '--disable-pip-version-check', *arguments],
                       check=True, env=self.environment())

    def install_plugin(self):
        self.pip('install', '--no-deps', '--ignore-installed', self.wheel)

    def environment(self, mode=''):
        env = dict(os.environ, OS_NOVA_DISABLE_EVENTLET_PATCHING={
            'threading': 'true', 'eventlet': 'false', '': ''}[mode])
        env.pop('PYTHONPATH', None)
        if not mode:
            del env['OS_NOVA_DISABLE_EVENTLET_PATCHING']
        return env

    def run(self, program, *arguments, mode='', **kwargs):
        return subprocess.run(
            [self.bin / program, *map(str, arguments)], text=True,
            capture_output=True, env=self.environment(mode), **kwargs)

    def dropin(self, verb):
        return self.run('nova-servicegroup', 'dropin', verb)

    def conf(self, directory, driver='db', more=''):
        directory.mkdir(exist_ok=True)
        path = directory / 'nova.conf'
        path.write_text(CONF % {'driver': driver, 'directory': directory}
                        + more)
        return path

    def one_service(self, directory, mode, **what):
        """Run Nova's Service for three seconds; return the process."""
        return self.run('python', ONE_SERVICE, self.conf(directory, **what),
                        3, mode=mode, cwd=directory)


@pytest.fixture(scope='module', params=RELEASES)
def release(request, wheel):
    release = Release(request.param, wheel)
    yield release
    release.file.write_bytes(release.pristine)


def said(done):
    """Return what a one_service process printed last."""
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_in_and_out_again(release, tmp_path):
    status = release.dropin('status')
    assert status.returncode == 3, status.stderr
    assert 'Nova %s: the drop-in is not installed' % release.version in (
        status.stdout)
    done = release.dropin('install')
    assert done.returncode == 0, done.stderr
    installed = release.file.read_bytes()
    again = release.dropin('install')
    assert again.returncode == 0 and 'installed already' in again.stdout
    assert release.file.read_bytes() == installed
    assert release.dropin('status').returncode == 0

    # It runs, in every mode of this release.
    for mode in RELEASES[release.version]:
        ran = said(release.one_service(tmp_path / mode, mode))
        assert ran['driver'] == 'nova_servicegroup.drivers.db'
        assert ran['beats'] >= 2 and ran['up'] is True
        assert ran['eventlet'] is (mode == 'eventlet')
        log = (tmp_path / mode / 'nova.log').read_text()
        assert log.count('Left the conductor group as one.') == 1
        assert 'Traceback' not in log

    # nova-manage lists it.
    conf = tmp_path / RELEASES[release.version][0] / 'nova.conf'
    listed = release.run('nova-manage', '--config-file', conf, 'service',
                         'list')
    assert listed.returncode == 0, listed.stdout + listed.stderr
    rows = [line.split() for line in listed.stdout.splitlines()]
    assert rows[-1][:2] == ['nova-conductor', 'one']

    # Without the package, Nova starts on its own db, and zk is refused.
    release.pip('uninstall', '-y', 'nova-servicegroup')
    try:
        mode = RELEASES[release.version][-1]
        orphan = release.one_service(tmp_path / 'orphan', mode)
        assert said(orphan)['driver'] == 'nova.servicegroup.drivers.db'
        assert 'nova-servicegroup is dropped into this Nova but' in (
            tmp_path / 'orphan/nova.log').read_text()
        refused = release.one_service(tmp_path / 'refused', mode,
                                      driver='zk')
        assert refused.returncode != 0
        assert 'Valid values are [db, mc], but found \'zk\'' in (
            refused.stderr + (tmp_path / 'refused/nova.log').read_text())
    finally:
        release.install_plugin()

    assert release.dropin('remove').returncode == 0
    assert release.file.read_bytes() == release.pristine

    # Where the tree can't be written to, the configuration does it.
    mode = RELEASES[release.version][0]
    hooked = said(release.one_service(tmp_path / 'hook', mode, more=HOOK))
    assert hooked['driver'] == 'nova_servicegroup.drivers.db'
    assert hooked['beats'] >= 2 and hooked['up'] is True
    assert hooked['eventlet'] is (mode == 'eventlet')

    # A file of somebody's own is not touched.
    release.file.write_bytes(release.pristine + b'API = None\n')
    unknown = release.dropin('install')
    assert unknown.returncode == 1
    assert 'look at the file, and use --force' in unknown.stderr
    assert release.file.read_bytes() == release.pristine + b'API = None\n'
