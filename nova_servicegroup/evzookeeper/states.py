# SPDX-License-Identifier: Apache-2.0

"""The states of a session, and what holds in each.

A session starts as CONNECTING and becomes CONNECTED. From there it changes to
SUSPENDED and back, or through EXPIRED to CONNECTED with a new session.
NO_KEEPER is possible at any time; the next keeper reports the state after it.
After REFUSED the keeper retries every ``retry_interval``. CLOSED is final.
"""

#: no server has answered yet; nothing is known
CONNECTING = 'connecting'
#: memberships have their nodes, and views match ZooKeeper
CONNECTED = 'connected'
#: the connection is lost; the session may still exist. Nodes remain for the
#: rest of its timeout; views stay as they were at the loss.
SUSPENDED = 'suspended'
#: the session has expired, and its nodes are deleted; the keeper creates
#: another session and joins again
EXPIRED = 'expired'
#: ZooKeeper refused the identity; the reason says what to change
REFUSED = 'refused'
#: there is no keeper process; the session exists for the rest of its timeout,
#: and the next keeper takes it over
NO_KEEPER = 'no keeper'
#: ``close`` was called; no method works any more
CLOSED = 'closed'
