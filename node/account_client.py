"""The marketplace as the owner of a machine or of a key asks it: whose they are."""

from dataclasses import dataclass

from node.market_client import MarketClient
from node.market_shapes import Shape, is_number, is_text
from node.market_transport import SMALL_BYTES_MAX

__all__ = ["AccountClient", "DeviceAnswer", "DeviceCode", "OwnMachine"]

_MACHINE: Shape = {"account_id": (is_text, None), "account_name": (is_text, None)}
_CODE: Shape = {
    "device_code": is_text,
    "user_code": is_text,
    "verification_uri": is_text,
    "verification_uri_complete": is_text,
    "expires_in_s": is_number,
    "interval_s": is_number,
}
_DEVICE: Shape = {
    "account_id": is_text,
    "account_name": is_text,
    "api_key": (is_text, None),
    "key_id": (is_text, None),
}


@dataclass(frozen=True, slots=True)
class DeviceCode:
    """What a person is shown, and what this machine asks with (RFC 8628)."""

    device_code: str
    user_code: str
    address: str
    """Of the page where the code is typed."""
    address_with_code: str
    lifetime_s: float
    interval_s: float


@dataclass(frozen=True, slots=True)
class DeviceAnswer:
    """It was approved. `api_key` and `key_id`: empty where none was asked for."""

    account_id: str
    account_name: str
    api_key: str
    key_id: str


@dataclass(frozen=True, slots=True)
class OwnMachine:
    """Whose this machine is; empty: nobody's."""

    account_id: str
    account_name: str


class AccountClient(MarketClient):
    """A MarketClient that also asks for its machine's and its buyer's account."""

    async def own_machine(self) -> OwnMachine:
        """Raises MarketRefused 404 where the marketplace knows of no machines."""
        data = await self._signed_json(
            "GET", "/v1/machine", None, shape=_MACHINE, bytes_max=SMALL_BYTES_MAX
        )
        return OwnMachine(data["account_id"] or "", data["account_name"] or "")

    async def begin_device(self, name: str, purpose: str) -> DeviceCode:
        """A code for a person to approve; `purpose` is `machine` or `key`."""
        body = {"name": name, "purpose": purpose}
        data = await self._signed_json(
            "POST", "/v1/device/code", body, shape=_CODE, bytes_max=SMALL_BYTES_MAX
        )
        return DeviceCode(
            device_code=data["device_code"],
            user_code=data["user_code"],
            address=data["verification_uri"],
            address_with_code=data["verification_uri_complete"],
            lifetime_s=data["expires_in_s"],
            interval_s=data["interval_s"],
        )

    async def ask_device(self, device_code: str) -> DeviceAnswer:
        """What became of it. Raises MarketRefused with RFC 8628's codes until it is approved."""
        body = {"device_code": device_code}
        data = await self._signed_json(
            "POST", "/v1/device/token", body, shape=_DEVICE, bytes_max=SMALL_BYTES_MAX
        )
        return DeviceAnswer(
            data["account_id"], data["account_name"], data["api_key"] or "", data["key_id"] or ""
        )

    async def end_key(self, api_key: str) -> None:
        """Revoke the very key that is shown."""
        headers = {"authorization": f"Bearer {api_key}"}
        await self._request(
            "DELETE", "/v1/keys/current", headers=headers, bytes_max=SMALL_BYTES_MAX
        )
