# SPDX-License-Identifier: Apache-2.0

"""Records as they are written, and as others may have written them."""

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


def test_the_data_is_short():
    """Each reader reads a record after each end."""
    assert record.ended(TOKEN, 'killed', 0.04, None) == (
        TOKEN + ' killed').encode()
    assert record.ended(TOKEN, 'hung', 61.25, record.parse(
        b'%s joined gap=1000,-500' % TOKEN.encode(), stat())) == (
        TOKEN + ' hung age=61.2 gap=1000,4500').encode()


SOUND = TOKEN.encode()


@pytest.mark.parametrize('raw', [
    None, b'', b'killed', b'\xff\x00', b'x' * 100000, SOUND, SOUND + b' ',
    SOUND + b' dead', SOUND + b' lost', SOUND.upper() + b' killed',
    SOUND[:15] + b' killed', SOUND + b'0 killed', b' ' + SOUND + b' killed',
    SOUND + b'\nkilled', SOUND + b'  killed',
    *(SOUND + b' killed' + more for more in (
        b'\n', b' ', b' age', b' age=', b' age=-1', b' age=nan', b' age=1e9',
        b' age=.5', b' age=1.', b' age=1 age=1', b' age=' + b'9' * 400,
        b' age=\xd9\xa1', b' gap=1', b' gap=1,', b' gap=1,2,3', b' gap=1, 2',
        b' gap=1,2 age=1', b' gap=1,x', b' gap=-6000,2',
        b' gap=1,' + b'9' * 16, b' x=1'))])
def test_what_is_no_record_says_nothing(raw):
    assert record.parse(raw, stat()) is None
    assert record.parse(SOUND + b' killed age=1.5 gap=1,-2', stat())


@pytest.mark.parametrize('mtime', [-1, 2 ** 63 - 1])
def test_an_impossible_time_of_writing_is_no_record(mtime):
    assert record.parse(SOUND + b' killed', stat(mtime)) is None


def test_noise_raises_nothing():
    noise = random.Random(5)
    parts = [SOUND, b' ', b'killed', b'missed', b' age=', b' gap=', b'1', b'9',
             b'-', b',', b'.', b'\xff']
    for _ in range(5000):
        record.parse(b''.join(noise.choices(parts, k=8)), stat())
        record.parse(SOUND + b' killed' + b''.join(
            noise.choices(parts, k=6)), stat())
