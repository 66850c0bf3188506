"""`piecework ledger proof`: that the log has a receipt, from the marketplace or from a file."""

import json
import re
import sys
from dataclasses import dataclass
from pathlib import Path

from ledger.errors import AuditFailed
from ledger.examine import CheckedReceipt, Examiner, Flawed
from ledger.proof_file import PROOF_FILE_BYTES_MAX, SUFFIX, LogProof, verify_proof
from node.cli.ledger.trust import pinned_terms, trusted_key
from node.cli.program import run_task
from node.errors import ConfigInvalid, MarketRefused
from node.market_client import MarketClient
from protocol.identity import KeyPair, PeerId
from protocol.money import format_usd

__all__ = ["ProvenReceipt", "prove", "prove_receipt"]

_ID = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class ProvenReceipt:
    """A receipt that the log has, and the checkpoint that covers it."""

    receipt: CheckedReceipt
    proof: LogProof
    size: int
    witnesses: tuple[PeerId, ...]

    def as_object(self) -> dict[str, object]:
        terms, mark = self.receipt.terms, self.receipt.mark
        return {
            "lease_id": terms.lease_id.hex(),
            "provider": str(terms.provider),
            "sequence": mark.sequence,
            "tokens": mark.tokens,
            "prefill_token_layers": mark.work.prefill_token_layers,
            "decode_token_layers": mark.work.decode_token_layers,
            "bytes_in": mark.work.bytes_in,
            "bytes_out": mark.work.bytes_out,
            "amount_nanos": mark.amount_nanos,
            "final": mark.final,
            "index": self.proof.index,
            "size": self.size,
            "witnesses": [str(witness) for witness in self.witnesses],
        }


def prove(proof: LogProof, key: PeerId) -> ProvenReceipt:
    """Everything a proof of a receipt says, verified; raises AuditFailed."""
    checkpoint, cosignatures = verify_proof(proof, key)
    _, entry = Examiner(key).examine(proof.entry)
    if isinstance(entry, Flawed):
        raise AuditFailed(f"Entry {proof.index} is in the log, and wrong: {entry.reason}")
    if not isinstance(entry, CheckedReceipt):
        raise AuditFailed(f"Entry {proof.index} is in the log, and no receipt.")
    witnesses = tuple(item.witness for item in cosignatures)
    return ProvenReceipt(entry, proof, checkpoint.size, witnesses)


def prove_receipt(
    *,
    receipt: str,
    market: str,
    save: Path | None,
    market_key: str,
    home: Path | None,
    as_json: bool,
) -> None:
    """Print who carried what for how much; exit 1 where a proof does not hold."""

    async def work() -> list[ProvenReceipt]:
        if not _ID.fullmatch(receipt):
            return [prove(_read(Path(receipt)), trusted_key(market_key, market, home))]
        if not market:
            raise ConfigInvalid(f"Where is the log that has {receipt}?", hint="Give --market.")
        async with MarketClient(market, KeyPair.generate()) as client:
            terms = await pinned_terms(client, home, market_key)
            return await _fetch(client, receipt, terms.peer_id)

    proven = run_task(work)
    if save is not None:
        _save(save, proven)
    if as_json:
        value = {"schema": 1, "receipts": [item.as_object() for item in proven]}
        sys.stdout.write(json.dumps(value) + "\n")
        return
    for item in proven:
        sys.stdout.write(_sentence(item) + "\n")


async def _fetch(client: MarketClient, name: str, key: PeerId) -> list[ProvenReceipt]:
    """A lease's receipt, or those of every lease of a session; ids are of one length."""
    try:
        receipts = await client.logged_receipts(lease=name)
    except MarketRefused as error:
        if error.code != "not_in_log":
            raise
        receipts = await client.logged_receipts(session=name)
    proven = []
    for item in receipts:
        found = prove(LogProof.decode(await client.proof_file(item["leaf_index"])), key)
        if found.receipt.terms.lease_id.hex() != item["lease_id"]:
            raise AuditFailed("The marketplace proved another lease's receipt.")
        proven.append(found)
    return proven


def _read(path: Path) -> LogProof:
    try:
        with path.open("rb") as file:
            return LogProof.decode(file.read(PROOF_FILE_BYTES_MAX + 1).decode())
    except OSError as error:
        raise ConfigInvalid(
            f"'{path}' is neither an id nor a file: {error.strerror}.",
            hint="Give 32 hex digits, or a .tlog-proof file.",
        ) from None
    except UnicodeDecodeError:
        raise AuditFailed(f"{path} is no proof of a log.") from None


def _save(directory: Path, proven: list[ProvenReceipt]) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for item in proven:
        name = f"{item.receipt.terms.lease_id.hex()}{SUFFIX}"
        (directory / name).write_text(item.proof.encode())


def _sentence(item: ProvenReceipt) -> str:
    terms, mark = item.receipt.terms, item.receipt.mark
    layers = mark.work.prefill_token_layers + mark.work.decode_token_layers
    return (
        f"{terms.provider} carried {mark.tokens} tokens, {layers} token-layers, for "
        f"{format_usd(mark.amount_nanos)} under lease {terms.lease_id.hex()} "
        f"(receipt {mark.sequence}{', the last' if mark.final else ''}): entry {item.proof.index} "
        f"of {item.size}, cosigned by {len(item.witnesses)} nodes"
    )
