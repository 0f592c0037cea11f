# SPDX-License-Identifier: Apache-2.0

"""The contract of a driver.

A driver says where signs of life are written (``publish``, ``withdraw``) and
what it finds there (``observe``, ``load_group``). When it is written, what
happens when that fails, and what Nova is told is the same for all drivers and
in ``common``, which drivers derive from.
"""

import abc
import enum
import logging
import typing


class Promise(enum.Enum):
    """What a driver may promise. The contract suite holds it to its word."""

    SEES_LEAVE = 'A member that leaves is down for every reader at once.'
    SEES_STOP = 'A service that is stopped gets no new instances at once.'
    SEES_KILL = 'One whose process is killed gets none within a second.'
    KNOWS_OUTAGE = 'A store that cannot be asked is "unknown", never "down".'
    PLACES_IN_DOUBT = 'Commands reach a host whose heartbeats do not arrive.'
    READER_CLOCK = "A reader that asks often judges by its own clock alone."
    LOCAL_READS = 'A query is answered from memory; mc renews it every second.'
    IN_TREE_FORMAT = "Nova's in-tree driver reads what it writes, and back."


class Failure(typing.NamedTuple):
    """How a failed beat is told to the operator.

    ``persistent``: it won't heal by itself, so it is logged even when it
    follows another failure.
    """

    level: int
    text: str
    traceback: bool = False
    persistent: bool = False


class Driver(abc.ABC):
    """A way to say "I am alive" and to see who said so."""

    #: set of Promise
    promises = frozenset()
    recovered_text = 'Recovered from being unable to report status.'

    @property
    @abc.abstractmethod
    def name(self):
        """The value of ``servicegroup_driver`` that chooses this driver."""

    @abc.abstractmethod
    def publish(self, heartbeat):
        """Write the evidence that this member lives; raise if it isn't stored.

        Blocks for less than ``heartbeat.interval`` seconds.

        :param heartbeat: a heartbeat.Heartbeat; it has ``member`` (the host),
            ``group``, ``service`` and ``interval``
        """

    @abc.abstractmethod
    def withdraw(self, heartbeat, end, timeout):
        """Write that this process ends, within so many seconds. May raise.

        :param end: liveness.End.STOPPED when the service stops, LEFT when the
            operator takes the member out
        """

    @abc.abstractmethod
    def observe(self, record):
        """Return the liveness.Member of a service record.

        Logs nothing of the living and, but for a bounded first read, never
        blocks.

        :raises ServiceGroupUnavailable: the store can't be asked
        """

    @abc.abstractmethod
    def load_group(self, record):
        """Return the liveness.Group that the service of a record is in.

        Called when the service seems to be lost, once a second at most.

        :raises ServiceGroupUnavailable: the store can't be asked
        """

    @abc.abstractmethod
    def now(self):
        """Return the time on the clock of this driver's evidence, seconds."""

    @abc.abstractmethod
    def recorded_time(self, record):
        """Return when the service was last known to be well, or None."""

    def witness(self, member):
        """Return who saw the last evidence of a liveness.Member, for people.

        Does no I/O.
        """
        return 'the %s driver' % self.name

    def details(self, record):
        """Return what else the store holds of a service, for people.

        May block for a few seconds.

        :returns: dict, names to values that JSON can express
        """
        return {}

    def view_age(self, group):
        """Return how old what this process knows of a group is, seconds.

        math.inf if it knows nothing yet; None for a driver that knows nothing
        but what Nova's records say. Does no I/O and takes no lock.
        """
        return None

    def classify_error(self, error, heartbeat):
        """Return the Failure to log for an exception that publish raised."""
        return Failure(logging.ERROR,
                       'Unexpected error while reporting service status', True)

    def surely_up(self, record):
        """Return whether it is plain to see that the verdict is UP.

        The short way of a thousand questions in a row. False says nothing: it
        sends whoever asks the long way, and has to be said of everybody while
        a group is in doubt, since the long way finds the end of that. Never
        blocks, logs or raises.
        """
        return False

    @staticmethod
    def cell_of(record):
        """Return what tells apart the cells of a store that each cell has."""
        return None
