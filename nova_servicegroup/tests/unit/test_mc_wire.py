# SPDX-License-Identifier: Apache-2.0

"""The bytes of heartbeats: those that Nova writes, and hostile ones."""

import datetime
import pickle
import time
import zlib

from dogpile.cache import api as dogpile_api
import pytest

from nova_servicegroup.liveness import End
from nova_servicegroup.liveness import Gap
from nova_servicegroup.memcached import wire

MOMENT = datetime.datetime(2026, 2, 3, 10, 9, 8, 7)
STAMP = wire.stamp_of(MOMENT)
AWARE = MOMENT.replace(tzinfo=datetime.timezone.utc)

# Read from a memcached that Nova 34's in-tree driver had written to, through
# oslo_cache.memcache_pool: the service "compute" on "host1".
KEY_IN_TREE = '7f0b6a8321131fded61f7888fef533504aa8cfd4'
VALUE_IN_TREE = (
    b'ccopy_reg\n_reconstructor\np0\n(cdogpile.cache.api\nCachedValue\np1\n'
    b'c__builtin__\ntuple\np2\n(cdatetime\ndatetime\np3\n(c_codecs\nencode\n'
    b'p4\n(V\x07\xea\x0b\x15\x07\x06\\u000a\\u000afB\np5\nVlatin1\np6\ntp7\n'
    b'Rp8\ntp9\nRp10\n(dp11\nVct\np12\nF1795244770.6816142\nsVv\np13\nI2\ns'
    b'tp14\ntp15\nRp16\n.')


def cached(payload=MOMENT, **metadata):
    metadata = dict({'ct': STAMP, 'v': 2}, **metadata)
    return pickle.dumps(dogpile_api.CachedValue(payload, metadata), 0)


def test_the_key_is_the_one_of_the_in_tree_driver():
    assert wire.key('compute', 'host1') == KEY_IN_TREE
    assert wire.key('compute', 'host1', 'east-') == 'east-' + KEY_IN_TREE


@pytest.mark.parametrize('host', [
    'a b', 'x' * 255, 'h\xf6st', '\u4e3b\u6a5f', 'new\nline', 'lone \udc80',
    '\x00'])
def test_every_host_name_makes_a_key_that_memcached_takes(host):
    from oslo_cache import core
    key = wire.key('compute', host)
    assert key.isalnum() and len(key) == 40
    assert key == core._sha1_mangle_key('compute:' + host)


def test_what_the_in_tree_driver_wrote_is_read():
    beat = wire.decode(1, VALUE_IN_TREE)
    assert beat.moment == datetime.datetime(
        2026, 11, 21, 7, 6, 10, 681538, tzinfo=datetime.timezone.utc)
    assert beat.stamp == beat.moment.timestamp()
    assert beat.workers == {}


def test_what_is_written_is_read_by_dogpile_and_by_us():
    workers = {'1f-00aa': STAMP, '2f-00bb': STAMP - 1.25}
    data = wire.encode(STAMP, MOMENT, workers)
    value = pickle.loads(data)
    assert type(value) is dogpile_api.CachedValue
    assert value.payload == MOMENT
    assert value.metadata['ct'] == STAMP and value.metadata['v'] == 2
    assert wire.decode(1, data) == (STAMP, AWARE, workers, None, None)


@pytest.mark.parametrize('moment', [
    datetime.datetime(1, 1, 1), datetime.datetime(2026, 10, 13, 10, 13),
    datetime.datetime(2026, 9, 26, 0, 26, 10, 0x0c5c0a),
    datetime.datetime(9999, 12, 31, 23, 59, 59, 999999)])
def test_whatever_the_bytes_of_a_moment_are_it_is_read(moment):
    data = wire.encode(STAMP, moment, {'1f-00aa': STAMP})
    beat = wire.decode(1, data)
    assert beat.moment.replace(tzinfo=None) == moment == (
        pickle.loads(data).payload)


def test_a_member_that_left_is_no_heartbeat_to_dogpile():
    data = wire.encode(STAMP, None, {})
    assert pickle.loads(data).payload is None
    assert wire.decode(1, data) == (STAMP, None, {}, None, End.LEFT)


@pytest.mark.parametrize('workers', [{}, {'1f-00aa': STAMP}, {
    '%x-00aa' % number: float(number) for number in range(100)}])
@pytest.mark.parametrize('gap', [None, Gap(STAMP - 99.5, STAMP - 1)])
@pytest.mark.parametrize('stopped', [False, True])
def test_a_gap_and_a_stop_are_passed_over_by_dogpile(workers, gap, stopped):
    data = wire.encode(STAMP, MOMENT, workers, gap, stopped)
    assert pickle.loads(data).payload == MOMENT
    assert wire.decode(1, data) == (
        STAMP, AWARE, workers, gap, End.STOPPED if stopped else None)


@pytest.mark.parametrize('later', [
    None, True, False, 0, -7, 2 ** 31, -2 ** 63, 1.5, -1e-05, 1e+300,
    float('inf'), float('nan'), '', 'text', 'gr\xfc\xdfe', 'x' * 1000,
    (1, 'two', 3.5, None), tuple(range(100))])
@pytest.mark.parametrize('mine', [{}, {
    'workers': {'1f-00aa': STAMP}, 'gap': (STAMP - 99.5, STAMP - 1.0),
    'end': 'stopped'}])
def test_fields_of_a_later_release_are_passed_over(mine, later):
    data = cached(**mine, later=later, and_later='x')
    assert wire.decode(1, data) == wire.decode(1, cached(**mine))
    assert wire.decode(1, cached(payload=None, later=later)).end is End.LEFT


