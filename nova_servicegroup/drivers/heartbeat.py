# SPDX-License-Identifier: Apache-2.0

"""The heartbeat: reports a member periodically, and logs failures."""

import threading
import time

from oslo_log import log as logging

from nova_servicegroup import liveness
from nova_servicegroup import metrics

LOG = logging.getLogger(__name__)

#: seconds that a service may take to leave, for all of its drivers together
LEAVE_TIMEOUT = 2.0


class Heartbeat:
    """The heartbeat of one member of one group.

    ``beat`` runs in the service's timer, ``leave`` possibly in another thread.
    In any order, the evidence is withdrawn after a leave.
    """

    def __init__(self, driver, member, group, service):
        self.driver = driver
        self.member = member
        self.group = group
        self.service = service
        self.interval = service.report_interval
        self._leaves_on_stop = driver.conf.servicegroup.leave_on_stop
        self._end = None
        self._left = False
        self._leaving = threading.Lock()
        self._idle = threading.Event()
        self._idle.set()
        self._lost_at = None
        self._persistent_logged = False
        self._metrics = metrics.of_process(driver.conf, service.binary)
        # With also_report a service has one heartbeat per driver. By vars():
        # Nova's service looks up missing attributes in its manager.
        self._all = vars(service).setdefault('servicegroup_heartbeats', [])

    def start(self):
        """Publish now, and every interval until the service stops."""
        self._all[:] = [one for one in self._all if not one._left] + [self]
        self.beat()
        timer = self.service.tg.add_timer_args(
            self.interval, self.beat,
            # Spreads the heartbeats of services that start together.
            initial_delay=self.driver.jitter(0, self.interval),
            # An exception would end the timer for good (Nova 49b0d1741c).
            stop_on_exception=False)
        self._leave_when_stopped(timer)

    def _leave_when_stopped(self, timer):
        # Only the timer's stop runs in exactly the process that joined, with
        # and without workers, in green and native threads.
        stop = timer.stop

        def stop_and_leave(*args, **kwargs):
            stop(*args, **kwargs)
            self.leave(liveness.End.STOPPED if self._leaves_on_stop else None)

        timer.stop = stop_and_leave

    def beat(self):
        """Publish once. Raises nothing; logs a loss and its end once each."""
        if self._left:
            return
        self._idle.clear()
        began = time.monotonic()
        try:
            self.driver.publish(self)
        except Exception as error:
            self._lost(error)
        else:
            self._recovered()
        finally:
            self._idle.set()
        if self._left:
            self._withdraw()
        elif self._metrics is not None:
            self._metrics.beat(self.driver.name, self._lost_at is None,
                               time.monotonic() - began)

    @property
    def state(self):
        """Whether it reports, as a text."""
        if self._lost_at is None:
            return 'reports every %s s' % self.interval
        return 'cannot report since %.0f s' % (
            self.driver.monotonic() - self._lost_at)

    def _lost(self, error):
        failure = self.driver.classify_error(error, self)
        if self._lost_at is not None and (
                self._persistent_logged or not failure.persistent):
            LOG.debug('Still unable to report status: %s', error)
        else:
            LOG.log(failure.level, failure.text, exc_info=failure.traceback)
            self._persistent_logged = failure.persistent
        if self._lost_at is None:
            self._lost_at = self.driver.monotonic()
        self._set_flag()

    def _recovered(self):
        if self._lost_at is not None:
            LOG.info('%(text)s The outage lasted %(length).1f s.',
                     {'text': self.driver.recovered_text,
                      'length': self.driver.monotonic() - self._lost_at})
            self._lost_at = None
            self._persistent_logged = False
        self._set_flag()

    def _set_flag(self):
        # Nova's drivers keep the same flag on the service.
        self.service.model_disconnected = any(
            one._lost_at is not None for one in self._all)

    def leave(self, end):
        """End the heartbeat; raises nothing.

        Blocks for this driver's part of LEAVE_TIMEOUT at most.

        :param end: the liveness.End to write, None to write nothing
        """
        if not self._leaving.acquire(blocking=False):
            return
        # Before the wait: a beat that ends later withdraws by itself.
        self._end = end
        self._left = True
        self._idle.wait(self._leave_timeout / 2)
        self._withdraw()
        if self._metrics is not None:
            self._metrics.remove()
        LOG.info('Left the %(group)s group as %(member)s.',
                 {'group': self.group, 'member': self.member})

    @property
    def _leave_timeout(self):
        return LEAVE_TIMEOUT / len(self._all)

    def _withdraw(self):
        if self._end is None:
            return
        try:
            self.driver.withdraw(self, self._end, self._leave_timeout / 2)
        except Exception:
            LOG.warning('Could not take back the membership of %(member)s in '
                        'the %(group)s group; it runs out by itself.',
                        {'member': self.member, 'group': self.group},
                        exc_info=True)
