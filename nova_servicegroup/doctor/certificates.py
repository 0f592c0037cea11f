# SPDX-License-Identifier: Apache-2.0

"""Checks when the certificates for ZooKeeper expire."""

import datetime
import re

from cryptography import x509

from nova_servicegroup.doctor import Finding
from nova_servicegroup.doctor import Level

#: days before a certificate expires
SOON, VERY_SOON = 30, 7

_CERTIFICATE = re.compile(
    b'-----BEGIN CERTIFICATE-----.+?-----END CERTIFICATE-----', re.DOTALL)


def check(site):
    """Check when our certificates and those of the servers expire."""
    store = site.zookeeper
    for option in ('cert_file', 'ca_file'):
        path = getattr(store.options, option)
        if path:
            yield from _file_ends(option, path)
    for server, answer in store.answers.items():
        if not isinstance(answer, OSError) and answer.certificate:
            yield _ends('The certificate of %s' % server,
                        x509.load_der_x509_certificate(answer.certificate),
                        'On that server: renew it in its key store, and '
                        'restart it.')


def _file_ends(option, path):
    fix = ('Put a new one into %s on every node before that day; it is read '
           'again at each connection.' % path)
    try:
        with open(path, 'rb') as pem:
            found = [x509.load_pem_x509_certificate(block)
                     for block in _CERTIFICATE.findall(pem.read())]
    except (OSError, ValueError) as e:
        found, fix = [], 'Make it readable: %s' % e
    if not found:
        yield Finding(
            Level.CRITICAL, '[zookeeper] %s: %s holds no certificate that can '
            'be read.' % (option, path), 'Services cannot connect.', fix)
    elif option == 'cert_file':
        # Those after it are the CAs that signed it.
        yield _ends('[zookeeper] cert_file', found[0], fix)
    else:
        # During a change, the file has an old and a new one.
        yield _ends('[zookeeper] ca_file', max(found, key=_end), fix)


def _end(certificate):
    """Return when a certificate expires, an aware UTC datetime."""
    # The latter is for cryptography before 42.
    return getattr(certificate, 'not_valid_after_utc', None) or (
        certificate.not_valid_after.replace(tzinfo=datetime.timezone.utc))


def _ends(what, certificate, fix):
    end = _end(certificate)
    days = (end - datetime.datetime.now(datetime.timezone.utc)
            ).total_seconds() / 86400
    text = '%s %s on %s.' % (what, 'ends' if days > 0 else 'ended',
                             end.date().isoformat())
    if days > SOON:
        return Finding(Level.OK, text)
    return Finding(
        Level.WARNING if days > VERY_SOON else Level.CRITICAL, text,
        'From then on no service can connect to ZooKeeper: all hosts are in '
        'doubt.', fix)
