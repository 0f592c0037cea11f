# SPDX-License-Identifier: Apache-2.0

"""Metrics of the heartbeats and sessions of one Nova process.

``[servicegroup] metrics_dir`` turns them on. Each heartbeat writes them to a
file of its process. A Nova process runs no HTTP server: the workers of a
service would compete for its port, and its thread would wait for a busy
eventlet hub. A file works the same in green and in native threads.

The states of all services (up, down, unknown) are not counted here, since each
process would report the same. ``nova-servicegroup metrics`` exports them once.
"""

import glob
import logging
import os
import time

from nova_servicegroup import per_process

LOG = logging.getLogger(__name__)

#: seconds, the upper bounds of how long a heartbeat took
BUCKETS = (0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10)
#: state of a ZKSession -> what was lost
LOSSES = {'suspended': 'connection', 'expired': 'session',
          'no keeper': 'keeper'}

_KEY = 'metrics'


def of_process(conf, binary):
    """Return the Metrics of this process, None if they are off.

    Raises nothing. Reads no file and writes none.

    :param binary: name of the service, such as nova-compute
    """
    if not conf.servicegroup.metrics_dir:
        return None
    return per_process.get(_KEY, lambda: _make(conf, binary))


def _make(conf, binary):
    try:
        return Metrics(conf.servicegroup.metrics_dir, binary,
                       stale_after=conf.service_down_time)
    except Exception as e:
        LOG.error('[servicegroup] metrics_dir is set, but there are no '
                  'metrics: %s. Install nova-servicegroup[metrics] for the '
                  'Python that Nova runs with, or remove the option.', e)
        return None


def session_state(state):
    """Count the loss of a ZooKeeper session; a callback of ZKSession."""
    metrics = per_process.find(_KEY)
    if metrics is not None and state in LOSSES:
        metrics.lost(LOSSES[state])


class Metrics:
    """The metrics of one process. Its methods raise nothing.

    :param directory: folder of the file
    :param binary: name of the service
    :param stale_after: age in seconds after which a file belongs to an ended
        process, since each heartbeat writes it
    :raises ImportError: prometheus_client is missing
    """

    def __init__(self, directory, binary, stale_after):
        import prometheus_client
        self._write_to_textfile = prometheus_client.write_to_textfile
        self._registry = prometheus_client.CollectorRegistry()
        self._path = os.path.join(directory, 'nova_servicegroup_%s_%d.prom' % (
            binary, os.getpid()))
        self._pattern = os.path.join(
            glob.escape(directory), 'nova_servicegroup_%s_*.prom' % binary)
        self._stale_after = stale_after
        self._labels = {'service': binary, 'process': str(os.getpid())}
        self._failed = False
        self._drivers = set()
        names = [*self._labels, 'driver']

        def make(kind, name, text, labels, **how):
            return kind('nova_servicegroup_' + name, text, labels,
                        registry=self._registry, **how)

        self._beats = make(
            prometheus_client.Counter, 'heartbeats',
            'Heartbeats by result: stored or failed.', [*names, 'result'])
        self._seconds = make(
            prometheus_client.Histogram, 'heartbeat_seconds',
            'How long the store took to accept a heartbeat, or to fail.',
            names, buckets=BUCKETS)
        self._stored_at = make(
            prometheus_client.Gauge, 'heartbeat_stored_timestamp_seconds',
            'When the last heartbeat was stored, since 1970; before that, '
            'when the first one failed.', names)
        self._losses = make(
            prometheus_client.Counter, 'zookeeper_losses',
            'Lost connections to ZooKeeper, sessions, and keeper processes.',
            [*self._labels, 'what'])

    def beat(self, driver, stored, seconds):
        """Count a heartbeat, and write the file.

        :param driver: name of the driver
        :param stored: whether the store accepted it
        :param seconds: how long that took
        """
        try:
            labels = dict(self._labels, driver=driver)
            if driver == 'zk':
                for what in LOSSES.values():
                    # Prometheus sees the first loss only after a 0.
                    self._losses.labels(what=what, **self._labels)
            for result in ('stored', 'failed'):
                self._beats.labels(result=result, **labels)
            self._beats.labels(result='stored' if stored else 'failed',
                               **labels).inc()
            self._seconds.labels(**labels).observe(seconds)
            if stored or driver not in self._drivers:
                # Also at the first failure, so that an alert has a value.
                self._drivers.add(driver)
                self._stored_at.labels(**labels).set(time.time())
            self._remove_stale_files()
            self._write_to_textfile(self._path, self._registry)
            self._failed = False
        except Exception as e:
            # Metrics must not break the heartbeat.
            LOG.log(logging.DEBUG if self._failed else logging.WARNING,
                    'The metrics of this process cannot be written: %s. Make '
                    'the folder [servicegroup] metrics_dir, and let the user '
                    'that this runs as write to it.', e)
            self._failed = True

    def lost(self, what):
        """Count a loss; the next heartbeat writes it."""
        self._losses.labels(what=what, **self._labels).inc()

    def remove(self):
        """Remove the file when the service leaves."""
        try:
            os.unlink(self._path)
        except OSError as e:
            LOG.debug('The file with metrics cannot be removed: %s', e)

    def _remove_stale_files(self):
        """Remove the files of earlier processes of the same service.

        At each heartbeat: the file of a process just killed isn't stale yet.
        """
        for path in glob.glob(self._pattern):
            try:
                if is_stale(path, self._stale_after):
                    os.unlink(path)
            except OSError as e:
                LOG.debug('Old metrics cannot be removed: %s', e)


def is_stale(path, after):
    """Return whether a file was not written for ``after`` seconds.

    :raises OSError: there is no such file
    """
    return time.time() - os.stat(path).st_mtime > after
