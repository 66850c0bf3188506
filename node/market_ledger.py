"""A marketplace's public ledger as a node reads it. Nothing that it says is verified here: see
`node/app/witness.py` and `piecework ledger`."""

import base64
from typing import Any

from ledger.checkpoint import NOTE_BYTES_MAX
from ledger.proof_file import PROOF_FILE_BYTES_MAX
from node.market_shapes import Shape, is_base64, is_hex, is_text, is_whole
from node.market_transport import LARGE_BYTES_MAX, SMALL_BYTES_MAX, MarketTransport

__all__ = ["LedgerClient"]

_RECEIPTS: Shape = {"receipts": [{"lease_id": is_text, "leaf_index": is_whole}]}
_BALANCES: Shape = {"snapshot": {"leaf_index": is_whole}}


class LedgerClient(MarketTransport):
    """Checkpoints, entries and proofs; and this node's word about them."""

    async def checkpoint(self) -> str:
        target = "/v1/ledger/checkpoint"
        return (await self._request("GET", target, bytes_max=NOTE_BYTES_MAX)).text

    async def leaves(self, start: int, count: int) -> list[bytes]:
        data = await self._get(
            f"/v1/ledger/leaves?start={start}&count={count}",
            shape={"leaves": [is_base64]},
            bytes_max=LARGE_BYTES_MAX,
        )
        return [base64.b64decode(leaf) for leaf in data["leaves"]]

    async def totals(self) -> dict[str, Any]:
        return await self._get("/v1/ledger/totals")

    async def find_checkpoint(
        self, size_max: int | None = None, *, cosigned: bool = False
    ) -> dict[str, Any]:
        """The newest checkpoint of at most so many entries, or the newest cosigned: `size`, `note`,
        `totals`. Nothing of it is verified here."""
        query = "cosigned=true" if cosigned else ""
        if size_max is not None:
            query = f"size_max={size_max}"
        return await self._get(f"/v1/ledger/checkpoints?{query}", bytes_max=SMALL_BYTES_MAX)

    async def consistency(self, first: int, second: int) -> list[bytes]:
        target = f"/v1/ledger/consistency?first={first}&second={second}"
        data = await self._get(target, shape={"hashes": [is_hex]}, bytes_max=SMALL_BYTES_MAX)
        return [bytes.fromhex(item) for item in data["hashes"]]

    async def tile(self, path: str) -> bytes:
        """What stands at `tile/…` (ledger/tiles.py)."""
        target = f"/v1/ledger/{path}"
        return (await self._request("GET", target, bytes_max=LARGE_BYTES_MAX)).content

    async def logged_receipts(self, *, lease: str = "", session: str = "") -> list[dict[str, Any]]:
        query = f"lease={lease}" if lease else f"session={session}"
        data = await self._get(f"/v1/ledger/receipts?{query}", shape=_RECEIPTS)
        receipts: list[dict[str, Any]] = data["receipts"]
        return receipts

    async def proof_file(self, index: int) -> str:
        """A `.tlog-proof` of one entry."""
        target = f"/v1/ledger/proofs/{index}"
        return (await self._request("GET", target, bytes_max=PROOF_FILE_BYTES_MAX)).text

    async def cosign(self, size: int, line: str) -> None:
        """This node's line under a checkpoint."""
        await self._signed_json("POST", "/v1/ledger/cosignatures", {"size": size, "line": line})

    async def balance_proofs(self, api_key: str = "") -> dict[str, Any]:
        """The account's place in the newest balance tree; without a key this machine's."""
        if api_key:
            return await self._get("/v1/account/balance-proof", api_key, shape=_BALANCES)
        return await self._signed_json("GET", "/v1/provider/balance-proof", None, shape=_BALANCES)
