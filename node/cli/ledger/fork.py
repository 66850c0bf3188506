"""`piecework ledger verify-fork`: whether a file proves that a marketplace signed two histories."""

import json
import sys
from pathlib import Path

from ledger.errors import AuditFailed
from ledger.fork import FORK_PROOF_BYTES_MAX, ForkProof, verify_fork
from node.cli.ledger.trust import trusted_key
from node.cli.program import fail
from protocol.errors import PieceworkError

__all__ = ["check_fork"]


def check_fork(
    *, file: Path, market_key: str, market: str, home: Path | None, as_json: bool
) -> None:
    """Print what contradicts what; exit 1 where the file proves nothing."""
    try:
        key = trusted_key(market_key, market, home)
        with file.open("rb") as opened:
            text = opened.read(FORK_PROOF_BYTES_MAX + 1).decode()
        older, newer = verify_fork(ForkProof.decode(text), key)
    except (OSError, UnicodeDecodeError) as error:
        fail(AuditFailed(f"{file} cannot be read: {error}."))
    except PieceworkError as error:
        fail(error)
    if as_json:
        signed = [{"size": item.size, "root": item.root.hex()} for item in (older, newer)]
        value = {"schema": 1, "forked": True, "origin": older.origin, "key": str(key)}
        sys.stdout.write(json.dumps({**value, "signed": signed}) + "\n")
        return
    sys.stdout.write(
        f"{key} signed two histories of '{older.origin}':\n"
        f"  {older.size} entries with root {older.root.hex()}\n"
        f"  {newer.size} entries with root {newer.root.hex()}, which do not begin with them\n"
    )
