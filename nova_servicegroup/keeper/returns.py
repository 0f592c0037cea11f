# SPDX-License-Identifier: Apache-2.0

"""How long missing hosts have to rejoin when nothing proves their end."""

#: rejoin times of connection in sum after which a host is silent, however
#: often the connection was lost meanwhile
IN_SUM = 3
#: A server that is cut off from its leader serves its clients until it
#: notices: after syncLimit x tickTime, 10 s with ZooKeeper's sample settings.
#: By then their sessions have expired, and they don't know it.
SERVER_NOTICES = 10
#: the smallest share of a group that may be the clients of one server
SERVER_SHARE = 0.1


class _Batch:
    """Hosts that were missed at about the same time and wait together."""

    def __init__(self, now):
        self.began = self.restarted = now
        self.hosts = set()
        self.returned = set()
        self.recent = set()     # those first missed within SERVER_NOTICES


class Returns:
    """The timers of missing hosts.

    A living member that lost its session creates another one within the
    rejoin time. So a missing host is silent after that long of unbroken
    connection, or after three times as long in sum. When a host returns or is
    missed, others of its batch may follow: their time starts again. Each host
    restarts it once, and none after ``bound`` seconds, so hosts that flap or
    crash do not delay the verdict on others. A batch that may be the clients
    of one server also gets the time in which a server that is cut off from
    the ensemble notices it.

    All times count only while there is a connection. ``now`` is monotonic.

    :param rejoin: the rejoin time, seconds
    :param together: longest time between the first and the last host of a
        batch, seconds: the session timeout
    :param bound: seconds after which nothing prolongs the time
    """

    #: how many hosts of the group have a node
    present = 0

    def __init__(self, rejoin, together, bound):
        self.rejoin = rejoin
        self.together = together
        self.bound = bound
        self._waiting = {}      # host -> _Batch
        self._batches = []      # the newest is the last
        self._counted = 0       # seconds of connection until the last loss
        self._connected_at = None
        self._unbroken = 0      # the same, when the connection was made

    def __contains__(self, host):
        return host in self._waiting

    def connected(self, now):
        """Take a new connection: all have at least a rejoin time from now."""
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
        """Start the timer of a host that is missing without proof.

        :param age: seconds since a reader first missed it
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
        """Stop the timer of a host, and restart those of its batch."""
        batch = self._waiting.pop(host, None)
        if batch is not None:
            batch.hosts.discard(host)
            clock = self._clock(now)
            # Its next absence begins another batch.
            if clock - batch.began < self.bound:
                batch.restarted = clock
            batch.returned.add(host)

    def forget(self, host):
        """Drop the timer of a host that need not be waited for."""
        batch = self._waiting.pop(host, None)
        if batch is not None:
            batch.hosts.discard(host)
            batch.recent.discard(host)

    def _due(self, batch):
        """Return when the time of a batch is over, in connected seconds."""
        since = batch.restarted
        missed = len(batch.recent)
        if missed > 1 and missed >= SERVER_SHARE * (missed + self.present):
            since = max(since, batch.began + SERVER_NOTICES)
        return min(max(since, self._unbroken) + self.rejoin,
                   since + IN_SUM * self.rejoin)

    def due(self, now):
        """Return when the first timer expires, None for never."""
        if self._connected_at is None:
            return None
        first = min((self._due(batch) for batch in self._batches
                     if batch.hosts), default=None)
        return None if first is None else now + first - self._clock(now)

    def expired(self, began):
        """Return the hosts whose timers have expired, and drop these timers.

        :param began: when a listing without them began
        """
        clock = self._clock(began)
        silent = [host for host, batch in self._waiting.items()
                  if self._due(batch) <= clock]
        for host in silent:
            self.forget(host)
        return silent
