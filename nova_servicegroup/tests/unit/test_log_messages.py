# SPDX-License-Identifier: Apache-2.0

"""Each warning and error that the package logs is on the page of messages."""

import ast
import functools
import re

import pytest

from nova_servicegroup.tests.fixtures import texts

PACKAGE = texts.ROOT / 'nova_servicegroup'
PAGE = texts.ROOT / 'doc/source/admin/log-messages.rst'

#: calls whose text is made elsewhere: the expression, and where its texts are
ELSEWHERE = {
    # What a driver says of an error that a heartbeat met.
    'failure.text': lambda: called('Failure', 1, level=0),
    # What a complaint of kazoo's means.
    'cause': lambda: [('ERROR', text) for name, text in constants(
        PACKAGE / 'keeper/security.py').items() if name in (
            '_CA', '_HOSTNAME', '_NO_TLS', '_OUR_CERTIFICATE', '_SASL')],
    # A keeper's own, which is found where it is logged.
    "message['text']": list,
    # An UnsupportedNovaError's.
    'e': lambda: [('ERROR', text)
                  for _, text in called('UnsupportedNovaError', 0)],
}
LEVELS = {'warning': 'WARNING', 'error': 'ERROR', 'exception': 'ERROR',
          'critical': 'CRITICAL'}


@functools.cache
def tree(path):
    return ast.parse(path.read_text())


def files():
    return [path for path in sorted(PACKAGE.rglob('*.py'))
            if 'tests' not in path.relative_to(PACKAGE).parts]


def constants(path):
    """Return {name: text} of a module's constants."""
    return {node.targets[0].id: node.value.value for node in tree(path).body
            if isinstance(node, ast.Assign)
            and isinstance(node.targets[0], ast.Name)
            and isinstance(node.value, ast.Constant)
            and isinstance(node.value.value, str)}


def template(node, path):
    """Return the text of an expression, None if it isn't in this file."""
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.Name):
        return constants(path).get(node.id)
    if isinstance(node, ast.BinOp):
        left = template(node.left, path)
        if isinstance(node.op, ast.Mod) or left is None:
            return left
        return left + (template(node.right, path) or '%s')
    return None


def level_of(node):
    """Return the name of a level that is written there, else None."""
    name = ast.unparse(node).rpartition('.')[2]
    return name if name in LEVELS.values() else None


def called(name, position, level=None):
    """Return [(level, text)] that a function of this name is given anywhere.

    :param level: the place of the level among the arguments
    """
    found = [(level_of(node.args[level]) if level is not None else None,
              template(node.args[position], path)) for path in files()
             for node in ast.walk(tree(path)) if isinstance(node, ast.Call)
             and len(node.args) > position
             and ast.unparse(node.func).rpartition('.')[2] == name]
    assert found and None not in [text for _, text in found], name
    return found


@functools.cache
def logged():
    """Return {'file:line': [(level, text)]} of calls at WARNING or above.

    The level is None where it isn't written there.
    """
    found = {}
    for path in files():
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call) or not isinstance(
                    node.func, ast.Attribute) or not node.args:
                continue
            name, argument = node.func.attr, node.args[0]
            if name in ('log', '_log') and len(node.args) > 1:
                if ast.unparse(argument).endswith(('.INFO', '.DEBUG')):
                    continue
                level = level_of(argument)
                argument = node.args[1]
            elif name not in LEVELS or ast.unparse(node.func).startswith(
                    # Commands write to stderr; kazoo's log is a keeper's own.
                    ('self.app.', 'parser.', "logging.getLogger('kazoo')")):
                continue
            else:
                level = LEVELS[name]
            text = template(argument, path)
            if text == '%s':
                argument, text = node.args[-1], None
            expression = ast.unparse(argument)
            where = '%s:%d' % (path.relative_to(PACKAGE), node.lineno)
            if text is None:
                assert expression in ELSEWHERE, (
                    '%s logs %s: tell here where its texts are' % (
                        where, expression))
            found[where] = ([(level, text)] if text is not None
                            else ELSEWHERE[expression]())
    return found


@functools.cache
def entries():
    """Return {text of the page: (pattern of its messages, its levels)}."""
    return {entry: (re.compile('.*'.join(map(re.escape, entry.split('...'))),
                               re.DOTALL), levels)
            for entry, levels in re.findall(
                r'^``(.+?)`` : (.*)$', PAGE.read_text(), re.MULTILINE)}


def test_the_calls_are_found():
    messages = sum(logged().values(), [])
    assert len(messages) > 30
    for level, text in (
            ('WARNING', 'There is no connection to ZooKeeper at %s: %s.%s'),
            ('WARNING', 'Lost connection to nova-conductor'),
            ('ERROR', 'SASL authentication to ZooKeeper failed'),
            ('ERROR', 'Permission denied on the ZooKeeper path')):
        assert any(found == level and text in message
                   for found, message in messages), text


@pytest.mark.parametrize('where, level, message', [
    (where, level, message) for where, messages in logged().items()
    for level, message in messages])
def test_it_is_on_the_page_with_its_level(where, level, message):
    levels = [levels for pattern, levels in entries().values()
              if pattern.fullmatch(message)]
    assert levels, (
        '%s logs %r: tell in doc/source/admin/log-messages.rst what it means '
        'and what to do' % (where, message))
    assert level is None or any(level in found for found in levels)


def test_nothing_is_there_that_is_not_logged():
    messages = [text for _, text in sum(logged().values(), [])]
    block = (PACKAGE / 'integration/dropin.py').read_text()
    left = [entry for entry, (pattern, _) in entries().items()
            if not any(map(pattern.fullmatch, messages))
            and max(entry.split('...'), key=len) not in block]
    assert left == []


def test_each_has_its_level_and_what_to_do():
    parts = re.split(r'^(?=``)', PAGE.read_text(), flags=re.MULTILINE)[1:]
    assert len(parts) == len(entries())
    for part in parts:
        term, _, text = part.partition('\n')
        assert re.search(r'`` : (WARNING|ERROR)\b', term), term
        assert 'Do:' in text, term
