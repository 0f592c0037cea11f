# SPDX-License-Identifier: Apache-2.0

"""The processes of bench/soak.py that use a driver: writers and readers.

    soak_part.py write|read CONFIG

CONFIG is a JSON file: ``driver``, ``hosts`` (a list), ``options`` (group to
option to value), ``database`` (a URL, for db), and for a reader ``pause``
(seconds between passes) and ``output`` (its file).

A writer reads commands, one JSON object a line, from standard input and
answers each: join, stop, leave and kill, of one host or of all. It joins its
members through the driver as Nova does, with one thread instead of Nova's
timers.

A reader asks about all hosts repeatedly, and writes a line of JSON for each
answer that differs from the last one.
"""

import heapq
import json
import logging
import pathlib
import random
import sys
import threading
import time
import types

import nova.conf
from oslo_utils import importutils
from oslo_utils import timeutils

from nova_servicegroup import api
from nova_servicegroup import drivers
from nova_servicegroup.integration import register

TOPIC = 'compute'


def configuration(options):
    """Return a configuration with the options given."""
    conf = nova.conf.CONF
    conf([], project='nova', default_config_files=[])
    # For the name of the zk driver, which Nova's option doesn't know.
    register.register()
    for group, values in options.items():
        for name, value in values.items():
            conf.set_override(name, value, group=group or None)
    return conf


def open_database(url):
    """Make Nova's database layer of this process use a database."""
    from nova import context as nova_context
    from nova.db.main import api as main_db
    from nova import objects
    from oslo_db.sqlalchemy import enginefacade
    objects.register_all()
    manager = enginefacade.transaction_context()
    manager.configure(connection=url)
    main_db.context_manager = manager
    return nova_context.get_admin_context()


class Timers(threading.Thread):
    """The timers of all services, in one thread."""

    def __init__(self):
        super().__init__(daemon=True)
        self._due = []
        self._changed = threading.Condition()
        self._count = 0
        self.start()

    def schedule(self, timer, due):
        with self._changed:
            self._count += 1
            heapq.heappush(self._due, (due, self._count, timer))
            self._changed.notify()

    def run(self):
        while True:
            with self._changed:
                while not self._due or self._due[0][0] > time.monotonic():
                    self._changed.wait(
                        self._due and self._due[0][0] - time.monotonic()
                        or None)
                due, _, timer = heapq.heappop(self._due)
            if timer.running:
                timer.function()
                self.schedule(timer, max(due + timer.interval,
                                         time.monotonic()))


class Timer:

    def __init__(self, interval, function):
        self.interval = interval
        self.function = function
        self.running = True

    def stop(self):
        self.running = False


class ThreadGroup:
    """The thread group of one service; keeps its timer."""

    def __init__(self, timers):
        self._timers = timers
        self.timer = None

    def add_timer_args(self, interval, function, initial_delay=0,
                       stop_on_exception=False):
        self.timer = Timer(interval, function)
        self._timers.schedule(self.timer, time.monotonic() + initial_delay)
        return self.timer


class Rows(threading.Thread):
    """The rows of all services, written as Nova's database layer does it.

    One transaction for all writes at the same time: in a deployment, many
    conductors write for thousands of services.
    """

    STATEMENT = ('UPDATE services SET report_count = %s, last_seen_up = %s, '
                 'updated_at = %s WHERE host = %s')

    def __init__(self, url):
        super().__init__(daemon=True)
        import pymysql
        from sqlalchemy.engine import url as sa_url
        parts = sa_url.make_url(url)
        self._connection = pymysql.connect(
            host=parts.host, port=parts.port, user=parts.username,
            database=parts.database)
        self._waiting = []
        self._lock = threading.Lock()
        self.start()

    def save(self, record):
        stored = threading.Event()
        now = timeutils.utcnow()
        if record.report_count > record.stored:
            record.stored = record.report_count
            record.last_seen_up = now
        with self._lock:
            self._waiting.append((stored, (
                record.report_count, record.last_seen_up, now, record.host)))
        return stored

    def run(self):
        while True:
            time.sleep(0.02)
            with self._lock:
                waiting, self._waiting = self._waiting, []
            if waiting:
                with self._connection.cursor() as cursor:
                    for _, values in waiting:
                        cursor.execute(self.STATEMENT, values)
                self._connection.commit()
                for stored, _ in waiting:
                    stored.set()


