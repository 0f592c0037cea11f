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

The ``mc`` driver reads the heartbeats of all services in one request, and does
not read them again before this time has passed. Lower values detect a lost
service sooner and cost more requests; 0 means a request per query. The time
adds to ``service_down_time``, and should be small compared with it.

Related options:

* ``[DEFAULT] service_down_time``
"""),
    cfg.BoolOpt(
        'mc_replicate',
        default=True,
        help="""
Write each heartbeat to every memcached server, not to one of them.

True: a reader needs only one of the servers, so the loss of one changes no
answer; each heartbeat costs a write per server. False: the key selects the
server of a service, as in python-memcached; when that server is lost, the last
known answers hold for ``service_down_time`` and are "unknown" afterwards.
No effect with one server.

Related options:

* ``[cache] memcache_servers``
"""),
    cfg.StrOpt(
        'mc_key_prefix',
        default='',
        help="""
Prefix of each key of the ``mc`` driver in memcached.

Clouds that share a memcached need different ones: otherwise services with the
same host name are taken for one. At most 200 printable ASCII characters
without spaces, the same on every node of a cloud. Nova's in-tree driver has no
prefix: leave this empty while some nodes use that driver, and change it only
while all services of the cloud are stopped.
"""),
]

# The documented legacy name; Nova itself dropped it in 14.0.0.
DEFAULT_OPTS = [
    cfg.ListOpt(
        'memcached_servers',
        help="""
Legacy option for the memcached servers of the ``mc`` driver.

Set ``[cache] memcache_servers`` instead. The value ``<None>`` means a cache in
each process, which no other process sees: for trials with one process only.

Related options:

* ``[cache] memcache_servers``
"""),
]
