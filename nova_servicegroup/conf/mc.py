# SPDX-License-Identifier: Apache-2.0

"""Options of the mc driver."""

from oslo_config import cfg

OPTS = [
    cfg.FloatOpt(
        'view_refresh',
        default=1.0,
        min=0,
        help="""
Seconds for which a process answers from its copy of the heartbeats.

However many services are asked about, the ``mc`` driver asks memcached for
all of them in one request, and not again before this time has passed. Less
lets the death of a service be noticed that much sooner and asks memcached
more often; 0 asks it on every question. It adds to ``service_down_time``,
compared with which it should be small.

Related options:

* ``[DEFAULT] service_down_time``
"""),
    cfg.BoolOpt(
        'mc_replicate',
        default=True,
        help="""
Write each heartbeat to every memcached server, not to one of them.

True: a reader needs any one of the servers, so that the loss of one changes no
answer; each heartbeat costs a write per server. False: each service has its
server, chosen by its key as python-memcached does it; when that is lost, the
last known answers hold for ``service_down_time`` and are "unknown" after that.
Without meaning when there is one server.

Related options:

* ``[cache] memcache_servers``
"""),
    cfg.StrOpt(
        'mc_key_prefix',
        default='',
        help="""
What the ``mc`` driver puts before each key in memcached.

Keeps two clouds that share a memcached apart, which otherwise take services
of the same host name for one. At most 200 printable ASCII characters without
spaces, the same on every node of a cloud. Nova's in-tree driver knows no
prefix: leave this empty as long as some nodes run that one, and change it
with all services of the cloud stopped.
"""),
]

# The documented legacy name; Nova itself dropped it in 14.0.0.
DEFAULT_OPTS = [
    cfg.ListOpt(
        'memcached_servers',
        help="""
The memcached servers of the ``mc`` driver, by their legacy name.

Set ``[cache] memcache_servers`` instead. The value ``<None>`` means a cache in
each process, so that no process sees another: for trials on one process only.

Related options:

* ``[cache] memcache_servers``
"""),
]
