# SPDX-License-Identifier: Apache-2.0

"""A short run of the fuzzer, and again what longer ones have found."""

import datetime
import os
import pathlib
import pickle
import pty
import re
import subprocess
import sys

from dogpile.cache import api as dogpile_api
import pytest

from nova_servicegroup.keeper import duplicates
from nova_servicegroup.keeper import names
from nova_servicegroup.keeper import protocol
from nova_servicegroup.memcached import wire
from nova_servicegroup.tests.fuzz import targets

ROOT = pathlib.Path(__file__).resolve().parents[3]
FUZZ = [sys.executable, '-m', 'nova_servicegroup.tests.fuzz']
NORTH = datetime.timezone(datetime.timedelta(hours=14))
KEY = targets.Talk.keys[0].encode()

BEAT = 1, wire.encode(targets.NOW_STAMP, targets.NOW, {})
LEFT = 1, wire.encode(targets.NOW_STAMP, None, {})


def record(**fields):
    return targets._Record(dict({
        'host': 'c1', 'topic': 'compute', 'binary': 'nova-compute',
        'created_at': None, 'updated_at': None, 'last_seen_up': None},
        **fields))


def odd_workers(token):
    stamp = targets.NOW_STAMP
    return pickle.dumps(dogpile_api.CachedValue(None, {
        'ct': stamp, 'v': 2, 'workers': {token: stamp}}), 0)


def from_keeper(absences):
    """Return the pieces of a connected keeper's words up to a view."""
    hello, _, _, connected, _, _, view, *_ = targets._FROM_KEEPER
    return [protocol.encode(**hello), protocol.encode(**connected),
            protocol.encode(**dict(view, absences=absences))]


def to_keeper(op, **changes):
    """Return the pieces of a config and one frame, or of one config."""
    sound = {message['op']: message for message in targets._FROM_PARENT}
    frame = protocol.encode(**dict(sound[op], **changes))
    return [frame] if op == 'config' else [
        protocol.encode(**sound['config']), frame]


@pytest.mark.parametrize('target, value', [
    # Answers to "get" with the token of "gets", and the other way round.
    ('talk', ('get', [b'VALUE %s 1 1 77\r\nx\r\nEND\r\n' % KEY], 100)),
    ('talk', ('gets', [b'VALUE %s 1 1\r\nx\r\nEND\r\n' % KEY], 100)),
    # Workers that made the next heartbeat of another one unreadable.
    ('wire', (1, odd_workers(targets.NOW))),
    ('wire', (1, odd_workers('a' * 16200))),
    # An old heartbeat on one server, and "it left" of that moment on another.
    ('heartbeats', [(61, ['lost', LEFT]), (10, [BEAT, (1, b'noise')]),
                    (1, [BEAT, LEFT])]),
    # Times that are none, or none in UTC.
    ('records', record(updated_at=5)),
    ('records', record(last_seen_up=b'2026-02-03')),
    ('records', record(last_seen_up=datetime.date(2026, 2, 3))),
    ('records', record(created_at=datetime.time(10, 9, 8))),
    ('records', record(updated_at='last Tuesday')),
    ('records', record(last_seen_up=targets.NOW, report_count=None)),
    ('records', record(updated_at=datetime.datetime.min.replace(
        tzinfo=NORTH))),
    # Names that are none.
    ('records', record(host=5)),
    ('records', record(topic=b'compute')),
    ('records', record(topic='lone \ud800')),
    # Numbers that no float holds, and that are more than was read.
    ('ends', (b'0123456789abcdef killed age=1%s' % (b'0' * 400), 10 ** 12)),
    ('ends', (b'0123456789abcdef missed gap=1,%d' % (2 ** 63 - 1), 10 ** 12)),
    # kazoo looks closer at them than we did.
    ('addresses', ('zookeeper', '[fd0]:2181')),
    ('addresses', ('zookeeper', 'h1:' + '9' * 5000)),
    # The blank was part of the chroot, or not, from one end to the other.
    ('addresses', ('zookeeper', 'h1:1/a /')),
    # Absences that are none.
    ('from-keeper', from_keeper({'c1': ['back', 1]})),
    ('from-keeper', from_keeper({'c1': ['back', 1, 2, 3]})),
    # A keeper that ended without a word, or never waited.
    ('to-keeper', to_keeper('config', security={'colour': 'blue'})),
    ('to-keeper', to_keeper('config', ident=[1, []])),
    ('to-keeper', to_keeper('join', pulse_timeout=1e300)),
])
def test_what_was_found_stays_mended(target, value):
    target, = (kind for kind in targets.TARGETS if kind.name == target)
    target().check(value)


