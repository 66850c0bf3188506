"""JSON of `keys`."""

from typing import Literal

from pydantic import Field

from marketplace.fields import Name, Schema

__all__ = ["KeyCreated", "KeyList", "KeySchema", "NewKeySchema"]

ScopeName = Literal["inference", "management"]


def _inference_only() -> list[ScopeName]:
    return ["inference"]


class NewKeySchema(Schema):
    """A key's name and what it may do."""

    name: Name
    scopes: list[ScopeName] = Field(min_length=1, max_length=2, default_factory=_inference_only)


class KeySchema(Schema):
    """A key as it is listed: never its secret."""

    key_id: str
    name: str
    scopes: list[str]
    created_at_s: int
    last_used_at_s: int | None
    revoked_at_s: int | None


class KeyCreated(Schema):
    """A new key; `api_key` is never shown again."""

    key_id: str
    name: str
    scopes: list[str]
    api_key: str


class KeyList(Schema):
    """Every key of an account, oldest first."""

    data: list[KeySchema]
