"""Links that do not match, from settlement to ruling, in a real book; and what the audit says."""

import dataclasses

import pytest
from sqlalchemy import select

from ledger.accounts import AccountCode, AccountRef
from ledger.audit import audit
from ledger.book import Book
from ledger.dispute_models import DisputeRow
from ledger.disputes import rule
from ledger.errors import DisputeRuled, DisputeUnknown, LedgerError
from ledger.invariants import check
from ledger.leaf import ParkLeaf, RulingLeaf, SettlementLeaf, decode_leaf, encode_leaf
from ledger.log import Log, publish_checkpoint
from ledger.parking import disputed_account
from ledger.rulings import Decision
from ledger.settle_window import settle_ready
from tests.ledger.world import (
    MARKET,
    NOW_S,
    ORIGIN,
    SETTLE_BY_S,
    accept,
    buyer,
    id_of,
    key_of,
    lease_of,
    leased_hold,
    receipt_of,
    receipt_record,
)
from tests.postgres import both_engines
from tests.protocol.samples import digest

pytestmark = both_engines

LATER_S = SETTLE_BY_S + 1
PROVIDERS = [key_of(f"provider {hop}") for hop in range(3)]
LEASES = [
    lease_of(f"lease {hop}", "hold", provider=PROVIDERS[hop], hop_index=hop) for hop in range(3)
]


def words(hop: int, **changes) -> dict:
    """What an honest hop says of its links after its last step."""
    said = {"link_in_hash": digest(f"link {hop}"), "link_out_hash": digest(f"link {hop + 1}")}
    return {**said, "final": True, **changes}


def hand_in(session, lease, tokens=10, *, provider=None, **changes):
    provider = provider or PROVIDERS[lease.hop_index]
    receipt = receipt_of(lease, 1, tokens, provider=provider, **changes)
    (outcome,) = accept(session, receipt, provider=provider)
    assert outcome.status == "accepted", outcome.reason


def settle(session, now_s=LATER_S):
    return settle_ready(session, now_s=now_s, limit=10)


def balance(session, account) -> int:
    return Book(session).balance(account).posted_nanos


def earned(session, provider) -> int:
    return balance(session, AccountRef(AccountCode.PROVIDER_EARNED, str(provider.peer_id)))


def disputes_of(session):
    return session.execute(select(DisputeRow)).scalars().all()


def report_of(session):
    note = publish_checkpoint(session, MARKET, ORIGIN, NOW_S)
    leaves = Log(session).page(0, 1000)
    return audit(leaves, note.note, MARKET.peer_id, note.totals), leaves


def quarrel(session):
    """Hop 1 says that it sent other than hop 2 received."""
    leased_hold(session, "hold", LEASES)
    hand_in(session, LEASES[0], **words(0))
    hand_in(session, LEASES[1], **words(1, link_out_hash=digest("lie")))
    hand_in(session, LEASES[2], **words(2))
    (settled,) = settle(session)
    (dispute,) = disputes_of(session)
    return settled, dispute


def test_honest_neighbours_are_paid(session):
    leased_hold(session, "hold", LEASES)
    for hop, lease in enumerate(LEASES):
        hand_in(session, lease, **words(hop))
    (settled,) = settle(session)
    assert [credit.parked for credit in settled.credits] == [False] * 3
    assert disputes_of(session) == []


def test_both_ends_of_a_false_link_are_parked_and_the_others_paid(session):
    settled, dispute = quarrel(session)
    amount = receipt_record(LEASES[0], 1, 10).amount_nanos
    assert {credit.lease_id for credit in settled.credits if credit.parked} == {
        LEASES[1].lease_id,
        LEASES[2].lease_id,
    }
    assert [earned(session, provider) for provider in PROVIDERS] == [amount, 0, 0]
    for lease in LEASES[1:]:
        assert balance(session, disputed_account(lease.lease_id)) == amount
    assert (dispute.kind, dispute.state) == ("link_mismatch", "open")
    assert "hop 1 sent other than hop 2 received" in dispute.claim
    report, _ = report_of(session)
    assert report.problems == ()
    assert report.parked_nanos == 2 * amount
    assert report.charged_nanos == report.credited_nanos + report.parked_nanos + report.fee_nanos
    assert check(session) == []


def test_a_ruling_moves_everything_once(session):
    _, dispute = quarrel(session)
    before = balance(session, buyer())
    amount = balance(session, disputed_account(LEASES[1].lease_id))
    decisions = [
        Decision(LEASES[1].lease_id, 0, amount),
        Decision(LEASES[2].lease_id, amount, 0),
    ]

    def ruled():
        return rule(
            session, dispute.dispute_id, decisions, reason="it lied", by="a, b", now_s=LATER_S
        )

    assert len(ruled()) == 2
    assert len(ruled()) == 0
    assert [earned(session, provider) for provider in PROVIDERS] == [amount, 0, amount]
    assert balance(session, buyer()) == before + amount
    with pytest.raises(DisputeRuled):
        rule(session, dispute.dispute_id, decisions[::-1][:1], reason="x", by="c", now_s=LATER_S)
    report, _ = report_of(session)
    assert report.problems == ()
    assert (report.parked_nanos, report.returned_nanos) == (0, amount)
    assert check(session) == []


