"""Who may open a session, and who may go on with one whose neighbours were replaced."""

import dataclasses

import pytest

from node.serve.admission import LeaseAdmission, MembersAdmission, OwnAdmission, ServedShard
from protocol.envelope import seal
from protocol.errors import ErrorCode, SessionError
from protocol.frame import Open
from protocol.identity import KeyPair
from protocol.route import Span
from protocol.tensor import WireDtype
from tests.protocol.samples import HEAD, LEASE, MARKET, NEIGHBOUR, NOW_S, PROVIDER

STRANGER, BEFORE, BEHIND = (KeyPair(bytes([n]) * 32) for n in (7, 8, 9))
SHARD = ServedShard(PROVIDER.peer_id, LEASE.manifest_hash, 2, 9, LEASE.hidden_size)
OURS = dataclasses.replace(LEASE, previous=NEIGHBOUR.peer_id, next=BEHIND.peer_id, hop_count=4)
"""Hop 1 of 4, layers 4:8."""
NEW_PREVIOUS = dataclasses.replace(
    OURS,
    lease_id=b"of the previous.",
    hop_index=0,
    provider=BEFORE.peer_id,
    previous=HEAD.peer_id,
    next=PROVIDER.peer_id,
    span=Span(0, 4),
)
NEW_NEXT = dataclasses.replace(
    OURS,
    lease_id=b"of the next hop.",
    hop_index=2,
    provider=STRANGER.peer_id,
    previous=PROVIDER.peer_id,
    next=NEIGHBOUR.peer_id,
    span=Span(8, 10),
)


def sealed(lease, key=MARKET) -> bytes:
    return seal(lease, key).encode()


def opened(**changes) -> Open:
    """The OPEN that fits our lease."""
    request = Open(
        session_id=OURS.session_id,
        epoch=0,
        hop_index=OURS.hop_index,
        hop_count=OURS.hop_count,
        previous=OURS.previous,
        next=OURS.next,
        next_addresses=(),
        manifest_hash=OURS.manifest_hash,
        span=OURS.span,
        wire_dtype=OURS.wire_dtype,
        sealed=True,
        capacity_tokens=OURS.tokens_max,
        sampling=None,
        lease=sealed(OURS),
    )
    return dataclasses.replace(request, **changes)


def reopened(**changes) -> Open:
    return opened(epoch=1, resume=100, **changes)


class Clock:
    def __init__(self) -> None:
        self.now = NOW_S

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def admission(clock):
    return LeaseAdmission(SHARD, MARKET.peer_id, clock=clock)


def refused(admit, *arguments) -> str:
    with pytest.raises(SessionError) as caught:
        admit(*arguments)
    assert caught.value.code in (ErrorCode.NOT_ADMITTED, ErrorCode.WRONG_SPAN)
    return caught.value.message


class TestAdmit:
    def test_a_lease_that_fits_is_used_once(self, admission):
        assert admission.admit(opened(), HEAD.peer_id) == OURS
        assert "has been used" in refused(admission.admit, opened(), HEAD.peer_id)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"lease": None}, "lease is needed"),
            ({"lease": sealed(OURS, STRANGER)}, "may say it"),
            ({"lease": b"garbage"}, "CBOR"),
            ({"session_id": b"another session!"}, "session"),
            ({"hop_index": 2}, "hop"),
            ({"previous": STRANGER.peer_id}, "previous peer"),
            ({"next": STRANGER.peer_id}, "next peer"),
            ({"span": Span(4, 7)}, "span"),
            ({"span": Span(4, 12)}, "serves layers"),
            ({"manifest_hash": bytes(32)}, "another model"),
            ({"wire_dtype": WireDtype.BF16}, "wire dtype"),
            ({"capacity_tokens": OURS.tokens_max + 1}, "capacity"),
            ({"standby": True}, "does not sell standbys"),
        ],
        ids=lambda value: ", ".join(value) if isinstance(value, dict) else "",
    )
    def test_what_does_not_fit_is_refused(self, admission, change, reason):
        assert reason in refused(admission.admit, opened(**change), HEAD.peer_id)

    def test_another_head_and_another_time(self, admission, clock):
        assert "head" in refused(admission.admit, opened(), STRANGER.peer_id)
        clock.now = OURS.expires_at_s
        assert "expired" in refused(admission.admit, opened(), HEAD.peer_id)

    def test_a_replacement_comes_with_a_lease_of_its_own(self, admission):
        """To it the session is new: rows come by replay, within what the lease reserves."""
        assert admission.admit(reopened(), HEAD.peer_id) == OURS

    def test_a_replacement_whose_neighbour_died_before_it_was_opened(self, admission):
        request = reopened(next=STRANGER.peer_id, neighbours=(sealed(NEW_NEXT),))
        lease = admission.admit(request, HEAD.peer_id)
        assert lease == dataclasses.replace(OURS, next=STRANGER.peer_id)


