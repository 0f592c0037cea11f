# SPDX-License-Identifier: Apache-2.0

"""The states of a session, and what each leaves to be believed.

A session starts as CONNECTING and becomes CONNECTED. From there it goes to
SUSPENDED and back, or by way of EXPIRED to CONNECTED with another session.
NO_KEEPER may come at any time and is followed by the state that the next
keeper tells; REFUSED is tried again every ``retry_interval``. CLOSED is the
last one.
"""

#: no server has answered yet: nothing is known
CONNECTING = 'connecting'
#: memberships are in ZooKeeper, and views are what it holds
CONNECTED = 'connected'
#: the connection is away; the session may still live. Memberships stay for
#: the rest of its timeout, views are what they were when it was lost.
SUSPENDED = 'suspended'
#: the session has run out, and its nodes are gone; another one is being made
#: and joins them anew
EXPIRED = 'expired'
#: ZooKeeper didn't take our identity; the reason says what to change
REFUSED = 'refused'
#: there is no keeper process; the session lives for the rest of its timeout,
#: for the next keeper to take over
NO_KEEPER = 'no keeper'
#: somebody closed it; nothing works any more
CLOSED = 'closed'
