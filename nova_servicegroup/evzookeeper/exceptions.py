# SPDX-License-Identifier: Apache-2.0

"""What the parent's side raises."""


class ZooKeeperException(Exception):
    """The root of them. The text says what is wrong and where to look."""


class BadAddress(ZooKeeperException, ValueError):
    """The address can't be one of a ZooKeeper ensemble."""


class KeeperUnavailable(ZooKeeperException):
    """There is no keeper process; the text says why."""


class NotConnected(ZooKeeperException):
    """The keeper has no session with ZooKeeper, or not in time."""


class NotJoined(ZooKeeperException):
    """The membership has no node in ZooKeeper."""


class RequestFailed(ZooKeeperException):
    """ZooKeeper answered with an error."""
