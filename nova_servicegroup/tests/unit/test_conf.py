# SPDX-License-Identifier: Apache-2.0

"""The package's options."""

import inspect
import re

from oslo_config import cfg
import pytest

from nova_servicegroup import conf as sg_conf
from nova_servicegroup.drivers import db
from nova_servicegroup.tests import contract


def options():
    return [(getattr(group, 'name', group), opt)
            for group, opts in sg_conf.list_opts() for opt in opts]


@pytest.mark.parametrize('group, opt', options(),
                         ids=lambda v: getattr(v, 'name', v))
def test_every_option_is_explained(group, opt):
    lines = inspect.cleandoc(opt.help).splitlines()
    assert len(lines[0]) <= 79 and lines[0].endswith('.')
    assert len(lines) > 2, 'help of %s: one line is not enough' % opt.name
    assert 'Possible values' not in opt.help or opt.choices
    if isinstance(opt, (cfg.IntOpt, cfg.FloatOpt)):
        assert re.search('[Ss]econds|Share of', lines[0]), 'no unit'


def test_registering_twice_is_harmless():
    conf = cfg.ConfigOpts()
    sg_conf.register_opts(conf)
    sg_conf.register_opts(conf)
    conf([])
    assert conf.servicegroup.outage_policy == 'safe'


def test_the_restart_grace_follows_the_down_time(config):
    config.config(service_down_time=33)
    settings = sg_conf.settings(config.conf)
    settings.refresh()
    assert settings.rules.restart_grace == 33
    config.config(restart_grace=0, group='servicegroup')
    settings.refresh()
    assert settings.rules.restart_grace == 0


@pytest.mark.parametrize('option, value', [
    ('outage_grace', -1), ('outage_policy', 'raise'), ('restart_grace', -1),
    ('mass_failure_threshold', -1), ('leave_on_stop', 'later')])
def test_values_that_make_no_sense_are_refused(config, option, value):
    with pytest.raises(ValueError):
        config.config(group='servicegroup', **{option: value})


def test_a_policy_is_changed_without_a_restart(config, tmp_path):
    path = tmp_path / 'nova.conf'
    path.write_text('[servicegroup]\noutage_policy = up\n')
    config.conf(['--config-file', str(path)])
    settings = sg_conf.settings(config.conf)
    settings.refresh()
    assert settings.outage_policy == 'up'
    path.write_text('[servicegroup]\noutage_policy = down\n'
                    'mass_failure_threshold = 2\n')
    config.conf.mutate_config_files()
    assert settings.outage_policy == 'down'
    assert settings.rules.threshold == 2


def test_a_bad_leave_on_stop_ends_the_start_and_not_the_stop(config, tmp_path):
    path = tmp_path / 'nova.conf'
    path.write_text('[servicegroup]\nleave_on_stop = later\n')
    config.conf(['--config-file', str(path)])
    driver = db.DbDriver()
    service = contract.FakeService('host1', 'compute', None)
    with pytest.raises(ValueError, match='leave_on_stop'):
        driver.join('host1', 'compute', service)
    assert service.tg.timers == []
