# SPDX-License-Identifier: Apache-2.0

"""The doctor on Nova's databases in a real MariaDB."""

import json
import subprocess
import time

import pytest
import sqlalchemy

from nova_servicegroup.doctor import database
from nova_servicegroup.doctor import Level
from nova_servicegroup.doctor import site as sites
from nova_servicegroup.tests.fixtures import mariadb
from nova_servicegroup.tests.fixtures import nova

ROWS = ('The API database', 'The database of cell0', 'The database of cell1')


@pytest.fixture
def server(tmp_path, database_template):
    with mariadb.MariaDB(tmp_path / 'mariadb', database_template) as server:
        yield server


@pytest.fixture
def config(tmp_path, server):
    return nova.write_config(tmp_path / 'nova.conf', {
        'DEFAULT': {'transport_url': 'rabbit://u:p@nowhere:1/'},
        'database': {'connection': server.url('nova')},
        'api_database': {'connection': server.url('nova_api')}})


def found(config, code):
    done = subprocess.run(
        [nova.BIN / 'nova-servicegroup', '--config-file', config, 'doctor',
         '--only', 'database', '--json', '--timeout', '200'],
        env=nova.environment(), capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return json.loads(done.stdout)


def test_databases_that_are_well_hang_and_are_lost(server, config):
    findings = [row['What'] for row in found(config, 0)]
    assert [what.partition(' (')[0] for what in findings[::2]] == list(ROWS)
    assert 'MariaDB' in findings[0] and ' ms.' in findings[0]
    for what in findings[1::2]:
        assert what.startswith('The clocks of the ')
    server.freeze()
    try:
        began = time.monotonic()
        row, = found(config, 2)
        assert time.monotonic() - began < 120
    finally:
        server.thaw()
    assert row['Level'] == 'CRITICAL' and 'No answer within' in row['What']
    server.kill()
    row, = found(config, 2)
    assert 'The API database does not answer' in row['What']
    assert 'systemctl status mariadb' in row['Fix']


def test_a_clock_that_is_wrong_and_few_connections(server, config):
    for statement in (
            'CREATE USER late@127.0.0.1', 'GRANT SELECT ON *.* TO '
            'late@127.0.0.1', 'SET GLOBAL init_connect = '
            "'SET SESSION timestamp = UNIX_TIMESTAMP(NOW(6)) + 40'",
            'SET GLOBAL max_connections = 10'):
        server.query('mysql', statement)
    # For who isn't root.
    engine = sqlalchemy.create_engine(
        server.url('nova').replace('root@', 'late@'))
    several = [engine.connect() for _ in range(4)] + [
        server.connect() for _ in range(5)]
    try:
        answer = database.ask(engine)
    finally:
        for one in several:
            one.close()
    engine.dispose()
    assert 39 < answer.ahead < 41
    assert (answer.most, answer.used) == (10, 10)
    _, clock, connections = database.describe(
        sites.Site([str(config)]), 'The database', answer)
    assert clock.level is Level.CRITICAL
    assert "s ahead of this host's" in clock.what
    assert connections.level is Level.WARNING
    assert 'max_connections = 20' in connections.fix