@pytest.mark.parametrize('body', [
    b'{"op":"view","path":"/g","joined":[["a"]],"left":[]}',
    b'{"op":"view","path":"/g","joined":[],"left":[null]}',
    b'{"op":"answer","seq":1,"error":null,"result":[5]}',
    b'{"op":"log","level":NaN,"text":""}'])
def test_frames_that_are_sound_outside_only_are_refused(body):
    with pytest.raises(protocol.ProtocolError):
        protocol.Decoder(protocol.FROM_KEEPER).feed(
            len(body).to_bytes(4, 'big') + body)


@pytest.mark.parametrize('raw, data', [
    (b'{"a": "b", "c": 5, "d": null}', {'a': 'b', 'c': 5, 'd': None}),
    # None of ours, and keepers and parents would choke on some.
    (b'{"a": 1e999, "b": NaN, "c": [[]], "d": {}}', {}),
    (b'{"a": ' + b'[' * 900 + b']' * 900 + b'}', {}),
    (b'{"a": "%s"}' % (b'x' * 20000), {}), (b'[]', {}), (b'', {}), (None, {})])
def test_of_a_nodes_data_only_plain_values_are_kept(raw, data):
    assert duplicates.parse(raw) == data


def test_a_host_of_lone_surrogates_has_a_node():
    node = names.node('lone \ud800', targets.TOKEN)
    assert node.isascii() and names.host(node) == 'lone \ud800'
    assert names.host('%80@' + targets.TOKEN) is None


def test_a_short_run_finds_nothing():
    done = subprocess.run([*FUZZ, '--inputs', '3000', '--seed', '7'],
                          cwd=ROOT, capture_output=True, text=True)
    assert re.fullmatch(
        r'30\d\d inputs in \d+ s with the seed 7: 0 failed\n', done.stdout), (
            done.stdout[:5000] + done.stderr[-5000:])
    assert (done.returncode, done.stderr) == (0, '')


def test_on_a_terminal_it_shows_how_far_it_is():
    ours, theirs = pty.openpty()
    subprocess.run([*FUZZ, '--inputs', '600', '--only', 'names'], cwd=ROOT,
                   stdout=subprocess.DEVNULL, stderr=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 65536).decode()
    os.close(ours)
    assert re.search(r'\r +\d+ of 600: names', shown)


def test_what_fails_is_told_with_the_way_to_do_it_again():
    # Somebody is up whose heartbeat nobody wrote.
    broken = (
        'import sys, warnings; warnings.simplefilter("ignore");'
        'from nova_servicegroup.memcached import wire;'
        'wire._beat = lambda *found: wire.Beat('
        '    0.0, wire.EPOCH.replace(tzinfo=wire.UTC), {});'
        'from nova_servicegroup.tests.fuzz import __main__ as fuzz;'
        'sys.exit(fuzz.main(*eval(sys.argv[1])))')

    def run(*arguments):
        return subprocess.run(
            [sys.executable, '-c', broken, repr(arguments)], cwd=ROOT,
            capture_output=True, text=True)

    done = run(400, 3, 'wire')
    assert done.returncode == 1
    again = re.search(r'--seed 3 --only (wire:\d+)', done.stdout)[1]
    one = run(400, 3, again)
    assert one.returncode == 1
    assert '1 inputs in 0 s with the seed 3: 1 failed' in one.stdout
