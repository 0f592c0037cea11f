# SPDX-License-Identifier: Apache-2.0

"""The drop-in, on copies of the installed Nova's file."""

import os
import pathlib
import subprocess
import sys
import venv

import nova
import pytest

from nova_servicegroup.cmd import main
from nova_servicegroup.integration import dropin
from nova_servicegroup.tests.fixtures import process
from nova_servicegroup.tests.fixtures import tree as nova_tree


@pytest.fixture
def file(tmp_path):
    return nova_tree.make(tmp_path)


@pytest.fixture
def run(tmp_path, capsys):
    """Runs a dropin verb on the tree: (exit code, stdout, stderr)."""
    def run(verb, *options):
        if verb in ('install', 'status'):
            options = '--python', sys.executable, *options
        code = main.main(['dropin', verb, '--nova', str(tmp_path), *options])
        captured = capsys.readouterr()
        return code, captured.out, captured.err
    return run


def identity(file):
    """Tell whether a file was written again, even with the same content."""
    return file.stat().st_ino, file.stat().st_mtime_ns


def test_install_status_remove(file, run, tmp_path):
    pristine = file.read_bytes()
    assert run('status')[0] == 3
    code, out, _ = run('install')
    assert code == 0 and 'Installed the drop-in' in out
    assert file.read_bytes().startswith(pristine)
    code, out, _ = run('status')
    assert code == 0 and 'the drop-in is installed.' in out
    done = nova_tree.run(tmp_path, 'from nova import servicegroup as s; '
                         'print(s.API.__module__, s.api.API is s.API)')
    assert done.stdout == 'nova_servicegroup.api True\n', done.stderr
    code, out, _ = run('remove')
    assert code == 0 and 'Removed the drop-in' in out
    assert file.read_bytes() == pristine
    assert run('status')[0] == 3


def test_a_second_install_does_nothing(file, run):
    run('install')
    before = identity(file)
    code, out, _ = run('install')
    assert code == 0 and 'installed already' in out
    assert identity(file) == before


def test_a_second_remove_does_nothing(file, run):
    before = identity(file)
    code, out, _ = run('remove')
    assert code == 0 and 'There is no drop-in' in out
    assert identity(file) == before


@pytest.mark.parametrize('change', [
    lambda b: b, lambda b: b.replace(b'\n', b'\r\n'),
    lambda b: b.rstrip(b'\n'), lambda b: b + b'\n\n',
    lambda b: b.replace(b'\n', b'\r\n').rstrip(b'\r\n')],
    ids=['as it is', 'CRLF', 'no last newline', 'empty lines', 'CRLF, none'])
def test_the_file_comes_back_to_the_byte(file, run, change):
    pristine = change(file.read_bytes())
    file.write_bytes(pristine)
    assert run('install')[0] == 0
    assert file.read_bytes() != pristine
    assert run('remove')[0] == 0
    assert file.read_bytes() == pristine


def test_mode_and_owner_stay(file, run):
    file.chmod(0o640)
    if os.geteuid() == 0:
        os.chown(file, 65534, 65534)
    before = file.stat()
    for verb in ('install', 'remove'):
        run(verb)
        after = file.stat()
        assert (after.st_mode, after.st_uid, after.st_gid) == (
            before.st_mode, before.st_uid, before.st_gid)
    assert [p.name for p in file.parent.iterdir()
            if p.name.startswith('.')] == []


@pytest.mark.parametrize('verb', ['install', 'remove'])
def test_a_dry_run_only_shows(file, run, verb):
    if verb == 'remove':
        run('install')
    before = file.read_bytes()
    code, out, _ = run(verb, '--dry-run')
    assert code == 0
    assert out.startswith('--- a/nova/servicegroup/__init__.py\n'
                          '+++ b/nova/servicegroup/__init__.py\n')
    assert file.read_bytes() == before


