# SPDX-License-Identifier: Apache-2.0

"""Names of members' nodes.

A node's name is ``<host>@<token>``: the host percent-encoded, the token
different in each incarnation. So a restarted process never collides with its
own stale node, and one host may have several nodes.
"""

import re
from urllib import parse

_NODE = re.compile(r'([A-Za-z0-9_.~%-]+)@([0-9a-f]{16})\Z')


def quote(text):
    """Return text as one path element that ZooKeeper accepts."""
    quoted = parse.quote(text, safe='', errors='surrogatepass')
    # ZooKeeper refuses elements of dots alone.
    return quoted.replace('.', '%2E') if not quoted.strip('.') else quoted


def node(host, token):
    """Return the name of a host's node; token is 16 hex digits."""
    return '%s@%s' % (quote(host), token)


def host(name):
    """Return the host of a node's name, None if it is no member's."""
    match = _NODE.match(name)
    return None if match is None else unquote(match[1])


def unquote(quoted):
    """Return the text whose ``quote`` this is; None if there is none."""
    try:
        found = parse.unquote(quoted, errors='surrogatepass')
    except UnicodeDecodeError:
        return None
    # Only one spelling of a host is ours.
    return found if quote(found) == quoted else None
