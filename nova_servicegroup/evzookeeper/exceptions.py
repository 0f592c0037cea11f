# Licensed under the Apache License, Version 2.0 (the "License"); you may
# not use this file except in compliance with the License. You may obtain
# a copy of the License at
#
#      http://www.apache.org/licenses/LICENSE-2.0
#
# Unless required by applicable law or agreed to in writing, software
# distributed under the License is distributed on an "AS IS" BASIS, WITHOUT
# WARRANTIES OR CONDITIONS OF ANY KIND, either express or implied. See the
# License for the specific language governing permissions and limitations
# under the License.

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
