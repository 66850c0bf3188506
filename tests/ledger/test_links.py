"""Neighbours' words about the link between them: what is compared, and what is not."""

import dataclasses

import pytest

from ledger.lane import Watermark
from ledger.links import LinkEnds, find_mismatches, loose_ends, touched
from protocol.money import Work
from tests.ledger.world import id_of, key_of, lease_of, receipt_record
from tests.protocol.samples import digest


def end(hop: int, *, session: str = "session", **changes) -> LinkEnds:
    """An honest hop's word after 10 steps; every link has a hash of its own."""
    fields = {
        "lease_id": id_of(f"{session} {hop}"),
        "session_id": id_of(session),
        "hold_id": id_of(f"{session} hold"),
        "provider": key_of(f"provider {hop}").peer_id,
        "hop_index": hop,
        "hop_count": 3,
        "epoch": 0,
        "steps": 10,
        "tokens": 10,
        "bytes_in": 1000,
        "bytes_out": 1000,
        "link_in_hash": digest(f"link {hop}"),
        "link_out_hash": digest(f"link {hop + 1}"),
    }
    return LinkEnds(**{**fields, **changes})


HONEST = [end(0), end(1), end(2)]


def with_middle(**changes) -> list[LinkEnds]:
    return [HONEST[0], dataclasses.replace(HONEST[1], **changes), HONEST[2]]


def test_honest_neighbours_agree():
    assert find_mismatches(HONEST) == []


@pytest.mark.parametrize(
    ("change", "hops"),
    [
        ({"link_in_hash": digest("other")}, {0, 1}),
        ({"link_out_hash": digest("other")}, {1, 2}),
        ({"bytes_in": 999}, {0, 1}),
        ({"bytes_out": 1001}, {1, 2}),
        ({"link_in_hash": digest("x"), "link_out_hash": digest("y")}, {0, 1, 2}),
    ],
)
def test_both_ends_of_a_link_that_does_not_match_are_touched(change, hops):
    mismatches = find_mismatches(with_middle(**change))
    assert touched(mismatches) == {HONEST[hop].lease_id for hop in hops}


@pytest.mark.parametrize(
    "change",
    [
        {"steps": 9, "link_in_hash": digest("earlier")},
        {"epoch": 1, "link_in_hash": digest("earlier")},
        {"session_id": id_of("other"), "link_in_hash": digest("other")},
    ],
    ids=["another step", "another epoch", "another session"],
)
def test_only_the_same_step_of_the_same_epoch_is_compared(change):
    assert find_mismatches(with_middle(**change)) == []


def test_before_the_first_step_hashes_say_nothing():
    ends = [dataclasses.replace(e, epoch=1, steps=0) for e in HONEST]
    ends[1] = dataclasses.replace(ends[1], link_in_hash=digest("half a replay"))
    assert find_mismatches(ends) == []


def test_bytes_are_compared_only_where_both_count_the_same_tokens():
    for changes, expected in (({"epoch": 1}, 1), ({"tokens": 4}, 0)):
        ends = [dataclasses.replace(e, epoch=changes.get("epoch", 0)) for e in HONEST]
        ends[1] = dataclasses.replace(ends[1], bytes_in=1, bytes_out=1, **changes)
        assert len(find_mismatches(ends[:2])) == expected


def test_a_head_cannot_frame_two_honest_hops_by_a_replay():
    """In whatever epoch: a replay is received, but nobody bills it as sent."""
    replayed = [dataclasses.replace(e, bytes_out=200) for e in HONEST[:2]]
    assert find_mismatches(replayed) == []
    assert find_mismatches([dataclasses.replace(e, epoch=1) for e in replayed]) == []
    # who had no replay, by its own word, has sent all that its neighbour can have received
    greedy = dataclasses.replace(HONEST[1], bytes_in=2000)
    assert len(find_mismatches([HONEST[0], greedy])) == 1


def test_a_buyer_cannot_frame_hops_of_two_routes_under_one_session():
    """A route that was drawn anew has the session's id, and runs at the same time if it likes."""
    other = [
        dataclasses.replace(
            end(hop, hold_id=id_of("other hold"), lease_id=id_of(f"other {hop}")),
            provider=key_of(f"other provider {hop}").peer_id,
            previous=key_of(f"other provider {hop - 1}").peer_id,
            next=key_of(f"other provider {hop + 1}").peer_id,
            link_in_hash=digest(f"other link {hop}"),
            link_out_hash=digest(f"other link {hop + 1}"),
        )
        for hop in range(2)
    ]
    first = [
        dataclasses.replace(
            e,
            previous=key_of(f"provider {e.hop_index - 1}").peer_id,
            next=key_of(f"provider {e.hop_index + 1}").peer_id,
        )
        for e in HONEST[:2]
    ]
    assert find_mismatches([*first, *other]) == []
    # who was leased in a lost hop's place names whom it stands beside
    joined = dataclasses.replace(other[1], previous=first[0].provider)
    assert touched(find_mismatches([first[0], joined])) == {first[0].lease_id, joined.lease_id}


def test_the_heads_own_links_are_not_compared():
    ends = [dataclasses.replace(HONEST[0], link_in_hash=digest("x")), HONEST[1]]
    assert find_mismatches(ends) == []


def test_a_replacement_at_the_same_place_is_compared_with_its_neighbours():
    replacement = end(
        1, lease_id=id_of("new"), hold_id=id_of("new"), epoch=1, link_in_hash=digest("x"),
        previous=HONEST[0].provider, next=HONEST[2].provider,
    )  # fmt: skip
    stays = [dataclasses.replace(HONEST[index], epoch=1) for index in (0, 2)]
    mismatches = find_mismatches([*stays, replacement, HONEST[1]])
    assert touched(mismatches) == {HONEST[0].lease_id, replacement.lease_id}
    assert str(mismatches[0]) == "after step 10 of epoch 1, hop 0 sent other than hop 1 received"


def test_a_loose_end_has_a_neighbour_that_nobody_stands_for():
    assert loose_ends(HONEST) == []
    assert loose_ends(HONEST[:2]) == [HONEST[1]]
    assert loose_ends([HONEST[1]]) == [HONEST[1]]
    assert loose_ends([dataclasses.replace(HONEST[1], steps=0)]) == []
    assert loose_ends(with_middle(epoch=1)) == with_middle(epoch=1)
    assert loose_ends([end(0, hop_count=1)]) == []


def test_ends_are_those_of_the_receipt():
    lease = lease_of("lease", "hold")
    receipt = receipt_record(lease, 1, 5)
    said = LinkEnds.of(lease, Watermark.of(receipt))
    assert (said.steps, said.tokens, said.bytes_in) == (5, 5, Work(0, 0, 5 * 1024).bytes_in)
    assert (said.link_in_hash, said.hop_index) == (receipt.link_in_hash, lease.hop_index)
    assert (said.hold_id, said.previous, said.next) == (
        lease.hold_id, lease.previous, lease.next,
    )  # fmt: skip
