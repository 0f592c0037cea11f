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

"""Every option of the package.

``service_down_time``, ``report_interval`` and ``servicegroup_driver`` are
Nova's own and are only read here.
"""

from oslo_config import cfg

from nova_servicegroup import exception

SERVICEGROUP_GROUP = cfg.OptGroup(
    'servicegroup', title='Liveness of services',
    help='How the drivers of nova-servicegroup judge whether a service is up.')

SERVICEGROUP_OPTS = [
    cfg.FloatOpt(
        'outage_grace',
        min=0,
        help="""
Seconds for which the last known answers stand when the store can't be reached.

A driver that can't ask its store doesn't know who died meanwhile. For this
long it repeats what it knew; after that the answer is "unknown" and
``outage_policy`` decides. More rides out longer outages, and delays the moment
at which the loss of a host during an outage can be noticed.

Default: the value of ``[DEFAULT] service_down_time``.

Related options:

* ``[servicegroup] outage_policy``
* ``[DEFAULT] service_down_time``
"""),
    cfg.StrOpt(
        'outage_policy',
        default='raise',
        choices=[
            ('raise', 'ServiceGroupUnavailable: the request that asked fails; '
                      'nothing is evacuated, deleted or placed on a guess'),
            ('up', 'assume the service lives: builds go on, and may go to a '
                   'host that died; evacuation is refused'),
            ('down', 'assume the service died: evacuation is allowed, even of '
                     'a host that still runs the instances'),
        ],
        help="""
What Nova is told when a driver can't tell whether a service is up.

Nova's question has two answers only, and both can do harm when they are
guessed: "down" opens evacuation (two copies of one instance) and makes a
delete local; "up" sends builds to a host that may be gone.

Related options:

* ``[servicegroup] outage_grace``
"""),
    cfg.FloatOpt(
        'mass_failure_threshold',
        default=0.5,
        min=0, max=1,
        help="""
Part of a group (0 to 1) whose silence is taken for a failure of reporting.

When more than this part of a group of at least ten members falls silent within
one ``service_down_time``, it is more often the reporting path that died (the
message bus, the database, a switch) than the hosts. They are then treated as
in an outage: held as up for ``outage_grace``, then "unknown". It ends when
enough members are back. Members that leave, or that are forced down, don't
count and are believed at once. 1 turns the guard off; less guards against
smaller failures, and asks for ``forced_down`` by hand more often.

Related options:

* ``[servicegroup] outage_grace``
* ``[servicegroup] outage_policy``
"""),
    cfg.ListOpt(
        'also_report',
        default=[],
        help="""
Drivers through which a service reports beside its own, by name.

For moving a fleet from one driver to another with no moment at which a living
host looks down: first let every node report through both, then switch the
readers over, then stop the old reports. Every driver named here costs its own
heartbeats; answers come from ``servicegroup_driver`` alone.

Related options:

* ``[DEFAULT] servicegroup_driver``
"""),
    cfg.BoolOpt(
        'leave_on_stop',
        help="""
Leave the group when the service is stopped in order.

True makes a stop visible at once, and a restart too: while the service is
away, a delete of its instances is local, a resize is refused and evacuation is
allowed. False leaves the evidence to run out by itself, so that a quick
restart goes unseen.

Default: what suits the driver; ``db`` leaves its row in either case, as Nova
always did, so the service is down ``service_down_time`` after the stop.
"""),
]

# The mc driver

