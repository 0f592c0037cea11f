# SPDX-License-Identifier: Apache-2.0

"""The package as others get it: built from a clone without tags.

pip builds in an environment of its own, as it does for an operator.
"""

import ast
import email
import importlib.metadata
import os
import pathlib
import re
import subprocess
import sys
import tarfile
import zipfile

import pytest

from nova_servicegroup.tests.fixtures import clone as clones
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import texts
from nova_servicegroup.tests.fixtures import tree as nova_tree
from nova_servicegroup.tests.functional import test_releases as releases

ROOT = pathlib.Path(__file__).parents[3]


def run(*command, cwd, check=True, **env):
    """Run a command without the caller's idea of a version."""
    environment = {name: value for name, value in os.environ.items()
                   if name not in ('PBR_VERSION', 'PYTHONPATH')}
    environment.update(env)
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment,
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True)
    assert not check or result.returncode == 0, result.stdout
    return result


def build(tree, *what, **how):
    return run(sys.executable, '-m', 'build', *what, tree, cwd=tree, **how)


@pytest.fixture(scope='module')
def plain_tree(tmp_path_factory):
    """This tree as it is now, without a repository."""
    return clones.without_repository(
        tmp_path_factory.mktemp('plain') / 'tree')


@pytest.fixture(scope='module')
def clone(tmp_path_factory):
    """The same in a repository that has commits and no tag."""
    return clones.with_repository(tmp_path_factory.mktemp('clone') / 'tree')


@pytest.fixture(scope='module')
def dists(clone):
    """(sdist, wheel); the wheel is made from the unpacked sdist."""
    build(clone)
    return (next(clone.glob('dist/*.tar.gz')), next(clone.glob('dist/*.whl')))


@pytest.fixture(scope='module')
def files(clone):
    return set(run('git', 'ls-files', cwd=clone).stdout.split())


def test_the_wheel_holds_every_file_of_the_package(dists, files):
    everything = zipfile.ZipFile(dists[1]).namelist()
    inside = {name for name in everything
              if '.dist-info/' not in name and '.data/' not in name}
    # Under share/nova-servicegroup of whatever it is installed into.
    shared = {name.partition('/data/share/nova-servicegroup/')[2]
              for name in everything if '.data/' in name}
    assert shared == {
        'grafana/nova-servicegroup.json',
        'masakari/nova-servicegroup-masakari', 'nova-servicegroup.conf.sample',
        'prometheus/alerts.yml', 'prometheus/alerts_test.yml',
        'snippets/db.conf',
        'snippets/mc.conf', 'snippets/zk.conf', 'systemd/README.rst',
        'systemd/nova-keeper.conf',
        'systemd/nova-servicegroup-metrics.service',
        'systemd/nova-servicegroup-notify.service'}
    assert inside == {name for name in files
                      if name.startswith('nova_servicegroup/')}
    packages = {str(pathlib.PurePath(name).parent) for name in inside}
    for package in packages:
        assert package + '/__init__.py' in inside


def test_the_sdist_holds_every_file(dists, files):
    with tarfile.open(dists[0]) as sdist:
        inside = {name.partition('/')[2] for name in sdist.getnames()}
    assert files - inside == {'.gitignore'}


def test_the_wheel_says_who_it_is(dists):
    with zipfile.ZipFile(dists[1]) as wheel:
        prefix = next(name for name in wheel.namelist()
                      if name.endswith('/METADATA')).rpartition('/')[0]
        about = email.message_from_bytes(wheel.read(prefix + '/METADATA'))
        entry_points = wheel.read(prefix + '/entry_points.txt').decode()
    assert about['Name'] == 'nova-servicegroup'
    assert re.fullmatch(r'1\.0\.0\.dev\d+', about['Version'])
    needs, extra = (
        {re.match(r'[\w.-]+', line)[0] for line in about.get_all(
            'Requires-Dist') if ('extra ==' in line) is optional}
        for optional in (False, True))
    # Those of drivers only raise bounds: nova.conf chooses the driver.
    assert extra and extra - {'prometheus-client'} <= needs
    assert {'eventlet', 'kazoo', 'oslo.config', 'oslo.db', 'oslo.service',
            'python-memcached'} <= needs
    assert 'nova' not in needs
    assert set(about.get_all('Provides-Extra')) == {'mc', 'metrics', 'zk'}
    assert about['Requires-Python'] == '>=3.9'
    for line in ('nova-servicegroup = nova_servicegroup.cmd.main:main',
                 'nova_servicegroup = nova_servicegroup.conf:list_opts',
                 'nova_servicegroup = '
                 'nova_servicegroup.confighook:ConfigSourceDriver'):
        assert line in entry_points


def test_it_installs_from_the_sdist(dists, tmp_path):
    run(sys.executable, '-m', 'venv', '--without-pip', 'venv', cwd=tmp_path)
    python = tmp_path / 'venv/bin/python'
    run(sys.executable, '-m', 'pip', '--python', python, 'install', '-q',
        '--no-deps', dists[0], cwd=tmp_path)
    assert (tmp_path / 'venv/bin/nova-servicegroup').exists()
    found = run(python, '-c',
                'import importlib.metadata, pkgutil, nova_servicegroup as p\n'
                'print(importlib.metadata.version("nova-servicegroup"))\n'
                'print(*[m.name for m in pkgutil.iter_modules(p.__path__)\n'
                '        if m.ispkg])', cwd=tmp_path).stdout.splitlines()
    assert found[0] in dists[0].name
    assert set(found[1].split()) == {
        path.parent.name
        for path in (ROOT / 'nova_servicegroup').glob('*/__init__.py')}


