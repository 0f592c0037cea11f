# SPDX-License-Identifier: Apache-2.0

"""Reads the ZooKeeper ensemble, once for all checks of it."""

from __future__ import annotations

import contextlib
import functools
import json
import socket
import ssl
import time
import typing

from kazoo import exceptions as kazoo_exc
from kazoo.handlers import threading as kazoo_threading
from kazoo import hosts as kazoo_hosts

from nova_servicegroup.cmd import tighten
from nova_servicegroup import conf as sg_conf
from nova_servicegroup.doctor import Unreachable
from nova_servicegroup.drivers import zk
from nova_servicegroup.keeper import handler
from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import security

#: seconds that one server, or one request, may take
SERVER_LIMIT = 3.0
REQUEST_LIMIT = 8.0
#: what a request raises about a znode that is missing, or may not be read
UNREADABLE = (kazoo_exc.NoNodeError, kazoo_exc.NoAuthError)


class Answer(typing.NamedTuple):
    """The answers of one server.

    :param seconds: from the request to the end of the answer
    :param words: {four-letter word: text}
    :param certificate: in DER, None without TLS
    """

    seconds: float
    words: dict
    certificate: bytes | None


class Store:
    """The zk driver's znodes, read through one session.

    Connects on first use. Reads everything once.

    :param conf: a ConfigOpts
    :raises ConfigurationError: an option of zk is invalid
    """

    def __init__(self, conf):
        self.options = conf.zookeeper
        self.prefix = self.options.sg_prefix
        self.ours = security.Security(**sg_conf.zk.security(conf))
        self.hosts = sg_conf.zk.hosts(conf)
        self._stack = contextlib.ExitStack()

    @functools.cached_property
    def client(self):
        """A kazoo client that is connected and authenticated.

        :raises Unreachable: ZooKeeper doesn't accept it
        """
        try:
            return self._stack.enter_context(tighten.connection(
                self.ours, self.hosts, self.options.recv_timeout / 1000))
        except tighten.TightenError as e:
            raise Unreachable(
                str(e), 'On each server: "systemctl status zookeeper". From '
                'here: "nc -zv HOST PORT" for each of [zookeeper] address = %s'
                % self.options.address) from e

    def close(self):
        # An error of the last request was reported already.
        with contextlib.suppress(tighten.TightenError):
            self._stack.close()

    def get(self, request):
        """Return the result of a request.

        :raises NoNodeError: or NoAuthError, as kazoo does
        :raises Unreachable: there is no result
        """
        try:
            return request.get(timeout=REQUEST_LIMIT)
        except UNREADABLE:
            raise
        except (kazoo_exc.KazooException,
                kazoo_threading.KazooTimeoutError) as e:
            raise Unreachable(
                'ZooKeeper gave up over a request: %s.' % type(e).__name__,
                'Run this again; read the logs of the servers.') from e

    def get_all(self, requests):
        """Yield (path, result) of many requests, in flight together.

        Skips znodes that are missing or may not be read.

        :param requests: [(path, AsyncResult)]
        """
        for path, request in requests:
            with contextlib.suppress(*UNREADABLE):
                yield path, self.get(request)

    def children(self, path):
        """Return the names in a directory, [] if there is none."""
        try:
            return self.get(self.client.get_children_async(path))
        except UNREADABLE:
            return []

    @functools.cached_property
    def groups(self):
        """{group: [names of nodes]}."""
        return {names.unquote(name): self.children(
                    '%s/%s' % (self.prefix, name))
                for name in self.children(self.prefix) if name[0] != '@'}

    @functools.cached_property
    def records(self):
        """The hosts of the group compute that have a record, a set."""
        return self.list_records()

    def list_records(self):
        """Return the same, read again."""
        return {names.unquote(name)
                for name in self.children(self.records_directory)}

    @property
    def records_directory(self):
        return '%s/%s/compute' % (self.prefix, zk.RECORDS)

    def record(self, host):
        """Return the path of a host's record."""
        return '%s/%s' % (self.records_directory, names.quote(host))

    def directory(self, group):
        return '%s/%s' % (self.prefix, names.quote(group))

    def members(self, group):
        """Return {host: [paths of its znodes]}, without other nodes."""
        found = {}
        for name in self.groups.get(group, ()):
            host = names.host(name)
            if host is not None:
                found.setdefault(host, []).append(
                    '%s/%s' % (self.directory(group), name))
        return found

    def data(self, paths):
        """Return {path: data of a member's znode, a dict}."""
        found = {}
        for path, (raw, _) in self.get_all(
                [(path, self.client.get_async(path)) for path in paths]):
            with contextlib.suppress(ValueError):
                about = json.loads(raw)
                found[path] = about if isinstance(about, dict) else {}
        return found

    @functools.cached_property
    def answers(self):
        """{'host:port': Answer, or an OSError}."""
        servers, _ = kazoo_hosts.collect_hosts(self.hosts)
        return {'%s:%d' % server: self._ask(*server) for server in servers}

    def _ask(self, host, port):
        answers, certificate, seconds = {}, None, None
        try:
            for word in ('srvr', 'conf', 'mntr'):
                began = time.monotonic()
                sock = self.ours.handler().create_connection(
                    (host, port), timeout=SERVER_LIMIT / handler.SHARE,
                    hostname=host)
                with sock:
                    if isinstance(sock, ssl.SSLSocket):
                        certificate = sock.getpeercert(binary_form=True)
                    sock.setblocking(True)
                    sock.settimeout(SERVER_LIMIT)
                    answers[word] = _send(sock, word)
                seconds = seconds or time.monotonic() - began
        except OSError as e:
            return e
        return Answer(seconds, answers, certificate)


def _send(sock, word):
    """Return the answer to a four-letter word.

    :raises OSError: there is none
    """
    deadline = time.monotonic() + SERVER_LIMIT
    sock.sendall(word.encode())
    parts = []
    while True:
        try:
            part = sock.recv(65536)
        except ssl.SSLError as e:
            if not parts:
                raise
            # The end of the connection, without TLS's closing alert.
            part = b'' if isinstance(e, ssl.SSLEOFError) else None
        if not part:
            if not parts:
                raise ConnectionError(
                    'it closes connections without an answer')
            return b''.join(parts).decode(errors='replace')
        parts.append(part)
        if time.monotonic() > deadline:
            raise socket.timeout('it answers without end')
