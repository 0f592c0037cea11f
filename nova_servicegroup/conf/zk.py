# SPDX-License-Identifier: Apache-2.0

"""Options of the zk driver."""

from oslo_config import cfg

from nova_servicegroup import exception

GROUP = cfg.OptGroup(
    'zookeeper', title='ZooKeeper',
    help='The ensemble that the zk driver keeps its memberships in.')

OPTS = [
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
each process, and is more likely to mistake a short network failure for the
loss of a host.
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
Seconds between retries of what failed for another reason than the network.

A keeper process that can't be started, a node that ZooKeeper refuses, an
identity that it refuses. A lost connection is tried again at least every
second, whatever this is.
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
            ('none', 'no identity: any client that reaches the servers can '
                     'change and delete what is made'),
            ('digest', 'username and password, as ZooKeeper itself keeps '
                       'them; the servers need no configuration. The '
                       'password crosses the network: use_tls'),
            ('sasl', 'username and password by SASL DIGEST-MD5; the servers '
                     'know the users'),
            ('x509', 'the subject of the client certificate, which has to be '
                     'the same on all hosts'),
        ],
        help="""
How Nova's services authenticate to ZooKeeper.

With an identity, only clients that have it can add members or remove them. All
services of a cloud need the same one: it stands in the ACLs of the
directories. Directories that were made without an identity stay as open as
they are until ``nova-servicegroup zookeeper tighten`` is run.

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

It reaches the keeper process through a socket, and never stands in arguments,
environments or logs.

Related options:

* ``[zookeeper] auth_scheme``: ``digest`` or ``sasl``
"""),
    cfg.BoolOpt(
        'open_reading',
        default=True,
        help="""
Let any client that reaches the servers read the list of members.

False hides names and data from all but the identity of the Nova services,
monitors included. It doesn't hide that a session exists. Needs an identity.

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


def security(conf):
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
