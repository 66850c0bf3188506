"""The marketplace as the owner of a machine or of a key asks it: whose they are."""

from dataclasses import dataclass

from node.errors import MarketUnreachable
from node.market_client import MarketClient

__all__ = ["AccountClient", "DeviceAnswer", "DeviceCode", "OwnMachine"]


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
        data = await self._signed_json("GET", "/v1/machine", None)
        return OwnMachine(data.get("account_id") or "", data.get("account_name") or "")

    async def begin_device(self, name: str, purpose: str) -> DeviceCode:
        """A code for a person to approve; `purpose` is `machine` or `key`."""
        body = {"name": name, "purpose": purpose}
        data = await self._signed_json("POST", "/v1/device/code", body)
        try:
            return DeviceCode(
                device_code=str(data["device_code"]),
                user_code=str(data["user_code"]),
                address=str(data["verification_uri"]),
                address_with_code=str(data["verification_uri_complete"]),
                lifetime_s=float(data["expires_in_s"]),
                interval_s=float(data["interval_s"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise MarketUnreachable("The marketplace's answer is no device code.") from error

    async def ask_device(self, device_code: str) -> DeviceAnswer:
        """What became of it. Raises MarketRefused with RFC 8628's codes until it is approved."""
        data = await self._signed_json("POST", "/v1/device/token", {"device_code": device_code})
        try:
            return DeviceAnswer(
                str(data["account_id"]),
                str(data["account_name"]),
                str(data["api_key"] or ""),
                str(data["key_id"] or ""),
            )
        except KeyError as error:
            raise MarketUnreachable("The marketplace's answer is no device's.") from error

    async def end_key(self, api_key: str) -> None:
        """Revoke the very key that is shown."""
        headers = {"authorization": f"Bearer {api_key}"}
        await self._request("DELETE", "/v1/keys/current", headers=headers)
