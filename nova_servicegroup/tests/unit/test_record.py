# SPDX-License-Identifier: Apache-2.0

"""Records as they are written, and as others may have written them."""

import json
import random
import types

import pytest

from nova_servicegroup.keeper import record

TOKEN, OTHER = '0123456789abcdef', 'fedcba9876543210'


def stat(mtime=5000, version=3, czxid=7):
    return types.SimpleNamespace(mtime=mtime, version=version, czxid=czxid)


def read(raw, **how):
    return record.parse(raw, stat(**how))


def test_a_life():
    joined = read(record.joined(TOKEN, None))
    assert joined == record.Record(TOKEN, 'joined', 5, None, 5, 3, 7)
    killed = read(record.ended(TOKEN, 'killed', 0, joined), mtime=9000)
    assert killed.ended and killed.last == 9
    hung = read(record.ended(TOKEN, 'hung', 60, joined), mtime=90000)
    assert hung.last == 30 and hung.written == 90
    again = read(record.joined(OTHER, killed), mtime=10000)
    assert again == record.Record(OTHER, 'joined', 10, None, 10, 3, 7)


def test_a_silence():
    joined = read(record.joined(TOKEN, None))
    missed = read(record.missed(joined), mtime=20000)
    assert (missed.token, missed.state, missed.last) == (TOKEN, 'missed', 20)
    back = read(record.joined(OTHER, missed), mtime=60000)
    assert back.gap == (20, 60)
    # The member itself knows it better, and knows it unmissed, too.
    for before in (joined, missed, None):
        back = read(record.joined(OTHER, before, 40.5), mtime=60000)
        assert back.gap == (19.5, 60)
    # And so it stays, whoever writes next.
    killed = read(record.ended(OTHER, 'killed', 0, back), mtime=70000)
    assert killed.gap == (19.5, 60)
    again = read(record.joined(TOKEN, killed), mtime=80000)
    assert again.gap == (19.5, 60)
    missed_again = read(record.missed(again), mtime=90000)
    assert missed_again.gap == (19.5, 60)
    assert read(record.joined(OTHER, missed_again),
                mtime=95000).gap == (90, 95)


SOUND = {'token': TOKEN, 'state': 'missed'}


@pytest.mark.parametrize('raw', [
    b'', b'{', b'null', b'[]', b'\xff\x00', b'[' * 1000,
    b'{"token": "%s"}' % TOKEN.encode(), b'x' * 100000,
    *(json.dumps(dict(SOUND, **bad)).encode() for bad in (
        {'token': None}, {'token': TOKEN.upper()}, {'token': TOKEN + '\n'},
        {'state': 'dead'}, {'state': ['killed']}, {'state': None},
        {'age': -1}, {'age': float('nan')}, {'age': float('inf')},
        {'age': True}, {'age': '1'}, {'age': None},
        {'state': 'lost'},
        {'gap': 1}, {'gap': [1]}, {'gap': [1, 2, 3]}, {'gap': [1, '2']},
        {'gap': [-2 ** 54, 2]}, {'gap': {}}))])
def test_what_is_no_record_says_nothing(raw):
    assert record.parse(raw, stat()) is None
    assert record.parse(json.dumps(SOUND).encode(), stat()) is not None


def test_noise_raises_nothing():
    noise = random.Random(5)
    values = [None, True, 0, -1, 1e400, 'killed', TOKEN, [], [1, None], {}]
    for _ in range(5000):
        data = {name: noise.choice(values) for name in noise.sample(
            ['token', 'state', 'age', 'gap', 'y', 'x'], 5)}
        record.parse(json.dumps(data).encode(), stat())
        record.parse(noise.randbytes(30), stat())
