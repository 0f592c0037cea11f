# SPDX-License-Identifier: Apache-2.0

"""Checks of Nova's databases: the API database, and that of each cell."""

from __future__ import annotations

import datetime
import time
import typing

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import urls
from nova_servicegroup.doctor import Check
from nova_servicegroup.doctor import clock
from nova_servicegroup.doctor import Finding
from nova_servicegroup.doctor import Level
from nova_servicegroup.doctor import Unreachable

#: seconds for a query; more is a warning
SLOW = 0.2
#: share of the connections in use; more is a warning
_MOST_USED = 0.9
_FIX = ('Check [database] and [api_database] connection in nova.conf, and '
        'that the server runs: systemctl status mariadb')

_FIX_CELLS = ('nova-manage cell_v2 list_cells --verbose\n\nshows where the '
              'cells are; check that the server of each runs.')

#: by SQLAlchemy's name of the dialect: a query for version and time (UTC),
#: and, if connections are limited, one for the limit and one for those in use,
#: each in the last column. None needs a special permission.
QUERIES = {
    'mysql': ('SELECT VERSION(), UTC_TIMESTAMP(6)',
              'SELECT @@max_connections',
              "SHOW GLOBAL STATUS LIKE 'Threads_connected'"),
    'postgresql': (
        "SELECT version(), clock_timestamp() AT TIME ZONE 'UTC'",
        "SELECT current_setting('max_connections')",
        'SELECT COUNT(*) FROM pg_stat_activity'),
    # It uses this host's clock.
    'sqlite': ("SELECT 'SQLite ' || sqlite_version(), NULL",)}


class Answer(typing.NamedTuple):
    """The answers of a database.

    :param version: text
    :param seconds: time of one query, on an open connection
    :param ahead: seconds by which its clock is ahead of ours, None if it uses
        ours
    :param most: limit of its connections, or None
    :param used: number of connections in use
    """

    version: str
    seconds: float
    ahead: float | None
    most: int | None
    used: int | None


def ask(engine):
    """Query the state of a database. Blocks.

    :param engine: SQLAlchemy's
    :returns: an Answer
    """
    about, *limits = QUERIES[engine.dialect.name]
    with engine.connect() as connection:
        connection.exec_driver_sql('SELECT 1')
        asked = datetime.datetime.now(datetime.timezone.utc).replace(
            tzinfo=None)
        began = time.monotonic()
        version, now = connection.exec_driver_sql(about).one()
        seconds = time.monotonic() - began
        ahead = now and (now - asked).total_seconds() - seconds / 2
        most, used = [int(connection.exec_driver_sql(query).one()[-1])
                      for query in limits] or (None, None)
    return Answer(version.partition(',')[0], seconds, ahead, most, used)


def check(site):
    """Check the API database and that of each cell."""
    try:
        site.deployment
    except base.CommandError as e:
        raise Unreachable(str(e), _FIX) from e
    # Not before: the deployment filters the warnings of Nova's libraries.
    from nova import context as nova_context
    from nova.db.api import api as api_db
    from nova.db.main import api as main_db

    from nova_servicegroup.cmd import cells
    try:
        answer = ask(api_db.get_engine())
    except Exception as e:
        # Databases and their drivers have exceptions of their own.
        raise Unreachable(
            'The API database does not answer: %s' % urls.reason(
                e, '[api_database] connection',
                site.conf.api_database.connection), _FIX) from e
    yield from describe(site, 'The API database', answer)
    try:
        answers, failures = cells.ask(
            nova_context.get_admin_context(),
            lambda context: ask(main_db.get_engine(context=context)))
    except Exception as e:
        # Such as a cell mapping that doesn't fit nova.conf.
        raise Unreachable(
            'The cells cannot be asked: %s' % urls.reason(
                e, 'a URL of a cell mapping'), _FIX_CELLS) from e
    for text in failures:
        yield Finding(
            Level.CRITICAL, text[0].upper() + text[1:] + '.',
            'With db its services cannot report; with any driver they cannot '
            'be listed.', _FIX_CELLS)
    for cell, answer in answers:
        yield from describe(site, 'The database of %s' % (
            cell.name or cell.uuid), answer)
    # Loads them for the checks that compare them with the store.
    site.records


def describe(site, name, answer):
    """Yield the Findings about the Answer of a database."""
    text = '%s (%s) answers in %.0f ms.' % (
        name, answer.version, 1000 * answer.seconds)
    if answer.seconds > SLOW:
        yield Finding(
            Level.WARNING, text, 'With db each heartbeat takes several '
            'statements: they come late, and living services look dead.',
            'Check its load and its disk, and the network to it.')
    else:
        yield Finding(Level.OK, text)
    if answer.ahead is not None:
        yield clock(
            name[0].lower() + name[1:], answer.ahead, answer.seconds,
            site.conf.service_down_time / 10,
            'db compares the clock of the conductors, which write heartbeats, '
            'with that of the reader: a wrong clock makes living services '
            'look dead, or dead ones alive.')
    if answer.most and answer.used > _MOST_USED * answer.most:
        yield Finding(
            Level.WARNING, '%s has %d of at most %d connections in use.' % (
                name, answer.used, answer.most),
            'A conductor without a connection writes no heartbeats.',
            'In the [mysqld] section of the server, and restart it:\n'
            'max_connections = %d' % (2 * answer.most))


CHECKS = [Check('database', check, lambda site: site.has_database)]
