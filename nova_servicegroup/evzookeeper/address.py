# SPDX-License-Identifier: Apache-2.0

"""The address of an ensemble, as operators write it."""

import ipaddress
import re

from nova_servicegroup.evzookeeper import exceptions


_HOST = re.compile(r'(\[[0-9A-Fa-f:.%\w]+\]|[\w.-]+)(?::(\d{1,5}))?\Z',
                   re.ASCII)


def _is_name_or_ip(host):
    if not host.startswith('['):
        return True
    try:
        return ipaddress.IPv6Address(host[1:-1])
    except ValueError:
        return False


def check_address(address):
    """Return an address in the form that the keeper needs.

    :param address: ``host:port,host:port/chroot``; port (default 2181) and
        chroot are optional; IPv6 addresses are in brackets
    :raises BadAddress: the text names the problem
    """
    hosts, slash, chroot = (address or '').strip().partition('/')
    if not hosts:
        raise exceptions.BadAddress(
            'no ZooKeeper ensemble is named: write host:port,host:port,'
            'host:port')
    checked = []
    for host in hosts.split(','):
        match = _HOST.match(host.strip())
        if (match is None or not 0 < int(match[2] or 2181) < 65536
                or not _is_name_or_ip(match[1])):
            raise exceptions.BadAddress(
                '%r is no address of a ZooKeeper ensemble (at %r): write '
                'host:port,host:port,host:port' % (address, host))
        checked.append('%s:%s' % (match[1], match[2] or 2181))
    if slash and chroot.strip('/'):
        elements = chroot.strip('/').split('/')
        if any(not element.strip('.') or not element.isprintable()
               or element != element.strip() for element in elements):
            raise exceptions.BadAddress(
                '%r has a bad chroot path' % address)
        checked[-1] += '/' + '/'.join(elements)
    return ','.join(checked)
