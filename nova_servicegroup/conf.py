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
from nova_servicegroup import liveness

SERVICEGROUP_GROUP = cfg.OptGroup(
    'servicegroup', title='Liveness of services',
    help='How the drivers of nova-servicegroup judge whether a service is up.')

SERVICEGROUP_OPTS = [
    cfg.FloatOpt(
        'restart_grace',
        min=0,
        mutable=True,
        help="""
Seconds for which the end of a service's process is no loss of its host.

A nova-compute that was stopped, was killed or hangs gets no new instances at
once, and its instances run on. Everything that acts as if the host were gone
(evacuation, the service list that fencing tools read, a local delete) sees it
as down when its last sign of life is this old. So restarts and upgrades that
take less time stay invisible to these tools. More allows longer restarts; less
lets a host whose nova-compute doesn't come back be evacuated sooner; 0 is at
once. A host that loses power or network is not affected by this option.

Default: the value of ``[DEFAULT] service_down_time``.

Related options:

* ``[DEFAULT] service_down_time``
* ``[servicegroup] leave_on_stop``
"""),
    cfg.StrOpt(
        'outage_policy',
        default='safe',
        mutable=True,
        choices=[
            ('safe', 'the host counts as up: it is not evacuated and nothing '
                     'of it is deleted behind its back. The scheduler takes '
                     'it for new instances only if no other host will do'),
            ('up', 'the host counts as up for everybody: new instances may '
                   'go to a host that is dead'),
            ('down', 'the host counts as down for everybody: evacuation is '
                     'allowed, even of a host that still runs the instances'),
        ],
        help="""
What Nova is told when a driver can't tell whether a host is up.

Nova asks two questions by one method: may I place an instance there, and may I
act as if the host were gone? A wrong answer to the second one can start an
instance twice. No choice raises an error in Nova.

Related options:

* ``[servicegroup] mass_failure_threshold``
* ``[servicegroup] outage_grace``
"""),
    cfg.FloatOpt(
        'mass_failure_threshold',
        default=0.5,
        min=0,
        mutable=True,
        help="""
Part of the computes (0 to 1) whose silence at the same time is doubted.

When at least this part of the computes that report together, and at least two
of them, fall silent together, the message bus, the database or a switch is
more likely to have failed than all of these hosts. Then Nova is told what
``outage_policy`` says. The only compute of a cell is doubted as well, while
nothing shows that it could report. Less doubts smaller failures. A value above
1 turns the guard off: then every silent host is down.

A compute that was stopped in order or killed is believed in any case. To end a
doubt about hosts that are known to be dead, force them down.

Related options:

* ``[servicegroup] mass_failure_window``
* ``[servicegroup] outage_grace``
* ``[servicegroup] outage_policy``
"""),
    cfg.FloatOpt(
        'mass_failure_window',
        default=300.0,
        min=0,
        mutable=True,
        help="""
Seconds within which computes must fall silent to count as silent together.

More recognises outages that spread slowly, and doubts hosts that are switched
off one after the other.

Related options:

* ``[servicegroup] mass_failure_threshold``
"""),
    cfg.FloatOpt(
        'outage_grace',
        default=600.0,
        min=0,
        mutable=True,
        help="""
Seconds that hosts have to come back after an outage, at most.

While computes that were silent together come back one after the other, those
that are still missing are not down. They are down when none of the others came
back for ``service_down_time``, and at the latest this long after the first one
was back. More suits large deployments that take long to come back; less sees a
host sooner that was lost in the outage.

Related options:

* ``[servicegroup] mass_failure_threshold``
* ``[DEFAULT] service_down_time``
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
        default=True,
        help="""
Tell the store when the service is stopped in order.

True: the scheduler places nothing there from then on, and the rest of Nova
sees the service as down after ``restart_grace``. False: the last heartbeat
runs out by itself, and a planned stop of many services looks like an outage.

Related options:

* ``[servicegroup] restart_grace``
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
this to all of it and one and a half ticks of the servers, or to a third more
if only the servers' answers are lost. With a tickTime of a ninth of this that
is one and a half times this at most. A process that is killed or stopped is
seen within milliseconds in any case, and a busy one isn't harmed.
Less sees a lost host sooner, costs ZooKeeper a ping every third of it from
each process, and tells apart worse a short network failure and a lost host.
The servers only grant what is between twice and twenty times their tickTime,
or between their minSessionTimeout and maxSessionTimeout.
"""),
    cfg.StrOpt(
        'sg_prefix',
        default='/servicegroups',
        regex=r'^(/(?!\.\.?(/|$))[^/]+)+$',
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
the group, which takes about a fifth of a second. If a host is missing then and
nothing tells why, a new process waits for half of ``recv_timeout`` whether it
comes back. While nothing is known, ``[servicegroup] outage_policy`` decides.
Later questions never wait.
"""),
    cfg.StrOpt(
        'auth_scheme',
        default='none',
        choices=[
            ('none', 'nobody in particular: whatever is made can be changed '
                     'and deleted by whoever reaches the servers'),
            ('digest', 'username and password, as ZooKeeper itself keeps '
                       'them; the servers need no configuration. The '
                       'password crosses the network: use_tls'),
            ('sasl', 'username and password by SASL DIGEST-MD5; the servers '
                     'know the users'),
            ('x509', 'the subject of the client certificate, which has to be '
                     'the same on all hosts'),
        ],
        help="""
How the fleet proves to ZooKeeper who it is.

With an identity, only who has it can add members or remove them. All services
of a cloud need the same one: it stands in the access control lists of the
directories. Directories that were made without an identity stay as open as
they are until ``nova-servicegroup zookeeper tighten`` is run.

Access control lists don't keep a stranger who reaches the servers' port from
ending somebody's session; client certificates that the servers ask for do.

Related options:

* ``[zookeeper] username`` and ``password``
* ``[zookeeper] use_tls`` and ``cert_file``
* ``[zookeeper] open_reading``
"""),
    cfg.StrOpt(
        'username',
        help="""
The user that the fleet is to ZooKeeper, without a colon.

Related options:

* ``[zookeeper] auth_scheme``: ``digest`` or ``sasl``
"""),
    cfg.StrOpt(
        'password',
        secret=True,
        help="""
The password of ``[zookeeper] username``.

It reaches the keeper process through a socket, and never stands in arguments,
environments or logs.

Related options:

* ``[zookeeper] auth_scheme``: ``digest`` or ``sasl``
"""),
    cfg.BoolOpt(
        'open_reading',
        default=True,
        help="""
Let everybody who reaches the servers read who is a member.

False hides names and data from all but the fleet's identity, monitors
included. It doesn't hide that somebody has a session. Needs an identity.

Related options:

* ``[zookeeper] auth_scheme``
"""),
    cfg.BoolOpt(
        'use_tls',
        default=False,
        help="""
Speak TLS (1.2 or later) with the servers.

``address`` has to name their ``secureClientPort`` then. The certificates of
the servers are always checked.

Related options:

* ``[zookeeper] ca_file``, ``check_hostname``, ``cert_file``
"""),
    cfg.StrOpt(
        'ca_file',
        help="""
File with the certificates that sign those of the servers, in PEM format.

Only these are trusted then. Without it all that the system trusts are: any of
the public authorities. It is read anew at each connection.

Related options:

* ``[zookeeper] use_tls``
"""),
    cfg.BoolOpt(
        'check_hostname',
        default=True,
        help="""
The certificate of a server must be for the host that ``address`` names.

False accepts every certificate that ``ca_file`` has signed, those of clients
and of other services included. Needs kazoo 2.11 or later.

Related options:

* ``[zookeeper] use_tls``
* ``[zookeeper] address``
"""),
    cfg.StrOpt(
        'cert_file',
        help="""
File with the client certificate, in PEM format.

For servers with ``ssl.clientAuth=need``, which keeps everybody without one
out. The private key may stand in the same file. Both are read anew at each
connection, so that a renewed certificate needs no restart.

Related options:

* ``[zookeeper] use_tls``, ``key_file``, ``key_password``
* ``[zookeeper] auth_scheme``: ``x509``
"""),
    cfg.StrOpt(
        'key_file',
        help="""
File with the private key of ``[zookeeper] cert_file``, in PEM format.

Default: the key stands in ``cert_file``. The user that Nova runs as must be
able to read it, and nobody else should.

Related options:

* ``[zookeeper] cert_file``, ``key_password``
"""),
    cfg.StrOpt(
        'key_password',
        secret=True,
        help="""
The password that the private key is encrypted with.

It reaches the keeper process as ``[zookeeper] password`` does.

Related options:

* ``[zookeeper] key_file``
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
        self.outage_policy = group.outage_policy
        self.rules = liveness.Rules(
            down_time=self.service_down_time,
            restart_grace=(self.service_down_time
                           if group.restart_grace is None
                           else group.restart_grace),
            threshold=group.mass_failure_threshold,
            window=group.mass_failure_window,
            outage_grace=group.outage_grace)


def settings(conf):
    """Return the one Settings object of ``conf``, registering the options."""
    try:
        return _settings[id(conf)]
    except KeyError:
        register_opts(conf)
        made = _settings.setdefault(id(conf), Settings(conf))
        # SIGHUP makes Nova read its configuration anew.
        conf.register_mutate_hook(lambda conf, fresh: made.refresh())
        return made


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


def zookeeper_security(conf):
    """Refuse options of security that don't fit; return those that do.

    Opens no file and asks no server.

    :returns: dict of ``auth``, ``tls`` and ``open_reading``, as a ZKSession
        takes them
    :raises ConfigurationError: names the option and what to do
    """
    options = conf.zookeeper

    def refuse(text):
        raise exception.ConfigurationError('[zookeeper] ' + text)

    scheme = options.auth_scheme
    auth = None
    if scheme in ('digest', 'sasl'):
        for name in ('username', 'password'):
            if not getattr(options, name):
                refuse('%s is missing, which auth_scheme = %s needs: set it.'
                       % (name, scheme))
        if ':' in options.username:
            refuse('username has a colon, which ends the name for ZooKeeper: '
                   'choose another.')
        auth = (scheme, '%s:%s' % (options.username, options.password))
    else:
        for name in ('username', 'password'):
            if getattr(options, name):
                refuse('%s has no effect with auth_scheme = %s: set '
                       'auth_scheme = digest or sasl, or remove it.' % (
                           name, scheme))
    if scheme == 'x509':
        if not options.cert_file:
            refuse('cert_file is missing, whose subject is the identity with '
                   'auth_scheme = x509: set it.')
        auth = (scheme, '')
    if auth is None and not options.open_reading:
        refuse('open_reading = false needs an identity that may read: set '
               'auth_scheme.')

    tls = None
    if options.use_tls:
        for name in ('key_file', 'key_password'):
            if getattr(options, name) and not options.cert_file:
                refuse('cert_file is missing, whose key %s is about: set it.'
                       % name)
        tls = {name: getattr(options, name)
               for name in ('ca_file', 'check_hostname', 'cert_file',
                            'key_file', 'key_password')}
    else:
        for name in ('ca_file', 'cert_file', 'key_file', 'key_password'):
            if getattr(options, name):
                refuse('%s has no effect without TLS: set use_tls = true, '
                       'and address to the secureClientPort of the servers.'
                       % name)
    return {'auth': auth, 'tls': tls, 'open_reading': options.open_reading}
