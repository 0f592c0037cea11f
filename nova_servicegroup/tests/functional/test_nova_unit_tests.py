# SPDX-License-Identifier: Apache-2.0

"""Nova's own unit tests of all that asks the servicegroup API.

They pass on a tree with the drop-in as they do without it, but for those
that look into Nova's own drivers.
"""

import json
import pathlib
import subprocess
import sys

import nova as installed_nova
import pytest

from nova_servicegroup.tests.fixtures import nova

RUNNER = pathlib.Path(__file__).with_name('nova_unit_tests.py')
TESTS = pathlib.Path(installed_nova.__file__).parent / 'tests/unit'


def named(module, *names):
    """Return the full names of tests, or of the module if none is named."""
    module = 'nova.tests.unit.' + module
    return {'%s.%s' % (module, name) for name in names} or {module}


# Those that take about a minute, none of which fails on Nova as it is.
SELECTION = set().union(*map(named, (
    'api.openstack.compute.test_services',
    'compute.test_host_api',
    'conductor.tasks.test_live_migrate',
    'scheduler.filters.test_compute_filters',
    'scheduler.test_manager',
    'servicegroup.test_api',
    'servicegroup.test_db_servicegroup',
    'servicegroup.test_mc_servicegroup',
    'test_service',
)))

# With these, every module that names the API, and the conductor's.
ALL = SELECTION.union(*map(named, (
    'api.openstack.compute.test_availability_zone',
    'api.openstack.compute.test_hypervisors',
    'compute.test_api',
    # The rest of this module is of the compute manager, which asks nobody.
    'compute.test_compute.ComputeAPITestCase',
    'conductor.test_conductor',
    'policies.test_servers',
    'virt.ironic.test_driver',
)))

# They look into the classes of Nova's own drivers, which aren't used.
INSIDE = (
    # Whether the timer gets _report_state of Nova's db driver, and what
    # that does.
    named('servicegroup.test_db_servicegroup.DBServiceGroupTestCase',
          'test_join',
          'test_report_state',
          'test_report_state_error_handling_timeout',
          'test_report_state_service_not_found',
          'test_report_state_unexpected_error')
    # They hand a client of memcached to Nova's mc driver by a function that
    # only that one calls.
    | named('servicegroup.test_mc_servicegroup.MemcachedServiceGroupTestCase',
            'test_get_updated_time',
            'test_is_up',
            'test_join',
            'test_report_state')
    # They put something into Nova's db driver that raises.
    | named('api.openstack.compute.test_services',
            'ServicesTestV21.test_services_with_exception',
            'ServicesTestV211.test_services_with_exception',
            'ServicesTestV252.test_services_with_exception'))

# Their service records aren't in the services table, which is empty: to the
# db driver each compute is the only one of its cell, and doubted when it is
# silent.
NOT_IN_THE_TABLE = named('api.openstack.compute.test_services', *(
    '%s.%s' % (version, name)
    for version in ('ServicesTestV21', 'ServicesTestV211', 'ServicesTestV252')
    for name in ('test_service_detail_with_service',
                 'test_services_detail',
                 'test_services_detail_with_delete_extension',
                 'test_services_list',
                 'test_services_list_with_multiple_host_filter',
                 'test_services_list_with_service',
                 'test_services_list_with_unknown_filter')))

# It has no database, which the db driver asks about the others when a compute
# is silent: without an answer that one is doubted.
NO_DATABASE = named('servicegroup.test_db_servicegroup.DBServiceGroupTestCase',
                    'test_is_up')

KNOWN = INSIDE | NOT_IN_THE_TABLE | NO_DATABASE


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """Nova with its tests and the drop-in."""
    return nova.make_plugin_tree(tmp_path_factory.mktemp('tree'), tests=True)


def run(tree, directory, names, **options):
    """Run tests in a process of their own.

    :param tree: the tree with the drop-in, or None for Nova as it is
    :param names: of modules, classes or tests
    :param options: more environment; oslo.config takes options from there
    :returns: dict of 'ran' (a list), 'failed' and 'skipped' (name: text)
    """
    result = directory / 'result.json'
    done = subprocess.run(
        [sys.executable, '-W', 'ignore', RUNNER, result, *sorted(names)],
        # As Nova's tox.ini has them.
        env=dict(nova.environment(tree), OS_TEST_TIMEOUT='160',
                 OS_STDOUT_CAPTURE='1', OS_STDERR_CAPTURE='1',
                 # ddt names tests by the order of sets.
                 PYTHONHASHSEED='0', **options),
        cwd=directory, stdin=subprocess.DEVNULL, capture_output=True,
        text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(result.read_text())
    assert found['ran']
    return found


def assert_failed(found, expected):
    """Say what the tests said that failed, and shouldn't have."""
    surprises = [
        '%s:\n%s' % (test, text[-2000:])
        for test, text in found['failed'].items() if test not in expected]
    assert not surprises, '\n\n'.join(surprises)
    assert set(found['failed']) == expected, 'these pass, take them out'


def test_every_module_that_names_the_api_is_known():
    naming = {'nova.tests.unit.' + '.'.join(
                  path.relative_to(TESTS).with_suffix('').parts)
              for path in TESTS.rglob('test_*.py')
              if any(name in path.read_text() for name in (
                  'servicegroup', 'service_is_up'))}
    assert naming
    assert not [module for module in naming
                if not any(name.startswith(module) for name in ALL)]


def test_a_selection(tree, tmp_path):
    found = run(tree, tmp_path, SELECTION)
    assert_failed(found, KNOWN & set(found['ran']))


def test_with_the_in_tree_rule_alone(tree, tmp_path):
    found = run(tree, tmp_path, NOT_IN_THE_TABLE,
                OS_SERVICEGROUP__MASS_FAILURE_THRESHOLD='2')
    assert set(found['ran']) == NOT_IN_THE_TABLE
    assert_failed(found, set())


@pytest.mark.long
def test_all(tree, tmp_path):
    (tmp_path / 'in-tree').mkdir()
    in_tree = run(None, tmp_path / 'in-tree', ALL)
    found = run(tree, tmp_path, ALL)
    assert set(found['ran']) == set(in_tree['ran'])
    assert set(found['skipped']) == set(in_tree['skipped'])
    assert not [test for test in in_tree['failed']
                if test.startswith(tuple(SELECTION))]
    assert_failed(found, set(in_tree['failed']) | KNOWN)
