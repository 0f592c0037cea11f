# SPDX-License-Identifier: Apache-2.0

"""The hosts of a group that have no node.

Combines the listings with the records of the missing hosts, if the group has
records, and says which records to read and write next. Sends no requests.
"""

import itertools

from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import record as records

#: the state of a returned host; the start and the end of its gap follow
BACK = 'back'


class _Missing:
    """A host without a node.

    :param first: when it was first missed, in ZooKeeper's time
    :param seen: {token: since when} of its nodes that this keeper saw
    """

    def __init__(self, first, seen):
        self.first = self.last = first
        self.seen = seen
        self.state = records.MISSED
        self.record = None
        #: its time to rejoin is over, or its node was seen and its end is
        #: on record
        self.sure = False
        self.read = False


class Absences:
    """The missing hosts of a group.

    Hosts are named as in their nodes, percent-encoded.

    :param returns: a Returns
    :param has_records: the group has records
    """

    def __init__(self, returns, has_records):
        self.returns = returns
        self._has_records = has_records
        self._present = {}      # host -> {token: since when}
        self._missing = {}      # host -> _Missing
        self._gaps = {}         # host -> (missed at, back at)
        # Present hosts whose records tell about a gap, as the keys of a dict.
        self._assumed = {}
        self._posted = {}       # host -> its last state for the parent
        self._changed = set()   # hosts whose state may differ from that
        self._unread = {}       # missing hosts whose records to read, as keys
        self._unconfirmed = {}  # host -> monotonic time when it was read
        #: host -> Record of missing hosts, to be marked as missed
        self.unwritten = {}

    def changed(self, joined, left, now, time):
        """Apply changes of members' nodes, two sets of names.

        :param now: monotonic
        :param time: now in ZooKeeper's time, seconds since 1970
        """
        for name in joined:
            host, _, token = name.partition('@')
            self._present.setdefault(host, {})[token] = time
            missing = self._missing.pop(host, None)
            if missing is not None:
                self._returned(host, token, missing, now, time)
        deleted = {}
        for name in left:
            host, _, token = name.partition('@')
            deleted.setdefault(host, set()).add(token)
        for host, tokens in deleted.items():
            seen = self._present[host]
            if seen.keys() <= tokens:
                del self._present[host]
                self._missed(host, seen, now, time)
            else:
                for token in tokens:
                    del seen[token]
                if self._has_records:
                    # Only its record tells whether it was silent.
                    self._assumed[host] = True
        self.returns.present = len(self._present)

    def confirm(self, began, judged=True):
        """Confirm the missing hosts: a listing has shown no other change.

        :param began: when the listing began, monotonic
        :param judged: whether hosts whose time to rejoin is over become silent
        """
        for host, read_at in list(self._unconfirmed.items()):
            if began >= read_at:
                del self._unconfirmed[host]
                self.unwritten[host] = self._missing[host].record
        for host in self.returns.expired(began) if judged else ():
            self._missing[host].sure = True
            self._changed.add(host)

    def _returned(self, host, token, missing, now, time):
        self._changed.add(host)
        self.returns.returned(host, now)
        self._unread.pop(host, None)
        self._unconfirmed.pop(host, None)
        self.unwritten.pop(host, None)
        record = missing.record
        if not self._has_records:
            return
        if missing.state in records.ENDS or (
                record is not None and record.token == token):
            # A restart is no gap, but the last one still counts.
            if record.gap:
                self._gaps[host] = record.gap
            return
        # Also without a record: ZooKeeper may have lost all data.
        self._gaps[host] = missing.last, time
        if not missing.read:
            self._assumed[host] = True

    def _missed(self, host, seen, now, time):
        self._missing[host] = _Missing(time, seen)
        self._changed.add(host)
        self._gaps.pop(host, None)
        self._assumed.pop(host, None)
        if self._has_records:
            self._unread[host] = True
        else:
            self.returns.missed(host, now)

    def records_listed(self, hosts, now, time):
        """Apply a listing of records: a host without a node is missing."""
        hosts = frozenset(hosts)
        for host in hosts:
            if host not in self._present and host not in self._missing and \
                    names.unquote(host) is not None:
                self._missing[host] = _Missing(time, {})
                self._changed.add(host)
        # Watches end with a connection, so all records are read again.
        for host in list(self._missing):
            if host in hosts:
                self._unread[host] = True
            else:
                self.record_read(host, None, now, time)

    def unread(self, most):
        """Return the hosts whose records to read next, a list.

        The most recently missed come first: one that was killed while many
        are cut off is urgent. Present hosts come last.
        """
        return list(itertools.islice(itertools.chain(
            reversed(self._unread), self._assumed), most))

    def is_first_reading(self, host):
        """Return whether the record of a missing host was not read yet."""
        missing = self._missing.get(host)
        return missing is not None and not missing.read

    def record_changed(self, host):
        """The record of a host was changed or deleted."""
        if host in self._missing:
            self._unread[host] = True
            self.unwritten.pop(host, None)
            self._unconfirmed.pop(host, None)

    def record_read(self, host, record, now, time, watched=True,
                    exists=False):
        """Apply the Record of a host, None if it has no valid one.

        :param now: monotonic time of the request
        :param time: the same in ZooKeeper's time
        :param watched: a change of the record will be reported; if not, it is
            read again unless it is FINAL
        :param exists: there is a node for it
        """
        self._unread.pop(host, None)
        self._changed.add(host)
        missing = self._missing.get(host)
        if missing is None:
            if self._assumed.pop(host, None):
                self._gaps.pop(host, None)
            if record is not None and record.gap and (
                    host in self._present) and (
                    record.gap[1] > self._gaps.get(host, (0, 0))[1]):
                self._gaps[host] = record.gap
            return
        if record is None and missing.read:
            # The earlier record still holds.
            return
        before, missing.record = missing.record, record
        was_read, missing.read = missing.read, True
        if not (record or exists or missing.seen):
            del self._missing[host]
            return
        # The record of an earlier incarnation says nothing about this end.
        is_current = record is not None and record.state != records.JOINED \
            and (not missing.seen or record.token in missing.seen
                 or record.written > max(missing.seen.values()))
        if was_read and (before is None or before.token != record.token):
            # It returned unseen, and is missing again.
            was_read, missing.first = False, time
        missing.state = record.state if is_current else records.MISSED
        missing.last = record.last if is_current else missing.first
        if missing.state in records.ENDS and missing.seen:
            missing.sure = True
            self.returns.forget(host)
        elif not was_read:
            missing.sure = False
            self.returns.missed(host, now, time - missing.last)
        if not watched and missing.state not in records.FINAL:
            self.record_changed(host)
        elif record is not None and record.state == records.JOINED:
            self._unconfirmed[host] = now

    @property
    def wants_listing(self):
        """Whether a listing has to confirm that hosts are missing."""
        return bool(self._unconfirmed)

    def present(self):
        """Return the hosts that have nodes, as a list."""
        return list(self._present)

    def count_silent(self):
        """Return how many hosts are silent, however long they have been.

        Excludes those with unread records, which may tell of an end.
        """
        return sum(missing.read and missing.state not in records.ENDS
                   for missing in self._missing.values())

    def changes(self):
        """Return the changes since the last call, for the parent.

        :returns: {host: [state, last sign of life, sure] if it is missing,
            [BACK, start, end] if it has a gap, else None}
        """
        changes = {}
        for host in self._changed:
            state = self._state(host)
            if state != self._posted.get(host):
                changes[host] = state
        self._changed.clear()
        self._posted.update(changes)
        return changes

    def _state(self, host):
        missing = self._missing.get(host)
        if missing is not None:
            return [missing.state, missing.last, missing.sure]
        gap = self._gaps.get(host)
        return gap and [BACK, *gap]
