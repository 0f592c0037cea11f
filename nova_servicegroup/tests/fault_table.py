# SPDX-License-Identifier: Apache-2.0

"""Makes the fault table of the documentation from the tests that show it.

A test of a fault says what it shows::

    @pytest.mark.fault('zk', 'a host loses its network', readers='down ...',
                       lasts='...', logged='...', ends='...')

``pytest -m fault --fault-table doc/source/admin/faults.rst`` runs these tests
and writes one row for each mark. A test that failed is named as failed there,
so the page never says more than was seen. What a test hands to the fixture
``record_property`` as ``measured`` stands in its row.
"""

import collections

FIELDS = ('readers', 'lasts', 'logged', 'ends')

_HEAD = '''\
====================
Faults, as tested
====================

Made by ``make fault-table`` from the results of the tests that are named in
the last column: %(faults)d faults, %(tests)d tests. "up" and "down" are the
answers to everything in Nova but the scheduler; the scheduler takes no host
whose process has ended or that is silent. "-": nothing changes, so nothing has
to end. See :doc:`liveness` for the rules.

.. list-table::
   :header-rows: 1
   :widths: 7 20 24 12 14 13 10

   * - Driver
     - Fault
     - What readers say
     - For how long
     - What is logged
     - What ends it
     - Test
'''


def pytest_addoption(parser):
    parser.addoption('--fault-table', metavar='FILE',
                     help='write the fault table of the documentation')


def pytest_configure(config):
    config.addinivalue_line(
        'markers', 'fault(driver, fault, readers, lasts, logged, ends): '
        'a row of the fault table')
    path = config.getoption('--fault-table')
    if path and not hasattr(config, 'workerinput'):
        config.pluginmanager.register(_Writer(path))


def pytest_collection_modifyitems(items):
    for item in items:
        for mark in item.iter_markers('fault'):
            # In what reaches the process that reports, with xdist, too.
            item.user_properties.append(('fault', row_of(mark)))


def row_of(mark):
    """Return the row of a mark, a dict of str."""
    driver, fault = mark.args
    if set(mark.kwargs) != set(FIELDS):
        raise ValueError('the mark of the fault %r needs %s' % (
            fault, ', '.join(FIELDS)))
    return dict(mark.kwargs, driver=driver, fault=fault)


class _Writer:
    """Collects results and writes the table at the end of the run."""

    def __init__(self, path):
        self._path = path
        self._rows = collections.defaultdict(set)    # row -> tests
        self._measured = collections.defaultdict(set)
        self._tests = set()
        self._failed = set()

    def pytest_runtest_logreport(self, report):
        test = report.nodeid.partition('[')[0].rpartition('::')[2]
        for name, value in report.user_properties:
            if name == 'fault' and (report.when == 'call' or report.failed):
                row = tuple(sorted(value.items()))
                self._rows[row].add(test)
                self._tests.add(report.nodeid)
                if report.failed:
                    self._failed.add(test)
                self._measured[row].update(
                    text for key, text in report.user_properties
                    if key == 'measured')

    def pytest_sessionfinish(self):
        if not self._rows:
            return
        with open(self._path, 'w') as table:
            table.write(_HEAD % {'faults': len(self._rows),
                                 'tests': len(self._tests)})
            for row, tests in sorted(self._rows.items(), key=lambda r: (
                    dict(r[0])['driver'], dict(r[0])['fault'])):
                fields = dict(row)
                measured = '; '.join(sorted(self._measured[row]))
                if measured:
                    fields['readers'] += ' (measured: %s)' % measured
                cells = [fields['driver'], fields['fault'], *(
                    fields[field] for field in FIELDS)]
                cells.append(', '.join(
                    '``%s``%s' % (test, ' (failed)' * (test in self._failed))
                    for test in sorted(tests)))
                table.write('   * - %s\n' % cells[0])
                for cell in cells[1:]:
                    table.write('     - %s\n' % cell)
