# SPDX-License-Identifier: Apache-2.0

"""What becomes of ServiceGroupUnavailable on its way through Nova."""

import sys
import traceback

from nova import exception as nova_exception
from nova import rpc
from oslo_messaging._drivers import common

from nova_servicegroup import exception

TEXT = ('The service from servicegroup driver db is temporarily unavailable: '
        'one cell does not answer')


def unavailable():
    return exception.ServiceGroupUnavailable('db', 'one cell does not answer')


def over_rpc(error):
    """Return what a remote caller gets for an exception."""
    try:
        raise error
    except type(error):
        sent = common.serialize_remote_exception(sys.exc_info())
    return common.deserialize_remote_exception(
        sent, rpc.get_allowed_exmods())


def test_a_remote_caller_gets_an_unavailable_compute_service():
    received = over_rpc(unavailable())
    assert isinstance(received, nova_exception.ComputeServiceUnavailable)
    # What Nova's API puts into its answer.
    assert received.format_message() == TEXT
    assert received.code == unavailable().code == 400


def test_it_may_be_handed_on():
    again = over_rpc(over_rpc(unavailable()))
    assert isinstance(again, nova_exception.ComputeServiceUnavailable)
    assert again.format_message() == TEXT


def test_it_is_made_where_this_package_is_not_installed(monkeypatch):
    monkeypatch.setitem(sys.modules, 'nova_servicegroup.exception', None)
    assert type(over_rpc(unavailable())).__mro__[1] is (
        nova_exception.ComputeServiceUnavailable)


def test_it_keeps_its_name_in_tracebacks():
    assert traceback.format_exception_only(
        type(unavailable()), unavailable())[-1].startswith(
        'nova.exception.ServiceGroupUnavailable: ' + TEXT)
