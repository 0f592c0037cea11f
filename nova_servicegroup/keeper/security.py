# SPDX-License-Identifier: Apache-2.0

"""Authentication, ACLs and TLS of the connection to ZooKeeper.

The only place that creates kazoo clients: for the keeper, and for the command
that tightens ACLs. Texts name the option to correct; none holds a secret.
"""

import errno
import importlib.util
import os
import socket
import ssl

from kazoo import client as kazoo_client
from kazoo import exceptions as kazoo_exc
from kazoo import security
from kazoo import version as kazoo_version

from nova_servicegroup.keeper import handler

#: seconds; a longer pause could cost a session with a timeout of four seconds
RECONNECT_MAX_DELAY = 1.0
#: share of the session timeout in which a server has to complete the TLS
#: handshake: enough for a server to which all clients reconnect
HANDSHAKE_SHARE = 1 / 3

TIGHTEN = 'nova-servicegroup zookeeper tighten'

_OPEN_TO_READ = security.ACL(security.Permissions.READ,
                             security.ANYONE_ID_UNSAFE)

_CA = ('The certificate of the ZooKeeper server is not valid: check '
       '[zookeeper] ca_file, and the certificate.')
_HOSTNAME = ('The certificate of the ZooKeeper server is for another host: '
             'check [zookeeper] address, which has to name the servers as '
             'their certificates do.')
_NO_TLS = ('The ZooKeeper server ends the TLS handshake: check [zookeeper] '
           'address, which has to name the secureClientPort, and use_tls.')
_OUR_CERTIFICATE = ('The ZooKeeper server refuses our client certificate, or '
                    'requires one: check [zookeeper] cert_file.')
_SASL = ('SASL authentication to ZooKeeper failed: check [zookeeper] username '
         'and password, and whether the servers are configured for SASL '
         'DIGEST-MD5.')

#: X509_V_ERR_HOSTNAME_MISMATCH and X509_V_ERR_IP_ADDRESS_MISMATCH
_OTHER_HOST = (62, 64)
#: parts of the names of alerts about the client's certificate
_REFUSALS = ('CERTIFICATE', 'UNKNOWN_CA', 'ACCESS_DENIED',
             'HANDSHAKE_FAILURE')


class PackageMissing(Exception):
    """The configuration needs a package that is not installed."""