class TestReadmit:
    def test_a_survivor_goes_on_under_its_lease(self, admission, clock):
        """Long after the lease had to be used: it was."""
        clock.now = OURS.settle_by_s
        assert admission.readmit(reopened(), HEAD.peer_id, OURS) == OURS
        assert admission.readmit(reopened(lease=None), HEAD.peer_id, OURS) == OURS

    @pytest.mark.parametrize("side", ["previous", "next", "both"])
    def test_a_neighbour_is_proven_by_its_lease(self, admission, clock, side):
        changes, proofs = {}, []
        if side != "next":
            changes["previous"] = BEFORE.peer_id
            proofs.append(sealed(NEW_PREVIOUS))
        if side != "previous":
            changes["next"] = STRANGER.peer_id
            proofs.append(sealed(NEW_NEXT))
        request = reopened(neighbours=tuple(proofs), **changes)
        lease = admission.readmit(request, HEAD.peer_id, OURS)
        assert lease == dataclasses.replace(OURS, **changes)

        # whoever was proven once need not be again, though the proof has run out since
        clock.now = NEW_NEXT.expires_at_s + 1000
        again = dataclasses.replace(request, epoch=2, neighbours=())
        assert admission.readmit(again, HEAD.peer_id, lease) == lease
        assert "expired" in refused(admission.readmit, request, HEAD.peer_id, OURS)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            ({"session_id": b"another session!"}, "session"),
            ({"head": STRANGER.peer_id}, "head"),
            ({"payer_key": bytes(32)}, "payer"),
            ({"manifest_hash": bytes(32)}, "model"),
            ({"hop_index": 3}, "hop"),
            ({"hop_count": 5}, "hop"),
            ({"span": Span(7, 10)}, "span"),
            ({"span": Span(9, 10)}, "span"),
            ({"previous": BEHIND.peer_id}, "neighbour"),
            ({"provider": BEHIND.peer_id}, "no lease of it"),
        ],
        ids=str,
    )
    def test_a_lease_that_does_not_put_it_there_proves_nothing(self, admission, change, reason):
        proof = sealed(dataclasses.replace(NEW_NEXT, **change))
        request = reopened(next=STRANGER.peer_id, neighbours=(proof,))
        told = refused(admission.readmit, request, HEAD.peer_id, OURS)
        assert "cannot be the next hop" in told
        assert reason in told

    def test_nor_does_one_that_others_signed_or_none_at_all(self, admission):
        forged = reopened(next=STRANGER.peer_id, neighbours=(sealed(NEW_NEXT, STRANGER),))
        assert "may say it" in refused(admission.readmit, forged, HEAD.peer_id, OURS)
        garbage = reopened(next=STRANGER.peer_id, neighbours=(b"garbage",))
        assert "CBOR" in refused(admission.readmit, garbage, HEAD.peer_id, OURS)
        bare = reopened(next=STRANGER.peer_id)
        assert "no lease of it came" in refused(admission.readmit, bare, HEAD.peer_id, OURS)

    def test_one_side_does_not_prove_the_other(self, admission):
        request = reopened(
            previous=STRANGER.peer_id, next=STRANGER.peer_id, neighbours=(sealed(NEW_NEXT),)
        )
        told = refused(admission.readmit, request, HEAD.peer_id, OURS)
        assert "cannot be the previous hop" in told

    def test_the_head_stays_before_hop_0_and_behind_the_last(self, admission):
        first = dataclasses.replace(OURS, hop_index=0, previous=HEAD.peer_id)
        request = dataclasses.replace(
            reopened(), hop_index=0, previous=BEFORE.peer_id, lease=None,
            neighbours=(sealed(NEW_PREVIOUS),),
        )  # fmt: skip
        refused(admission.readmit, request, HEAD.peer_id, first)

    @pytest.mark.parametrize(
        "change",
        [
            {"session_id": b"another session!"},
            {"hop_count": 3},
            {"span": Span(4, 7)},
            {"wire_dtype": WireDtype.BF16},
            {"capacity_tokens": OURS.tokens_max + 1},
            {"standby": True},
        ],
        ids=str,
    )
    def test_nothing_else_may_change(self, admission, change):
        request = dataclasses.replace(reopened(), **change)
        refused(admission.readmit, request, HEAD.peer_id, OURS)

    def test_nor_the_head(self, admission):
        assert "head" in refused(admission.readmit, reopened(), STRANGER.peer_id, OURS)

    def test_another_lease_for_this_hop_is_admitted_like_a_new_session(self, admission, clock):
        """On a wholly new route the same hop may have other layers, and earns anew."""
        other = dataclasses.replace(OURS, lease_id=b"on the new route", span=Span(5, 8))
        request = reopened(lease=sealed(other), span=Span(5, 8))
        assert admission.readmit(request, HEAD.peer_id, OURS) == other
        assert "has been used" in refused(admission.readmit, request, HEAD.peer_id, OURS)
        clock.now = other.expires_at_s
        late = reopened(
            lease=sealed(dataclasses.replace(other, lease_id=b"another new one.")),
            span=Span(5, 8),
        )
        assert "expired" in refused(admission.readmit, late, HEAD.peer_id, OURS)


class TestFree:
    @pytest.mark.parametrize("standby", [False, True])
    def test_the_owner_may_open_reopen_and_keep_a_standby(self, standby):
        for admission in (
            OwnAdmission(SHARD, [HEAD.peer_id]),
            MembersAdmission(SHARD, lambda peer: peer == HEAD.peer_id),
        ):
            request = opened(lease=None, standby=standby)
            assert admission.admit(request, HEAD.peer_id) is None
            later = dataclasses.replace(request, epoch=3, resume=5, next=STRANGER.peer_id)
            assert admission.readmit(later, HEAD.peer_id, None) is None
            refused(admission.admit, request, STRANGER.peer_id)
            refused(admission.readmit, later, STRANGER.peer_id, None)
            refused(admission.readmit, opened(span=Span(0, 4)), HEAD.peer_id, None)
