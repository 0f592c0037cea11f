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