class Security:
    """An identity, its credentials, and the ACL for what it creates.

    :param auth: None, or (scheme, credential): 'digest' or 'sasl' with
        'username:password', 'x509' with ''
    :param tls: None, or a dict of ca_file, cert_file, key_file, key_password
        (each may be None) and check_hostname
    :param open_reading: everybody may read what the keeper creates
    """

    def __init__(self, auth=None, tls=None, open_reading=True):
        self._scheme, credential = auth or (None, '')
        self._username, _, self._password = credential.partition(':')
        self._tls = tls
        self._open_reading = open_reading
        #: the ACL of all nodes that are created
        self.acl = [security.ACL(security.Permissions.ALL, self._identity())]
        if self._scheme is not None and open_reading:
            self.acl.append(_OPEN_TO_READ)

    def __bool__(self):
        """Return whether there is an identity."""
        return self._scheme is not None

    @property
    def name(self):
        """The identity as a text for people."""
        return ('the subject of our certificate' if self._scheme == 'x509'
                else '%s:%s' % (self._scheme, self._username))

    def _identity(self):
        if self._scheme is None:
            return security.ANYONE_ID_UNSAFE
        if self._scheme == 'x509':
            # The servers replace this by all identities of the connection.
            # With a password these may include a certificate's, so there the
            # identity is named.
            return security.AUTH_IDS
        if self._scheme == 'digest':
            return security.Id('digest', security.make_digest_acl_credential(
                self._username, self._password))
        return security.Id('sasl', self._username)

    def handler(self):
        """Return a new handler for kazoo, with TLS if it is configured."""
        return (handler.Handler() if self._tls is None
                else _TLSHandler(**self._tls))

    def client(self, hosts, timeout, client_id=None):
        """Return a new client that is not started.

        Once connected it has ``granted_timeout``, in seconds.

        :param timeout: of the session, seconds
        :raises PackageMissing: a package is missing
        """
        how = {'handler': self.handler()}
        if self._scheme == 'digest':
            how['auth_data'] = [('digest', '%s:%s' % (
                self._username, self._password))]
        elif self._scheme == 'sasl':
            if importlib.util.find_spec('puresasl') is None:
                raise PackageMissing(
                    '[zookeeper] auth_scheme = sasl needs the package '
                    'pure-sasl: install it where Nova is installed')
            how['sasl_options'] = {
                'mechanism': 'DIGEST-MD5', 'username': self._username,
                'password': self._password}
        if self._tls is not None:
            how['use_ssl'] = True
        sleep = how['handler'].sleep_func
        client = kazoo_client.KazooClient(
            hosts=hosts, timeout=timeout, client_id=client_id,
            # kazoo's default delay grows to an hour.
            connection_retry={'max_tries': -1, 'delay': 0.1, 'backoff': 2,
                              'max_delay': RECONNECT_MAX_DELAY,
                              'max_jitter': 0.4, 'sleep_func': sleep}, **how)
        handler.resolve_in_time(client, timeout)
        _note_granted_timeout(client)
        return client

    @staticmethod
    def cause(text):
        """Return the cause that a log text of kazoo's names, or None."""
        if 'AUTH_FAILED' in text:
            # Without kazoo's text, of which there are several for one cause.
            return _SASL
        if '[zookeeper]' in text:
            # A text of this module, after kazoo's prefix.
            return text.removeprefix(
                'Connection dropped: socket connection error: ')
        return None

    # Permissions

    def refusal(self, client, path, get):
        """Test the permissions on a directory without changing it.

        Servers accept any digest password, and any certificate that they
        trust. Only a write shows whether it is the right one: this sends one
        in a transaction that can't succeed.

        :param get: waits for an AsyncResult and returns its value
        :returns: (the directory that was tested: this one, or its nearest
            existing parent; why it refuses the identity, None if it doesn't)
        :raises KazooException: the test had no result
        """
        while True:
            name = path.rstrip('/') + '/probe-' + os.urandom(8).hex()
            attempt = client.transaction()
            attempt.create(name, b'', self.acl)
            attempt.delete(name)
            attempt.check(name, 0)
            made, deleted, _ = get(attempt.commit_async())
            if not isinstance(made, kazoo_exc.NoNodeError) or path == '/':
                break
            # The directory is missing: test whether it can be created.
            path = path.rpartition('/')[0] or '/'
        why = None
        if kazoo_exc.NoAuthError in (type(made), type(deleted)):
            why = self._not_ours()
        elif isinstance(made, kazoo_exc.InvalidACLError):
            why = self._not_known()
        return path, why

    def _not_ours(self):
        if not self:
            return ('it belongs to an identity: set [zookeeper] auth_scheme '
                    'and what goes with it, as on the other hosts.')
        option = ('cert_file, whose subject has to be the same on all hosts'
                  if self._scheme == 'x509' else 'username and password')
        return ('it does not belong to %s as we prove it: check [zookeeper] '
                '%s, here and on the host that made it.' % (
                    self.name, option))

    def _not_known(self):
        if self._scheme == 'x509':
            return ('it knows us by no certificate: check [zookeeper] '
                    'auth_scheme = x509, and whether the servers have '
                    'ssl.clientAuth=need.')
        return ('it knows no identities of the kind %s: check [zookeeper] '
                'auth_scheme, and whether the servers have an authProvider '
                'for it.' % self._scheme)

    def open_to_others(self, acl):
        """Return whether an ACL has more for clients without an identity."""
        allowed = security.Permissions.READ if self._open_reading else 0
        return any(entry.perms & ~allowed for entry in acl
                   if entry.id.scheme in ('world', 'ip'))

    def is_ours(self, acl):
        """Return whether this identity has all permissions in an ACL."""
        return self.acl[0] in self._known(acl)

    def is_as_wanted(self, acl):
        """Return whether an ACL is that of newly created nodes."""
        return self._known(acl) == set(self.acl)

    def _known(self, acl):
        """Return an ACL as a set that compares with ``self.acl``."""
        return {security.ACL(entry.perms, security.AUTH_IDS)
                # The subject of a certificate is not known here.
                if self._scheme == entry.id.scheme == 'x509' else entry
                for entry in acl}


