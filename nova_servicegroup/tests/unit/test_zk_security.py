# SPDX-License-Identifier: Apache-2.0

"""The options of security, and what the keeper makes of them."""

import logging
import socket
import ssl
import threading
import time

import pytest

from nova_servicegroup import conf as sg_conf
from nova_servicegroup.drivers import zk
from nova_servicegroup import exception
from nova_servicegroup.keeper import security
from nova_servicegroup.tests.fixtures import certificates

DIGEST = {'auth_scheme': 'digest', 'username': 'nova', 'password': 'hunter2'}


@pytest.fixture
def options(config):
    """Set options of [zookeeper]; return what a session would get."""
    def set_options(**values):
        config.config(group='zookeeper', address='h1', **values)
        return sg_conf.zk.security(config.conf)
    return set_options


def test_without_options_there_is_no_identity_and_no_tls(options):
    assert options() == {'auth': None, 'tls': None, 'open_reading': True}


@pytest.mark.parametrize('scheme', ['digest', 'sasl'])
def test_a_password(options, scheme):
    assert options(**dict(DIGEST, auth_scheme=scheme))['auth'] == (
        scheme, 'nova:hunter2')


def test_a_certificate_as_the_identity(options):
    found = options(auth_scheme='x509', use_tls=True, cert_file='/c',
                    open_reading=False)
    assert found == {
        'auth': ('x509', ''), 'open_reading': False,
        'tls': {'ca_file': None, 'check_hostname': True, 'cert_file': '/c',
                'key_file': None, 'key_password': None}}


@pytest.mark.parametrize('values, named', [
    (dict(DIGEST, password=''), 'password is missing'),
    (dict(DIGEST, username=None), 'username is missing'),
    (dict(DIGEST, auth_scheme='sasl', password=None), 'password is missing'),
    (dict(DIGEST, username='no:va'), 'username has a colon'),
    (dict(DIGEST, auth_scheme='none'), 'username has no effect'),
    ({'password': 'hunter2'}, 'password has no effect'),
    (dict(DIGEST, auth_scheme='x509', use_tls=True, cert_file='/c'),
     'username has no effect'),
    ({'auth_scheme': 'x509'}, 'cert_file is missing'),
    ({'auth_scheme': 'x509', 'cert_file': '/c'}, 'set use_tls = true'),
    ({'open_reading': False}, 'set auth_scheme'),
    ({'ca_file': '/ca'}, 'ca_file has no effect without TLS'),
    ({'key_password': 'hunter2'}, 'key_password has no effect without TLS'),
    ({'use_tls': True, 'key_file': '/k'}, 'cert_file is missing'),
    ({'use_tls': True, 'key_password': 'hunter2'}, 'cert_file is missing')])
def test_options_that_do_not_fit_are_refused(options, values, named):
    with pytest.raises(exception.ConfigurationError, match=named) as refused:
        options(**values)
    assert 'hunter2' not in str(refused.value)
    with pytest.raises(exception.ConfigurationError, match=named):
        zk.ZooKeeperDriver()


def test_secrets_are_not_among_the_logged_options(config, options, caplog):
    options(use_tls=True, cert_file='/c', key_password='keyhunter2', **DIGEST)
    caplog.set_level(logging.INFO)
    config.conf.log_opt_values(logging.getLogger('options'), logging.INFO)
    assert 'zookeeper.password' in caplog.text
    assert 'hunter2' not in caplog.text


def test_without_pure_sasl_the_error_says_so(monkeypatch):
    monkeypatch.setattr(security.importlib.util, 'find_spec',
                        lambda name: None)
    with pytest.raises(security.PackageMissing, match='install it where Nova'):
        security.Security(auth=('sasl', 'nova:hunter2')).client('h1', 4)


def test_an_old_kazoo_does_not_pass_for_checking_host_names(options):
    how = options(use_tls=True)
    handler = security.Security(**how).client('h1', 4).handler
    with pytest.raises(OSError) as refused:
        # As kazoo 2.10 calls it.
        handler.create_connection(address=('127.0.0.1', 1), timeout=1)
    assert 'needs kazoo 2.11' in refused.value.strerror


def test_a_server_that_is_silent_in_the_handshake_costs_no_session(options):
    how = options(use_tls=True)
    handler = security.Security(**how).client('h1', 4).handler
    with socket.create_server(('127.0.0.1', 0)) as silent:
        began = time.monotonic()
        with pytest.raises(OSError) as refused:
            handler.create_connection(address=silent.getsockname(),
                                      timeout=1.5, hostname='127.0.0.1')
        assert 0.4 < time.monotonic() - began < 1.4
    assert 'no TLS handshake within 0.5 s' in refused.value.strerror


