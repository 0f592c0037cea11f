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
    'failure.text': lambda: called('Failure', 1),
    # What a complaint of kazoo's means.
    'cause': lambda: [text for name, text in constants(
        PACKAGE / 'keeper/security.py').items() if name in (
            '_CA', '_HOSTNAME', '_NO_TLS', '_OUR_CERTIFICATE', '_SASL')],
    # A keeper's own, which is found where it is logged.
    "message['text']": list,
    # A NovaShapeError's.
    'e': lambda: called('NovaShapeError', 0),
}
LEVELS = ('warning', 'error', 'exception', 'critical')


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


def called(name, position):
    """Return the texts that a function of this name is given anywhere."""
    found = [template(node.args[position], path) for path in files()
             for node in ast.walk(tree(path)) if isinstance(node, ast.Call)
             and len(node.args) > position
             and ast.unparse(node.func).rpartition('.')[2] == name]
    assert found and None not in found, name
    return found


@functools.cache
def logged():
    """Return {(file, line): texts} of all calls at warning level or above."""
    found = {}
    for path in files():
        for node in ast.walk(tree(path)):
            if not isinstance(node, ast.Call) or not isinstance(
                    node.func, ast.Attribute) or not node.args:
                continue
            name, argument = node.func.attr, node.args[0]
            if name in ('log', '_log') and len(node.args) > 1:
                level = ast.unparse(argument)
                if level.endswith(('INFO', 'DEBUG')):
                    continue
                argument = node.args[1]
            elif name not in LEVELS or ast.unparse(node.func).startswith(
                    # Commands write to stderr; kazoo's log is a keeper's own.
                    ('self.app.', 'parser.', "logging.getLogger('kazoo')")):
                continue
            text = template(argument, path)
            if text == '%s':
                argument, text = node.args[-1], None
            expression = ast.unparse(argument)
            where = '%s:%d' % (path.relative_to(PACKAGE), node.lineno)
            if text is None:
                assert expression in ELSEWHERE, (
                    '%s logs %s: tell here where its texts are' % (
                        where, expression))
            found[where] = ([text] if text is not None
                            else ELSEWHERE[expression]())
    return found


@functools.cache
def entries():
    """Return {text of the page: pattern of the messages that it is for}."""
    return {entry: re.compile('.*'.join(map(re.escape, entry.split('...'))),
                              re.DOTALL)
            for entry in re.findall(r'^``(.+?)``', PAGE.read_text(),
                                    re.MULTILINE)}


def test_the_calls_are_found():
    messages = sum(logged().values(), [])
    assert len(messages) > 30
    for text in ('There is no connection to ZooKeeper at %s: %s.%s',
                 'Lost connection to nova-conductor',
                 'SASL authentication to ZooKeeper failed',
                 'Permission denied on the ZooKeeper path'):
        assert any(text in message for message in messages), text


@pytest.mark.parametrize('where, message', [
    (where, message) for where, messages in logged().items()
    for message in messages])
def test_it_is_on_the_page(where, message):
    assert any(pattern.fullmatch(message) for pattern in entries().values()), (
        '%s logs %r: tell in doc/source/admin/log-messages.rst what it means '
        'and what to do' % (where, message))


def test_nothing_is_there_that_is_not_logged():
    messages = sum(logged().values(), [])
    block = (PACKAGE / 'integration/dropin.py').read_text()
    left = [entry for entry, pattern in entries().items()
            if not any(map(pattern.fullmatch, messages))
            and max(entry.split('...'), key=len) not in block]
    assert left == []


def test_each_has_its_level_and_what_to_do():
    parts = re.split(r'^(?=``)', PAGE.read_text(), flags=re.MULTILINE)[1:]
    for part in parts:
        term, _, text = part.partition('\n')
        assert re.search(r'`` : (WARNING|ERROR)\b', term), term
        assert 'Do:' in text, term
