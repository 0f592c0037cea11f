# SPDX-License-Identifier: Apache-2.0

"""What is made of listings and records, without ZooKeeper."""

import pytest

from nova_servicegroup.keeper import absences
from nova_servicegroup.keeper import record
from nova_servicegroup.keeper import returns

REJOIN = 2
#: what ZooKeeper's clock is ahead
SERVER_NOTICES = 10
AHEAD = 1000
TOKENS = {letter: letter * 16 for letter in 'abcdef'}


def record_by(token, state, last, written=None, gap=None):
    return record.Record(TOKENS[token], state, last, gap, written or last, 1,
                         1)


class Reader:
    """A Absences, and the listings and records that it is given."""

    def __init__(self, has_records=True):
        waits = returns.Returns(REJOIN, 4, 600)
        waits.connected(0)
        self.absences = absences.Absences(waits, has_records)
        self.now = 0
        self._posted = {}
        self._listed = set()

    def list(self, now, *nodes, began=None):
        """Nodes are a host and the letter of a token, as 'h1 a'."""
        self.now = now
        listed = {'%s@%s' % (node.split()[0], TOKENS[node.split()[1]])
                  for node in nodes}
        self.absences.changed(listed - self._listed, self._listed - listed,
                              now, AHEAD + now)
        self.absences.confirm(now if began is None else began)
        self._listed = listed

    def read(self, host, record, now=None):
        self.now = self.now if now is None else now
        self.absences.record_read(host, record, self.now, AHEAD + self.now)

    def posted(self, host):
        return self.all_posted().get(host)

    def all_posted(self):
        self._posted.update(self.absences.changes())
        return {host: about for host, about in self._posted.items()
                if about is not None}


@pytest.fixture
def reader():
    reader = Reader()
    reader.list(1, 'h1 a', 'h2 b')
    return reader


def test_who_is_there_needs_no_record(reader):
    assert reader.absences.unread(9) == []
    assert reader.all_posted() == {}
    assert reader.absences.count_silent() == 0


def test_who_is_silent_is_counted_however_long(reader):
    reader.list(5)
    reader.read('h1', record_by('a', 'missed', AHEAD + 5))
    reader.read('h2', None)
    assert reader.absences.count_silent() == 2
    reader.list(50000)
    assert reader.absences.count_silent() == 2


def test_proof_that_is_seen_counts_at_once(reader):
    reader.list(5, 'h2 b')
    assert set(reader.absences.unread(9)) == {'h1'}
    assert reader.posted('h1') == ['missed', AHEAD + 5, False]
    assert reader.absences.count_silent() == 0
    reader.read('h1', record_by('a', 'killed', AHEAD + 4.9))
    assert reader.posted('h1') == ['killed', AHEAD + 4.9, True]
    assert reader.absences.count_silent() == 0
    assert reader.absences.unread(9) == []
    assert not reader.absences.unwritten


def test_who_died_unseen_in_between_is_proven_too(reader):
    reader.list(5, 'h2 b')
    reader.read('h1', record_by('c', 'killed', AHEAD + 4.9))
    assert reader.posted('h1') == ['killed', AHEAD + 4.9, True]


def test_who_is_back_before_its_record_was_read_may_have_been_silent(reader):
    """Ten thousand fall silent, and there was no time to read them all."""
    reader.list(5, 'h2 b')
    reader.list(6, 'h2 b', 'h1 c')
    assert reader.posted('h1') == [absences.BACK, AHEAD + 5, AHEAD + 6]
    assert reader.absences.unread(9) == ['h1']
    # It knows best.
    reader.read('h1', record_by('c', 'joined', AHEAD + 6, gap=(990, 1006)))
    assert reader.posted('h1') == [absences.BACK, 990, 1006]
    assert reader.absences.unread(9) == []


def test_who_is_replaced_within_one_listing_may_have_been_silent(reader):
    reader.list(5, 'h1 c', 'h2 b')
    assert reader.posted('h1') is None
    assert reader.absences.unread(9) == ['h1']
    reader.read('h1', record_by('c', 'joined', AHEAD + 5, gap=(990, 1005)))
    assert reader.posted('h1') == [absences.BACK, 990, 1005]
    reader.list(6, 'h1 d', 'h2 b')
    reader.read('h1', record_by('d', 'joined', AHEAD + 6))
    assert reader.posted('h1') is None
    assert reader.absences.unread(9) == []


def test_a_record_that_is_deleted_still_holds(reader):
    reader.list(5, 'h2 b')
    reader.read('h1', record_by('a', 'killed', AHEAD + 5, gap=(990, 1005)))
    reader.absences.record_changed('h1')
    reader.read('h1', None)
    assert reader.posted('h1')[0] == 'killed'
    reader.list(6, 'h1 c', 'h2 b')
    assert reader.posted('h1') == [absences.BACK, 990, 1005]