class Row:
    """Stands for a nova.objects.Service, as the db driver writes to it."""

    indirection_api = None
    last_seen_up = None
    report_count = stored = 0

    def __init__(self, host, rows):
        self.host = host
        self.binary = 'nova-' + TOPIC
        self._rows = rows
        #: joining and leaving wait until it is stored, beats needn't
        self.waits = True

    def save(self):
        stored = self._rows.save(self)
        if self.waits:
            stored.wait(30)


class Writer:

    def __init__(self, driver, hosts, options, database):
        self._conf = configuration(options)
        self._driver = importutils.import_object(
            drivers.DRIVERS[driver], conf=self._conf)
        timers = Timers()
        rows = database and Rows(database)
        self._services = {host: types.SimpleNamespace(
            binary='nova-' + TOPIC, tg=ThreadGroup(timers),
            report_interval=self._conf.report_interval,
            model_disconnected=False,
            service_ref=rows and Row(host, rows)) for host in hosts}

    def join(self, host=None):
        for one in [host] if host else self._services:
            service = self._services[one]
            self._wait_for_row(service, host is not None)
            self._driver.join(one, TOPIC, service)
            self._wait_for_row(service, False)

    def stop(self, host):
        """As a service that is stopped gracefully."""
        self._wait_for_row(self._services[host], True)
        self._services[host].tg.timer.stop()

    def leave(self, host):
        """As a member that the operator removes."""
        self._wait_for_row(self._services[host], True)
        self._driver.leave(host, TOPIC)

    def kill(self, host):
        """As a process that is killed: it no longer reports."""
        self._services[host].tg.timer.running = False
        # What a process takes with it when it dies.
        heartbeat = self._driver._heartbeats.pop((host, TOPIC))
        getattr(self._driver, '_counters', {}).pop(heartbeat, None)

    @staticmethod
    def _wait_for_row(service, wait):
        if service.service_ref is not None:
            service.service_ref.waits = wait

    def serve(self):
        for line in sys.stdin:
            command = json.loads(line)
            getattr(self, command.pop('op'))(**command)
            say(at=time.monotonic())


def read(driver, hosts, options, database, pause, output):
    conf = configuration(options)
    if database:
        context = open_database(database)
        from nova import objects

    def records(group=TOPIC):
        if database:
            return objects.ServiceList.get_all(context)
        return [{'host': host, 'topic': TOPIC, 'binary': 'nova-' + TOPIC,
                 'updated_at': None} for host in hosts]

    asked = api.API(conf=conf, inventory=records)
    said = {}
    passes, longest = 0, 0
    with open(output, 'w', buffering=1) as file:
        while True:
            began = time.monotonic()
            for record in records():
                host = record['host']
                now = time.monotonic()
                answer = (asked.verdict(record).state.value,
                          asked.service_is_up(record))
                if said.get(host) != answer:
                    said[host] = answer
                    file.write(json.dumps([now, host, *answer]) + '\n')
            passes += 1
            ended = time.monotonic()
            longest = max(longest, ended - began)
            if passes == 1:
                session = getattr(asked._driver, '_session', None)
                say(keeper=session and session.keeper_pid)
            file.write(json.dumps([ended, passes, longest]) + '\n')
            time.sleep(pause)


def say(**fields):
    print(json.dumps(fields), flush=True)


def main(what, config):
    logging.basicConfig(level=logging.WARNING)
    random.seed()
    if what == 'write':
        Writer(**config).serve()
    else:
        read(**config)


if __name__ == '__main__':
    main(sys.argv[1], json.loads(pathlib.Path(sys.argv[2]).read_text()))