def test_an_unknown_file_is_refused(file, run):
    strange = file.read_bytes() + b'\nAPI = object\n'
    file.write_bytes(strange)
    code, _, err = run('install')
    assert code == 1
    assert 'is not like that of Nova 26 to 34' in err and '--force' in err
    assert file.read_bytes() == strange
    assert run('install', '--force')[0] == 0
    assert run('remove')[0] == 0
    assert file.read_bytes() == strange


def test_what_others_wrote_behind_the_block_stays(file, run):
    pristine = file.read_bytes()
    run('install')
    file.write_bytes(file.read_bytes() + b'# mine\n')
    run('remove')
    assert file.read_bytes() == pristine + b'# mine\n'


def test_a_block_of_another_version_is_replaced(file, run):
    pristine = file.read_bytes()
    run('install')
    current = file.read_bytes()
    file.write_bytes(current.replace(b'_nova_servicegroup', b'_old'))
    assert run('status')[0] == 4
    assert run('install')[0] == 0
    assert file.read_bytes() == current
    run('remove')
    assert file.read_bytes() == pristine


BEGIN = b'\n# >>> nova-servicegroup drop-in >>>\n'
END = b'# <<< nova-servicegroup drop-in <<<\n'


@pytest.mark.parametrize('verb', ['install', 'remove', 'status'])
@pytest.mark.parametrize('tear', [
    BEGIN + b'x = 1\n', b'x = 1\n' + END, 2 * (BEGIN + b'pass\n' + END),
    BEGIN + b'x = 1\n' + BEGIN + b'pass\n' + END],
    ids=['no end', 'no begin', 'two', 'two begins'])
def test_torn_marks_are_left_to_people(file, run, verb, tear):
    torn = file.read_bytes() + tear
    file.write_bytes(torn)
    code, _, err = run(verb)
    assert code == 1 and 'by hand' in err
    assert file.read_bytes() == torn


def test_a_block_without_effect_is_taken_out_again(file, run):
    api = file.parent / 'api.py'
    api.write_text(api.read_text().replace('_driver_name_class_mapping',
                                           '_drivers'))
    pristine = file.read_bytes()
    code, _, err = run('install')
    assert code == 1
    assert 'has no effect' in err
    assert 'does not know this Nova' in err
    assert file.read_bytes() == pristine


def test_an_interrupted_check_leaves_nothing_behind(file, run, monkeypatch):
    pristine = file.read_bytes()

    def interrupted(tree):
        assert file.read_bytes() != pristine
        raise KeyboardInterrupt

    monkeypatch.setattr(dropin.Tree, '_check', interrupted)
    # As a shell tells of an interrupt.
    assert run('install')[0] == 130
    assert file.read_bytes() == pristine


def test_status_tells_of_a_block_that_lost_its_effect(file, run):
    run('install')
    api = file.parent / 'api.py'
    api.write_text(api.read_text().replace('_driver_name_class_mapping',
                                           '_drivers'))
    code, out, _ = run('status')
    assert code == 5
    assert 'installed, but without effect' in out
    assert 'does not know this Nova' in out


def test_a_read_only_tree_is_named_with_the_way_out(file, run):
    pristine = file.read_bytes()
    file.parent.chmod(0o555)
    root = os.geteuid() == 0
    try:
        for folder in file.parents if root else ():
            if folder == pathlib.Path('/tmp'):
                break
            folder.chmod(folder.stat().st_mode | 0o055)
        if root:
            os.seteuid(65534)
        code, _, err = run('install')
    finally:
        if root:
            os.seteuid(0)
        file.parent.chmod(0o755)
    assert code == 1
    assert str(file) in err and 'Permission denied' in err
    assert 'export' in err and 'config_source' in err
    assert file.read_bytes() == pristine
    assert [p for p in file.parent.iterdir() if p.suffix == ''
            and p.name.startswith('.')] == []


def test_a_folder_without_nova_is_refused(tmp_path, run):
    code, _, err = run('status')
    assert code == 1 and 'There is no nova/servicegroup' in err


def test_nova_itself_may_be_named(file, capsys):
    nova = file.parent.parent
    assert main.main(['dropin', 'status', '--nova', str(nova)]) == 3
    assert str(file) in capsys.readouterr().out


