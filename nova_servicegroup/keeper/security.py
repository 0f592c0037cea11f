# SPDX-License-Identifier: Apache-2.0

"""Who we are to ZooKeeper, and what is left to others.

The one place that makes a kazoo client, for the keeper and for the command
that tightens what stands open. Texts name the option that is to be mended;
none holds a secret.
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

#: seconds; sessions of four seconds allow no longer pause than about a second
RECONNECT_MAX_DELAY = 1.0
#: of the session timeout: how long a server may take over the TLS handshake,
#: which is long enough for one that all others come back to, too
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
#: what is in the name of an alert about the client's certificate
_REFUSALS = ('CERTIFICATE', 'UNKNOWN_CA', 'ACCESS_DENIED',
             'HANDSHAKE_FAILURE')


class PackageMissing(Exception):
    """What is configured can't work in this installation."""


class Security:
    """An identity, the way to prove it, and the rights that follow from it.

    :param auth: None, or (scheme, credential): 'digest' or 'sasl' with
        'username:password', 'x509' with ''
    :param tls: None, or a dict of ca_file, cert_file, key_file, key_password
        (each may be None) and check_hostname
    :param open_reading: others may read what we make
    """

    def __init__(self, auth=None, tls=None, open_reading=True):
        self._scheme, credential = auth or (None, '')
        self._username, _, self._password = credential.partition(':')
        self._tls = tls
        self._open_reading = open_reading
        #: the rights on everything that is made
        self.acl = [security.ACL(security.Permissions.ALL, self._identity())]
        if self._scheme is not None and open_reading:
            self.acl.append(_OPEN_TO_READ)

    def __bool__(self):
        """Tell whether there is an identity."""
        return self._scheme is not None

    @property
    def name(self):
        """Who we are, for people."""
        return ('the subject of our certificate' if self._scheme == 'x509'
                else '%s:%s' % (self._scheme, self._username))

    def _identity(self):
        if self._scheme is None:
            return security.ANYONE_ID_UNSAFE
        if self._scheme == 'x509':
            # The servers replace this by what they know us as. Whoever has a
            # password may have a certificate of his own beside it: then it
            # has to be the identity itself.
            return security.AUTH_IDS
        if self._scheme == 'digest':
            return security.Id('digest', security.make_digest_acl_credential(
                self._username, self._password))
        return security.Id('sasl', self._username)

    def handler(self):
        """Return a new handler for kazoo, which connects as we do."""
        return (handler.Handler() if self._tls is None
                else _TLSHandler(**self._tls))

    def client(self, hosts, timeout, client_id=None):
        """Return a new client that hasn't been started.

        It has ``granted_timeout`` once it was connected, in seconds.

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
            # kazoo's own grows to an hour.
            connection_retry={'max_tries': -1, 'delay': 0.1, 'backoff': 2,
                              'max_delay': RECONNECT_MAX_DELAY,
                              'max_jitter': 0.4, 'sleep_func': sleep}, **how)
        handler.resolve_in_time(client, timeout)
        _note_granted_timeout(client)
        return client

    @staticmethod
    def cause(text):
        """Return what to tell of a complaint of kazoo's, or None."""
        if 'AUTH_FAILED' in text:
            return '%s (%s)' % (_SASL, text)
        if '[zookeeper]' in text:
            # Ours: kazoo puts that before it.
            return text.removeprefix(
                'Connection dropped: socket connection error: ')
        return None

    # Rights

    def refusal(self, client, path, get):
        """Try our rights on a directory, leaving no trace.

        Servers take any digest password at first, and any certificate that
        they trust. Whether it is the right one shows when something is to
        be written: so this does it, in a transaction that can't succeed.

        :param get: waits for an AsyncResult and returns its value
        :returns: (the directory that was tried: the one, or the nearest
            above it that is there; why we may not work there, None if we may)
        :raises KazooException: nobody can tell
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
            # It will be made; by us, if we may.
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
        """Tell whether a node's ACL lets people in who have no identity."""
        allowed = security.Permissions.READ if self._open_reading else 0
        return any(entry.perms & ~allowed for entry in acl
                   if entry.id.scheme in ('world', 'ip'))

    def is_ours(self, acl):
        """Tell whether this identity has all rights on a node."""
        return self.acl[0] in self._known(acl)

    def is_as_wanted(self, acl):
        """Tell whether a node's ACL is that of what we make."""
        return self._known(acl) == set(self.acl)

    def _known(self, acl):
        """Return an ACL as a set, with what the servers call us as we do."""
        return {security.ACL(entry.perms, security.AUTH_IDS)
                # A subject stands there that we have no name for.
                if self._scheme == entry.id.scheme == 'x509' else entry
                for entry in acl}


class _TLSHandler(handler.Handler):
    """Speaks TLS, and trusts no more than it is told to.

    kazoo adds the system's authorities to those of ``ca``, and before 2.11
    it doesn't check host names.
    """

    #: addresses of servers that have spoken TLS to this process
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
            _tell_refusal(e)
            # A server that starts ends it, too. OpenSSL and Python have a
            # dozen errors for that, and for one that speaks no TLS.
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
                    # A function, lest OpenSSL ask at the terminal.
                    password=lambda: self._key_password or '')
            except ssl.SSLError as e:
                raise _error(
                    '[zookeeper] cert_file, key_file or key_password: '
                    'certificate and key cannot be used (%s).'
                    % (e.reason or 'wrong password?')) from e
        return context


class _TLSSocket(ssl.SSLSocket):
    """Tells that the server refuses our certificate.

    With TLS 1.3 it does so after the handshake.
    """

    def recv(self, *args):
        try:
            return super().recv(*args)
        except ssl.SSLError as e:
            _tell_refusal(e)
            raise


def _tell_refusal(error):
    """Raise when the server refuses our certificate."""
    reason = error.reason or ''
    if 'ALERT' in reason and any(part in reason for part in _REFUSALS):
        raise _error('%s (%s)' % (_OUR_CERTIFICATE, error)) from error


def _note_granted_timeout(client):
    """Keep the timeout that a server grants, as ``client.granted_timeout``.

    kazoo keeps it to itself; the method that connects returns two thirds of
    it, in milliseconds, before anything is answered (2.7 to 2.11 do so). A
    kazoo without that method tells us nothing.
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
    # kazoo takes OSError for a failed connection, and prints its strerror.
    return OSError(errno.EPROTO, text)
