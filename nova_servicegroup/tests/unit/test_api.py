# SPDX-License-Identifier: Apache-2.0

"""The API in front of the drivers."""

import logging

from oslo_config import cfg
import pytest

import nova_servicegroup
from nova_servicegroup import drivers
from nova_servicegroup.drivers import db
from nova_servicegroup import exception
from nova_servicegroup import liveness
from nova_servicegroup.tests import contract


class StubDriver:
    """Answers from a set, and remembers what it was asked and given."""

    up = frozenset()
    doubted = frozenset()
    name = 'stub'

    def __init__(self, *args, **kwargs):
        self.args, self.kwargs, self.asked = args, kwargs, []

    def join(self, member, group, service):
        self.asked.append(('join', member, group, service))

    def leave(self, member, group):
        self.asked.append(('leave', member, group))

    def is_up(self, member):
        self.asked.append(member['host'])
        return member['host'] in self.up

    def verdict(self, member):
        if member['host'] in self.doubted:
            state = liveness.State.UNKNOWN
        elif member['host'] in self.up:
            state = liveness.State.UP
        else:
            state = liveness.State.DOWN
        return liveness.Verdict(state, liveness.Reason.PRESENT)

    def updated_time(self, member):
        return 'as Nova is told'

    def recorded_time(self, member):
        return 'in truth'

    def list_services(self, group):
        return [{'host': host, 'topic': group, 'forced_down': host == 'c'}
                for host in 'dcba']


@pytest.fixture
def stub(config, monkeypatch):
    monkeypatch.setitem(drivers.DRIVERS, 'db', '%s.StubDriver' % __name__)
    monkeypatch.setattr(StubDriver, 'up', frozenset('abc'))


def test_arguments_go_to_the_driver(stub):
    api = nova_servicegroup.API(1, 2, colour='blue')
    assert api._driver.args == (1, 2)
    assert api._driver.kwargs['colour'] == 'blue'


def test_forced_down_wins_before_the_driver_is_asked(stub):
    api = nova_servicegroup.API()
    assert api.service_is_up({'host': 'a', 'forced_down': True}) is False
    assert api._driver.asked == []
    assert api.service_is_up({'host': 'a', 'forced_down': False}) is True
    assert api.service_is_up({'host': 'a'}) is True
    forced = {'host': 'a', 'forced_down': True}
    assert api.answer(forced, liveness.Question.MAY_PLACE) is False
    assert api.verdict(forced).reason is liveness.Reason.FORCED_DOWN
    assert api.get_updated_time(forced) == 'in truth'
    assert api.get_updated_time({'host': 'a'}) == 'as Nova is told'


def test_get_all_lists_the_hosts_that_are_up(stub):
    assert nova_servicegroup.API().get_all('compute') == ['a', 'b']


def test_get_one_is_one_of_them_or_none(stub, monkeypatch):
    api = nova_servicegroup.API()
    assert {api.get_one('compute') for _ in range(100)} == {'a', 'b'}
    monkeypatch.setattr(StubDriver, 'up', frozenset())
    assert api.get_one('compute') is None
    assert api.get_all('compute') == []


def test_a_list_with_doubted_members_is_refused_naming_nobody(
        stub, monkeypatch):
    monkeypatch.setattr(StubDriver, 'doubted', frozenset('d'))
    with pytest.raises(exception.ServiceGroupUnavailable) as caught:
        nova_servicegroup.API().get_all('compute')
    assert str(caught.value).endswith('it cannot tell who is up')


@pytest.mark.parametrize('interval, down_time, used', [
    (10, 5, 25), (10, 10, 25), (3, 1, 7), (10, 11, 11)])
def test_down_time_must_exceed_the_interval(config, caplog, interval,
                                            down_time, used):
    config.config(report_interval=interval, service_down_time=down_time)
    nova_servicegroup.API()
    assert config.conf.service_down_time == used
    warned = [r.getMessage() for r in caplog.records
              if r.levelno == logging.WARNING]
    assert len(warned) == (used != down_time)
    assert all(t.startswith('Report interval must be less than service down '
                            'time.') for t in warned)


def test_a_driver_made_earlier_sees_the_new_down_time(config):
    config.config(report_interval=10, service_down_time=60)
    earlier = nova_servicegroup.API()._driver
    config.config(service_down_time=10)
    nova_servicegroup.API()
    assert earlier.settings.service_down_time == 25


@pytest.mark.parametrize('option', ['report_interval', 'service_down_time'])
@pytest.mark.parametrize('value', [0, -1])
def test_an_interval_that_is_not_positive_is_refused(config, option, value):
    config.config(**{option: value})
    with pytest.raises(exception.ConfigurationError,
                       match=r'\[DEFAULT\] %s is %s' % (option, value)):
        nova_servicegroup.API()


def test_an_unknown_driver_is_refused(config, tmp_path):
    path = tmp_path / 'nova.conf'
    path.write_text('[DEFAULT]\nservicegroup_driver = etcd\n')
    config.conf(['--config-file', str(path)])
    with pytest.raises(exception.ConfigurationError,
                       match='servicegroup_driver names no driver.*etcd.*'
                             'Set it to one of db'):
        nova_servicegroup.API()


def test_the_db_driver_is_chosen_by_name(config):
    assert type(nova_servicegroup.API()._driver) is db.DbDriver


def test_join_and_leave_return_nothing(stub):
    api = nova_servicegroup.API()
    assert api.join('a', 'compute', 'service') is None
    assert api.leave('a', 'compute') is None
    assert api._driver.asked == [('join', 'a', 'compute', 'service'),
                                 ('leave', 'a', 'compute')]


class OtherDriver(StubDriver):
    """Is told, never asked."""


@pytest.mark.parametrize('names, expected', [
    ([], 0), (['other'], 1), (['other', 'db', 'other'], 1)])
def test_further_drivers_are_told_but_not_asked(stub, config, monkeypatch,
                                                names, expected):
    monkeypatch.setitem(drivers.DRIVERS, 'other',
                        '%s.OtherDriver' % __name__)
    config.config(group='servicegroup', also_report=names)
    api = nova_servicegroup.API()
    api.join('a', 'compute', 'service')
    api.service_is_up({'host': 'a'})
    api.leave('a', 'compute')
    assert [type(d) for d in api._also_report] == [OtherDriver] * expected
    for driver in api._also_report:
        assert driver.asked == [('join', 'a', 'compute', 'service'),
                                ('leave', 'a', 'compute')]


def test_an_unknown_further_driver_is_refused(config):
    config.config(group='servicegroup', also_report=['etcd'])
    with pytest.raises(exception.ConfigurationError,
                       match="also_report names 'etcd'.*one of db"):
        nova_servicegroup.API()


def test_making_one_logs_nothing(config, caplog):
    caplog.set_level(logging.DEBUG)
    nova_servicegroup.API()
    assert caplog.records == []


def test_another_configuration_may_be_given(config):
    own = cfg.ConfigOpts()
    own.register_opts([cfg.IntOpt('report_interval', default=2),
                       cfg.IntOpt('service_down_time', default=9),
                       cfg.StrOpt('servicegroup_driver', default='db')])
    own([])
    driver = nova_servicegroup.API(conf=own)._driver
    assert driver.settings.service_down_time == 9
    assert (nova_servicegroup.API()._driver.settings.service_down_time
            == contract.DOWN_TIME)


def test_only_known_names_are_exported():
    with pytest.raises(AttributeError):
        nova_servicegroup.Api
