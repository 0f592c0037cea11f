# SPDX-License-Identifier: Apache-2.0

"""The format of a heartbeat: that of Nova's in-tree driver.

Observed on the wire (Nova 34, oslo.cache 4.3, dogpile.cache 1.5,
python-memcached 1.62; the back ends ``dogpile.cache.memcached`` and
``oslo_cache.memcache_pool``):

* the key is the SHA-1 of ``<topic>:<host>``, in hexadecimal;
* the flags are 1, for pickled;
* the value is dogpile's ``CachedValue(payload, metadata)`` pickled by
  protocol 0. The payload is the time of the heartbeat as a naive datetime in
  UTC; the metadata are ``ct``, the same time as seconds since 1970, and
  ``v``, dogpile's version of the format.

This package adds metadata, which in-tree readers ignore:

* ``workers``: the last heartbeat of each process behind the key;
* ``gap``: start and end of the last time without heartbeats, if too long;
* ``end``: ``stopped`` after a graceful stop. In-tree readers take this for an
  ordinary heartbeat.

A later release may append fields whose values are None, numbers, text in
Latin-1 without backslashes (and no text twice: pickle would refer to the first
one), or non-empty tuples of these. Readers ignore them.

The payload of a removed member is None, which in-tree readers take for no
heartbeat. Values don't expire: readers judge a lost host by its last sign of
life.

Nothing in here blocks or keeps state; all functions are thread-safe.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
import math
import pickle
import re
import typing
import zlib

from dogpile.cache import api as dogpile_api
from dogpile.cache import region as dogpile_region

from nova_servicegroup.liveness import End
from nova_servicegroup.liveness import Gap

FLAG_PICKLED = 1
FLAG_COMPRESSED = 8

#: bytes; a heartbeat has some 300, and 50 more for each further worker
MAX_SIZE = 16384
#: maximum number of workers of one service on one host
MAX_WORKERS = 200

EPOCH = datetime.datetime(1970, 1, 1)
UTC = datetime.timezone.utc
_STOPPED = 'stopped'


class Unreadable(ValueError):
    """A value that is not a heartbeat."""


class Beat(typing.NamedTuple):
    """A decoded heartbeat.

    ``stamp``: its time by the writer's clock, seconds since 1970.
    ``moment``: the same as an aware UTC datetime; None for LEFT.
    ``workers``: stamps of each process's last heartbeat, by token.
    ``gap``: a liveness.Gap by the writer's clock, or None.
    ``end``: a liveness.End if it is the last one, STOPPED or LEFT, or None.
    """

    stamp: float
    moment: datetime.datetime | None
    workers: dict
    gap: Gap | None = None
    end: End | None = None


def key(topic, host, prefix=''):
    """Return the key of a service's heartbeat.

    Hashed, so that any host name works: a key in memcached has no spaces, no
    control characters and 250 bytes at most.
    """
    name = '%s:%s' % (topic, host)
    # As in oslo.cache: a character that UTF-8 lacks becomes &#number;.
    data = name.encode('utf-8', errors='xmlcharrefreplace')
    return prefix + hashlib.sha1(data, usedforsecurity=False).hexdigest()


def stamp_of(moment):
    """Return a naive UTC datetime as seconds since 1970."""
    return (moment - EPOCH).total_seconds()


def encode(stamp, moment, workers, gap=None, stopped=False):
    """Return the value to store, with the flags ``FLAG_PICKLED``.

    :param moment: naive UTC datetime of the heartbeat, None for LEFT
    :param gap: a liveness.Gap, or None
    :param stopped: the service was stopped gracefully at that time
    """
    newest = sorted(workers.items(), key=lambda item: item[1])[-MAX_WORKERS:]
    metadata = {'ct': stamp, 'v': dogpile_region.value_version,
                'workers': dict(newest)}
    if gap is not None:
        metadata['gap'] = float(gap.start), float(gap.end)
    if stopped:
        metadata['end'] = _STOPPED
    return pickle.dumps(dogpile_api.CachedValue(moment, metadata), protocol=0)


def decode(flags, data):
    """Return the Beat of a stored value.

    Unpickles nothing: compares the value with a pattern.

    :param flags: as stored, or None if the value is too long to be read
    :raises Unreadable: it is not a heartbeat
    """
    if flags is None or len(data) > MAX_SIZE:
        raise Unreadable('it has more than %d bytes' % MAX_SIZE)
    if flags == FLAG_PICKLED | FLAG_COMPRESSED:
        data = _inflate(data)
    elif flags != FLAG_PICKLED:
        raise Unreadable('it has the flags %d' % flags)
    match = _pattern().fullmatch(data)
    if match is None:
        raise Unreadable('it does not look like one')
    try:
        return _beat(*match.groups())
    except Unreadable:
        raise
    except ValueError as e:
        raise Unreadable(str(e)) from e


def _inflate(data):
    inflater = zlib.decompressobj()
    try:
        # With a limit: 200 KB may be 200 MiB inflated.
        data = inflater.decompress(data, MAX_SIZE)
    except zlib.error as e:
        raise Unreadable('it cannot be inflated: %s' % e) from e
    if not inflater.eof:
        raise Unreadable('it has more than %d bytes, inflated' % MAX_SIZE)
    return data


def _moment(state):
    """Return an aware datetime from the ten bytes in a datetime's pickle."""
    if len(state) != 10:
        raise Unreadable('a datetime of %d bytes' % len(state))
    return datetime.datetime(
        state[0] * 256 + state[1], *state[2:7],
        int.from_bytes(state[7:], 'big'), tzinfo=UTC)