@pytest.fixture(scope='module')
def authorities(tmp_path_factory):
    """(Two authorities, a context of a server of the first)."""
    directory = tmp_path_factory.mktemp('tls')
    ours = certificates.Authority(directory, 'ours')
    theirs = certificates.Authority(directory, 'theirs')
    server = ours.issue('zk1')
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(server.cert_file, server.key_file)
    context.load_verify_locations(ours.ca_file)
    context.verify_mode = ssl.CERT_REQUIRED
    return ours, theirs, context


def answer_with_tls(sock, context):
    try:
        context.wrap_socket(sock, server_side=True).recv(1)
    except OSError:
        sock.close()


def answer(data):
    def action(sock, context):
        sock.recv(4096)
        sock.sendall(data)
        sock.close()
    return action


@pytest.mark.parametrize('action, changes, named', [
    (answer_with_tls, {'ca': 1}, 'ca_file, and the certificate. ('),
    (answer_with_tls, {'host': 'localhost'}, 'name the servers as their'),
    (answer_with_tls, {'host': '127.0.0.2'}, 'name the servers as their'),
    (answer_with_tls, {'fleet': 1}, 'refuses our client certificate'),
    (answer_with_tls, {'fleet': None}, 'refuses our client certificate'),
    (answer(b''), {}, 'and use_tls. ('),
    (answer(b'\0\0\0\x0bno such word'), {}, 'and use_tls. ('),
    (answer(b'HTTP/1.1 400 Bad Request\r\n\r\n'), {}, 'and use_tls. (')])
@pytest.mark.parametrize('version', [ssl.TLSVersion.TLSv1_2,
                                     ssl.TLSVersion.TLSv1_3])
def test_what_is_wrong_with_tls_is_named(
        authorities, options, action, changes, named, version, monkeypatch):
    """On any Python, by the place and kind of the error."""
    # Ports are used again.
    monkeypatch.setattr(security._TLSHandler, '_spoke_tls', set())
    context = authorities[2]
    context.maximum_version = version
    how = {'use_tls': True,
           'ca_file': authorities[changes.get('ca', 0)].ca_file}
    if changes.get('fleet', 0) is not None:
        fleet = authorities[changes.get('fleet', 0)].issue('nova')
        how.update(cert_file=fleet.cert_file, key_file=fleet.key_file)
    handler = security.Security(**options(**how)).client('h1', 4).handler
    with socket.create_server(('127.0.0.1', 0)) as server:
        thread = threading.Thread(target=lambda: action(
            server.accept()[0], context))
        thread.start()
        with pytest.raises(OSError) as refused:
            handler.create_connection(
                address=server.getsockname(), timeout=4,
                hostname=changes.get('host', '127.0.0.1')).recv(1)
        thread.join()
    # As kazoo tells it.
    cause = security.Security.cause(
        'Connection dropped: socket connection error: %s'
        % refused.value.strerror)
    assert named in cause and not cause.startswith('Connection')


def test_a_server_that_spoke_tls_before_has_only_ended(authorities, options):
    ours, _, context = authorities
    how = options(use_tls=True, ca_file=ours.ca_file)
    context.verify_mode = ssl.CERT_NONE
    said = []
    with socket.create_server(('127.0.0.1', 0)) as server:
        for action in (answer_with_tls, answer(b'')):
            thread = threading.Thread(target=lambda: action(
                server.accept()[0], context))
            thread.start()
            try:
                # Another client each time, in the same keeper.
                security.Security(**how).client('h1', 4).handler \
                    .create_connection(address=server.getsockname(),
                                       timeout=4, hostname='127.0.0.1').close()
            except OSError as e:
                said.append(e.strerror)
            thread.join()
    context.verify_mode = ssl.CERT_REQUIRED
    error, = said
    assert security.Security.cause(error) is None


def test_what_is_no_error_passes(authorities, options):
    ours, _, context = authorities
    fleet = ours.issue('nova')
    handler = security.Security(**options(
        use_tls=True, ca_file=ours.ca_file, cert_file=fleet.cert_file,
        key_file=fleet.key_file)).client('h1', 4).handler
    goes = threading.Event()

    def go_away(plain):
        with context.wrap_socket(plain, server_side=True):
            goes.wait(10)

    with socket.create_server(('127.0.0.1', 0)) as server:
        thread = threading.Thread(target=lambda: go_away(server.accept()[0]))
        thread.start()
        with handler.create_connection(
                address=server.getsockname(), timeout=4,
                hostname='127.0.0.1') as connection:
            connection.setblocking(False)
            # kazoo goes on at this one.
            with pytest.raises(ssl.SSLWantReadError):
                connection.recv(1)
            goes.set()
            connection.settimeout(4)
            assert connection.recv(1) == b''
        thread.join()


def test_one_cause_has_one_text():
    """It is logged once, whatever kazoo says of it."""
    texts = {security.Security.cause('AUTH_FAILED closing: ' + text)
             for text in ('', 'Connection dropped in SASL')}
    assert len(texts) == 1 and None not in texts