def test_a_tree_without_a_repository_needs_a_version(plain_tree):
    refused = build(plain_tree, '--wheel', check=False)
    assert refused.returncode != 0
    assert ('requires either an sdist tarball, or access to an upstream git '
            'repository' in refused.stdout)
    build(plain_tree, '--wheel', PBR_VERSION='1.2.3')
    assert [path.name for path in plain_tree.glob('dist/*')] == [
        'nova_servicegroup-1.2.3-py3-none-any.whl']


def test_the_readmes_way_into_an_environment(clone, tmp_path):
    """Its blocks as they stand, but for the name of the environment."""
    environment = tmp_path / 'nova'
    run(sys.executable, '-m', 'venv', environment, cwd=tmp_path)
    packages, = environment.glob('lib/python*/site-packages')
    # Nova and what it needs; the package isn't there yet.
    for place in map(pathlib.Path, sys.path):
        for entry in place.iterdir() if place.name == 'site-packages' else ():
            if entry.name != 'nova' and 'servicegroup' not in entry.name and (
                    not (packages / entry.name).exists()):
                (packages / entry.name).symlink_to(entry)
    file = nova_tree.make(packages)
    pristine = file.read_bytes()

    def as_printed(name):
        block = texts.block('README.rst', name)
        return run('bash', '-exc', block.replace('/opt/nova',
                                                 str(environment)),
                   cwd=clone, PATH='%s:%s' % (environment / 'bin',
                                              os.environ['PATH'])).stdout

    assert 'Installed the drop-in' in as_printed('install-venv')
    assert run(environment / 'bin/nova-servicegroup', 'dropin', 'status',
               cwd=tmp_path).returncode == 0
    assert 'Successfully uninstalled' in as_printed('remove')
    assert file.read_bytes() == pristine
    assert not (environment / 'bin/nova-servicegroup').exists()


def test_systemd_knows_what_the_units_say(tmp_path):
    # The snippet needs a unit that it adds to.
    (tmp_path / 'nova-compute.service').write_text(
        '[Service]\nExecStart=/usr/local/bin/nova-servicegroup\n')
    (tmp_path / 'nova-compute.service.d').mkdir()
    for path in (ROOT / 'contrib/systemd').glob('nova-*'):
        target = tmp_path / ('' if path.suffix == '.service'
                             else 'nova-compute.service.d') / path.name
        target.write_text(path.read_text())
    units = sorted(tmp_path.glob('*.service'))
    assert len(units) == 3
    for unit in units:
        # It looks for the command, too.
        assert '=/usr/local/bin/nova-servicegroup' in unit.read_text()
        unit.write_text(unit.read_text().replace(
            '/usr/local/bin/nova-servicegroup', sys.executable))
        done = run(process.program('systemd-analyze', 'systemd'), 'verify',
                   '--man=no', unit, cwd=tmp_path,
                   SYSTEMD_UNIT_PATH='%s:' % tmp_path)
        assert done.stdout == '', done.stdout


def test_whatever_is_imported_is_required():
    imported = set()
    for path in (ROOT / 'nova_servicegroup').rglob('*.py'):
        if 'tests' in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_bytes())):
            if isinstance(node, ast.Import):
                imported |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                imported.add(node.module)
    distributions = importlib.metadata.packages_distributions()
    needed = {name.lower()
              for module in imported
              for name in distributions.get(module.partition('.')[0], ())}
    required = {re.match(r'[\w.-]+', line)[0].lower()
                for line in (ROOT / 'requirements.txt').read_text().split('\n')
                if line and not line.startswith('#')}
    # Reports are Nova's, and imported only where it makes some; metrics are an
    # extra.
    assert needed - required == {'nova', 'nova-servicegroup', 'oslo.reports',
                                 'prometheus_client'}


def test_the_support_matrix_is_what_the_tests_run():
    page = (ROOT / 'doc/source/install/support-matrix.rst').read_text()
    rows = re.findall(r'^   \* - (\S+)\n     - (.*)$', page, re.MULTILINE)
    pinned = re.findall(r'^nova==(\S+);', (
        ROOT / 'test-requirements.txt').read_text(), re.MULTILINE)
    novas = {nova for nova, _ in rows if nova.count('.') == 2}
    assert novas == {*releases.RELEASES, *pinned, '26.2.2'}
    with open(ROOT / 'pyproject.toml') as f:
        about = f.read()
    assert {python for python, _ in rows if python.startswith('3.')
            and python.count('.') == 1} == set(
                re.findall(r'Python :: (3\.\d+)"', about))
    # What is said everywhere: in README, messages and here.
    first, last = re.search(r'supports Nova (\d+) to (\d+)', page).groups()
    span = 'Nova %s to %s' % (first, last)
    assert (first, last) == (min(novas, key=_number).split('.')[0],
                             max(novas, key=_number).split('.')[0])
    for path in ('README.rst', 'nova_servicegroup/integration/register.py',
                 'nova_servicegroup/integration/dropin.py'):
        assert span in ' '.join((ROOT / path).read_text().split()), path


def _number(version):
    return [int(part) for part in version.split('.')]
