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

"""What the texts tell people to type exists."""

import pathlib
import re
import shlex

import pytest

from nova_servicegroup.cmd import main

ROOT = pathlib.Path(__file__).parents[3]
TEXTS = sorted(
    path.relative_to(ROOT)
    for pattern in ('*.rst', 'doc/source/**/*.rst', 'contrib/**/*.rst',
                    'releasenotes/notes/*.yaml')
    for path in ROOT.glob(pattern))


def commands(program):
    """Return [(text, command)] for what stands in literals and blocks."""
    found = []
    for text in TEXTS:
        content = (ROOT / text).read_text()
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
