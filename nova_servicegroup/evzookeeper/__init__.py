# SPDX-License-Identifier: Apache-2.0

"""A session with ZooKeeper, for native threads and for eventlet.

The interface of the evzookeeper library, for Python 3. That library bridged
the threads of a C library to green threads; this one bridges to a child
process, the keeper, which holds the session with kazoo. So the session
survives a busy or blocked process, its memberships end within milliseconds
when the process is killed, and this package imports neither kazoo nor
eventlet.
"""

from nova_servicegroup.evzookeeper.address import check_address
from nova_servicegroup.evzookeeper.session import ZKSession
from nova_servicegroup.evzookeeper.states import CLOSED
from nova_servicegroup.evzookeeper.states import CONNECTED
from nova_servicegroup.evzookeeper.states import CONNECTING
from nova_servicegroup.evzookeeper.states import EXPIRED
from nova_servicegroup.evzookeeper.states import NO_KEEPER
from nova_servicegroup.evzookeeper.states import REFUSED
from nova_servicegroup.evzookeeper.states import SUSPENDED

__all__ = ['CLOSED', 'CONNECTED', 'CONNECTING', 'EXPIRED', 'NO_KEEPER',
           'REFUSED', 'SUSPENDED', 'ZKSession', 'check_address']