@pytest.mark.parametrize(
    "decide",
    [
        lambda amount: [Decision(LEASES[1].lease_id, amount, 0)],
        lambda amount: [Decision(lease.lease_id, amount, 1) for lease in LEASES[1:]],
        lambda amount: [Decision(lease.lease_id, amount + 1, -1) for lease in LEASES[1:]],
        lambda amount: [Decision(lease.lease_id, amount, 0) for lease in LEASES],
        lambda amount: [Decision(LEASES[1].lease_id, amount, 0)] * 2,
    ],
    ids=["one left out", "too much", "negative", "a stranger", "twice"],
)
def test_a_ruling_divides_exactly_what_is_parked(session, decide):
    _, dispute = quarrel(session)
    amount = balance(session, disputed_account(LEASES[1].lease_id))
    with pytest.raises(LedgerError, match=r"decides|divide"):
        rule(session, dispute.dispute_id, decide(amount), reason="x", by="a, b", now_s=LATER_S)
    assert balance(session, disputed_account(LEASES[1].lease_id)) == amount


def test_there_is_no_ruling_without_a_dispute(session):
    with pytest.raises(DisputeUnknown):
        rule(session, id_of("none"), [], reason="x", by="a, b", now_s=NOW_S)


def test_a_replacement_that_contradicts_who_was_paid_before_parks_both(session):
    """Hop 2 stood under the first hold and was paid; hop 1 was replaced and comes later."""
    leased_hold(session, "hold", [LEASES[0], LEASES[2]])
    hand_in(session, LEASES[0], epoch=1, **words(0))
    hand_in(session, LEASES[2], epoch=1, **words(2))
    settle(session)
    amount = earned(session, PROVIDERS[2])
    assert amount > 0
    other = key_of("replacement")
    new = lease_of(
        "new", "other hold", provider=other, hop_index=1,
        previous=LEASES[0].provider, next=LEASES[2].provider,
    )  # fmt: skip
    leased_hold(session, "other hold", [new])
    hand_in(session, new, provider=other, epoch=1, **words(1, link_out_hash=digest("lie")))
    (settled,) = settle(session)
    assert settled.credits[0].parked
    assert [earned(session, p) for p in (PROVIDERS[0], other, PROVIDERS[2])] == [amount, 0, 0]
    assert balance(session, disputed_account(LEASES[2].lease_id)) == amount
    report, leaves = report_of(session)
    assert report.problems == ()
    assert isinstance(decode_leaf(leaves[-1]), ParkLeaf)
    assert check(session) == []


def test_honest_repairs_park_nothing(session):
    leased_hold(session, "hold", [LEASES[0], LEASES[2]])
    hand_in(session, LEASES[0], epoch=1, **words(0))
    hand_in(session, LEASES[2], epoch=1, **words(2))
    settle(session)
    other = key_of("replacement")
    new = lease_of(
        "new", "other hold", provider=other, hop_index=1,
        previous=LEASES[0].provider, next=LEASES[2].provider,
    )  # fmt: skip
    leased_hold(session, "other hold", [new])
    hand_in(session, new, provider=other, epoch=1, **words(1))
    (settled,) = settle(session)
    assert not settled.credits[0].parked
    assert report_of(session)[0].problems == ()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda leaf: park(leaf, set()), "was not parked"),
        (lambda leaf: park(leaf, {lease.lease_id for lease in LEASES}), "contradicts nobody"),
        (
            lambda leaf: replace_ruling(leaf, to_provider_nanos=10**9),
            "a ruling moves",
        ),
    ],
    ids=["paid all the same", "parked for nothing", "more than is parked"],
)
def test_the_audit_names_what_is_parked_or_ruled_wrongly(session, change, says):
    _, dispute = quarrel(session)
    amount = balance(session, disputed_account(LEASES[1].lease_id))
    decisions = [Decision(lease.lease_id, amount, 0) for lease in LEASES[1:]]
    rule(session, dispute.dispute_id, decisions, reason="x", by="a, b", now_s=LATER_S)
    note = publish_checkpoint(session, MARKET, ORIGIN, NOW_S)
    leaves = [encode_leaf(change(decode_leaf(leaf))) for leaf in Log(session).page(0, 1000)]
    report = audit(leaves, note.note, MARKET.peer_id)
    assert any(says in problem for problem in report.problems), report.problems


def park(leaf, parked):
    if not isinstance(leaf, SettlementLeaf):
        return leaf
    return dataclasses.replace(
        leaf,
        credits=tuple(dataclasses.replace(c, parked=c.lease_id in parked) for c in leaf.credits),
    )


def replace_ruling(leaf, **changes):
    return dataclasses.replace(leaf, **changes) if isinstance(leaf, RulingLeaf) else leaf
