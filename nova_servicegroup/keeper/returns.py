# SPDX-License-Identifier: Apache-2.0

"""How long those that are missing without proof have to come back."""

#: an answer that is due is due after so many rejoin times of connection in
#: sum, however often the connection was lost meanwhile
IN_SUM = 3
#: A server that was cut off from its leader goes on answering its clients
#: until it notices: after syncLimit x tickTime, 10 s with ZooKeeper's sample
#: settings. Their sessions have expired by then, and they don't know it.
SERVER_NOTICES = 10
#: the smallest share of a group that may be the clients of one server
SERVER_SHARE = 0.1


class _Batch:
    """Hosts that were missed at about the same time, and wait together."""

    def __init__(self, now):
        self.began = self.restarted = now
        self.hosts = set()
        self.returned = set()
        self.recent = set()     # of all of them, who was just missed


class Returns:
    """Tells when those that are missing had the time to come back.

    A member that lives and has lost its session makes another one within the
    rejoin time, once it can. So who is missing is silent after that long of
    unbroken connection, or three times as long in sum. Who returns shows that
    those missed at about the same time may return, too, and who is missed
    shows that more may be: either begins their time anew. Each host does so
    once, and none after ``bound`` seconds, so nobody who flaps, restarts or
    crashes prolongs anybody's death. Where those missed together may be the
    clients of one server of the ensemble, they have the time in which such a
    server notices that it is cut off from the others, too.

    All times count only while there is a connection. ``now`` is monotonic.

    :param rejoin: the rejoin time, seconds
    :param together: seconds from the first to the last that were missed at
        about the same time: the session timeout
    :param bound: seconds after which nothing prolongs the time
    """

    #: how many hosts of the group are not missing
    present = 0

    def __init__(self, rejoin, together, bound):
        self.rejoin = rejoin
        self.together = together
        self.bound = bound
        self._waiting = {}      # host -> _Batch
        self._batches = []      # the newest is the last
        self._counted = 0       # seconds of connection until the last loss
        self._connected_at = None
        self._unbroken = 0      # of them, when the connection was made

    def __contains__(self, host):
        return host in self._waiting

    def connected(self, now):
        """A connection was made: everybody has a rejoin time from here."""
        self.disconnected(now)
        self._connected_at = now
        self._unbroken = self._counted

    def disconnected(self, now):
        self._counted = self._clock(now)
        self._connected_at = None

    def _clock(self, now):
        if self._connected_at is None:
            return self._counted
        return self._counted + now - self._connected_at

    def missed(self, host, now, age=0):
        """A host is missing from now on, and nothing tells why.

        :param age: seconds since somebody first missed it
        """
        if host in self._waiting:
            return
        clock = self._clock(now)
        newest = self._batches[-1] if self._batches else None
        if newest is None or clock - newest.began > self.together or \
                host in newest.returned:
            newest = _Batch(clock)
            self._batches = [batch for batch in self._batches if batch.hosts]
            self._batches.append(newest)
        newest.hosts.add(host)
        if age < SERVER_NOTICES:
            newest.recent.add(host)
        newest.restarted = clock
        self._waiting[host] = newest

    def returned(self, host, now):
        """A host is back."""
        batch = self._waiting.pop(host, None)
        if batch is not None:
            batch.hosts.discard(host)
            clock = self._clock(now)
            if host not in batch.returned and (
                    clock - batch.began < self.bound):
                batch.restarted = clock
            batch.returned.add(host)

    def forget(self, host):
        """A host need not be waited for: how it ended is known."""
        batch = self._waiting.pop(host, None)
        if batch is not None:
            batch.hosts.discard(host)
            batch.recent.discard(host)

    def _due(self, batch):
        """Return when a batch is due, in seconds of connection."""
        since = batch.restarted
        missed = len(batch.recent)
        if missed > 1 and missed >= SERVER_SHARE * (missed + self.present):
            since = max(since, batch.began + SERVER_NOTICES)
        return min(max(since, self._unbroken) + self.rejoin,
                   since + IN_SUM * self.rejoin)

    def due(self, now):
        """Return when somebody's time is over, None for never."""
        if self._connected_at is None:
            return None
        first = min((self._due(batch) for batch in self._batches
                     if batch.hosts), default=None)
        return None if first is None else now + first - self._clock(now)

    def over(self, began):
        """Return the hosts whose time was over at a time, and forget them.

        :param began: when a listing began that they are not in
        """
        clock = self._clock(began)
        silent = [host for host, batch in self._waiting.items()
                  if self._due(batch) <= clock]
        for host in silent:
            self.forget(host)
        return silent
