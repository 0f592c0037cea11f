# SPDX-License-Identifier: Apache-2.0

"""Reads and writes the records of a group's missing members."""

import functools
import logging
import random

from kazoo import exceptions as kazoo_exc
from kazoo.protocol import states

from nova_servicegroup.keeper import record as records

#: records that are read or written at a time
READS, WRITES = 200, 20
#: seconds between these batches: a hundred readers that miss half of 10,000
#: members must not block the members' return, and share the writing
READ_PAUSE, WRITE_PAUSE = 0.5, 1
#: records that are read without that pause when a host is missed: it may have
#: been killed
URGENT_READS, URGENT_PAUSE = 10, 0.05


class GroupRecords:
    """The part of a Group that handles the records of its members."""

    def _list_records(self):
        """Return the names of all records."""
        children = functools.partial(
            self._link.client.get_children_async, self._records_path,
            include_data=True)
        try:
            try:
                found, stat = self._link.get(children())
            except kazoo_exc.NoNodeError:
                self._link.make_directory(self._records_path)
                found, stat = self._link.get(children())
        except (kazoo_exc.NoAuthError, kazoo_exc.InvalidACLError) as e:
            self._link.log(logging.WARNING, (
                'The records in %s cannot be read, so nobody is told how '
                'members ended: %s' % (self._records_path, e)))
            return []
        self._founded = stat.ctime / 1000
        return found

    def _read(self, most):
        """Read records: of missing hosts, then of the look-back's."""
        now = self._link.monotonic()
        time = self._link.time(now)
        hosts = self._absences.unread(most)
        # What a final record says holds until there is a new node, which a
        # persistent watch reports: where ends are likely, none is watched.
        unwatched = self._watched and self._ends_likely
        requests = []
        for host in hosts:
            watch = not (unwatched and self._absences.is_first_reading(host))
            requests.append((host, watch, self._request(host, watch)))
        requests += [
            (host, False, self._request(host, False))
            for host in self._look_back.next(most - len(hosts))]
        ends = 0
        for number, (host, watch, request) in enumerate(requests):
            record, exists = None, True
            if number >= len(hosts):
                self._look_back.answered()
            try:
                record = records.parse(*self._link.get(request))
            except kazoo_exc.NoNodeError:
                exists = False
            except kazoo_exc.NoAuthError:
                pass
            self._absences.record_read(host, record, now, time, watch, exists)
            if number >= len(hosts):
                self._look_back.record_read(record, time)
            elif record is not None and record.ended:
                ends += 1
        if hosts:
            self._ends_likely = 2 * ends >= len(hosts)
        # A return that a longer connection didn't see is too old to matter.
        if requests and not self._look_back.is_complete and (
                now - self._connected_at < self._look_back.recent):
            silent = self._absences.count_silent()
            if silent:
                self._look_back.silent(silent, self._absences.present())
        self._urgent = False
        self._urgent_at = now + URGENT_PAUSE
        if len(requests) >= READS:
            self._read_at = now + self._link.jitter(0.5, 1) * READ_PAUSE

    def _request(self, host, watch):
        # kazoo keeps each watch of a path until it fires, but equal ones once.
        return self._link.client.get_async(
            '%s/%s' % (self._records_path, host),
            watch=self._record_watch if watch else None)

    def _record_changed(self, event):
        if event.type != states.EventType.NONE:
            self._absences.record_changed(event.path.rpartition('/')[2])

    def _write_missed(self, now):
        """Mark the records of some members as missed."""
        hosts = list(self._absences.unwritten)
        hosts = random.sample(hosts, min(WRITES, len(hosts)))
        requests = []
        for host in hosts:
            record = self._absences.unwritten.pop(host)
            requests.append((host, record, self._link.client.set_async(
                '%s/%s' % (self._records_path, host), records.missed(record),
                record.version)))
        for host, record, request in requests:
            try:
                stat = self._link.get(request)
            except (kazoo_exc.BadVersionError, kazoo_exc.NoNodeError):
                self._absences.record_changed(host)
            except kazoo_exc.NoAuthError:
                # This reader goes by its own observation.
                pass
            else:
                if stat.czxid != record.created:
                    # A new record of the same path; its keeper corrects it.
                    self._absences.record_changed(host)
        if requests:
            self._write_at = now + self._link.jitter(0.5, 1) * WRITE_PAUSE
