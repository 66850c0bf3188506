"""One machine's view: own words count, hearsay introduces, and what runs out is forgotten."""

from dataclasses import replace

import pytest

from node.cluster.address_book import RETRY_MAX_S, RETRY_S, YIELD_S, AddressBook
from node.cluster.errors import ClusterError
from node.cluster.membership import INTRODUCED_MAX, MACHINES_MAX, Membership
from protocol.envelope import Envelope, seal
from protocol.errors import RemoteProtocolError, VerificationError
from protocol.identity import KeyPair
from tests.node.cluster.house import record_of
from transport.address import Address

OWN, PEER, THIRD = (KeyPair(bytes([n]) * 32) for n in (1, 2, 3))


def word(key, **fields):
    return seal(record_of(key, key.peer_id.short, **fields), key).encode()


@pytest.fixture
def view():
    membership = Membership(OWN.peer_id)
    record = record_of(OWN, "own")
    membership.set_own(record, seal(record, OWN), 0)
    return membership


@pytest.fixture
def linked(view):
    view.linked(PEER.peer_id, 1_000)
    assert view.take(PEER.peer_id, word(PEER), 0)
    return view


def names(view):
    return [record.peer_id for record in view.records()]


def test_a_stream_alone_makes_no_member(view):
    view.linked(PEER.peer_id, 1_000)
    assert names(view) == [OWN.peer_id]
    assert not view.is_member(PEER.peer_id)


def test_a_machine_is_a_member_by_its_own_word_while_its_stream_stands(linked):
    assert set(names(linked)) == {OWN.peer_id, PEER.peer_id}
    assert linked.is_member(PEER.peer_id)
    linked.unlinked(PEER.peer_id)
    assert names(linked) == [OWN.peer_id]


def test_the_newest_sequence_wins(linked):
    assert linked.take(PEER.peer_id, word(PEER, sequence=5, rows_per_s=5), 1)
    assert not linked.take(PEER.peer_id, word(PEER, sequence=4, rows_per_s=4), 2)
    assert {r.rows_per_s for r in linked.records()} == {0, 5}


def test_a_word_runs_out_by_our_own_clock(linked):
    """The peer's clock may be days off: what counts is how long ago its word came."""
    assert linked.take(PEER.peer_id, word(PEER, sequence=2, issued_at_s=9, expires_at_s=24), 10)
    assert linked.expire(24.9) == ()
    assert linked.expire(25) == (PEER.peer_id,)
    assert names(linked) == [OWN.peer_id]


def test_hearsay_introduces_and_no_more(linked):
    assert linked.take(PEER.peer_id, word(THIRD), 1)
    assert not linked.take(PEER.peer_id, word(THIRD), 2), "the same again"
    assert [r.peer_id for r in linked.introduced()] == [THIRD.peer_id]
    assert not linked.is_member(THIRD.peer_id)
    assert all(m.record.peer_id != THIRD.peer_id for m in linked.words(PEER.peer_id))
    linked.expire(16)
    assert linked.introduced() == ()


def test_what_others_say_of_members_and_of_us_is_not_even_read(linked):
    linked.linked(THIRD.peer_id, 1_000)
    broken = replace(Envelope.decode(word(PEER, sequence=9)), signature=bytes(64)).encode()
    assert not linked.take(THIRD.peer_id, broken, 1)
    assert not linked.take(PEER.peer_id, word(OWN, sequence=9), 1)
    assert linked.introduced() == ()


def test_each_is_told_of_us_and_of_the_others_but_not_of_himself(linked):
    linked.linked(THIRD.peer_id, 1_000)
    linked.take(THIRD.peer_id, word(THIRD), 1)
    told = [member.record.peer_id for member in linked.words(PEER.peer_id)]
    assert told == [OWN.peer_id, THIRD.peer_id]


def test_a_restarted_machine_begins_anew(linked):
    linked.take(PEER.peer_id, word(PEER, sequence=900), 1)
    linked.linked(PEER.peer_id, 2_000)
    assert names(linked) == [OWN.peer_id]
    assert linked.take(PEER.peer_id, word(PEER, joined_at_ms=2_000, sequence=1), 2)


def test_words_that_no_honest_machine_sends_are_refused(linked):
    foreign = seal(record_of(THIRD, "third"), PEER).encode()
    forged = replace(Envelope.decode(word(PEER, sequence=9)), signature=bytes(64)).encode()
    for bad in (foreign, forged, b"", b"\xff" * 40):
        with pytest.raises((RemoteProtocolError, VerificationError)):
            linked.take(PEER.peer_id, bad, 1)
    with pytest.raises(RemoteProtocolError, match="another start"):
        linked.take(PEER.peer_id, word(PEER, sequence=9, joined_at_ms=7), 1)


def test_a_full_cluster_takes_no_more(view):
    for n in range(MACHINES_MAX - 1):
        view.linked(KeyPair(bytes([n, 9]) * 16).peer_id, 1)
    with pytest.raises(ClusterError):
        view.linked(PEER.peer_id, 1)


def test_hearsay_is_bounded(linked):
    for n in range(INTRODUCED_MAX + 3):
        linked.take(PEER.peer_id, word(KeyPair(bytes([n, 7]) * 16)), 1)
    assert len(linked.introduced()) == INTRODUCED_MAX


def book():
    low, high = sorted((PEER, THIRD), key=lambda key: key.peer_id)
    return AddressBook(low.peer_id), high.peer_id, Address("192.0.2.1", 4001, high.peer_id)


def test_who_fails_is_dialled_ever_later():
    book_, peer, address = book()
    book_.put(peer, (address,), 0)
    now, waits = 0.0, []
    for _ in range(7):
        assert book_.take_due((), now) == [(peer, (address,))]
        assert book_.take_due((), now + 99) == [], "it is being dialled"
        book_.dialled(peer, now, ok=False)
        book_.put(peer, (address,), now)
        wait_s = next(
            s for s in range(1, 99) if book_.take_due({peer}, now + s) or is_due(book_, now + s)
        )
        waits.append(wait_s)
        now += wait_s
    assert waits == [RETRY_S, 4, 8, 16, RETRY_MAX_S, RETRY_MAX_S, RETRY_MAX_S]


def is_due(book_, now):
    return any(entry.due_at <= now for entry in book_._entries.values())


def test_new_addresses_are_tried_at_once():
    book_, peer, address = book()
    book_.put(peer, (address,), 0)
    book_.take_due((), 0)
    book_.dialled(peer, 0, ok=False, refused=True)
    assert book_.take_due((), RETRY_MAX_S - 1) == []
    moved = Address("192.0.2.2", 4001, peer)
    book_.put(peer, (moved,), 1)
    assert book_.take_due((), 1) == [(peer, (moved,))]


def test_of_two_that_meet_one_dials_first():
    low, high = sorted((PEER.peer_id, THIRD.peer_id))
    for own, other, wait_s in ((low, high, 0.0), (high, low, YIELD_S)):
        mine = AddressBook(own)
        mine.put(other, (Address("192.0.2.1", 4001, other),), 0)
        assert bool(mine.take_due((), 0)) == (wait_s == 0)
        assert bool(mine.take_due((), wait_s)) == (wait_s > 0)


def test_members_and_we_ourselves_are_not_dialled():
    book_, peer, address = book()
    book_.put(peer, (address,), 0)
    assert book_.take_due({peer}, 1) == []
    book_.put(book_._own, (address,), 0)
    book_.remove(peer)
    assert book_.take_due((), 1) == []