def test_stale_bytecode_goes(file, run):
    cache = file.parent / '__pycache__'
    cache.mkdir()
    stale = cache / '__init__.cpython-399.pyc'
    stale.write_bytes(b'stale')
    run('install')
    assert not stale.exists()


def test_bytecode_that_stays_does_not_stop_an_install(file, run):
    pristine = file.read_bytes()
    # Nobody may unlink a folder; nor a file in one that belongs to root.
    (file.parent / '__pycache__' / '__init__.cpython-399.pyc').mkdir(
        parents=True)
    assert run('install')[0] == 0
    assert run('status')[0] == 0
    assert run('remove')[0] == 0
    assert file.read_bytes() == pristine


@pytest.mark.parametrize('python, reason', [
    ('#!/bin/sh\nexec sleep 30\n', 'within 1 s'),
    ('not a program', 'cannot be run: Exec format error')])
def test_a_check_that_does_not_end_undoes_the_install(
        file, run, tmp_path, monkeypatch, python, reason):
    monkeypatch.setattr(dropin, 'CHECK_LIMIT', 1)
    pristine = file.read_bytes()
    program = tmp_path / 'python'
    program.write_text(python)
    program.chmod(0o755)
    monkeypatch.setattr(dropin.Tree, 'python', lambda tree: str(program))
    code, _, err = run('install')
    assert code == 1
    assert 'has no effect' in err and reason in err
    assert file.read_bytes() == pristine


def test_the_exported_patch_is_the_same_block(file, run, tmp_path):
    patch = process.program('patch', 'patch')
    pristine = file.read_bytes()
    assert run('export', '-o', str(tmp_path / 'out'))[0] == 0
    assert file.read_bytes() == pristine
    name, option = (tmp_path / 'out' / 'series').read_text().split()
    subprocess.run([patch, option, '-i', str(tmp_path / 'out' / name)],
                   cwd=tmp_path, check=True, stdout=subprocess.DEVNULL)
    assert 'installed already' in run('install')[1]
    run('remove')
    assert file.read_bytes() == pristine


# What Kolla does with the files of patches_path, in each image that is built
# upon another: only the root of the file system is another one here.
KOLLA = '''
cd "$ROOT"
for name in $(grep -v '^#' "$ROOT/patches/series"); do
    if ! grep -q "$name" patched; then
        patch -p0 --fuzz=0 --ignore-whitespace < "$ROOT/patches/$name" || exit
        echo "Applied $name" >> patched
    fi
done
'''


@pytest.mark.parametrize('place', [None, '/opt/venv/site-packages'])
def test_kolla_takes_its_patch(run, tmp_path, monkeypatch, place):
    process.program('patch', 'patch')
    source = nova_tree.make(tmp_path)
    image = tmp_path / 'image'
    # Absolute paths in the image begin in this folder.
    target = nova_tree.make(
        str(image) + (place or str(tmp_path))).relative_to(image)
    pristine = source.read_bytes()
    assert run('export', '--format', 'kolla', '-o', str(image / 'patches'),
               *(('--image-path', place) if place else ()))[0] == 0
    monkeypatch.setenv('ROOT', str(image))
    (image / 'patched').touch()
    for _ in range(2):
        subprocess.run(['bash', '-c', KOLLA], check=True,
                       stdout=subprocess.DEVNULL)
        assert (image / target).read_bytes().count(BEGIN) == 1
    assert (image / target).read_bytes().startswith(pristine)
    assert run('install')[0] == 0
    assert source.read_bytes() == (image / target).read_bytes()


GONE = '''
sys.modules['nova_servicegroup'] = None
from nova import servicegroup
from nova.conf import CONF
open('nova.conf', 'w').write('[DEFAULT]\\nservicegroup_driver=%s\\n'
                             % sys.argv[1])
from oslo_log import log
log.register_options(CONF)
CONF(['--config-file', 'nova.conf', '--log-file', 'nova.log'], project='nova')
# After the import, as Nova's services do it.
log.setup(CONF, 'nova')
servicegroup.API()
print(type(servicegroup.API()._driver).__module__)
'''


