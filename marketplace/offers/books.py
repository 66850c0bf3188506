"""What must hold of offers at every commit, for `piecework-market check`: a row says what its
provider signed, or that it was withdrawn."""

from collections.abc import Iterator
from itertools import islice

from ledger.database import Session
from ledger.invariants import Violation
from marketplace.offers.models import OfferRow
from marketplace.offers.repository import OfferRepository
from protocol.envelope import open_envelope
from protocol.errors import PieceworkError
from protocol.identity import PeerId
from protocol.offer import Offer

__all__ = ["check"]

VIOLATIONS_MAX = 20
"""Enough to see what is wrong."""


def check(session: Session) -> list[Violation]:
    """Every offer that its provider did not sign so; a healthy database gives none."""
    return list(islice(_broken(OfferRepository(session)), VIOLATIONS_MAX))


def _broken(offers: OfferRepository) -> Iterator[Violation]:
    for row in offers.every():
        if why := _wrong_with(row):
            yield Violation("offers", f"market_offer {row.provider} {why}")


def _wrong_with(row: OfferRow) -> str:
    try:
        offer = open_envelope(Offer, row.envelope, signer=PeerId.from_text(row.provider))
    except PieceworkError as error:
        return f"cannot be read: {error}"
    if row.sequence != offer.sequence or row.expires_at_s not in (0, offer.expires_at_s):
        return "says otherwise than its provider signed"
    return ""
