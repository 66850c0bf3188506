"""A repaired session: three hops, the middle one under a hold of its own; and what comes of it."""

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.parking import disputed_account
from ledger.settle_window import settle_ready
from tests.ledger.world import (
    OTHER,
    SETTLE_BY_S,
    accept,
    key_of,
    lease_of,
    receipt_of,
    receipt_record,
)
from tests.protocol.samples import digest

LATER_S = SETTLE_BY_S + 1
PROVIDERS = [key_of(f"provider {hop}") for hop in range(3)]
LEASES = [
    lease_of(f"lease {hop}", "first" if hop != 1 else "second", provider=key, hop_index=hop,
             previous=PROVIDERS[hop - 1].peer_id if hop else OTHER.peer_id,
             next=PROVIDERS[hop + 1].peer_id if hop < 2 else OTHER.peer_id)
    for hop, key in enumerate(PROVIDERS)
]  # fmt: skip
"""Hop 1 was replaced: it stands under a hold of its own."""
PAY = receipt_record(LEASES[0], 1, 10).amount_nanos


def hand_in(session, hop, lease=None, **changes):
    said = {"link_in_hash": digest(f"link {hop}"), "link_out_hash": digest(f"link {hop + 1}")}
    receipt = receipt_of(
        lease or LEASES[hop], 1, 10,
        provider=PROVIDERS[hop], epoch=1, **{**said, "final": True, **changes},
    )  # fmt: skip
    (outcome,) = accept(session, receipt, provider=PROVIDERS[hop])
    assert outcome.status == "accepted", outcome.reason


def settle(session, limit=1):
    return settle_ready(session, now_s=LATER_S, limit=limit)


def earned(session, hop) -> int:
    return Book(session).balance(earnings_of(hop)).posted_nanos


def parked(session, hop) -> int:
    return Book(session).balance(disputed_account(LEASES[hop].lease_id)).posted_nanos


def lease_under(hold, hop, **changes):
    lease = LEASES[hop]
    return lease_of(
        f"{hold} {hop}", hold, provider=PROVIDERS[hop], hop_index=hop,
        previous=lease.previous, next=lease.next, **changes,
    )  # fmt: skip


def earnings_of(hop):
    return AccountRef(AccountCode.PROVIDER_EARNED, str(PROVIDERS[hop].peer_id))
