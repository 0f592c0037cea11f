# SPDX-License-Identifier: Apache-2.0

"""What a notification says of a change, and when it is sent again."""

import configparser
import datetime
import json

import pytest

from nova_servicegroup.cmd import base
from nova_servicegroup.cmd import deployment
from nova_servicegroup.cmd import election
from nova_servicegroup.cmd import main
from nova_servicegroup.cmd import notify
from nova_servicegroup.cmd import watcher
from nova_servicegroup.keeper import returns
from nova_servicegroup import liveness
from nova_servicegroup.liveness import Reason
from nova_servicegroup.liveness import State
from nova_servicegroup.tests.fixtures import texts

AT = datetime.datetime(2026, 11, 21, 10, 0, 8, 120000, datetime.timezone.utc)
SEEN = datetime.datetime(2026, 11, 21, 9, 59, 8, 0, datetime.timezone.utc)
PAGE = 'doc/source/admin/notifications.rst'
EVACUATION = 'doc/source/admin/evacuation.rst'


def change(old=State.UP, new=State.DOWN, reason=Reason.SILENT, seen_at=SEEN,
           silence=None, host='compute1', **record):
    record = dict({'host': host, 'binary': 'nova-compute',
                   'topic': 'compute', 'disabled': False,
                   'forced_down': False}, **record)
    service = deployment.Service(
        record, 'cell1', liveness.Verdict(new or old, reason, seen_at,
                                          silence), seen_at)
    return watcher.Transition(AT, host, 'nova-compute', 'cell1', old, new,
                              new and reason, service)


def test_the_payload_of_the_page_is_what_is_sent():
    silence = liveness.Silence(20, 1, 0, None, None)
    assert json.loads(texts.block(PAGE, 'payload')) == notify.payload(
        change(silence=silence))


def test_the_page_tells_of_every_field():
    page = (texts.ROOT / PAGE).read_text()
    for field in notify.payload(change()):
        assert '\n``%s`` ' % field in page
    for word in ('life', 'end', 'silence', 'doubt', 'operator', 'none'):
        assert '\n``%s``' % word in page


@pytest.mark.parametrize('new, reason, seen_at, evidence', [
    (State.UP, Reason.PRESENT, SEEN, 'life'),
    (State.UP, Reason.HEARTBEAT, SEEN, 'life'),
    (State.ENDED, Reason.KILLED, SEEN, 'end'),
    (State.DOWN, Reason.KILLED, SEEN, 'end'),
    (State.DOWN, Reason.STOPPED, SEEN, 'end'),
    (State.DOWN, Reason.HUNG, SEEN, 'end'),
    (State.DOWN, Reason.SILENT, SEEN, 'silence'),
    (State.DOWN, Reason.GONE, SEEN, 'silence'),
    (State.DOWN, Reason.NEVER, None, 'none'),
    # With db, when its record was created.
    (State.DOWN, Reason.NEVER, SEEN, 'none'),
    (State.DOWN, Reason.LEFT, SEEN, 'operator'),
    (State.DOWN, Reason.FORCED_DOWN, SEEN, 'operator'),
    (State.UNKNOWN, Reason.MASS_FAILURE, SEEN, 'doubt'),
    (State.UNKNOWN, Reason.OUTAGE, None, 'doubt'),
    (None, Reason.HEARTBEAT, SEEN, 'operator')])
def test_what_it_is_founded_on(new, reason, seen_at, evidence):
    message = notify.payload(change(new=new, reason=reason, seen_at=seen_at))
    assert message['evidence'] == evidence
    assert evidence != 'none' or message['last_seen'] is None
    json.dumps(message)


class Election:
    gap = 4
    leading = False

    def leads(self):
        return self.leading


@pytest.fixture
def clock():
    return [0.0]


@pytest.fixture
def outbox(clock):
    sent = []
    made = notify.Outbox(Election(), sent.append, margin=1,
                         monotonic=lambda: clock[0])
    made.sent = lambda: [sent.pop(0)['host'] for _ in list(sent)]
    return made


def test_the_one_that_leads_tells_at_once(outbox):
    outbox._election.leading = True
    outbox.add([change(host='a'), change(host='b')])
    assert outbox.leads
    assert outbox.sent() == ['a', 'b']
    outbox.add([])
    assert outbox.sent() == []


def test_the_others_tell_nothing_until_they_lead(outbox, clock):
    outbox.add([change(host='old')])
    clock[0] = 3
    outbox.add([change(host='a')])
    clock[0] = 6
    outbox.add([change(host='b')])
    assert outbox.sent() == [] and not outbox.leads
    outbox._election.leading = True
    clock[0] = 7
    # What the lost one cannot have sent, and nothing that it has.
    outbox.add([change(host='c')])
    assert outbox.sent() == ['a', 'b', 'c']


def test_who_leads_again_tells_nothing_twice(outbox):
    outbox._election.leading = True
    outbox.add([change(host='a')])
    outbox._election.leading = False
    outbox.add([change(host='b')])
    outbox._election.leading = True
    outbox.add([])
    assert outbox.sent() == ['a', 'b']


def test_nothing_is_forgotten_while_nobody_leads(outbox, clock):
    outbox._election.leading = None
    outbox.add([change(host='a')])
    assert outbox.leads is None
    clock[0] = 100
    outbox.add([])
    # The lost one may hold its place for a while.
    outbox._election.leading = False
    clock[0] = 105
    outbox.add([change(host='b')])
    outbox._election.leading = True
    outbox.add([])
    assert outbox.sent() == ['a', 'b']


def test_who_cannot_ask_does_not_take_another_for_the_leader():
    class Away(election.Election):
        def _try(self):
            raise OSError('no store')

    assert Away().leads() is None


@pytest.mark.parametrize('arguments, text', [
    (['--notify', '--until', 'up', 'h'], '--until ends'),
    (['--topic', 'x'], 'are for --notify'),
    (['--alone'], 'are for --notify')])
def test_what_does_not_fit_is_told(arguments, text):
    factory, parsed = main.parse(['watch', *arguments])
    with pytest.raises(base.CommandError, match=text):
        factory(main.Application(), None).take_action(parsed)


def test_a_message_bus_is_needed(config):
    with pytest.raises(base.CommandError, match='transport_url'):
        notify.Sender(config.conf)


# The page about evacuation

def test_the_waiting_times_of_the_page_are_what_the_defaults_need(config):
    conf = config.conf
    for name in ('service_down_time', 'report_interval'):
        conf.clear_override(name)
    page = (texts.ROOT / EVACUATION).read_text()
    parser = configparser.ConfigParser(default_section=None)
    parser.read_string(texts.block(EVACUATION, 'masakari-conf'))
    assert 5 == parser.getint('DEFAULT', 'wait_period_after_service_update')
    lost = 2 * conf.zookeeper.recv_timeout / 1000
    assert 'twice ``recv_timeout`` (%d s)' % lost in page
    assert '%d s if a' % returns.SERVER_NOTICES in page
    assert '25 s: twice' in page and lost + returns.SERVER_NOTICES + 7 == 25
    late = conf.service_down_time + conf.servicegroup.view_refresh
    assert '75 s: ``service_down_time`` (%d s)' % conf.service_down_time \
        in page
    assert late + 14 == 75
