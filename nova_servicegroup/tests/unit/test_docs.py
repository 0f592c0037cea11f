# SPDX-License-Identifier: Apache-2.0

"""What the texts tell people to type and to write works.

Here it is parsed. What is run, and by which test, is in RUN.
"""

import configparser
import importlib.metadata
import importlib.util
import json
import pathlib
import re
import runpy
import shlex
import subprocess
import sys

import jinja2
import pytest
import yaml

from nova_servicegroup.cmd import main
from nova_servicegroup.memcached import wire
from nova_servicegroup.tests.fixtures import texts
from nova_servicegroup.tests.fixtures import zookeeper

ROOT = texts.ROOT
SOURCE = ROOT / 'doc/source'
TEXTS = sorted(
    path.relative_to(ROOT)
    for pattern in ('*.rst', 'doc/source/**/*.rst', 'contrib/**/*.rst',
                    'releasenotes/notes/*.yaml')
    for path in ROOT.glob(pattern))


def commands(program):
    """Return [(text, command)] for what stands in literals and blocks."""
    found = []
    for text in TEXTS:
        content = re.sub(r'\\\n +', '', (ROOT / text).read_text())
        found += [(text, ' '.join(command.split())) for command in re.findall(
            r'``(%s [^`]*)``' % program, content)]
        found += [(text, command) for command in re.findall(
            r'^ +(%s .*)$' % program, content, re.MULTILINE)]
    return found


def test_the_readme_is_among_the_texts():
    assert ('README.rst', 'nova-servicegroup dropin install') in [
        (str(text), command)
        for text, command in commands('nova-servicegroup')]


@pytest.mark.parametrize('text, command', commands('nova-servicegroup'),
                         ids=str)
def test_our_command_takes_it(text, command):
    _, *arguments = shlex.split(command)
    assert main.parse(arguments)


@pytest.mark.parametrize('text, command', commands('make'), ids=str)
def test_make_knows_the_target(text, command):
    makefile = (ROOT / 'Makefile').read_text()
    target = command.split()[1]
    assert re.search(r'^%s:' % re.escape(target), makefile, re.MULTILINE)


#: the blocks of commands, of their output, and of code for other programs:
#: who runs them, or compares them
RUN = {
    'functional/test_debian.py': {'install-debian', 'check', 'remove-debian',
                                  'install-trigger'},
    'functional/test_demo.py': {'demo'},
    'functional/test_doctor_zk.py': {'doctor'},
    'functional/test_metrics.py': {'report', 'report-signal'},
    'functional/test_packaging.py': {'install-venv', 'remove'},
    'functional/test_rpm.py': {'rpm-trigger'},
    'fault/test_zk_security_page.py': {
        'certificates', 'sasl-java', 'sasl-server', 'sasl-users',
        'tls-class-path', 'tls-server'},
    'unit/test_commands.py': {'explain'},
    'unit/test_docs.py': {'masakari'},
    'unit/test_first_driver.py': {'folder-driver', 'folder-test'},
    'unit/test_notify.py': {'payload'},
}

BLOCKS = {(str(text), name or number): (language, block)
          for text in TEXTS if text.suffix == '.rst'
          for number, (language, name, block) in enumerate(
              texts.blocks(text))}

# A process of its own, since register() changes the Nova that it is in.
READ = '''
import json
import sys

import nova.conf
import nova.servicegroup

from nova_servicegroup.integration import register

register.register()
nova.servicegroup.API()
conf = nova.conf.CONF
for path, names in json.load(sys.stdin).items():
    conf.clear()
    conf(['--config-file', path], project='nova')
    for section, option in names:
        value = conf[option] if section == 'DEFAULT' else conf[section][option]
        assert '#' not in str(value), (path, option, value)
'''


def write_nova_conf(variables, path):
    """Write what a chart or a playbook would; return its options."""
    ((_, sections),) = [
        item for item in (*variables.items(),
                          *variables.get('conf', {}).items())
        if item[0] in ('nova_nova_conf_overrides', 'nova')]
    parser = configparser.ConfigParser(default_section=None)
    parser.read_dict(sections)
    with open(path, 'w') as f:
        parser.write(f)
    return options_in(path)


def options_in(path):
    parser = configparser.ConfigParser(default_section=None)
    parser.read(path)
    return [(section, option) for section in parser.sections()
            for option in parser.options(section)]


def written_by_ansible():
    """Return the nova.conf of our list of tasks."""
    tasks = yaml.safe_load(
        (ROOT / 'contrib/ansible/nova-servicegroup.yml').read_text())
    (content,) = [task['ansible.builtin.copy']['content'] for task in tasks
                  if 'ansible.builtin.copy' in task]
    return jinja2.Template(content).render(
        nova_servicegroup_driver='zk',
        nova_servicegroup_zookeeper='zk1:2181,zk2:2181')