def _seconds(number):
    seconds = float(number)
    if not math.isfinite(seconds):
        raise Unreadable('%.50r is no time' % number)
    return seconds


@functools.lru_cache(maxsize=1)
def _pattern():
    """Return the pattern of a heartbeat's bytes.

    dogpile.cache 1.1 to 1.5 writes the same bytes with Python 3.8 to 3.13.
    """
    number = rb'F(-?[0-9.e+]{1,32})\n'
    memo = rb'p[0-9]{1,4}\n'
    # Fields of later releases. An unpickler must accept them, too.
    plain = (
        rb'(?:N|I-?[0-9]{1,100}\n|L-?[0-9]{1,100}L\n'
        rb'|F(?:-?[0-9]{1,20}(?:\.[0-9]{1,20})?(?:e[+-]?[0-9]{1,3})?'
        rb'|-?inf|nan)\n|V[^\n\\]*\n' + memo + rb')')
    added = (
        rb'V(?!(?:ct|v|workers|gap|end)\n)[a-z_]{1,32}\n' + memo +
        rb'(?:' + plain + rb'|\(' + plain + rb'+t' + memo + rb')s')
    return re.compile(
        rb'ccopy_reg\n_reconstructor\np0\n'
        rb'\(cdogpile\.cache\.api\nCachedValue\np1\n'
        rb'c__builtin__\ntuple\np2\n\('
        rb'(?:cdatetime\ndatetime\np3\n'
        rb'\(c_codecs\nencode\np4\n'
        rb'\(V([^\n]{1,60})\np5\nVlatin1\np6\ntp7\nRp8\ntp9\nRp10\n|N)'
        rb'\(d' + memo + rb'Vct\n' + memo + number + rb'sVv\n' + memo +
        rb'I%d\n' % dogpile_region.value_version +
        rb's(?:Vworkers\n' + memo + rb'\(d' + memo +
        rb'((?:V[0-9a-f-]{1,32}\np[0-9]{1,4}\n'
        rb'F-?[0-9.e+]{1,32}\ns)*)s)?'
        rb'(?:Vgap\n' + memo + rb'\(' + number + number +
        rb't' + memo + rb's)?'
        rb'(Vend\n' + memo + rb'Vstopped\n' + memo + rb's)?'
        rb'(?:' + added + rb')*'
        rb't' + memo + rb't' + memo + rb'R' + memo + rb'\.')


_WORKER = re.compile(rb'V([0-9a-f-]+)\np[0-9]+\nF([^\n]+)\ns')


def _beat(state, written, workers, start, end, stopped):
    """Return the Beat of the groups that the pattern matched."""
    moment, stamp = None, _seconds(written)
    if state is not None:
        moment = _moment(state.decode('raw_unicode_escape').encode('latin1'))
        stamp = moment.timestamp()
    return Beat(
        stamp, moment,
        {token.decode(): _seconds(seconds)
         for token, seconds in _WORKER.findall(workers or b'')},
        Gap(_seconds(start), _seconds(end)) if start else None,
        End.LEFT if moment is None else End.STOPPED if stopped else None)
