# SPDX-License-Identifier: Apache-2.0

"""Nova's service list, of one cell and of many."""

import types

from nova import context as nova_context
from nova import exception as nova_exception
from nova import objects
from nova.objects import cell_mapping
import pytest

from nova_servicegroup import exception
from nova_servicegroup.integration import cells as nova_cells
from nova_servicegroup.integration import service_records
from nova_servicegroup.tests.fixtures import database


@pytest.fixture
def cell(config, tmp_path):
    cell = database.Database(tmp_path / 'cell.sqlite')
    cell.add('c1', 'compute')
    cell.add('c2', 'compute', disabled=True)
    cell.add('s1', 'scheduler')
    cell.add('api', None, binary='nova-osapi_compute')
    yield cell
    cell.close()


def hosts(group=None):
    return sorted(s.host for s in service_records.list_services(group))


def test_the_services_of_a_group_disabled_ones_too(cell):
    assert hosts('compute') == ['c1', 'c2']
    assert hosts('conductor') == []


def test_rows_that_never_report_are_left_out(cell):
    assert hosts() == ['c1', 'c2', 's1']


@pytest.fixture
def cells(cell, config, monkeypatch):
    """An API database that knows a cell: what it answers is set by tests."""
    config.config(connection='sqlite://', group='api_database')
    answers = {}
    monkeypatch.setattr(
        nova_context, 'load_cells', lambda: None)
    monkeypatch.setattr(nova_context, 'CELLS', [
        cell_mapping.CellMapping(uuid=uuid, name='cell', database_connection=''
                                 'sqlite://', transport_url='fake:/')
        for uuid in ('00000000-0000-4000-8000-000000000001',
                     '00000000-0000-4000-8000-000000000002')])
    monkeypatch.setattr(
        nova_cells, 'ask', lambda context, cells, question:
        {cell.uuid: answers.get(cell.uuid[-1]) or question(context)
         for cell in cells})
    return answers


def test_every_cell_is_asked(cells, cell):
    extra = objects.Service(cell.context, host='c9', topic='compute')
    cells['2'] = [extra]
    assert hosts('compute') == ['c1', 'c2', 'c9']


def test_a_cell_that_does_not_answer_is_not_left_out(cells):
    cells['2'] = TimeoutError('not within 60 s')
    with pytest.raises(exception.ServiceGroupUnavailable,
                       match='the cell .*2 does not list'):
        service_records.list_services('compute')


ALL_MEMBERS = [('compute', 'c1', False), ('compute', 'c2', True),
               ('scheduler', 's1', False)]


def test_members_are_listed_with_those_that_were_deleted(cell):
    cell.get('c2', 'compute').destroy()
    assert sorted(service_records.members()) == ALL_MEMBERS
    assert hosts('compute') == ['c1']


def test_members_are_listed_of_every_cell(cells, cell):
    cell.get('c2', 'compute').destroy()
    cells['2'] = [('compute', 'c9', False)]
    assert sorted(service_records.members()) == sorted(
        [*ALL_MEMBERS, ('compute', 'c9', False)])
    cells['2'] = TimeoutError('not within 60 s')
    with pytest.raises(exception.ServiceGroupUnavailable):
        service_records.members()


def test_the_cell_of_a_plain_dict_is_that_of_its_host(config, monkeypatch):
    # As nova-scheduler has them: host_state.service is a dict.
    asked = []

    def get_by_host(context, host):
        asked.append(host)
        if host == 'new':
            raise nova_exception.HostMappingNotFound(name=host)
        return types.SimpleNamespace(
            cell_mapping=types.SimpleNamespace(uuid='cell of ' + host))

    monkeypatch.setattr(objects.HostMapping, 'get_by_host', get_by_host)
    monkeypatch.setattr(service_records, '_mappings', {})
    assert service_records.cell_of({'host': 'a'}) is None
    config.config(group='api_database', connection='sqlite://')
    for _ in range(2):
        assert service_records.cell_of({'host': 'a'}) == 'cell of a'
        assert service_records.cell_of({'host': 'new'}) is None
    assert asked == ['a', 'new', 'new']


def test_an_api_database_that_is_away_is_no_cell(config, monkeypatch):
    monkeypatch.setattr(service_records, '_mappings', {})
    config.config(group='api_database', connection='sqlite:////nowhere/x')
    with pytest.raises(exception.ServiceGroupUnavailable,
                       match='the API database does not answer'):
        service_records.cell_of({'host': 'a'})
