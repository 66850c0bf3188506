"""JSON of `keys`."""

from typing import Annotated, Literal

from pydantic import Field

from marketplace.fields import AMOUNT_NANOS_MAX, Name, Schema

__all__ = ["KeyChange", "KeyCreated", "KeyList", "KeySchema", "NewKeySchema", "Rotation"]

ScopeName = Literal["inference", "management"]
ResetName = Literal["never", "day", "week", "month"]
Limit = Annotated[int, Field(ge=0, le=AMOUNT_NANOS_MAX)]
Count = Annotated[int, Field(gt=0, le=1_000_000)]
Time = Annotated[int, Field(gt=0, le=2**40)]

OVERLAP_S = 24 * 3600
"""Long enough to put the new key where the old one was, on a working day."""
OVERLAP_S_MAX = 30 * 24 * 3600


def _inference_only() -> list[ScopeName]:
    return ["inference"]


class NewKeySchema(Schema):
    """A key's name, what it may do, and what bounds it besides the account's balance."""

    name: Name
    scopes: list[ScopeName] = Field(min_length=1, max_length=2, default_factory=_inference_only)
    expires_at_s: Time | None = None
    spend_limit_nanos: Limit | None = None
    spend_reset: ResetName = "never"
    """When what was spent is forgotten; days, weeks from Monday, and months of UTC."""
    requests_per_minute_max: Count | None = None
    """Quotes in a minute of the clock."""
    parallel_max: Count | None = None
    """Sessions open at once."""


class KeyChange(Schema):
    """What is to be different; a field that is not there stays, null takes a limit away."""

    name: Name = ""
    expires_at_s: Time | None = None
    spend_limit_nanos: Limit | None = None
    spend_reset: ResetName = "never"
    requests_per_minute_max: Count | None = None
    parallel_max: Count | None = None


class Rotation(Schema):
    """How long the old key is good beside the new one."""

    overlap_s: int = Field(default=OVERLAP_S, ge=0, le=OVERLAP_S_MAX)


class KeySchema(Schema):
    """A key as it is listed: never its secret."""

    key_id: str
    name: str
    scopes: list[str]
    created_at_s: int
    last_used_at_s: int | None
    revoked_at_s: int | None
    expires_at_s: int | None
    requests_per_minute_max: int | None
    spend_limit_nanos: int | None
    spend_reset: ResetName
    spent_nanos: int
    """In this period, with every key that shares its budget."""
    reserved_nanos: int
    """Held by sessions that are not settled."""
    resets_at_s: int | None
    parallel_max: int | None
    open_sessions: int


class KeyCreated(Schema):
    """A new key; `api_key` is never shown again."""

    key_id: str
    name: str
    scopes: list[str]
    api_key: str


class KeyList(Schema):
    """Every key of an account, oldest first."""

    data: list[KeySchema]
