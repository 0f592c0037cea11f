# SPDX-License-Identifier: Apache-2.0

"""Names of znodes: which host a node stands for.

A member's node is called ``<host>@<token>``: the host percent-encoded, since
it may hold anything, the token different in each incarnation. A host that is
restarted never meets its own stale node, and several processes of one host
stand side by side.
"""

import re
from urllib import parse

_NODE = re.compile(r'([A-Za-z0-9_.~%-]+)@([0-9a-f]{16})\Z')


def quote(text):
    """Return text as one path element that ZooKeeper takes."""
    quoted = parse.quote(text, safe='', errors='surrogatepass')
    # An element of dots alone is refused (or worse, is the parent).
    return quoted.replace('.', '%2E') if not quoted.strip('.') else quoted


def node(host, token):
    """Return the name of a host's node; token is 16 hex digits."""
    return '%s@%s' % (quote(host), token)


def host(name):
    """Return the host that a node stands for, None if it is none of ours."""
    match = _NODE.match(name)
    return None if match is None else unquote(match[1])


def unquote(quoted):
    """Return the text of which ``quote`` makes this; None if there is none."""
    try:
        found = parse.unquote(quoted, errors='surrogatepass')
    except UnicodeDecodeError:
        return None
    # Only one spelling of a host is ours.
    return found if quote(found) == quoted else None
