# SPDX-License-Identifier: Apache-2.0

"""The exceptions of the session's interface."""


class ZooKeeperException(Exception):
    """Base class. The text names the problem and what to check."""


class BadAddress(ZooKeeperException, ValueError):
    """The address of the ensemble is invalid."""


class KeeperUnavailable(ZooKeeperException):
    """There is no keeper process; the text says why."""


class NotConnected(ZooKeeperException):
    """The keeper has no session with ZooKeeper, or not in time."""


class NotJoined(ZooKeeperException):
    """The membership has no node in ZooKeeper."""


class RequestFailed(ZooKeeperException):
    """ZooKeeper answered with an error."""
