"""JSON of `machines`."""

from typing import Literal

from pydantic import Field

from marketplace.fields import Name, Schema
from marketplace.users.tokens import TOKEN_CHARACTERS_MAX

__all__ = [
    "BindingList",
    "BindingSchema",
    "DeviceAnswer",
    "DeviceCodeSchema",
    "DeviceRequest",
    "DeviceSchema",
    "MachineList",
    "MachineName",
    "MachineSchema",
    "OwnMachine",
    "TokenRequest",
    "UserCode",
]

USER_CODE_TEXT_MAX = 32
PurposeName = Literal["machine", "key"]


class DeviceRequest(Schema):
    """How the device is called, and what it is to get."""

    name: Name
    purpose: PurposeName = "machine"


class DeviceCodeSchema(Schema):
    """What RFC 8628 calls the device authorization response; times in seconds."""

    device_code: str
    """For the device alone; never shown again."""
    user_code: str
    """For a person to type."""
    verification_uri: str
    verification_uri_complete: str
    expires_in_s: int
    interval_s: int


class TokenRequest(Schema):
    """The device asks what became of its code."""

    device_code: str = Field(max_length=TOKEN_CHARACTERS_MAX, repr=False)


class DeviceAnswer(Schema):
    """It was approved: whose the device is, and the key it asked for, told once."""

    account_id: str
    account_name: str
    name: str
    api_key: str | None
    key_id: str | None


class UserCode(Schema):
    """What a person typed."""

    user_code: str = Field(max_length=USER_CODE_TEXT_MAX)


class DeviceSchema(Schema):
    """A device that waits, as the person is shown it before they approve."""

    peer_id: str
    name: str
    purpose: PurposeName
    created_at_s: int
    expires_at_s: int
    account_id: str
    """The account that it would be of: the one that asks."""
    moves: bool
    """It belongs to another account now, and would leave that."""


class OwnMachine(Schema):
    """What a node is told of itself. All None: it belongs to nobody, and its earnings wait."""

    peer_id: str
    account_id: str | None
    account_name: str | None
    name: str | None


class MachineName(Schema):
    """What a machine is called."""

    name: Name


class MachineSchema(Schema):
    """One machine of an account."""

    peer_id: str
    name: str
    bound_at_s: int


class MachineList(Schema):
    """Every machine of an account, the oldest first."""

    data: list[MachineSchema]


class BindingSchema(Schema):
    """One time that a machine was the account's; `unbound_at_s` None: it still is."""

    peer_id: str
    bound_at_s: int
    bound_by: str
    unbound_at_s: int | None
    unbound_by: str | None


class BindingList(Schema):
    """The last first."""

    data: list[BindingSchema]
