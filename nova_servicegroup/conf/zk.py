# SPDX-License-Identifier: Apache-2.0

"""Options of the zk driver."""

from oslo_config import cfg

from nova_servicegroup import exception

GROUP = cfg.OptGroup(
    'zookeeper', title='ZooKeeper',
    help='The ZooKeeper ensemble of the zk driver.')

OPTS = [
    # A StrOpt would keep the quotes of address="h1:2181,h2:2181".
    cfg.Opt(
        'address',
        type=cfg.types.String(quotes=True),
        sample_default='zk1:2181,zk2:2181,zk3:2181',
        help="""
All servers of the ensemble, as host:port, separated by commas.

A path after the last one (``zk1:2181,zk2:2181/region1``) becomes the root of
all paths; it is created if it is missing.
"""),
    cfg.IntOpt(
        'recv_timeout',
        default=4000,
        min=100,
        help="""
Timeout of a ZooKeeper session, in milliseconds.

The session of a host that loses power or network ends after two thirds of this
timeout to all of it plus one and a half ticks of the servers, or a third more
if only the servers' answers are lost. With a tickTime of a ninth of this that
is at most one and a half times this. The host gets no new instances from then
on, and is down half of this timeout later. A process that is killed or stopped
is detected within milliseconds in any case, and a busy one isn't affected.
Lower values detect a lost host sooner, cost ZooKeeper more pings (each process
sends one every third of this), and are more likely to mistake a short network
failure for the loss of a host.
The servers only grant values between twice and twenty times their tickTime, or
between their minSessionTimeout and maxSessionTimeout.
"""),
    cfg.StrOpt(
        'sg_prefix',
        default='/servicegroups',
        regex=r'^(/(?!\.\.?(/|$))[^/]+)+$',
        help="""
Path of the directory that holds the directories of the groups.

It is created if it is missing. Clouds that share an ensemble need different
ones.
"""),
    cfg.IntOpt(
        'sg_retry_interval',
        default=5,
        min=1,
        help="""
Seconds between retries after failures other than of the network.

Such as a keeper process that can't be started, or a znode or an identity that
ZooKeeper refuses. A lost connection is retried at least every second,
regardless of this option.
"""),
    cfg.FloatOpt(
        'first_listing_timeout',
        default=5.0,
        min=0,
        help="""
Seconds for which the first query of a process waits for the first listing.

The first query about a group starts the process's session and its view of the
group, which takes about a fifth of a second. If a host is missing without a
recorded reason, a new process waits half of ``recv_timeout`` for its return.
While nothing is known, ``[servicegroup] outage_policy`` decides. Later queries
never wait.
"""),
    cfg.StrOpt(
        'auth_scheme',
        default='none',
        choices=[
            ('none', 'no identity: any client that reaches the servers can '
                     'change and delete the znodes'),
            ('digest', 'username and password, without configuration of the '
                       'servers. The password is sent over the network: set '
                       'use_tls'),
            ('sasl', 'username and password by SASL DIGEST-MD5; the users are '
                     'configured on the servers'),
            ('x509', 'the subject of the client certificate, which must be '
                     'the same on all hosts'),
        ],
        help="""
How Nova's services authenticate to ZooKeeper.

With an identity, only clients that have it can add or remove members. All
services of a cloud need the same one, as the ACLs of the directories name it.
Directories that were created without an identity stay open until
``nova-servicegroup zookeeper tighten`` is run.

ACLs don't stop an unauthenticated client that reaches the servers' port from
ending another client's session; client certificates that the servers require
do.

Related options:

* ``[zookeeper] username`` and ``password``
* ``[zookeeper] use_tls`` and ``cert_file``
* ``[zookeeper] open_reading``
"""),
    cfg.StrOpt(
        'username',
        help="""
ZooKeeper user name, shared by all Nova services, without a colon.

Related options:

* ``[zookeeper] auth_scheme``: ``digest`` or ``sasl``
"""),
    cfg.StrOpt(
        'password',
        secret=True,
        help="""
The password of ``[zookeeper] username``.

The keeper process gets it through a socket. It is never in arguments,
environment variables or logs.

Related options:

* ``[zookeeper] auth_scheme``: ``digest`` or ``sasl``
"""),
    cfg.BoolOpt(
        'open_reading',
        default=True,
        help="""
Let any client that reaches the servers read the list of members.

False hides names and data from all clients without the identity of the Nova
services, also from monitors. It doesn't hide sessions. Needs an identity.

Related options:

* ``[zookeeper] auth_scheme``
"""),
    cfg.BoolOpt(
        'use_tls',
        default=False,
        help="""
Use TLS (1.2 or later) to the servers.

``address`` must then name their ``secureClientPort``. The certificates of the
servers are always verified.

Related options:

* ``[zookeeper] ca_file``, ``check_hostname``, ``cert_file``
"""),
    cfg.StrOpt(
        'ca_file',
        help="""
File with the CA certificates for those of the servers, in PEM format.

Only these are trusted then. Default: the CAs of the system, which include all
public ones. The file is read again at each connection.

Related options:

* ``[zookeeper] use_tls``
"""),
    cfg.BoolOpt(
        'check_hostname',
        default=True,
        help="""
Verify that the certificate of a server is for the host in ``address``.

False accepts every certificate that ``ca_file`` has signed, also those of
clients and of other services. Needs kazoo 2.11 or later.

Related options:

* ``[zookeeper] use_tls``
* ``[zookeeper] address``
"""),
    cfg.StrOpt(
        'cert_file',
        help="""
File with the client certificate, in PEM format.

For servers with ``ssl.clientAuth=need``, which refuse clients without one. The
private key may be in the same file. Both are read again at each connection, so
a renewed certificate needs no restart.

Related options:

* ``[zookeeper] use_tls``, ``key_file``, ``key_password``
* ``[zookeeper] auth_scheme``: ``x509``
"""),
    cfg.StrOpt(
        'key_file',
        help="""
File with the private key of ``[zookeeper] cert_file``, in PEM format.

Default: the key is in ``cert_file``. Only the user that Nova runs as should be
able to read it.

Related options:

* ``[zookeeper] cert_file``, ``key_password``
"""),
    cfg.StrOpt(
        'key_password',
        secret=True,
        help="""
Password of the private key.

The keeper process gets it as ``[zookeeper] password``.

Related options:

* ``[zookeeper] key_file``
"""),
]


def hosts(conf):
    """Return the servers that ``address`` names, as a ZKSession takes them.

    :raises ConfigurationError: it names none
    """
    # Imported here: programs without zk read these options, too.
    from nova_servicegroup import evzookeeper
    from nova_servicegroup.evzookeeper import exceptions as zk_exc
    try:
        return evzookeeper.check_address(conf.zookeeper.address)
    except zk_exc.BadAddress as e:
        raise exception.ConfigurationError(
            '[zookeeper] address: %s' % e) from e


def security(conf):
    """Return the security options; refuse contradictory ones.

    Opens no file and no connection.

    :returns: dict of ``auth``, ``tls`` and ``open_reading``, as a ZKSession
        takes them
    :raises ConfigurationError: names the option and the fix
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
