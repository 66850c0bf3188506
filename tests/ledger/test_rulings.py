"""Proposed rulings: what the blamed were to get goes back, everybody else is paid."""

from ledger.blame import find_blame
from ledger.rulings import Decision, propose

PARTY_OF = {b"l": "liar", b"a": "a", b"b": "b"}
BLAMES = find_blame([("liar", name) for name in "abcde"])


def test_the_blamed_lose_and_the_others_are_paid():
    proposal = propose({b"l": 10, b"a": 7, b"b": 8}, PARTY_OF, [(b"a", b"l"), (b"l", b"b")], BLAMES)
    assert proposal.decisions == (
        Decision(b"a", 7, 0),
        Decision(b"b", 8, 0),
        Decision(b"l", 0, 10),
    )
    assert "liar contradicts 5 distinct neighbours" in proposal.reason


def test_a_link_that_nobody_is_to_blame_for_leaves_it_to_people():
    parked = {b"l": 10, b"a": 7, b"b": 8}
    assert propose(parked, PARTY_OF, [(b"a", b"l"), (b"a", b"b")], BLAMES) is None
    assert propose(parked, PARTY_OF, [(b"a", b"l")], ()) is None
    assert propose(parked, PARTY_OF, [], BLAMES) is None


def test_a_link_within_one_party_is_nobodys_blame():
    both = {b"l": "liar", b"a": "liar"}
    assert propose({b"l": 1, b"a": 1}, both, [(b"l", b"a")], BLAMES) is None
