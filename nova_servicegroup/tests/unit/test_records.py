# SPDX-License-Identifier: Apache-2.0

"""Reading service records: Nova's objects, dicts, and times of all forms."""

import collections

from nova import objects
import pytest

from nova_servicegroup import records


@pytest.fixture(autouse=True)
def registered():
    objects.register_all()


@pytest.mark.parametrize('make', [
    lambda **fields: objects.Service(**fields), dict,
    lambda **fields: collections.UserDict(fields)],
    ids=['object', 'dict', 'UserDict'])
def test_every_kind_of_record_is_read(make):
    record = make(host='h', topic='t')
    assert records.Reader('topic', 'host')[type(record)](record) == ('t', 'h')
    assert records.Reader('host')[type(record)](record) == 'h'


def test_an_object_is_read_past_its_getters(monkeypatch):
    record = objects.Service(host='h')
    monkeypatch.setattr(objects.Service, 'host', property(None))
    assert records.Reader('host')[type(record)](record) == 'h'


def test_what_was_not_loaded_is_not_loaded_here():
    record = objects.Service(host='h')
    reader = records.Reader('host', 'topic')
    with pytest.raises(AttributeError):
        reader[type(record)](record)
    with pytest.raises(KeyError):
        reader[dict]({'host': 'h'})


def test_a_function_is_made_once_a_class():
    reader = records.Reader('host')
    assert reader[dict] is reader[dict]
