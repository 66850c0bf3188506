"""`piecework ledger balance`: whether what one is owed is counted in what the log says is owed."""

import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ledger.balance_tree import BalanceNode, BalanceProof, verify_balance
from ledger.errors import AuditFailed
from ledger.leaf import BalancesLeaf, decode_leaf
from ledger.proof_file import LogProof, verify_proof
from node.cli.ledger.trust import pinned_terms
from node.cli.options import home_path
from node.cli.program import run_task
from node.config import Home
from node.market_client import MarketClient
from protocol.identity import KeyPair
from protocol.money import format_usd

__all__ = ["CheckedBalance", "check_balance", "checked_balances"]


@dataclass(frozen=True, slots=True)
class CheckedBalance:
    """What one is owed, all of it counted; money in nanos."""

    owed: BalancesLeaf
    """To everybody, as the log says."""
    accounts: tuple[BalanceProof, ...]
    witnesses: int


def check_balance(*, market: str, key: str, home: Path | None, as_json: bool) -> None:
    """With an API key the account's balances, else this machine's; exit 1 where one is missing."""

    async def work() -> CheckedBalance:
        own = KeyPair.generate() if key else Home(home_path(home)).load_or_create_key()
        async with MarketClient(market, own) as client:
            terms = await pinned_terms(client, home, "")
            said = await client.balance_proofs(key)
            index = said["snapshot"]["leaf_index"]
            proof = LogProof.decode(await client.proof_file(index))
            if proof.index != index:
                raise AuditFailed("The marketplace proved another entry than that of the tree.")
            _, witnesses = verify_proof(proof, terms.peer_id)
            return checked_balances(said, decode_leaf(proof.entry), len(witnesses))

    checked = run_task(work)
    if as_json:
        value: dict[str, Any] = {
            "schema": 1,
            "accounts": {proof.account: proof.sum_nanos for proof in checked.accounts},
            "owed_nanos": checked.owed.sum_nanos,
            "count": checked.owed.count,
            "taken_at_s": checked.owed.taken_at_s,
            "witnesses": checked.witnesses,
        }
        sys.stdout.write(json.dumps(value) + "\n")
        return
    for proof in checked.accounts:
        sys.stdout.write(f"{format_usd(proof.sum_nanos)}  {proof.account}  ✓ counted\n")
    if not checked.accounts:
        sys.stdout.write("no account of yours was in the book when the tree was made\n")
    sys.stdout.write(
        f"of {format_usd(checked.owed.sum_nanos)} owed on {checked.owed.count} accounts;"
        f" cosigned by {checked.witnesses} nodes\n"
    )


def checked_balances(said: dict[str, Any], entry: object, witnesses: int) -> CheckedBalance:
    """Every proof of an answer, verified under the entry of the log; raises AuditFailed."""
    if not isinstance(entry, BalancesLeaf):
        raise AuditFailed("The log's entry is no balance tree.")
    root = BalanceNode(entry.root, entry.sum_nanos)
    try:
        proofs = tuple(
            BalanceProof(
                account=item["account"],
                sum_nanos=item["sum_nanos"],
                salt=bytes.fromhex(item["salt"]),
                index=item["index"],
                count=entry.count,
                siblings=tuple(
                    BalanceNode(bytes.fromhex(node["hash"]), node["sum_nanos"])
                    for node in item["siblings"]
                ),
            )
            for item in said["proofs"]
        )
    except (KeyError, TypeError, ValueError):
        raise AuditFailed("The marketplace's balance proofs do not parse.") from None
    for proof in proofs:
        verify_balance(proof, root)
    return CheckedBalance(entry, proofs, witnesses)
