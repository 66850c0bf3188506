"""How an account stands: frozen or not, trusted how far, linked to whom. Nothing here commits."""

from collections.abc import Collection
from dataclasses import dataclass

from ledger.database import Session
from marketplace.errors import MarketError
from marketplace.standing.links import FingerprintKind, digest_of, is_shared_by_too_many
from marketplace.standing.repository import StandingRepository
from marketplace.standing.tiers import CHARGEBACK_MEMORY_S, RIPE_AFTER_S, History, Tier, tier_of

__all__ = [
    "Standing",
    "allow_link",
    "freeze",
    "is_frozen",
    "is_unverified",
    "linked_to",
    "may_choose",
    "note_fingerprint",
    "of",
    "tier",
    "unfreeze",
    "unpayable_buyers",
    "verify",
]

REASON_CHARACTERS_MAX = 200
LINKED_MAX = 10_000
"""Shared fingerprints looked at for one account; what more have in common is no longer personal."""


@dataclass(frozen=True, slots=True)
class Standing:
    """What is known of one account now."""

    tier: Tier
    verified: bool
    frozen: tuple[str, ...]
    """Why nothing leaves it; empty where it is not frozen."""


def freeze(session: Session, account_id: str, reason: str, *, now_s: int) -> None:
    """Let nothing leave the account until this reason is lifted; the same again is no error.

    A reason that begins with `chargeback` also counts against the account's tier.
    """
    if not reason:
        raise MarketError("A freeze needs a reason.")
    StandingRepository(session).freeze(account_id, reason[:REASON_CHARACTERS_MAX], now_s)


def unfreeze(session: Session, account_id: str, *, now_s: int, reason: str | None = None) -> int:
    """Lift one reason, or all of them; gives how many there were."""
    reason = None if reason is None else reason[:REASON_CHARACTERS_MAX]
    return StandingRepository(session).lift(account_id, reason, now_s)


def is_frozen(session: Session, account_id: str) -> bool:
    """Whether anything keeps this account's money here."""
    return bool(StandingRepository(session).open_freezes(account_id))


def note_fingerprint(
    session: Session, account_id: str, kind: FingerprintKind | str, value: str, *, now_s: int
) -> None:
    """Remember that the account was seen with a `card`, a `bank` account or an `ip`.

    Only a SHA-256 is stored. Raises ValueError for another kind, MarketError for an empty value.
    """
    kind = FingerprintKind(kind)
    digest = digest_of(kind, value)
    StandingRepository(session).note_fingerprint(account_id, kind.value, digest, now_s)


def verify(session: Session, account_id: str, *, now_s: int) -> None:
    """An operator knows who this is; again is no error."""
    StandingRepository(session).verify(account_id, now_s)


def tier(session: Session, account_id: str, *, now_s: int) -> Tier:
    """How far the account's history lets it be trusted; one that is not there is new."""
    repository = StandingRepository(session)
    opened_at_s = repository.opened_at_s(account_id)
    if opened_at_s is None:
        return Tier.NEW
    return tier_of(
        History(
            age_s=max(0, now_s - opened_at_s),
            paid_nanos=repository.paid_nanos(account_id, now_s - RIPE_AFTER_S),
            recent_chargebacks=repository.chargebacks_since(
                account_id, now_s - CHARGEBACK_MEMORY_S
            ),
        )
    )


def of(session: Session, account_id: str, *, now_s: int) -> Standing:
    """Everything at once, for a page."""
    repository = StandingRepository(session)
    return Standing(
        tier=tier(session, account_id, now_s=now_s),
        verified=repository.is_verified(account_id),
        frozen=tuple(row.reason for row in repository.open_freezes(account_id)),
    )


def is_unverified(session: Session, account_id: str, *, now_s: int) -> bool:
    """Whether neither an operator nor a history vouches for who pays here."""
    return (
        not StandingRepository(session).is_verified(account_id)
        and tier(session, account_id, now_s=now_s) is Tier.NEW
    )


def may_choose(session: Session, account_id: str, *, now_s: int, processor_name: str) -> bool:
    """Whether the buyer may say which providers serve it.

    Without the choice stolen money cannot be steered to the thief's own machine. The test
    processor moves no money, so there everybody may.
    """
    if processor_name == "test":
        return True
    if is_frozen(session, account_id):
        return False
    return not is_unverified(session, account_id, now_s=now_s)


def linked_to(session: Session, account_id: str) -> Collection[str]:
    """The accounts that share a card, a bank account or a household's address with this one."""
    by_fingerprint: dict[tuple[str, bytes], set[str]] = {}
    for kind, digest, other in StandingRepository(session).sharing(account_id, LINKED_MAX):
        by_fingerprint.setdefault((kind, digest), set()).add(other)
    return frozenset(
        other
        for (kind, _), others in by_fingerprint.items()
        if not is_shared_by_too_many(FingerprintKind(kind), len(others) + 1)
        for other in others
    )


def allow_link(
    session: Session, provider_account: str, buyer_account: str, *, approval_id: str, now_s: int
) -> None:
    """Let what a linked buyer pays be payable; the operator's decision, by two people."""
    StandingRepository(session).allow_link(provider_account, buyer_account, approval_id, now_s)


def unpayable_buyers(session: Session, provider_account: str) -> Collection[str]:
    """The provider itself and who is linked to it, less those that an operator has allowed.

    An account that buys from its own machines is linked to itself: the loop of a cash-out.
    """
    linked = {provider_account, *linked_to(session, provider_account)}
    return linked - set(StandingRepository(session).allowed_links(provider_account))
