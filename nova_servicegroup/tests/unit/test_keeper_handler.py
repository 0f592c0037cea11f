# SPDX-License-Identifier: Apache-2.0

"""How the keeper connects, against sockets that don't answer."""

import contextlib
import socket
import threading
import time

import pytest

from nova_servicegroup.keeper import handler
from nova_servicegroup.keeper import security

#: a session timeout; a server gets half a second of it
TIMEOUT = 3.0


@pytest.fixture
def full():
    """A server that drops what it is sent: too many wait for it already."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(
            socket.create_server(('127.0.0.1', 0), backlog=0))
        stack.enter_context(socket.create_connection(server.getsockname()))
        yield server


def connect(server):
    made = handler.Handler()
    with made.create_connection(
            server.getsockname(), timeout=TIMEOUT, use_ssl=False) as sock:
        assert sock.getpeername() == server.getsockname()


def test_a_server_that_answers_is_connected_to_at_once():
    with socket.create_server(('127.0.0.1', 0)) as server:
        began = time.monotonic()
        connect(server)
        assert time.monotonic() - began < 0.1


def test_a_server_that_does_not_answer_costs_a_sixth_of_the_session(full):
    began = time.monotonic()
    with pytest.raises(OSError) as raised:
        connect(full)
    # kazoo shows this text.
    assert raised.value.strerror == 'no answer within 0.5 s'
    assert 0.45 < time.monotonic() - began < 1


def test_a_lost_call_is_repeated_before_the_kernel_would(full):
    timer = threading.Timer(0.1, full.accept)
    timer.start()
    began = time.monotonic()
    connect(full)
    assert time.monotonic() - began < 0.5
    timer.join()


def test_a_server_that_is_not_there_is_an_error_at_once():
    with socket.create_server(('127.0.0.1', 0)) as server:
        address = server.getsockname()
    began = time.monotonic()
    with pytest.raises(ConnectionRefusedError) as raised:
        handler.Handler().create_connection(address, timeout=TIMEOUT)
    assert raised.value.strerror
    assert time.monotonic() - began < 0.1


def test_a_first_word_is_waited_for_impatiently_once():
    made = handler.Handler()
    waited = []
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(('127.0.0.1', 0)))
        for speaks in (False, True, False, False, True, True, False):
            client = stack.enter_context(made.create_connection(
                server.getsockname(), timeout=0.6))
            there = stack.enter_context(server.accept()[0])
            if speaks:
                there.send(b'hello')
            began = time.monotonic()
            ready, _, _ = made.select([client], [], [], 0.4)
            assert bool(ready) is speaks
            waited.append(time.monotonic() - began)
            # The second word is waited for as long as kazoo wants.
            if speaks and len(waited) == 2:
                client.recv(5)
                made.select([client], [], [], 0.2)
                assert time.monotonic() - began >= 0.2
    patient, _, once, again, _, _, later = waited
    assert once < 0.3 and later < 0.3
    # None was heard before, or the server before that one was silent, too.
    assert patient >= 0.4 and again >= 0.4


@pytest.mark.parametrize('tls', [None, {
    'ca_file': None, 'cert_file': None, 'key_file': None,
    'key_password': None, 'check_hostname': True}], ids=['plain', 'tls'])
def test_every_client_connects_so(tls):
    client = security.Security(tls=tls).client('127.0.0.1:1', TIMEOUT)
    assert isinstance(client.handler, handler.Handler)


def test_many_packets_are_received_with_one_call():
    """kazoo reads the length of a packet, then the packet."""
    made, limit = handler.Handler(), handler.IN_A_ROW
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(('127.0.0.1', 0)))
        sock = stack.enter_context(made.create_connection(
            server.getsockname(), timeout=TIMEOUT))
        peer = stack.enter_context(server.accept()[0])
        requests, writer = map(stack.enter_context, socket.socketpair())
        sent = b''.join(b'%06d' % number for number in range(2 * limit))
        peer.sendall(sent)
        assert made.select([sock], [], [], 5)[0] == [sock]
        assert sock.recv(6) == sent[:6]
        writer.sendall(b'x')
        ready = []
        for number in range(1, 2 * limit):
            found = made.select([sock, requests], [], [], 5)[0]
            assert sock in found
            # kazoo 2.8 handles only the first one.
            ready.append(found[0] is requests)
            assert sock.recv(6) == sent[6 * number:6 * number + 6]
        # Requests are sent in between, but not after each packet.
        assert ready.index(True) == limit - 1
        assert sum(ready) == 1
        assert made.select([sock, requests], [], [], 5)[0] == [requests]
        peer.close()
        assert made.select([sock], [], [], 5)[0] == [sock]
        assert sock.recv(6) == b''


def test_a_pause_is_as_long_as_is_said(monkeypatch):
    slept = []
    monkeypatch.setattr(handler.time, 'sleep', slept.append)
    one = handler.Handler()
    one.sleep_func(0.1)
    one.share_of_pause = 0.4
    one.sleep_func(0.1)
    assert slept == pytest.approx([0.1, 0.04])