def test_every_option_in_the_texts_is_one(tmp_path):
    files = {}
    for (text, name), (language, block) in BLOCKS.items():
        # The others are for other programs, and have tests of their own.
        if language == 'ini' and name not in ('zoo-cfg', 'kolla-build',
                                               'masakari-conf'):
            path = tmp_path / ('%s-%s' % (text.replace('/', '-'), name))
            path.write_text(block)
            files[str(path)] = options_in(path)
        if language == 'yaml' and name != 'ansible-play':
            path = tmp_path / name
            files[str(path)] = write_nova_conf(yaml.safe_load(block), path)
    path = tmp_path / 'by-ansible.conf'
    path.write_text(written_by_ansible())
    files[str(path)] = options_in(path)
    assert len(files) > 10 and all(files.values())
    done = subprocess.run([sys.executable, '-c', READ], text=True,
                          input=json.dumps(files), capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_play_has_what_our_tasks_need():
    (play,) = yaml.safe_load(
        texts.block('doc/source/install/ansible.rst', 'ansible-play'))
    (included,) = play['tasks']
    tasks = yaml.safe_load((ROOT / 'contrib/ansible' / included[
        'ansible.builtin.include_tasks']).read_text())
    assert {task['notify'] for task in tasks if 'notify' in task} == {
        handler['name'] for handler in play['handlers']}


@pytest.mark.parametrize('text, name', [
    key for key, (language, _) in BLOCKS.items()
    if language not in ('ini', 'yaml')], ids=str)
def test_every_block_is_run_or_compared_by_a_test(text, name):
    (where,) = [path for path, names in RUN.items() if name in names]
    assert "'%s'" % name in (
        ROOT / 'nova_servicegroup/tests' / where).read_text()


@pytest.mark.parametrize('config', [
    None, '[DEFAULT]\ntransport_url = rabbit://nova:secret#x@h\n'])
def test_the_masakari_handler_takes_its_command(tmp_path, monkeypatch,
                                                capsys, config):
    block = texts.block('doc/source/admin/evacuation.rst', 'masakari')
    words = shlex.split(block.replace('\\\n', ''))
    # It ends after its command line: the file is missing, or of no use.
    file = tmp_path / 'nova.conf'
    words[words.index('--config-file') + 1] = str(file)
    if config:
        file.write_text(config)
    monkeypatch.setattr(sys, 'argv', words)
    with pytest.raises(SystemExit) as ended:
        runpy.run_path(str(ROOT / 'contrib/masakari' / words[0]),
                       run_name='__main__')
    assert ended.value.code == 1
    shown = capsys.readouterr().err
    assert 'No message bus' in shown and 'secret' not in shown


def test_a_name_is_of_one_block():
    """So who runs it runs it for all texts that print it."""
    named = {}
    for (text, name), (_, block) in BLOCKS.items():
        if isinstance(name, str):
            assert named.setdefault(name, block) == block, (text, name)
    assert 'install-debian' in named


def test_what_pip_offers_and_brings_is_all_named():
    about = (ROOT / 'pyproject.toml').read_text()
    page = (SOURCE / 'install/pip.rst').read_text()
    _, extras, files = re.split('^(?:Extras|Files for operators)$', page,
                                flags=re.MULTILINE)
    section = re.search(r'^\[project.optional-dependencies]\n(.*?)\n\n', about,
                        re.MULTILINE | re.DOTALL)[1]
    assert re.findall(r'^``nova-servicegroup\[(\w+)]``$', extras,
                      re.MULTILINE) == re.findall(r'^(\w+) =', section,
                                                  re.MULTILINE)
    folders = re.findall(r'^"share/nova-servicegroup/(\w+)"', about,
                         re.MULTILINE)
    assert len(folders) > 4
    for folder in folders:
        assert re.search(r'^\* .*``%s``.*:' % folder, files, re.MULTILINE)


def test_the_links_of_the_readme_lead_somewhere():
    readme = (ROOT / 'README.rst').read_text()
    links = re.findall(r'<((?!https?:)[^>]+)>`_', readme)
    links += re.findall(r'image:: (\S+)', readme)
    assert len(links) > 8
    for link in links:
        assert (ROOT / link).exists(), link


def test_the_timelines_are_what_was_measured():
    """doc/timelines.py draws them from bench/results/crash.json."""
    path = ROOT / 'doc/timelines.py'
    spec = importlib.util.spec_from_file_location('timelines', path)
    timelines = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(timelines)
    crash = json.loads((ROOT / 'bench/results/crash.json').read_text())
    assert timelines.draw(crash) == timelines.PICTURE.read_text(), (
        'run "python doc/timelines.py" and commit')


#: a literal block, whose lines have the indentation of the first one
LITERAL = re.compile(r'^( *)(?!\.\. )\S.*::\n\n'
                     r'((?P<indent>\1 +)\S.*\n(?:(?P=indent).*\n|\n)*)',
                     re.MULTILINE)
#: what no test can run here; their pages say what was tried
ELSEWHERE = ('dnf ', 'python3 -m pip install ', '{%',
             'FROM YOUR-NOVA-IMAGE',
             'RUN /var/lib/kolla/venv/bin/pip install ',
             'RUN /var/lib/openstack/bin/pip install ')


def literal_lines():
    """Return [(text, line)] of the literal blocks that are no code-block."""
    return [(text, ' '.join(line.split()))
            for text in TEXTS if text.suffix == '.rst'
            for match in LITERAL.finditer(
                re.sub(r' *\\\n +', ' ', (ROOT / text).read_text()))
            for line in match[2].splitlines() if line.strip()]


def openstack_commands():
    """Return the entry points of openstackclient's compute commands."""
    group, entries = 'openstack.compute.v2', importlib.metadata.entry_points()
    # A dict before Python 3.10.
    return (entries.get(group, ()) if isinstance(entries, dict)
            else entries.select(group=group))


def takes_openstack(command):
    """Let openstackclient parse a command of its compute service."""
    words = shlex.split(command)
    commands = {}
    for entry in openstack_commands():
        name = entry.name.split('_')
        if words[1:len(name) + 1] == name:
            commands[len(name)] = entry
    length = max(commands)
    parser = commands[length].load()(None, None).get_parser('openstack')
    return parser.parse_args(words[length + 1:])


@pytest.mark.parametrize('text, line', literal_lines(), ids=str)
def test_every_line_of_a_literal_block_is_known(text, line):
    if line.startswith('openstack '):
        assert takes_openstack(line)
    elif line.startswith('docker build -f '):
        assert (ROOT / line.split()[3]).exists()
    elif line.startswith(ELSEWHERE):
        assert 'What was tried' in (ROOT / text).read_text()
    elif line.startswith('echo srvr '):
        # The tests ask their servers so, and have them in the white list.
        assert "'srvr'" in pathlib.Path(zookeeper.__file__).read_text()
    elif line.startswith('pip install nova-servicegroup['):
        extra = line.rpartition('[')[2].rstrip(']')
        assert re.search('^%s = ' % extra, (
            ROOT / 'pyproject.toml').read_text(), re.MULTILINE)
    elif line.startswith('$ printf '):
        printed = subprocess.run(['sh', '-c', line[2:]], text=True,
                                 capture_output=True).stdout
        assert printed.split()[0] == wire.key('compute', 'c1')
    elif not line.startswith('nova-servicegroup '):
        # What is shown of ZooKeeper and of ps, with what they print.
        assert text.name == 'zookeeper.rst', line


@pytest.mark.parametrize('command', [
    ' '.join(command.split()) for text in TEXTS for command in re.findall(
        r'``(openstack [^`-][^`]*)``', (ROOT / text).read_text())])
def test_openstackclient_knows_what_is_named_in_a_sentence(command):
    if len(command.split()) > 5:
        assert takes_openstack(command)
    else:
        assert any(command.split()[1:] == entry.name.split('_')
                   for entry in openstack_commands())


@pytest.mark.parametrize('page', sorted(
    path.relative_to(SOURCE) for path in SOURCE.rglob('*.rst')), ids=str)
def test_the_links_of_a_page_lead_somewhere(page):
    """So that nobody has to build the HTML to see it; "make docs" does."""
    content = (SOURCE / page).read_text()
    here = (SOURCE / page).parent
    for target in re.findall(r':doc:`(?:[^`<]*<)?([^`>]+)>?`', content):
        base = SOURCE / target[1:] if target.startswith('/') else here / target
        assert base.with_name(base.name + '.rst').exists(), target
    for target in re.findall(
            r'^ *\.\. (?:image|include|literalinclude):: (\S+)', content,
            re.MULTILINE) + re.findall(r':download:`[^`<]*<([^`>]+)>`',
                                       content):
        assert (here / target).resolve().exists(), target


def test_every_page_is_in_a_table_of_contents():
    listed = set()
    for index in SOURCE.rglob('index.rst'):
        _, *trees = index.read_text().split('.. toctree::')
        for tree in trees:
            for entry in re.findall(r'^   ([\w/*-]+)$', tree, re.MULTILINE):
                listed |= set(index.parent.glob(entry + '.rst'))
    assert set(SOURCE.rglob('*.rst')) - listed <= {SOURCE / 'index.rst'}