class _TLSHandler(handler.Handler):
    """A handler for TLS that trusts only the configured authorities.

    kazoo adds the system's authorities to those of ``ca``, and before 2.11
    it doesn't check host names.
    """

    #: addresses of servers with which a TLS handshake has succeeded
    _spoke_tls = set()

    def __init__(self, ca_file, check_hostname, cert_file, key_file,
                 key_password):
        super().__init__()
        self._ca_file = ca_file
        self._check_hostname = check_hostname
        self._cert_file = cert_file
        self._key_file = key_file or cert_file
        self._key_password = key_password

    def create_connection(self, address, timeout=None, hostname=None, **_):
        if self._check_hostname and hostname is None:
            raise _error('[zookeeper] check_hostname needs kazoo 2.11 or '
                         'later, this is %s.' % kazoo_version.__version__)
        context = self._context()
        plain = super().create_connection(address=address, timeout=timeout)
        plain.settimeout(timeout * HANDSHAKE_SHARE)
        try:
            sock = context.wrap_socket(plain, server_hostname=hostname)
        except socket.timeout as e:  # TimeoutError from Python 3.10 on
            raise _error('no TLS handshake within %.1f s' % (
                timeout * HANDSHAKE_SHARE)) from e
        except ssl.SSLCertVerificationError as e:
            meaning = _HOSTNAME if e.verify_code in _OTHER_HOST else _CA
            raise _error('%s (%s)' % (meaning, e)) from e
        except ssl.SSLError as e:
            _check_refusal(e)
            # A starting server ends the handshake, too. OpenSSL and Python
            # have a dozen errors for that and for a server without TLS.
            if 'ALERT' in (e.reason or '') or address in self._spoke_tls:
                raise
            raise _error('%s (%s)' % (_NO_TLS, e)) from e
        self._spoke_tls.add(address)
        return sock

    def _context(self):
        for option in ('ca_file', 'cert_file', 'key_file'):
            path = getattr(self, '_' + option)
            try:
                if path:
                    open(path, 'rb').close()
            except OSError as e:
                raise _error('[zookeeper] %s: cannot read %s: %s.' % (
                    option, path, e.strerror)) from e
        try:
            context = ssl.create_default_context(cafile=self._ca_file)
        except ssl.SSLError as e:
            raise _error('[zookeeper] ca_file: %s holds no certificate in '
                         'PEM format.' % self._ca_file) from e
        context.check_hostname = self._check_hostname
        context.sslsocket_class = _TLSSocket
        if self._cert_file:
            try:
                context.load_cert_chain(
                    self._cert_file, self._key_file,
                    # A function, so that OpenSSL does not ask at a terminal.
                    password=lambda: self._key_password or '')
            except ssl.SSLError as e:
                raise _error(
                    '[zookeeper] cert_file, key_file or key_password: '
                    'certificate and key cannot be used (%s).'
                    % (e.reason or 'wrong password?')) from e
        return context


class _TLSSocket(ssl.SSLSocket):
    """Detects that the server refuses the client's certificate.

    With TLS 1.3 that happens after the handshake.
    """

    def recv(self, *args):
        try:
            return super().recv(*args)
        except ssl.SSLError as e:
            _check_refusal(e)
            raise


def _check_refusal(error):
    """Raise an OSError if the server refuses the client's certificate."""
    reason = error.reason or ''
    if 'ALERT' in reason and any(part in reason for part in _REFUSALS):
        raise _error('%s (%s)' % (_OUR_CERTIFICATE, error)) from error


def _note_granted_timeout(client):
    """Keep the timeout that a server grants, as ``client.granted_timeout``.

    kazoo has no public attribute for it. Its private method that connects
    returns two thirds of it, in milliseconds, before any answer (2.7 to 2.11
    do so). Without that method there is no such attribute.
    """
    connect = getattr(client._connection, '_connect', None)
    if connect is None:
        return

    def connecting(*args):
        timeouts = connect(*args)
        client.granted_timeout = round(timeouts[0] * 1.5) / 1000
        return timeouts

    client._connection._connect = connecting


def _error(text):
    # kazoo treats OSError as a failed connection, and logs its strerror.
    return OSError(errno.EPROTO, text)
