# SPDX-License-Identifier: Apache-2.0

"""What became of the hosts of a group that have no node.

Beside what a listing shows stands the record of each missing host, where the
group has records. This is the part that needs no ZooKeeper: it is told what
was listed and read, and says what is to be read and written next.
"""

import itertools

from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import record as records

#: what is told of a host that is there: it was missing, and from when to when
BACK = 'back'


class _Missing:
    """A host without a node.

    :param first: when it was first missed, in ZooKeeper's time
    :param seen: {token: since when} of its nodes that were seen here
    """

    def __init__(self, first, seen):
        self.first = self.last = first
        self.seen = seen
        self.state = records.MISSED
        self.record = None
        #: its time to come back is over, or how it ended was seen from here
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
        # Hosts whose gaps are not proven until their records are read, as the
        # keys of a dict.
        self._assumed = {}
        self._told = {}         # host -> what the parent knows
        self._changed = set()   # hosts of which it may have to know more
        self._unread = {}       # likewise, missing ones
        self._unconfirmed = {}  # host -> monotonic time when it was read
        #: host -> Record of those that are missed, and nobody wrote it yet
        self.unwritten = {}

    def changed(self, joined, left, now, time):
        """Take what has changed of the nodes of members, two sets of names.

        :param now: monotonic
        :param time: now in ZooKeeper's time, seconds since 1970
        """
        for name in joined:
            host, _, token = name.partition('@')
            self._present.setdefault(host, {})[token] = time
            missing = self._missing.pop(host, None)
            if missing is not None:
                self._back(host, token, missing, now, time)
        gone = {}
        for name in left:
            host, _, token = name.partition('@')
            gone.setdefault(host, set()).add(token)
        for host, tokens in gone.items():
            seen = self._present[host]
            if seen.keys() <= tokens:
                del self._present[host]
                self._gone(host, seen, now, time)
            else:
                for token in tokens:
                    del seen[token]
        self.returns.present = len(self._present)

    def listed(self, began, judged=True):
        """Take that nothing else has changed when a listing was begun.

        :param began: monotonic
        :param judged: whether those whose time to come back is over are silent
            from now on
        """
        for host, read_at in list(self._unconfirmed.items()):
            if began >= read_at:
                del self._unconfirmed[host]
                self.unwritten[host] = self._missing[host].record
        for host in self.returns.over(began) if judged else ():
            self._missing[host].sure = True
            self._changed.add(host)

    def _back(self, host, token, missing, now, time):
        self._changed.add(host)
        self.returns.returned(host, now)
        self._unread.pop(host, None)
        self._unconfirmed.pop(host, None)
        self.unwritten.pop(host, None)
        record = missing.record
        if not self._has_records or missing.state in records.ENDS:
            return
        if record is not None and record.token == token:
            # Its own word: it was restarted, or was silent.
            if record.gap:
                self._gaps[host] = record.gap
            return
        # Also where there was no record: ZooKeeper may have lost all data.
        self._gaps[host] = missing.last, time
        if not missing.read:
            self._assumed[host] = True

    def _gone(self, host, seen, now, time):
        self._missing[host] = _Missing(time, seen)
        self._changed.add(host)
        self._gaps.pop(host, None)
        self._assumed.pop(host, None)
        if self._has_records:
            self._unread[host] = True
        else:
            self.returns.missed(host, now)

    def recorded(self, hosts, now, time):
        """Take the names of all records: whose host has no node is missing."""
        hosts = frozenset(hosts)
        for host in hosts:
            if host not in self._present and host not in self._missing and \
                    names.unquote(host) is not None:
                self._missing[host] = _Missing(time, {})
                self._changed.add(host)
        # Watches end with a connection, so all are read again. After a loss
        # of all data there is nothing to read.
        for host in list(self._missing):
            if host in hosts:
                self._unread[host] = True
            else:
                self.was_read(host, None, now, time)

    def unread(self, most):
        """Return the hosts whose records are to be read next, a list.

        Those who went last come first: of many that are cut off little is to
        be known, but one that was killed among them is news. Those who are
        back come last: until then they count as silent.
        """
        return list(itertools.islice(itertools.chain(
            reversed(self._unread), self._assumed), most))

    def record_changed(self, host):
        """The record of a host was changed or deleted."""
        if host in self._missing:
            self._unread[host] = True
            self.unwritten.pop(host, None)
            self._unconfirmed.pop(host, None)

    def was_read(self, host, record, now, time):
        """Take the Record of a host, None if there is none that is sound.

        :param now: monotonic time when it was asked for
        :param time: the same in ZooKeeper's time
        """
        self._unread.pop(host, None)
        self._changed.add(host)
        missing = self._missing.get(host)
        if missing is None:
            if self._assumed.pop(host, None):
                self._gaps.pop(host, None)
            if record is not None and record.gap and host in self._present:
                self._gaps.setdefault(host, record.gap)
            return
        before, missing.record = missing.record, record
        known, missing.read = missing.read, True
        if record is None and known:
            # What was known still is.
            return
        if record is None and not missing.seen:
            del self._missing[host]
            return
        # Nobody else than the last incarnation's own keeper tells its end.
        told = record is not None and record.state != records.JOINED and (
            not missing.seen or record.token in missing.seen
            or record.written > max(missing.seen.values()))
        if known and (before is None or before.token != record.token):
            # It was back, unseen from here, and is missing again.
            known, missing.first = False, time
        missing.state = record.state if told else records.MISSED
        missing.last = record.last if told else missing.first
        if missing.state in records.ENDS and missing.seen:
            missing.sure = True
            self.returns.forget(host)
        elif not known:
            missing.sure = False
            self.returns.missed(host, now, time - missing.last)
        if record is not None and record.state == records.JOINED:
            self._unconfirmed[host] = now

    @property
    def wants_listing(self):
        """Someone joined while the record was read, or is to be missed."""
        return bool(self._unconfirmed)

    def present(self):
        """Return the hosts that have nodes, as a list."""
        return list(self._present)

    def count_silent(self, since):
        """Return how many fell silent since a time, in ZooKeeper's time.

        Whose record wasn't read yet may have been stopped or killed.
        """
        return sum(missing.read and missing.last > since
                   and missing.state not in records.ENDS
                   for missing in self._missing.values())

    def changes(self):
        """Return what the parent is to know and wasn't told yet.

        :returns: {host: [state, last sign of life, sure] of who is missing,
            [BACK, from, to] of who was, None of who is neither}
        """
        changes = {}
        for host in self._changed:
            about = self._about(host)
            if about != self._told.get(host):
                changes[host] = about
        self._changed.clear()
        self._told.update(changes)
        return changes

    def _about(self, host):
        missing = self._missing.get(host)
        if missing is not None:
            return [missing.state, missing.last, missing.sure]
        gap = self._gaps.get(host)
        return gap and [BACK, *gap]
