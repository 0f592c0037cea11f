# SPDX-License-Identifier: Apache-2.0

"""The RPM trigger of install/rdo.rst, with real packages.

A python3-nova of one file stands for RDO's. Their database is the test's own.
"""

import site
import subprocess
import venv

import pytest

from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import texts
from nova_servicegroup.tests.fixtures import tree as nova_tree

pytestmark = pytest.mark.long

PREAMBLE = '''Name: %s
Version: %s
Release: 1
Summary: For a test
License: Apache-2.0
BuildArch: noarch
AutoReqProv: no
%%description
For a test.
'''
# RDO's services are restarted by %postun: it writes down what they would find.
NOVA = '''%%package -n openstack-nova-compute
Summary: For a test
Requires: python3-nova = %%{version}
%%description -n openstack-nova-compute
For a test.
%%postun -n openstack-nova-compute
cp %(file)s %(seen)s
%%install
install -D %(source)s %%{buildroot}%(file)s
%%files
%(file)s
%%files -n openstack-nova-compute
'''


def run(*command):
    done = subprocess.run(list(map(str, command)), stdin=subprocess.DEVNULL,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True)
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_the_drop_in_is_back_before_services_restart(tmp_path):
    # An environment stands for /usr: RPM puts one file of Nova into it.
    environment, seen = tmp_path / 'usr', tmp_path / 'seen'
    venv.create(environment)
    packages, = environment.glob('lib/python*/site-packages')
    (packages / 'others.pth').write_text(
        '\n'.join([str(texts.ROOT), *site.getsitepackages()]))
    file = nova_tree.make(packages)
    pristine = file.read_bytes()
    source = file.rename(tmp_path / 'source')
    command = tmp_path / 'nova-servicegroup'
    command.write_text('#!/bin/sh\nexec %s/bin/python -m nova_servicegroup.cmd'
                       '.main "$@"\n' % environment)
    command.chmod(0o755)
    trigger = texts.block('doc/source/install/rdo.rst', 'rpm-trigger').replace(
        '/usr/local/bin/nova-servicegroup', str(command)).replace(
        '/usr/lib/python3.9/site-packages', str(packages))

    def build(name, version, rest):
        spec = tmp_path / (name + '.spec')
        spec.write_text(PREAMBLE % (name, version) + rest)
        run(process.program('rpmbuild', 'rpm'), '-bb', '--define',
            '_topdir %s/%s-%s' % (tmp_path, name, version), spec)
        return sorted(tmp_path.glob('%s-%s/RPMS/*/*' % (name, version)))

    def rpm(*arguments):
        # Debian's rpm installs only when it is told to.
        return run('rpm', '--dbpath', tmp_path / 'db', '--force-debian',
                   '--nodeps', *arguments)

    nova = NOVA % {'file': file, 'seen': seen, 'source': source}
    old, new = (build('python3-nova', version, nova) for version in (1, 2))
    ours = build('ours', 1, trigger + '%files\n')
    rpm('-i', *old)
    assert file.read_bytes() == pristine
    rpm('-i', *ours)
    installed = file.read_bytes()
    assert b'nova_servicegroup' in installed
    for update in ['-U'], ['-U', '--replacepkgs']:
        rpm(*update, *new)
        assert file.read_bytes() == installed == seen.read_bytes()
        seen.unlink()
    rpm('-e', 'ours')
    assert file.read_bytes() == pristine
