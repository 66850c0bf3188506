"""What every request handler needs, in one value that `app.create_app` builds."""

from dataclasses import dataclass, field

from marketplace.auth import KeyUses
from marketplace.clock import Clock
from marketplace.config import MarketConfig
from marketplace.db import Database
from marketplace.matching import OfferIndex
from marketplace.payments.processor import PayoutProcessor, Processor
from marketplace.turns import Turns
from marketplace.users.passwords import Passwords
from protocol.identity import KeyPair

__all__ = ["Market"]


@dataclass(frozen=True, slots=True)
class Market:
    """The parts of a running marketplace."""

    config: MarketConfig
    key: KeyPair
    clock: Clock
    database: Database
    processor: Processor
    payout_processor: PayoutProcessor
    index: OfferIndex = field(default_factory=OfferIndex)
    key_uses: KeyUses = field(default_factory=KeyUses)
    turns: Turns = field(default_factory=Turns)
    passwords: Passwords = field(default_factory=Passwords)