MEMCACHED_OPTS = [
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
last known answers stand for ``outage_grace`` and are "unknown" after that.
Without meaning when there is one server.

Related options:

* ``[cache] memcache_servers``
* ``[servicegroup] outage_grace``
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

# The documented name of old; Nova itself dropped it in 14.0.0.
MEMCACHED_SERVERS_OPTS = [
    cfg.ListOpt(
        'memcached_servers',
        help="""
The memcached servers of the ``mc`` driver, by the name of old.

Set ``[cache] memcache_servers`` instead. The value ``<None>`` means a cache in
each process, so that no process sees another: for trials on one process only.

Related options:

* ``[cache] memcache_servers``
"""),
]


ZOOKEEPER_GROUP = cfg.OptGroup(
    'zookeeper', title='ZooKeeper',
    help='The ensemble that the zk driver keeps its memberships in.')

ZOOKEEPER_OPTS = [
    # A StrOpt would hand on the quotes of address="h1:2181,h2:2181".
    cfg.Opt(
        'address',
        type=cfg.types.String(quotes=True),
        sample_default='zk1:2181,zk2:2181,zk3:2181',
        help="""
The servers of the ensemble, as host:port, separated by commas.

All of them, so that any may fail. A path after the last one
(``zk1:2181,zk2:2181/region1``) is put before every path that is used; it is
made when it is missing.
"""),
    cfg.IntOpt(
        'recv_timeout',
        default=4000,
        min=100,
        help="""
Timeout of a ZooKeeper session, in milliseconds.

How long a host that loses power or network is still up: from two thirds of
this to all of it, and a tick of the server. A process that is killed or
stopped is seen within milliseconds in any case, and a busy one isn't harmed.
Less sees a lost host sooner, costs ZooKeeper a ping every third of it from
each process, and tells apart worse a short network failure and a lost host.
The servers only grant what is between twice and twenty times their tickTime,
or between their minSessionTimeout and maxSessionTimeout.
"""),
    cfg.StrOpt(
        'sg_prefix',
        default='/servicegroups',
        regex=r'^(/[^/]+)+$',
        help="""
The path under which each group has its directory.

It is made when it is missing. Clouds that share an ensemble need a different
one each.
"""),
    cfg.IntOpt(
        'sg_retry_interval',
        default=5,
        min=1,
        help="""
Seconds between attempts at what failed for another reason than the network.

A keeper process that can't be started, a node that ZooKeeper refuses, an
identity that it doesn't take. A lost connection is tried again every second
at most, whatever this is.
"""),
    cfg.FloatOpt(
        'first_listing_timeout',
        default=5.0,
        min=0,
        help="""
Seconds for which a process's first question waits for the first listing.

The first question about a group starts the process's session and its view of
the group, which takes about a fifth of a second. While there is no view, the
answer is "unknown" and ``[servicegroup] outage_policy`` decides. Later
questions never wait.
"""),
    cfg.FloatOpt(
        'rejoin_grace',
        default=0.0,
        min=0,
        help="""
Seconds for which a membership outlives its process, to hide a restart.

Only with ``[servicegroup] leave_on_stop = false``. A service that is back
within this time was never seen to be away; one that was killed is seen as
down that much later, too. systemd must leave the keeper process alone for
this: ``KillMode=process``.

Related options:

* ``[servicegroup] leave_on_stop``
"""),
]


def list_opts():
    """Return the options for oslo.config's generator.

    :returns: list of (OptGroup, or None for [DEFAULT]; list of options)
    """
    return [(SERVICEGROUP_GROUP, SERVICEGROUP_OPTS + MEMCACHED_OPTS),
            (None, MEMCACHED_SERVERS_OPTS),
            (ZOOKEEPER_GROUP, ZOOKEEPER_OPTS)]


def register_opts(conf):
    """Make the options known to ``conf``; a second call does nothing."""
    for group, opts in list_opts():
        if isinstance(group, cfg.OptGroup):
            conf.register_group(group)
        conf.register_opts(opts, group=group)


class Settings:
    """The values that are read on every question, read from CONF once.

    Reading an option costs about a microsecond, and the scheduler asks a
    thousand times per request (Nova commit 956b37dcf0). ``API`` refreshes
    this when it is made, so that drivers made earlier see a changed value.
    """

    def __init__(self, conf):
        self.conf = conf
        self.refresh()

    def refresh(self):
        self.report_interval = self.conf.report_interval
        self.service_down_time = self.conf.service_down_time
        group = self.conf.servicegroup
        self.outage_grace = (self.service_down_time
                             if group.outage_grace is None
                             else group.outage_grace)
        self.outage_policy = group.outage_policy
        self.mass_failure_threshold = group.mass_failure_threshold


def settings(conf):
    """Return the one Settings object of ``conf``, registering the options."""
    try:
        return _settings[id(conf)]
    except KeyError:
        register_opts(conf)
        return _settings.setdefault(id(conf), Settings(conf))


# ConfigOpts can't be hashed; a Settings keeps its own alive, and so its id.
_settings = {}


def check_intervals(conf):
    """Refuse intervals that can't work; return those that can.

    :returns: (report_interval, service_down_time) in seconds
    :raises ConfigurationError: when one of them isn't positive
    """
    for name, example in (('report_interval', 10), ('service_down_time', 60)):
        value = getattr(conf, name)
        if value is None or value <= 0:
            raise exception.ConfigurationError(
                '[DEFAULT] %s is %s, but must be at least 1 second: set '
                '%s = %s in nova.conf.' % (name, value, name, example))
    return conf.report_interval, conf.service_down_time