@pytest.mark.parametrize('before', [None, 'joined'])
def test_who_was_restarted_before_its_record_was_read_was_not(reader, before):
    """Its return would end the doubt about others that are cut off."""
    reader.list(5, 'h2 b')
    if before:
        reader.read('h1', record_by('c', before, AHEAD + 5))
    reader.list(5.1, 'h2 b', 'h1 c')
    reader.read('h1', record_by('c', 'joined', AHEAD + 5))
    assert reader.posted('h1') is None


def test_who_is_back_and_was_known_to_have_ended_was_not_silent(reader):
    reader.list(5, 'h2 b')
    reader.read('h1', record_by('a', 'killed', AHEAD + 4.9))
    reader.list(6, 'h2 b', 'h1 c')
    assert reader.posted('h1') is None


def test_an_old_end_says_nothing_of_a_later_incarnation(reader):
    """An old plug-in joined after a new one left, and wrote no record."""
    reader.list(5, 'h2 b')
    reader.read('h1', record_by('c', 'left', AHEAD - 100))
    assert reader.posted('h1') == ['missed', AHEAD + 5, False]
    reader.list(7.1, 'h2 b')
    assert reader.posted('h1') == ['missed', AHEAD + 5, True]
    assert not reader.absences.unwritten


def test_silence_is_posted_after_a_rejoin_time(reader):
    reader.list(5, 'h2 b')
    reader.read('h1', record_by('a', 'joined', AHEAD + 1))
    assert reader.absences.wants_listing
    assert not reader.absences.unwritten
    # A listing that was under way says nothing of who has joined since.
    reader.list(5.1, 'h2 b', began=4.9)
    assert not reader.absences.unwritten
    reader.list(5.1, 'h2 b')
    assert not reader.absences.wants_listing
    assert reader.absences.unwritten.keys() == {'h1'}
    # Somebody wrote it.
    reader.absences.record_changed('h1')
    assert not reader.absences.unwritten
    reader.read('h1', record_by('a', 'missed', AHEAD + 5.2))
    assert reader.posted('h1') == ['missed', AHEAD + 5.2, False]
    reader.list(6.9, 'h2 b')
    assert reader.posted('h1') == ['missed', AHEAD + 5.2, False]
    reader.list(7.0, 'h2 b')
    assert reader.posted('h1') == ['missed', AHEAD + 5.2, True]


def test_a_late_write_of_the_silence_does_not_prolong_it(reader):
    reader.list(5, 'h2 b')
    reader.read('h1', record_by('a', 'joined', AHEAD + 1))
    reader.list(7.1, 'h2 b')
    assert reader.posted('h1') == ['missed', AHEAD + 5, True]
    reader.read('h1', record_by('a', 'missed', AHEAD + 7.2))
    assert reader.posted('h1') == ['missed', AHEAD + 7.2, True]


def test_who_joins_while_its_record_is_read_is_not_missed(reader):
    reader.list(5, 'h2 b')
    reader.read('h1', record_by('c', 'joined', AHEAD + 5))
    reader.list(5.1, 'h2 b', 'h1 c')
    assert not reader.absences.unwritten
    assert reader.all_posted() == {}


def test_who_is_back_had_a_gap(reader):
    reader.list(5, 'h2 b')
    reader.read('h1', record_by('a', 'missed', AHEAD + 5.2))
    reader.list(9, 'h2 b', 'h1 c')
    assert reader.posted('h1') == [absences.BACK, AHEAD + 5.2, AHEAD + 9]
    # Whoever was killed and restarted wasn't silent.
    reader.list(20, 'h1 c')
    reader.read('h2', record_by('b', 'killed', AHEAD + 20))
    reader.list(21, 'h1 c', 'h2 d')
    assert reader.posted('h2') is None


def test_who_is_back_after_a_loss_of_all_data_had_a_gap(reader):
    """Or those who are still missing when half are back would be few."""
    reader.list(5)
    reader.absences.records_listed([], 5, AHEAD + 5)
    reader.list(9, 'h2 d')
    assert reader.posted('h2') == [absences.BACK, AHEAD + 5, AHEAD + 9]


def test_a_new_reader_knows_from_records():
    reader = Reader()
    reader.list(1, 'h1 a')
    reader.absences.records_listed(['h1', 'killed', 'missed', '%zz'], 1,
                                AHEAD + 1)
    assert set(reader.absences.unread(9)) == {'killed', 'missed'}
    reader.read('killed', record_by('b', 'killed', 500))
    reader.read('missed', record_by('b', 'missed', 700))
    assert reader.all_posted() == {'killed': ['killed', 500, False],
                                     'missed': ['missed', 700, False]}
    reader.list(3.1, 'h1 a')
    assert reader.all_posted() == {'killed': ['killed', 500, True],
                                     'missed': ['missed', 700, True]}
    reader.read('h1', record_by('a', 'joined', 900, gap=(800, 900)))
    assert reader.posted('h1') == [absences.BACK, 800, 900]


