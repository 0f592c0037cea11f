# SPDX-License-Identifier: Apache-2.0

"""The fault table of the documentation says what its tests say."""

import ast
import pathlib
import re

from nova_servicegroup.tests import fault_table

TESTS = pathlib.Path(__file__).parents[1]
PAGE = TESTS.parents[1] / 'doc' / 'source' / 'admin' / 'faults.rst'


def marks():
    """Return the rows of all marks in the tests, and the tests of each."""
    rows = {}
    for path in TESTS.rglob('test_*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            for mark in getattr(node, 'decorator_list', ()):
                if not ast.unparse(mark).startswith('pytest.mark.fault('):
                    continue
                row = [ast.literal_eval(arg) for arg in mark.args]
                given = {k.arg: ast.literal_eval(k.value)
                         for k in mark.keywords}
                assert set(given) == set(fault_table.FIELDS), node.name
                row += [given[field] for field in fault_table.FIELDS]
                rows.setdefault(tuple(row), set()).add(node.name)
    return rows


def table():
    """Return the rows of the page, and the tests that each names."""
    rows = {}
    for block in PAGE.read_text().split('   * - ')[2:]:
        cells = re.split(r'\n     - ?', block.rstrip())
        cells[2] = re.sub(r' \(measured: .*\)$', '', cells[2])
        rows[tuple(cells[:-1])] = set(re.findall(r'``(\w+)``', cells[-1]))
    return rows


def test_every_mark_has_its_row_and_every_row_its_tests():
    assert table() == marks(), 'run "make fault-table" and commit'


def test_no_test_of_a_fault_has_failed():
    assert '(failed)' not in PAGE.read_text()


def test_there_are_faults_of_every_driver():
    drivers = [row[0] for row in marks()]
    assert len(drivers) >= 25
    for driver in ('db', 'mc', 'zk'):
        assert drivers.count(driver) >= 5
