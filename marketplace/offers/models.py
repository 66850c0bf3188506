"""Tables of `offers`."""

from typing import ClassVar

from sqlalchemy import BigInteger, CheckConstraint, text
from sqlmodel import Field

from ledger.database import Base, BigInt

__all__ = ["OfferRow", "PlacementRow"]


class OfferRow(Base, table=True):
    """A provider's newest offer, as signed. The live index is rebuilt from these."""

    __tablename__: ClassVar[str] = "market_offer"
    __table_args__ = (CheckConstraint("sequence >= 0", name="sequence"),)

    provider: str = Field(primary_key=True, max_length=64)
    """PeerId text."""
    sequence: BigInt
    envelope: bytes
    expires_at_s: BigInt
    """0 once withdrawn: the row stays, so that an older sequence cannot come back."""
    changed_at_s: int = Field(
        default=0, sa_type=BigInteger, index=True, sa_column_kwargs={"server_default": text("0")}
    )
    """When it was put or withdrawn, by the clock of whoever took it: other processes follow it."""


class PlacementRow(Base, table=True):
    """Where a joining node was told to stand, until its offer says so or the time is over."""

    __tablename__: ClassVar[str] = "market_placement"
    __table_args__ = (CheckConstraint("span_start >= 0 AND span_start < span_end", name="span"),)

    peer_id: str = Field(primary_key=True, max_length=64)
    manifest_hash: bytes = Field(
        max_length=32, foreign_key="market_manifest.manifest_hash", index=True
    )
    span_start: BigInt
    span_end: BigInt
    expires_at_s: BigInt
