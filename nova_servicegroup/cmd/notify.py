# SPDX-License-Identifier: Apache-2.0

"""Sends a notification on the message bus for each change.

doc/source/admin/notifications.rst documents the format. A new field makes
VERSION 1.1; a changed meaning, 2.0.
"""

import collections
import os
import queue
import sys
import threading
import time

import oslo_messaging as messaging

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import services
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State

VERSION = '1.0'
EVENT_TYPE = 'servicegroup.transition'
#: not "notifications", which other programs read
TOPIC = 'nova_servicegroup'

#: reasons that prove how a process ended
_ENDS = (Reason.STOPPED, Reason.KILLED, Reason.HUNG)
_OPERATOR = (Reason.FORCED_DOWN, Reason.LEFT)


def evidence(change):
    """Return the kind of evidence of a Transition, one word."""
    if change.new is None or change.reason in _OPERATOR:
        return 'operator'
    if change.new is State.UP:
        return 'life'
    if change.new is State.UNKNOWN:
        return 'doubt'
    if change.reason in _ENDS:
        return 'end'
    return 'silence' if _last_seen(change) else 'none'


def _last_seen(change):
    # With db, the other time is that of its creation.
    return None if change.reason is Reason.NEVER else change.service.seen_at


def payload(change):
    """Return a watcher.Transition as a dict of JSON values."""
    service = change.service
    silence = service.verdict.silence
    return {
        'version': VERSION,
        'at': services.as_text(change.at, 'milliseconds'),
        'host': change.host,
        'service': change.binary,
        'group': service.group,
        'cell': change.cell,
        'old_state': change.old and change.old.value,
        'new_state': change.new and change.new.value,
        'evidence': evidence(change),
        'reason': change.reason and change.reason.name.lower(),
        'reason_text': change.reason and change.reason.value,
        'last_seen': services.as_text(_last_seen(change), 'milliseconds'),
        'silence': silence and {
            'base': silence.base, 'silent': silence.silent,
            'returned': silence.returned},
        'disabled': service.record.get('disabled', None),
        'forced_down': service.record.get('forced_down', None)}


class Sender:
    """Sends payloads in order, in its own thread.

    Tries each until it is sent; the watcher doesn't wait for that.

    :param conf: the configuration; its [oslo_messaging_notifications]
        transport_url, or its transport_url, names the message bus
    :param topic: name of the queue, without the priority
    :raises CommandError: the message bus isn't configured
    """

    def __init__(self, conf, topic=TOPIC):
        try:
            transport = messaging.get_notification_transport(conf)
        except messaging.MessagingException as e:
            raise base.CommandError('[DEFAULT] transport_url: %s' % e) from e
        # Its default is a RabbitMQ on this host, as a guest.
        place = conf.get_location('transport_url').location
        if not (conf.oslo_messaging_notifications.transport_url
                or place.is_user_controlled):
            raise base.CommandError(
                'There is no message bus for notifications: set [DEFAULT] '
                'transport_url, or that of [oslo_messaging_notifications].')
        self._notifier = messaging.Notifier(
            transport, publisher_id='nova-servicegroup:%s'
            % os.uname().nodename, driver='messagingv2', topics=[topic],
            # With -1 it gives up if the first connection fails.
            retry=sys.maxsize)
        self._queue = queue.Queue()
        threading.Thread(target=self._run, name='notifications',
                         daemon=True).start()

    def send(self, message):
        """Queue a payload; doesn't block."""
        self._queue.put(message)

    def wait(self, timeout):
        """Wait until all are sent; return how many are not in time."""
        deadline = time.monotonic() + timeout
        while self._queue.unfinished_tasks and time.monotonic() < deadline:
            time.sleep(0.05)
        return self._queue.unfinished_tasks

    def _run(self):
        while True:
            self._notifier.info({}, EVENT_TYPE, self._queue.get())
            self._queue.task_done()


class Outbox:
    """Queues changes, and sends them if this watcher is the leader.

    Each watcher keeps the changes of the last seconds, and those since the
    watchers can't agree on a leader. A new leader sends those, too, as the old
    one may have been lost before it did. So after a change of the leader none
    is lost, and some may be sent twice.

    :param election: an election.Election
    :param send: called with each payload
    :param margin: seconds between the times when two watchers see a change
    """

    def __init__(self, election, send, margin=5, monotonic=time.monotonic):
        self._election = election
        self._send = send
        self._keep = election.gap + margin
        self._monotonic = monotonic
        self._waiting = collections.deque()     # of (when it was seen, what)
        self._unknown_at = float('-inf')        # who leads
        #: whether this watcher is the leader; None if nobody can tell
        self.leads = False

    def add(self, changes):
        """Queue changes; send them if this watcher is the leader.

        Blocks as the election does.
        """
        now = self._monotonic()
        self._waiting.extend((now, payload(change)) for change in changes)
        # Also without changes, to stay the leader.
        self.leads = self._election.leads()
        if self.leads:
            while self._waiting:
                self._send(self._waiting.popleft()[1])
        if self.leads is None:
            self._unknown_at = now
        # Another one has led for that long, so it has sent them.
        while self._waiting and max(
                self._waiting[0][0], self._unknown_at) < now - self._keep:
            self._waiting.popleft()
