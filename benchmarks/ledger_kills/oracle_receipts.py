"""Every acknowledged receipt is in the ledger once, and in the log, with the bytes that were sent
and under the leaf index that was answered.

Refused may be what came when its lease's time was over, and nothing else: a slow machine hands in
late. It is counted, and pays nothing.
"""

import base64
from collections.abc import Iterator, Mapping

from sqlalchemy import text

from benchmarks.ledger_kills.journal import Line, read_journal
from benchmarks.ledger_kills.load import DIGEST_BYTES, digest_of
from benchmarks.ledger_kills.place import Options, Place
from benchmarks.ledger_kills.report import Proof
from ledger.database import Session
from protocol.lease import ID_BYTES

__all__ = ["prove_receipts"]

FAULTS_MAX = 20
ROWS_AT_ONCE = 2_000
NEVER = 2**62

_STORED = """
SELECT r.leaf_index, r.lease_id, r.sequence, r.cosigned, f.payload
FROM ledger_receipt r LEFT JOIN ledger_leaf f ON f.leaf_index = r.leaf_index
ORDER BY r.leaf_index
"""

_TIMES = "SELECT lease_id, settle_by_s FROM ledger_lane"

Key = tuple[bytes, int, bytes]
"""Lease id, sequence, digest of the bytes."""


def prove_receipts(
    session: Session, place: Place, options: Options, proof: Proof
) -> dict[str, int]:
    """Fills in what concerns receipts; gives the last acknowledged sequence by lease id in hex."""
    rows = session.execute(text(_TIMES))
    expected = _acknowledged(place, options, proof, {bytes(lease): by_s for lease, by_s in rows})
    last: dict[str, int] = {}
    for lease_id, sequence, _ in expected.values():
        last[lease_id.hex()] = max(sequence, last.get(lease_id.hex(), 0))
    proof.receipts_acknowledged = len(expected)
    ours = {lease_id for lease_id, _, _ in expected.values()}
    rows = session.execute(text(_STORED).execution_options(yield_per=ROWS_AT_ONCE))
    for leaf, lease, sequence, stored, payload in rows:
        lease_id, cosigned = bytes(lease), bytes(stored)
        if lease_id not in ours:
            continue  # of a session with real hops, which has a witness of its own
        proof.receipts_stored += 1
        said = expected.pop(leaf, None)
        if said is None:
            _fault(proof, f"leaf {leaf} holds a receipt that was not acknowledged under it")
        elif said != (lease_id, sequence, digest_of(cosigned)):
            proof.lost += 1
            _fault(proof, f"leaf {leaf} holds another receipt than was acknowledged")
        elif payload is None or cosigned not in bytes(payload):
            proof.lost += 1
            _fault(proof, f"the log's entry {leaf} does not hold its receipt")
    proof.lost += len(expected)
    for leaf in list(expected)[:3]:
        _fault(proof, f"the receipt acknowledged under leaf {leaf} is not there")
    return last


def _acknowledged(
    place: Place, options: Options, proof: Proof, times: Mapping[bytes, int]
) -> dict[int, Key]:
    """By leaf index; a batch that was acknowledged twice must have had the same answers."""
    expected: dict[int, Key] = {}
    for load in range(options.loads):
        sent: dict[str, Line] = {}
        seen: dict[str, list[int]] = {}
        for line in read_journal(place.load_journal(load)):
            batch = line["f"]
            if line["k"] == "sent":
                if batch in sent and sent[batch] != line:
                    _fault(proof, f"batch {batch} was sent with other contents")
                sent[batch] = line
                continue
            if batch in seen:
                if seen[batch] != line["x"]:
                    _fault(proof, f"batch {batch} came back with other leaf indexes")
                continue
            seen[batch] = line["x"]
            for leaf, key in zip(line["x"], _keys(sent[batch]), strict=True):
                if leaf in expected:
                    _fault(proof, f"leaf {leaf} was given to two receipts")
                elif leaf >= 0:
                    expected[leaf] = key
                elif line.get("r") and line["t"] >= times.get(key[0], NEVER):
                    proof.late += 1
                else:
                    _fault(proof, f"batch {batch} has refused receipts: {line.get('r')}")
    return expected


def _keys(sent: Line) -> Iterator[Key]:
    leases, digests = base64.b64decode(sent["l"]), base64.b64decode(sent["d"])
    sequence = int(sent["f"].rpartition("-")[2])
    for number in range(len(leases) // ID_BYTES):
        lease = leases[number * ID_BYTES : (number + 1) * ID_BYTES]
        digest = digests[number * DIGEST_BYTES : (number + 1) * DIGEST_BYTES]
        yield lease, sequence, digest


def _fault(proof: Proof, words: str) -> None:
    if len(proof.faults) < FAULTS_MAX:
        proof.faults.append(words)
