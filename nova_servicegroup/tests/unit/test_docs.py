# SPDX-License-Identifier: Apache-2.0

"""What the texts tell people to type and to write works.

Here it is parsed. What is run, and by which test, is in RUN.
"""

import configparser
import importlib.util
import json
import re
import shlex
import subprocess
import sys

import pytest

from nova_servicegroup.cmd import main
from nova_servicegroup.tests.fixtures import texts

ROOT = texts.ROOT
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


#: the shell blocks that have a name, and who runs them
RUN = {
    'functional/test_debian.py': {'install-debian', 'check', 'remove-debian',
                                  'install-trigger'},
    'unit/test_packaging.py': {'install-venv', 'remove'},
    'fault/test_zk_security_page.py': {'certificates', 'tls-class-path'},
}

BLOCKS = {(str(text), name or number): (language, block)
          for text in TEXTS if text.suffix == '.rst'
          for language in ('ini', 'shell', 'sh')
          for number, (name, block) in enumerate(
              texts.blocks(text, language))}

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


def test_every_option_in_the_texts_is_one(tmp_path):
    files = {}
    for (text, name), (language, block) in BLOCKS.items():
        # The others are for other programs, and have tests of their own.
        if language == 'ini' and name not in ('zoo-cfg', 'kolla-build'):
            path = tmp_path / ('%s-%s' % (text.replace('/', '-'), name))
            path.write_text(block)
            parser = configparser.ConfigParser(default_section=None)
            parser.read(path)
            files[str(path)] = [(section, option)
                                for section in parser.sections()
                                for option in parser.options(section)]
    assert len(files) > 10 and all(files.values())
    done = subprocess.run([sys.executable, '-c', READ], text=True,
                          input=json.dumps(files), capture_output=True)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize('text, name', [
    key for key, (language, _) in BLOCKS.items() if language != 'ini'],
    ids=str)
def test_every_block_of_commands_is_run_by_a_test(text, name):
    (where,) = [path for path, names in RUN.items() if name in names]
    assert "'%s'" % name in (
        ROOT / 'nova_servicegroup/tests' / where).read_text()


def test_a_name_is_of_one_block():
    """So who runs it runs it for all texts that print it."""
    named = {}
    for (text, name), (_, block) in BLOCKS.items():
        if isinstance(name, str):
            assert named.setdefault(name, block) == block, (text, name)
    assert 'install-debian' in named


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