def test_what_is_no_record_is_silence(reader):
    reader.list(5, 'h2 b')
    reader.read('h1', None)
    reader.list(7.1, 'h2 b')
    assert reader.posted('h1') == ['missed', AHEAD + 5, True]


def test_a_deleted_record_changes_nothing_for_who_knew_it(reader):
    reader.list(5, 'h2 b')
    reader.read('h1', record_by('a', 'killed', AHEAD + 5))
    reader.absences.record_changed('h1')
    reader.read('h1', None)
    assert reader.posted('h1') == ['killed', AHEAD + 5, True]


def test_a_record_that_was_deleted_before_it_was_read_is_nobodys():
    reader = Reader()
    reader.absences.records_listed(['x'], 0,
                                AHEAD)
    reader.read('x', None)
    assert reader.all_posted() == {}
    assert reader.absences.unread(9) == []


def test_after_a_reconnect_what_did_not_change_stands(reader):
    reader.list(5)
    reader.read('h1', record_by('a', 'missed', AHEAD + 5))
    reader.read('h2', record_by('b', 'missed', AHEAD + 5))
    reader.list(7.1 + SERVER_NOTICES)
    reader.absences.returns.disconnected(18)
    reader.absences.returns.connected(50)
    reader.list(50)
    reader.absences.records_listed(['h1', 'h2'], 50,
                                AHEAD + 50)
    assert set(reader.absences.unread(9)) == {'h1', 'h2'}
    reader.read('h1', record_by('a', 'missed', AHEAD + 5))
    # This one was back meanwhile.
    reader.read('h2', record_by('c', 'joined', AHEAD + 40))
    assert reader.posted('h1') == ['missed', AHEAD + 5, True]
    assert reader.posted('h2') == ['missed', AHEAD + 50, False]
    reader.list(52.1)
    assert reader.posted('h2') == ['missed', AHEAD + 50, True]


def test_a_record_that_is_repaired_late_tells_how_it_ended(reader):
    reader.list(5, 'h2 b')
    reader.read('h1', record_by('a', 'joined', AHEAD + 1))
    reader.list(7.1, 'h2 b')
    reader.read('h1', record_by('a', 'hung', AHEAD - 50, written=AHEAD + 8))
    assert reader.posted('h1') == ['hung', AHEAD - 50, True]


def test_a_host_is_there_while_one_of_its_nodes_is(reader):
    reader.list(2, 'h1 a', 'h1 c', 'h2 b')
    reader.list(3, 'h1 c', 'h2 b')
    assert reader.all_posted() == {}
    reader.list(4, 'h1 c', 'h1 d', 'h2 b')
    reader.list(5, 'h2 b')
    assert set(reader.absences.unread(9)) == {'h1'}
    reader.read('h1', record_by('d', 'killed', AHEAD + 5))
    assert reader.posted('h1') == ['killed', AHEAD + 5, True]


def test_a_group_without_records_waits_alone():
    reader = Reader(has_records=False)
    reader.list(1, 'h1 a')
    reader.list(5)
    assert reader.absences.unread(9) == []
    assert reader.posted('h1') == ['missed', AHEAD + 5, False]
    reader.list(7.1 + SERVER_NOTICES)
    assert reader.posted('h1') == ['missed', AHEAD + 5, True]
    reader.list(8, 'h1 b')
    assert reader.all_posted() == {}


def test_who_went_last_is_read_first(reader):
    reader.list(5, 'h2 b')
    reader.list(6)
    assert reader.absences.unread(1) == ['h2']
    assert reader.absences.unread(9) == ['h2', 'h1']


def test_what_has_no_record_is_not_asked_for(reader):
    """A wiped ensemble: ten thousand are missing, and there is nothing."""
    reader.absences.returns.disconnected(2)
    reader.absences.returns.connected(5)
    reader.list(5)
    reader.absences.records_listed([], 5, AHEAD + 5)
    assert reader.absences.unread(9) == []
    assert reader.posted('h1') == ['missed', AHEAD + 5, False]
    reader.list(7.1 + SERVER_NOTICES)
    assert reader.posted('h1') == ['missed', AHEAD + 5, True]


def test_the_missing_are_read_before_those_who_are_back(reader):
    reader.list(5, 'h2 b')
    reader.list(6, 'h2 b', 'h1 c')
    assert reader.absences.unread(9) == ['h1']
    reader.list(7, 'h1 c')
    assert reader.absences.unread(9) == ['h2', 'h1']
    reader.list(8, 'h1 c', 'h2 d')
    assert set(reader.absences.unread(9)) == {'h1', 'h2'}
