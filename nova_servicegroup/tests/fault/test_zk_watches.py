# SPDX-License-Identifier: Apache-2.0

"""The persistent watch of a group, and what there is without one.

With a keeper's registrar in this process, and a real ZooKeeper.
"""

import importlib.metadata
import os
import pathlib
import socket
import subprocess
import sys
import types

from kazoo.protocol import serialization
import pytest

from nova_servicegroup.keeper import group
from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import registrar
from nova_servicegroup.keeper import watches
from nova_servicegroup.tests.fixtures import process

GROUP = '/watched'
SOON = 15
REPOSITORY = pathlib.Path(__file__).parents[3]


def node(host):
    return names.node(host, '%016x' % 7)


class Reader:
    """Watches the group, and keeps what the keeper posts."""

    def __init__(self, ensemble):
        self.members = set()
        self.views = 0
        self.logged = []
        self.failed = []
        self.registrar = registrar.Registrar({
            'hosts': ensemble.address, 'session_timeout': 4,
            'retry_interval': 1, 'security': {}, 'ident': None,
            'clock': None}, self._post)
        self.registrar.start()
        self.registrar.submit(
            self.registrar.watch, GROUP, None, 600, [])

    def _post(self, op, **fields):
        if op == 'view':
            for name, there in fields['nodes']:
                (self.members.add if there else self.members.remove)(name)
            self.views += 1
        elif op == 'log':
            self.logged.append(fields['text'])
        elif op == 'failed':
            self.failed.append(fields['reason'])

    def wait(self, *hosts):
        wanted = {node(host) for host in hosts}
        process.wait_until(
            lambda: self.views and self.members == wanted or self.failed,
            SOON, 'a view of %s' % sorted(wanted))
        assert self.failed == []

    def hang_up(self):
        """Break its connection; the session lives on."""
        self.registrar.client._connection._socket.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def listings(monkeypatch):
    """Count what the readers list."""
    counted = []
    monkeypatch.setattr(group.Group, '_list', lambda self, list=(
        group.Group._list): counted.append(self) or list(self))
    return counted


@pytest.fixture
def client(ensemble):
    with ensemble.client() as client:
        client.ensure_path(GROUP)
        yield client
        client.delete(GROUP, recursive=True)


@pytest.fixture
def reader(ensemble, client, listings):
    made = []

    def make():
        made.append(Reader(ensemble))
        return made[-1]

    yield make
    for one in made:
        one.registrar.close()


def make(client, host):
    client.create('%s/%s' % (GROUP, node(host)), ephemeral=True)


def delete(client, host):
    client.delete('%s/%s' % (GROUP, node(host)))


def change_much(reader, client):
    """Let members come and go, and the reader see each of them."""
    one = reader()
    one.wait()
    for number in range(10):
        make(client, 'h%d' % number)
        one.wait('h%d' % number)
        delete(client, 'h%d' % number)
        one.wait()
    return one


def test_changes_cost_no_listing(reader, client, listings):
    one = change_much(reader, client)
    assert len(listings) == 1
    assert one.logged == []


def refuse(monkeypatch):
    # To this server no more than AddWatch is to one before 3.6.
    monkeypatch.setattr(watches._AddWatch, 'type', 1999)


def lack(monkeypatch):
    monkeypatch.setattr(watches, 'Watches', lambda client: (
        types.SimpleNamespace(supported=False)))


@pytest.mark.parametrize('without', [refuse, lack])
def test_without_persistent_watches_each_change_is_listed(
        reader, client, listings, monkeypatch, without):
    without(monkeypatch)
    one = change_much(reader, client)
    assert len(listings) > 20
    message, = one.logged
    assert 'no persistent watches' in message
    assert GROUP in message


def test_what_happened_while_the_connection_was_away_is_seen(
        reader, client, listings):
    one = reader()
    make(client, 'stays')
    make(client, 'goes')
    one.wait('stays', 'goes')
    one.registrar.submit(one.hang_up)
    delete(client, 'goes')
    make(client, 'comes')
    one.wait('stays', 'comes')
    # And the watch is there again.
    count = len(listings)
    make(client, 'late')
    one.wait('stays', 'comes', 'late')
    assert len(listings) == count


def test_a_directory_that_is_deleted_is_made_again(reader, client):
    one = reader()
    make(client, 'a')
    one.wait('a')
    client.delete(GROUP, recursive=True)
    one.wait()
    process.wait_until(lambda: client.exists(GROUP), SOON, 'the directory')
    make(client, 'b')
    one.wait('b')


def test_other_nodes_and_deeper_ones_are_no_members(reader, client):
    one = reader()
    one.wait()
    client.create(GROUP + '/lock', ephemeral=True)
    client.create('%s/%s' % (GROUP, node('dir')))
    client.create('%s/%s/%s' % (GROUP, node('dir'), node('deep')))
    make(client, 'a')
    one.wait('a')
    message, = one.logged
    assert 'no memberships' in message


@pytest.mark.long
@pytest.mark.parametrize('version', ['2.8.0', '2.9.0', '2.10.0'])
def test_other_versions_of_kazoo(tmp_path, version):
    """All of the above, with each that requirements.txt allows."""
    subprocess.run(
        [sys.executable, '-m', 'pip', 'install', '-q', '--no-deps',
         '--target', str(tmp_path), 'kazoo==' + version], check=True)
    run = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider',
         '-k', 'not versions', __file__], cwd=REPOSITORY,
        env=dict(os.environ, WANTED_KAZOO=version, PYTHONPATH=os.pathsep.join(
            [str(tmp_path), str(REPOSITORY)])),
        capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr


def test_the_kazoo_is_the_one_that_is_meant():
    wanted = os.environ.get('WANTED_KAZOO')
    if wanted is not None:
        assert importlib.metadata.version('kazoo') == wanted
    assert hasattr(serialization, 'Watch')