def test_nova_starts_on_db_when_the_plugin_is_gone(file, run, tmp_path,
                                                   monkeypatch):
    monkeypatch.chdir(tmp_path)
    run('install')
    done = nova_tree.run(tmp_path, GONE, 'db')
    assert done.stdout == 'nova.servicegroup.drivers.db\n', done.stderr
    error, = (line for line in (tmp_path / 'nova.log').read_text().splitlines()
              if 'nova-servicegroup' in line)
    assert ' ERROR nova.servicegroup ' in error
    assert 'cannot be used, so Nova uses its own' in error
    assert str(file) in error and 'nova_servicegroup' in error
    assert not done.stderr


def test_zk_is_refused_loudly_when_the_plugin_is_gone(file, run, tmp_path,
                                                      monkeypatch):
    monkeypatch.chdir(tmp_path)
    run('install')
    done = nova_tree.run(tmp_path, GONE, 'zk')
    assert done.returncode != 0
    log = (tmp_path / 'nova.log').read_text()
    assert 'knows no zk' in log
    assert 'Valid values are [db, mc], but found \'zk\'' in log


def test_the_tree_of_this_python_is_the_default():
    tree = dropin.Tree()
    assert tree.file == (pathlib.Path(nova.__file__).parent
                         / 'servicegroup' / '__init__.py')
    assert os.path.samefile(os.path.dirname(tree.python()),
                            os.path.dirname(sys.executable))


@pytest.mark.parametrize('place, python', [
    ('usr/lib/python3/dist-packages', 'usr/bin/python3'),
    ('usr/lib/python3.9/site-packages', 'usr/bin/python3.9'),
    ('usr/lib64/python3.9/site-packages', 'usr/bin/python3'),
    ('usr/local/lib/python3.11/dist-packages', 'usr/bin/python3.11'),
    ('usr/local/lib/python3.11/site-packages', 'usr/local/bin/python3.11'),
    ('var/lib/kolla/venv/lib/python3.12/site-packages',
     'var/lib/kolla/venv/bin/python'),
], ids=str)
def test_the_place_of_a_tree_tells_its_python(tmp_path, place, python):
    nova_tree.make(tmp_path / place)
    program = tmp_path / python
    program.parent.mkdir(parents=True)
    program.touch()
    assert dropin.Tree(tmp_path / place).python() == str(program)


def test_a_nova_of_a_python_without_the_package_is_refused(tmp_path, capsys):
    """The command's own environment has the package, that of Nova has not."""
    environment = tmp_path / 'environment'
    venv.create(environment)
    packages, = environment.glob('lib/python*/site-packages')
    file = nova_tree.make(packages)
    # Nova's own requirements, and no more than these.
    for place in sys.path:
        for entry in pathlib.Path(place).iterdir() if place.endswith(
                '-packages') else ():
            if not (packages / entry.name).exists() and (
                    'servicegroup' not in entry.name):
                (packages / entry.name).symlink_to(entry)
    pristine = file.read_bytes()
    for arguments in (['install', '--nova', str(packages)],
                      ['install', '--nova', str(packages), '--python',
                       str(environment / 'bin/python')]):
        assert main.main(['dropin', *arguments]) == 1
        err = capsys.readouterr().err
        assert 'nova_servicegroup' in err and 'for this Python' in err
        assert str(environment / 'bin') in err
        assert file.read_bytes() == pristine


def test_a_package_that_is_in_pythonpath_only_does_not_count(
        tmp_path, capsys, monkeypatch):
    monkeypatch.setenv('PYTHONPATH', str(
        pathlib.Path(dropin.__file__).parents[2]))
    test_a_nova_of_a_python_without_the_package_is_refused(tmp_path, capsys)


def test_a_tree_of_unknown_python_is_asked_about(file, tmp_path, capsys):
    pristine = file.read_bytes()
    assert main.main(['dropin', 'install', '--nova', str(tmp_path)]) == 1
    assert '--python PATH' in capsys.readouterr().err
    assert file.read_bytes() == pristine
