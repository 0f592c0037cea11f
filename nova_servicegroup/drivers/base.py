# SPDX-License-Identifier: Apache-2.0

"""The contract of a driver.

A driver writes signs of life to its store (``publish``, ``withdraw``) and
reads evidence from it (``observe``, ``load_group``). The times of heartbeats,
the handling of failures and the answers to Nova are the same for all drivers:
see ``common``, from which drivers derive.
"""

import abc
import enum
import logging
import typing


class Promise(enum.Enum):
    """A capability of a driver. The conformance suite checks it."""

    SEES_LEAVE = 'A member that leaves is down for every reader at once.'
    SEES_STOP = 'A service that is stopped gets no new instances at once.'
    SEES_KILL = 'One whose process is killed gets none within a second.'
    KNOWS_OUTAGE = (
        'While the store is lost, Nova works and every state is "unknown".')
    PLACES_IN_DOUBT = (
        "Nova's requests can reach a host whose heartbeats do not arrive.")
    READER_CLOCK = (
        "Wrong clocks of other hosts don't affect a reader that asks often.")
    LOCAL_READS = 'A query is answered from memory (mc: a second old at most).'
    IN_TREE_FORMAT = "It can be mixed with Nova's own driver of the same name."


class Failure(typing.NamedTuple):
    """How a failed heartbeat is logged.

    ``persistent``: it doesn't end by itself, so it is logged even after
    another failure.
    """

    level: int
    text: str
    traceback: bool = False
    persistent: bool = False


class Driver(abc.ABC):
    """Reports the members of this process and reads those of all."""

    #: set of Promise
    promises = frozenset()
    recovered_text = 'Recovered from being unable to report status.'

    @property
    @abc.abstractmethod
    def name(self):
        """The value of ``servicegroup_driver`` that selects this driver."""

    @abc.abstractmethod
    def publish(self, heartbeat):
        """Write a sign of life of this member; raise if it isn't stored.

        Blocks for less than ``heartbeat.interval`` seconds.

        :param heartbeat: a heartbeat.Heartbeat; it has ``member`` (the host),
            ``group``, ``service`` and ``interval``
        """

    @abc.abstractmethod
    def withdraw(self, heartbeat, end, timeout):
        """Write that this process ends, in ``timeout`` seconds. May raise.

        :param end: liveness.End.STOPPED if the service stops, LEFT if the
            operator removes the member
        """

    @abc.abstractmethod
    def observe(self, record):
        """Return the liveness.Member of a service record.

        Logs nothing about a member that is alive. Never blocks, except for a
        bounded first read.

        :raises ServiceGroupUnavailable: the store can't be read
        """

    @abc.abstractmethod
    def load_group(self, record):
        """Return the liveness.Group of a service record.

        Called if the service seems to be lost, once a second at most.

        :raises ServiceGroupUnavailable: the store can't be read
        """

    @abc.abstractmethod
    def now(self):
        """Return the time on the clock of this driver's evidence, seconds."""

    @abc.abstractmethod
    def recorded_time(self, record):
        """Return the time of the last sign of life, or None."""

    def witness(self, member):
        """Return the source of a liveness.Member's evidence, as a text.

        Does no I/O.
        """
        return 'the %s driver' % self.name

    def details(self, record):
        """Return other data of a service in the store, for people.

        May block for a few seconds.

        :returns: dict, names to values for JSON
        """
        return {}

    def view_age(self, group):
        """Return the age of this process's view of a group, in seconds.

        math.inf if the view is not filled yet; None for a driver without
        views. Does no I/O and takes no lock.
        """
        return None

    def classify_error(self, error, heartbeat):
        """Return the Failure to log for an exception that publish raised."""
        return Failure(logging.ERROR,
                       'Unexpected error while reporting service status', True)

    def surely_up(self, record):
        """Return True only if the verdict is certainly UP.

        The fast path for a thousand queries in a row. After False, the caller
        asks for the verdict. Must be False for all while a group is doubted,
        since a verdict finds the end of the doubt. Never blocks, logs or
        raises.
        """
        return False

    @staticmethod
    def cell_of(record):
        """Return the cell of a record, if each cell has its own store."""
        return None
