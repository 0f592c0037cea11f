# SPDX-License-Identifier: Apache-2.0

"""What all tests share: the slow things, made once per run.

Nothing here skips: without a server, the tests that need it fail.
"""

import pytest

from nova_servicegroup.tests.fixtures import process


@pytest.fixture(scope='session', autouse=True)
def nothing_is_left():
    """Fail the run when a process that it started outlives it."""
    yield
    left = [one for one in process.Process.started if one.running]
    for one in left:
        one.stop()
    assert not left, [one.name for one in left]


@pytest.fixture(scope='session')
def database_template(tmp_path_factory):
    """A MariaDB data directory with the schemas of Nova and placement."""
    from nova_servicegroup.tests.fixtures import nova
    return nova.make_database_template(
        tmp_path_factory.mktemp('database-template'))


@pytest.fixture(scope='session')
def plugin_tree(tmp_path_factory):
    """A copy of the installed Nova with the plug-in dropped in."""
    from nova_servicegroup.tests.fixtures import nova
    return nova.make_plugin_tree(tmp_path_factory.mktemp('plugin-tree'))


@pytest.fixture(scope='session')
def make_cloud(tmp_path_factory, database_template, plugin_tree):
    """Makes a ``nova.Cloud``, not started; use it in a ``with``.

    ``make_cloud(driver='zk', config={...})``: see Cloud for the rest.
    """
    from nova_servicegroup.tests.fixtures import nova

    def make(**how):
        return nova.Cloud(tmp_path_factory.mktemp('cloud'),
                          database_template, plugin_tree, **how)
    return make


@pytest.fixture(scope='session')
def runner(request):
    """Gives the commands.Commands of a Nova with the drop-in, or without."""
    from nova_servicegroup.tests.fixtures import commands
    from nova_servicegroup.tests.fixtures import nova
    made = {}

    def get(mode=None):
        if mode not in made:
            env = nova.environment() if mode is None else nova.environment(
                request.getfixturevalue('plugin_tree'), mode)
            made[mode] = commands.Commands(env)
        return made[mode]

    yield get
    for one in made.values():
        one.close()


@pytest.fixture(scope='session')
def empty_databases(tmp_path_factory, runner):
    """A folder with the schemas of Nova's databases."""
    from nova_servicegroup.tests.fixtures import cells
    return cells.make_empty(tmp_path_factory.mktemp('schemas'), runner())


@pytest.fixture
def cells(tmp_path, empty_databases, runner):
    """An API database and the databases of three cells."""
    from nova_servicegroup.tests.fixtures import cells
    return cells.Cells(tmp_path, empty_databases, runner)
