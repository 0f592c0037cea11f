# SPDX-License-Identifier: Apache-2.0

"""What every unit test starts from: Nova's options, short intervals."""

import nova.conf
from oslo_config import fixture as config_fixture
import pytest

from nova_servicegroup import conf as sg_conf
from nova_servicegroup import per_process
from nova_servicegroup.tests import contract


@pytest.fixture(autouse=True)
def process():
    """Each test is a process of its own, as far as shared objects go."""
    per_process.forget()
    yield
    per_process.forget()


@pytest.fixture
def config():
    """oslo.config's fixture on Nova's CONF, with the contract's intervals."""
    fixture = config_fixture.Config(nova.conf.CONF)
    fixture.setUp()
    fixture.conf([], project='nova', default_config_files=[])
    sg_conf.register_opts(fixture.conf)
    fixture.config(report_interval=contract.INTERVAL,
                   service_down_time=contract.DOWN_TIME)
    sg_conf.settings(fixture.conf).refresh()
    yield fixture
    fixture.cleanUp()
    sg_conf.settings(fixture.conf).refresh()


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
