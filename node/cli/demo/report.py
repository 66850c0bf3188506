"""What the demo can prove afterwards: the money, the receipts, the bytes, the log."""

import asyncio
import base64
import json
from dataclasses import dataclass
from typing import Any

from node.cli.demo.ask import Asked
from node.cli.demo.pool import DemoPool
from node.cli.demo.processes import Children
from node.cli.status import read_status
from node.errors import NodeError
from node.market_client import MarketClient
from protocol.errors import VerificationError
from protocol.identity import KeyPair, PeerId
from protocol.receipt import CosignedReceipt

__all__ = ["collect_report"]

SETTLE_TIMEOUT_S = 30.0
"""Receipts travel within a second and windows are one second here."""
POLL_S = 0.2


class NotSettled(NodeError):
    """The marketplace did not settle the session in time."""


@dataclass(frozen=True, slots=True)
class _Evidence:
    """Raw answers of the marketplace and of every provider."""

    session: dict[str, Any]
    totals: dict[str, Any]
    checkpoint: str
    audit: dict[str, Any]
    account: dict[str, Any]
    counted: dict[str, dict[str, Any]]
    """What each provider counted on its own links, by PeerId."""


async def collect_report(pool: DemoPool, asked: Asked, children: Children) -> dict[str, Any]:
    """Wait until the session is settled, then put everything side by side."""
    evidence = await _gather(pool, asked.session_id, children)
    route = _route(asked, evidence)
    session, totals = evidence.session, evidence.totals
    credited = sum(hop["earned_nanos"] for hop in route)
    checks = {
        "charged = credited + fee": session["charged_nanos"] == credited + session["fee_nanos"],
        "ledger sum is zero": totals["sum_nanos"] == 0,
        "audit": bool(evidence.audit["ok"]),
        "every receipt is co-signed": all(hop["cosigned"] for hop in route),
        "receipts match the links": all(hop["bytes_match"] for hop in route),
    }
    return {
        "schema": 1,
        "ok": all(checks.values()),
        "model": pool.model,
        "answer": asked.text,
        "finish_reason": asked.finish_reason,
        "prompt_tokens": asked.prompt_tokens,
        "completion_tokens": asked.completion_tokens,
        "first_token_s": round(asked.first_token_s, 4),
        "tokens_per_s": round(asked.tokens_per_s, 2),
        "session_id": asked.session_id,
        "route": route,
        "charged_nanos": session["charged_nanos"],
        "credited_nanos": credited,
        "fee_nanos": session["fee_nanos"],
        "balance_nanos": evidence.account["balance"]["available_nanos"],
        "ledger_sum_nanos": totals["sum_nanos"],
        "checkpoint": evidence.checkpoint,
        "audit": evidence.audit,
        "checks": checks,
        "market_url": pool.market_url,
        "base_url": pool.base_url,
    }


async def _gather(pool: DemoPool, session_id: str, children: Children) -> _Evidence:
    async with MarketClient(pool.market_url, KeyPair.generate()) as client:
        session = await _settled(client, session_id, pool.api_key)
        _, audit = await children.run(
            "piecework", "ledger", "audit", "--market", pool.market_url, "--json"
        )
        statuses = [await read_status(home) for home in pool.provider_homes]
        return _Evidence(
            session=session,
            totals=await client.totals(),
            checkpoint=await client.checkpoint(),
            audit=json.loads(audit),
            account=await client.account(pool.api_key),
            counted={
                status["peer_id"]: report
                for status in statuses
                for report in status["recent"]
                if report["session_id"] == session_id
            },
        )


async def _settled(client: MarketClient, session_id: str, api_key: str) -> dict[str, Any]:
    try:
        async with asyncio.timeout(SETTLE_TIMEOUT_S):
            while (session := await client.session(session_id, api_key))["status"] != "settled":
                await asyncio.sleep(POLL_S)
            return session
    except TimeoutError:
        raise NotSettled("The session was not settled in time.") from None


def _route(asked: Asked, evidence: _Evidence) -> list[dict[str, Any]]:
    """Hop by hop: who, where, which way, what it earned, and whether the bytes agree."""
    paid = {hop["peer_id"]: hop for hop in evidence.session["hops"]}
    return [_hop(hop, paid[hop["peer_id"]], evidence.counted) for hop in asked.hops]


def _hop(
    hop: dict[str, Any], paid: dict[str, Any], counted: dict[str, dict[str, Any]]
) -> dict[str, Any]:
    work, links = paid["work"] or {}, counted.get(hop["peer_id"], {})
    return {
        **hop,
        "earned_nanos": paid["earned_nanos"],
        "bytes_in": work.get("bytes_in"),
        "bytes_out": work.get("bytes_out"),
        "counted_bytes_in": links.get("bytes_received"),
        "counted_bytes_out": links.get("bytes_sent"),
        "bytes_match": bool(work)
        and work["bytes_in"] == links.get("bytes_received")
        and work["bytes_out"] == links.get("bytes_sent"),
        "cosigned": _is_cosigned(paid),
        "leaf_index": paid["leaf_index"],
    }


def _is_cosigned(paid: dict[str, Any]) -> bool:
    if not paid["receipt"]:
        return False
    receipt = CosignedReceipt.decode(base64.b64decode(paid["receipt"]))
    try:
        receipt.verify_provider(PeerId.from_text(paid["peer_id"]))
    except VerificationError:
        return False
    return True
