"""Tables of `manifests`."""

from typing import ClassVar

from sqlalchemy import CheckConstraint
from sqlmodel import Field

from ledger.database import BigInt
from ledger.digested import DigestedBase

__all__ = ["ManifestRow"]


class ManifestRow(DigestedBase, table=True):
    """What the market needs of a manifest whose hash was checked; never changed.

    The tensors are not kept: nodes fetch weights elsewhere and check them against the hash.
    """

    __tablename__: ClassVar[str] = "market_manifest"
    __table_args__ = (
        CheckConstraint("layers > 0 AND hidden_size > 0 AND context_tokens > 0", name="sizes"),
    )

    manifest_hash: bytes = Field(primary_key=True, max_length=32)
    name: str = Field(unique=True, max_length=280)
    """The manifest's own name if it came first, else `name@` and 12 digits of the hash."""
    family: str = Field(max_length=128)
    layers: BigInt
    hidden_size: BigInt
    context_tokens: BigInt
    licence: str = Field(max_length=256)
    resale_allowed: bool
    registered_at_s: BigInt