def test_the_number_of_workers_is_bounded():
    workers = {'%x-00aa' % i: float(i) for i in range(1000)}
    data = wire.encode(STAMP, MOMENT, workers)
    assert len(data) <= wire.MAX_SIZE
    kept = wire.decode(1, data).workers
    assert len(kept) == wire.MAX_WORKERS
    assert min(kept.values()) == 1000 - wire.MAX_WORKERS


def test_compressed_values_are_read_within_bounds():
    assert wire.decode(9, zlib.compress(cached())).moment == AWARE
    bomb = zlib.compress(b'\0' * 50_000_000)
    start = time.monotonic()
    with pytest.raises(wire.Unreadable):
        wire.decode(9, bomb[:wire.MAX_SIZE])
    with pytest.raises(wire.Unreadable):
        wire.decode(9, zlib.compress(cached(padding='x' * wire.MAX_SIZE)))
    assert time.monotonic() - start < 1


class Touch:
    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return open, (self.path, 'w')


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize('place', [
    lambda evil: evil,
    lambda evil: dogpile_api.CachedValue(evil, {'ct': STAMP, 'v': 2}),
    lambda evil: dogpile_api.CachedValue(MOMENT, {'ct': evil, 'v': 2}),
    lambda evil: dogpile_api.CachedValue(
        MOMENT, {'ct': STAMP, 'v': 2, 'workers': evil}),
    lambda evil: dogpile_api.CachedValue(
        MOMENT, {'ct': STAMP, 'v': 2, 'later': evil}),
    lambda evil: dogpile_api.CachedValue(
        MOMENT, {'ct': STAMP, 'v': 2, 'later': (1, evil)})])
def test_a_hostile_pickle_touches_nothing(tmp_path, place, protocol):
    target = tmp_path / 'touched'
    data = pickle.dumps(place(Touch(target)), protocol)
    for flags, stored in ((1, data), (9, zlib.compress(data))):
        with pytest.raises(wire.Unreadable):
            wire.decode(flags, stored)
    assert not target.exists()
    pickle.loads(data)
    assert target.exists(), 'this pickle would have been harmless anyway'


@pytest.mark.parametrize('data', [
    b'', b'.', b'garbage', b'\x80\x05.', b'N.', b'I1\n.', b'(.',
    VALUE_IN_TREE[:-1], VALUE_IN_TREE[:100], VALUE_IN_TREE + b'.',
    # memo entries that would make the unpickler ask for gigabytes
    b'N' + b'p4294967290\n.', b'Nr\xff\xff\xff\x7f.',
    # a tuple of itself, again and again, as a key: a hash for ever
    b'(t' + b'2\x86' * 64 + b'.',
    VALUE_IN_TREE.replace(b'datetime\ndatetime', b'posix\nsystem'),
    VALUE_IN_TREE.replace(b'_codecs\nencode', b'builtins\neval'),
    VALUE_IN_TREE.replace(b'latin1', b'rot13'),
    # a month that is none, as datetime itself would refuse; an hour, too
    VALUE_IN_TREE.replace(b'\xea\x0b', b'\xea\x0e'),
    VALUE_IN_TREE.replace(b'\x15\x07\x06', b'\x15\x63\x06'),
    VALUE_IN_TREE.replace(b'F1795244770.6816142', b'F1.1.1'),
    VALUE_IN_TREE.replace(b'F1795244770.6816142', b'F1e999'),
    VALUE_IN_TREE.replace(b'I2\n', b'I1\n'),
    cached(payload='2026-02-03'), cached(payload=STAMP), cached(payload=()),
    cached(payload=AWARE), cached(ct='now'), cached(ct=None),
    cached(ct=float('nan')), cached(ct=float('inf')), cached(ct=True),
    cached(v='two'), cached(workers=[1]), cached(workers={'a': 'b'}),
    cached(gap=1), cached(gap=(1,)), cached(gap=(1, 'x')), cached(gap='ab'),
    cached(end='soon'), cached(end=1),
    # what a later release won't add either
    cached(later={}), cached(later=[]), cached(later=()),
    cached(later=((1,),)), cached(later=b'x'), cached(later=MOMENT),
    cached(later='x' * wire.MAX_SIZE), cached(later='a\\b'),
    cached(later='\u4e3b'), cached(later=10 ** 101), cached(**{'A b': 1}),
    cached(**{'x' * 33: 1}),
    # known ones, again
    cached(later=1).replace(b'Vlater', b'Vv'),
    cached(later=1.0).replace(b'Vlater', b'Vct'),
    cached(later=1.0).replace(b'Vlater', b'V\\u0076'),
    cached(later=1).replace(b'I1\n', b'g1\n'),
    cached(later=1.5).replace(b'F1.5\n', b'F1.5.1\n'),
    # and ours behind it
    cached(later=1, end='stopped'), cached(later=1, workers={'1f-00aa': 1.5}),
    pickle.dumps((MOMENT, {'ct': STAMP, 'v': 2}), 0),
    pickle.dumps({'payload': MOMENT}, 0), pickle.dumps(MOMENT, 0),
    b'x' * (wire.MAX_SIZE + 1)])
def test_what_is_no_heartbeat_is_unreadable(data):
    with pytest.raises(wire.Unreadable):
        wire.decode(1, data)


@pytest.mark.parametrize('flags', [0, 2, 4, 8, 16, 17, 3, 32, -1, 1 << 31])
def test_other_flags_are_unreadable(flags):
    with pytest.raises(wire.Unreadable):
        wire.decode(flags, VALUE_IN_TREE)
