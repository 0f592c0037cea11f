# SPDX-License-Identifier: Apache-2.0

"""contrib/docker/Dockerfile, built and started by buildah.

No registry is asked: what the Dockerfile begins with is a Debian of
debootstrap. What is isolated is a root file system, and nothing else.
"""

import json
import os
import re
import shutil
import signal
import subprocess

import pytest

from nova_servicegroup.tests.fixtures import clone
from nova_servicegroup.tests.fixtures import debian as debians
from nova_servicegroup.tests.fixtures import nova
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import zookeeper

pytestmark = pytest.mark.long

BASE = clone.ROOT / '.venvs/debian-12-bare'
DOCKERFILE = 'contrib/docker/Dockerfile'
IMAGE = 'nova-servicegroup'


class Buildah:
    """buildah with a store of its own in a folder."""

    def __init__(self, directory):
        self.directory = directory

    def command(self, *arguments):
        return [process.program('buildah', 'buildah'),
                '--root', self.directory / 'store',
                '--runroot', self.directory / 'run', *arguments]

    def __call__(self, *arguments, cwd=None):
        """Run a command of it to its end; return its standard output."""
        done = subprocess.run(
            [str(part) for part in self.command(*arguments)], cwd=cwd,
            stdin=subprocess.DEVNULL, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
        return done.stdout.strip()

    def run(self, container, *command, volume):
        """Return the command that runs one in a container."""
        return self.command('run', '--isolation', 'chroot', '--volume',
                            '%s:/etc/nova' % volume, container, '--', *command)


@pytest.fixture
def buildah(tmp_path):
    buildah = Buildah(tmp_path / 'buildah')
    yield buildah
    buildah('rm', '--all')
    shutil.rmtree(buildah.directory)


def pull(buildah, tmp_path, name):
    """Put a bare Debian into the store, under the name of an image."""
    with debians.Debian(tmp_path / 'root', BASE, ()) as debian:
        container = buildah('from', 'scratch')
        buildah('add', container, debian.root, '/')
    buildah('commit', container, 'docker.io/library/' + name)


def children(pid):
    """Return the pids of all processes below one."""
    found = subprocess.run(['pgrep', '-P', str(pid)], capture_output=True,
                           text=True).stdout.split()
    return [int(child) for child in found] + [
        one for child in found for one in children(child)]


def test_it_is_built_and_its_service_reports(buildah, tmp_path, make_cloud):
    tree = clone.with_repository(tmp_path / 'tree')
    (base,) = re.findall(r'^FROM (\S+)$', (tree / DOCKERFILE).read_text(),
                         re.MULTILINE)
    pull(buildah, tmp_path, base)
    # The documented command, but for its first word.
    buildah('build', '--isolation', 'chroot', '--pull-never', *(
        '--env=%s=%s' % item for item in os.environ.items()
        if item[0].startswith('PIP_')), '-f', DOCKERFILE, '-t', IMAGE, '.',
        cwd=tree)
    container = buildah('from', '--pull-never', IMAGE)
    about = json.loads(buildah('inspect', container))['OCIv1']['config']
    assert about['User'] == 'nova'

    with zookeeper.Server(tmp_path / 'zookeeper') as server, make_cloud(
            driver='zk', service_down_time=60,
            controllers=('conductor', 'api'),
            config={'zookeeper': {'address': server.address}}) as cloud:
        sections = cloud.nova_conf('in-container')
        sections['DEFAULT']['state_path'] = '/var/lib/nova'
        sections['oslo_concurrency']['lock_path'] = '/var/lib/nova/locks'
        conf = nova.write_config(tmp_path / 'conf/nova.conf', sections).parent
        with process.Process(
                'container', buildah.run(container, *about['Cmd'],
                                         volume=conf), tmp_path) as service:
            # Nova has its record; it may not have joined yet.
            cloud.wait_state('in-container', 'up', 120)
            wait_state(cloud, service, 'up')
            # Its service is a Nova of the image, run by the image's user.
            (compute,) = [pid for pid in children(service.pid)
                          if runs(pid, about['Cmd'][0])]
            assert os.stat('/proc/%d' % compute).st_uid >= 100
            # What the end of a container does first.
            os.kill(compute, signal.SIGTERM)
            wait_state(cloud, service, 'ended')
            assert service.wait(60) == 0


def runs(pid, program):
    """Return whether a process runs a program of the image.

    Those of buildah, which start it, have it among their arguments.
    """
    with open('/proc/%d/cmdline' % pid) as f:
        python, *arguments = f.read().split('\0')
    return python.startswith('/opt/nova/bin/') and (
        '/opt/nova/bin/' + program in arguments)


def wait_state(cloud, service, state):
    try:
        process.wait_until(
            lambda: cloud.command('show', 'in-container')['state'] == state,
            60, state)
    except process.NotReady as e:
        raise process.NotReady(
            '%s\n%s' % (e, service.log()[-3000:])) from None
