"""What the real gateways' buyer was told, against the book: every answer is paid for, once, and for
what its receipts say; what a killed gateway left unsigned stays within the credit of its hops.

The witnesses are the buyer's journal and the receipts, which both sides of a hop have signed.
"""

from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

from sqlalchemy import Row, text

from benchmarks.ledger_kills.hops import carried_by
from benchmarks.ledger_kills.journal import Line, read_journal
from benchmarks.ledger_kills.place import Place, PoolOptions
from benchmarks.ledger_kills.report import Answers, Proof
from ledger.accounts import AccountCode
from ledger.database import Session
from node.head.drafting.pace import DRAFT_MAX
from protocol.envelope import open_envelope
from protocol.lease import Lease
from protocol.money import Nanos, with_fee_nanos
from protocol.receipt import CosignedReceipt, Receipt

__all__ = ["prove_gateways"]

FAULTS_MAX = 20
STEP_ROWS = DRAFT_MAX + 1
"""Of the step that a hop is in when its credit ends; the questions are shorter."""
_HOLDS = """
SELECT s.session_id, s.closed_at_s, m.epoch, m.drafted_rows, h.hold_id, h.amount_nanos,
    h.parts, h.closed, h.charged_nanos, h.fee_basis_points
FROM market_session s JOIN market_session_hold m ON m.session_id = s.session_id
JOIN ledger_hold h ON h.hold_id = m.hold_id
WHERE s.account_id = :account ORDER BY s.created_at_s, s.session_id, m.epoch
"""
_LANES = """
SELECT l.hold_id, l.lease_id, l.provider, l.lease, l.tokens, l.prefill_token_layers,
    l.decode_token_layers, l.amount_received_nanos, l.amount_settled_nanos, l.final
FROM ledger_lane l JOIN ledger_hold h ON h.hold_id = l.hold_id WHERE h.buyer = :account
"""
_RECEIPTS = """
SELECT r.lease_id, r.sequence, r.amount_nanos, r.cosigned FROM ledger_receipt r
JOIN ledger_lane l ON l.lease_id = r.lease_id JOIN ledger_hold h ON h.hold_id = l.hold_id
WHERE h.buyer = :account ORDER BY r.lease_id, r.sequence
"""
_TRANSFERS = """
SELECT code, ref, credit, amount_nanos FROM ledger_transfer
WHERE code IN ('post_hold', 'release_hold', 'settle')
"""
_CASH = (
    "SELECT debits_pending, debits_posted, credits_posted FROM ledger_account WHERE name = :name"
)


@dataclass(slots=True)
class _Books:
    """What the database says of one buyer's sessions."""

    holds: dict[bytes, list[Row[Any]]] = field(default_factory=lambda: defaultdict(list))
    """By session, in the order of epochs."""
    lanes: dict[bytes, list[Row[Any]]] = field(default_factory=lambda: defaultdict(list))
    """By hold."""
    receipts: dict[bytes, Receipt] = field(default_factory=dict)
    """The one with the largest sequence, by lease."""
    moved: dict[str, list[tuple[str, str, Nanos]]] = field(
        default_factory=lambda: defaultdict(list)
    )
    """Code, credited account and amount, by hold id in hex."""


def prove_gateways(session: Session, place: Place, proof: Proof) -> None:
    """Fills in what concerns the real gateways; nothing where there were none."""
    if not place.pool_path.exists():
        return
    pool, found = place.pool(), Answers()
    proof.answers = found
    books = _read(session, pool, proof)
    charged = 0
    for held in books.holds.values():
        found.sessions += 1
        found.never_closed += held[0].closed_at_s is None
        charged += sum(_prove_hold(hold, books, proof) for hold in held)
    found.charged_nanos = charged
    name = f"{AccountCode.BUYER_CASH}:{pool.account_id}"
    cash = session.execute(text(_CASH), {"name": name}).one()
    if cash.debits_pending:
        _fault(proof, f"{cash.debits_pending} nanos of the pool's buyer are still held")
    if cash.credits_posted - cash.debits_posted != pool.paid_in_nanos - charged:
        _wrong(proof, f"the pool's buyer paid in {pool.paid_in_nanos}, was charged {charged}, and "
                      f"has {cash.credits_posted - cash.debits_posted}")  # fmt: skip
    _prove_answers(place, pool, books, proof, found)
    _prove_hops(place, pool, books, proof)


def _read(session: Session, pool: PoolOptions, proof: Proof) -> _Books:
    books, given = _Books(), {"account": pool.account_id}
    for row in session.execute(text(_HOLDS), given):
        books.holds[bytes(row.session_id)].append(row)
    for row in session.execute(text(_LANES), given):
        books.lanes[bytes(row.hold_id)].append(row)
    for row in session.execute(text(_RECEIPTS), given):
        cosigned = CosignedReceipt.decode(bytes(row.cosigned))
        receipt = open_envelope(Receipt, cosigned.envelope)
        if receipt.sequence != row.sequence or receipt.amount_nanos != row.amount_nanos:
            _fault(proof, f"a receipt of lease {bytes(row.lease_id).hex()} says other than its row")
        books.receipts[bytes(row.lease_id)] = receipt
    ours = {hold.hold_id.hex() for held in books.holds.values() for hold in held}
    for row in session.execute(text(_TRANSFERS)):
        hold_id = row.ref.partition(":")[0]
        if hold_id in ours:
            books.moved[hold_id].append((row.code, row.credit, row.amount_nanos))
    return books


def _prove_hold(hold: Row[Any], books: _Books, proof: Proof) -> Nanos:
    """Resolved once, for what the last receipts of its leases come to; gives what was charged."""
    hold_id = bytes(hold.hold_id)
    if hold.charged_nanos is None:
        _fault(proof, f"hold {hold_id.hex()} of a gateway's session is still open")
        return 0
    wanted: dict[str, Nanos] = defaultdict(int)
    for lane in books.lanes[hold_id]:
        receipt = books.receipts.get(bytes(lane.lease_id))
        earned = receipt.amount_nanos if receipt else 0
        if earned != lane.amount_received_nanos or earned != lane.amount_settled_nanos:
            settled = lane.amount_settled_nanos
            words = f"lane {bytes(lane.lease_id).hex()} is settled for {settled}"
            _wrong(proof, f"{words}, its last receipt says {earned}")
        wanted[f"{AccountCode.PROVIDER_EARNED}:{lane.provider}"] += earned
    earned = sum(wanted.values())
    charged = with_fee_nanos(earned, hold.fee_basis_points or 0)
    moved = books.moved[hold_id.hex()]
    taken = [amount for code, _, amount in moved if code == "post_hold"]
    given_back = sum(code == "release_hold" for code, _, _ in moved)
    got: dict[str, Nanos] = defaultdict(int)
    legs = [(credit, amount) for code, credit, amount in moved if code == "settle"]
    for credit, amount in legs:
        got[credit] += amount
    fee = sum(got.pop(name) for name in list(got) if name.startswith(f"{AccountCode.FEE}:"))
    providers = {name: amount for name, amount in wanted.items() if amount}
    if len(taken) + given_back != hold.parts or len(legs) > len(books.lanes[hold_id]) + 1:
        proof.paid_twice += 1
        _fault(proof, f"hold {hold_id.hex()} of {hold.parts} parts moved {moved}")
    if (
        not hold.charged_nanos == charged == sum(taken) <= hold.amount_nanos
        or dict(got) != providers
        or fee != charged - earned
    ):
        _wrong(proof, f"hold {hold_id.hex()} charged {taken}, not {charged}; its legs: {legs}")
    proof.fee_nanos += fee
    return int(hold.charged_nanos)


def _prove_answers(
    place: Place, pool: PoolOptions, books: _Books, proof: Proof, found: Answers
) -> None:
    """Each answer is a session of its own, whose receipts cover it but for the hops' credit."""
    seen: set[str] = set()
    told = []
    for line in read_journal(place.asker_journal):
        if line["k"] == "question":
            found.questions += 1
            found.given_up += not line["ok"]
            if line["last"] and not line["ok"]:
                _fault(proof, f"a gateway that nobody kills does not answer: {line['refused']}")
            found.refused += sum(line["refused"].values())
        elif line["k"] == "told":
            told.append(line)
    for line in told:
        if line["s"] in seen:
            proof.paid_twice += 1
            _fault(proof, f"two answers came from session {line['s']}")
        seen.add(line["s"])
        held = books.holds.get(bytes.fromhex(line["s"]))
        if held is None:
            _wrong(proof, f"session {line['s']} has answered and is not in the book")
            continue
        found.whole += "why" not in line
        found.broken += "why" in line
        _prove_answer(line, held, pool, books, proof)


def _prove_answer(
    line: Line,
    held: list[Row[Any]],
    pool: PoolOptions,
    books: _Books,
    proof: Proof,
) -> None:
    """Its receipts cover what its usage says, or its pieces where it broke."""
    found = proof.answers
    assert found is not None, "made before any answer is judged"
    if len(held) > 1:
        found.repaired += 1
        return  # its rows are spread over leases and replays: the receipts alone are judged
    hold, lanes = held[0], books.lanes[bytes(held[0].hold_id)]
    carried = (0, max(line["n"] - 1, 0))
    if "u" in line:
        prompt, cached, completion = line["u"]
        carried = (prompt - cached, completion - 1)
    signed = [_rows(lane) for lane in lanes]
    missing = [max(carried[0] - p, 0) + max(carried[1] - d, 0) for p, d in signed]
    words = f"session {line['s']}: rows paid {signed}, carried {carried} by its usage"
    if max(missing) > (0 if _is_over(hold, lanes) else pool.credit_tokens + STEP_ROWS):
        _wrong(proof, words)
    if "u" not in line:
        return
    # what was drafted in vain was run too, and is paid for up to what was held for it
    in_vain = max(0, *(rows - carried[1] for _, rows in signed))
    found.rows_in_vain += in_vain
    if in_vain > (hold.drafted_rows or 0) or max(signed)[0] > carried[0]:
        _wrong(proof, f"{words}; {hold.drafted_rows} may be drafted in vain")


def _prove_hops(place: Place, pool: PoolOptions, books: _Books, proof: Proof) -> None:
    """Each hop is paid what it carried, and what a killed gateway has not signed is its loss."""
    found, carried = proof.answers, carried_by(place.hops_journal)
    whole = {line["s"] for line in read_journal(place.asker_journal) if "u" in line}
    assert found is not None, "made before any hop is judged"
    for session_id, held in books.holds.items():
        if len(held) > 1:
            continue
        hold, lanes = held[0], books.lanes[bytes(held[0].hold_id)]
        # of an answer that broke a step was under way, whose result nobody has seen
        is_whole = _is_over(hold, lanes) and session_id.hex() in whole
        allowed = 0 if is_whole else pool.credit_tokens + STEP_ROWS
        found.signed_to_the_end += is_whole
        for lane in lanes:
            hop = open_envelope(Lease, bytes(lane.lease)).hop_index
            line = carried.get((session_id.hex(), hop), {"n": 0, "a": 0})
            rows, nanos = line["n"] - lane.tokens, line["a"] - lane.amount_received_nanos
            found.unsigned_rows += rows
            found.unsigned_nanos += nanos
            found.unsigned_rows_max = max(found.unsigned_rows_max, rows)
            if not 0 <= rows <= allowed or nanos < 0 or (not allowed and nanos):
                words = f"session {session_id.hex()}, hop {hop}: carried {line['n']} rows for"
                paid = f"{lane.tokens} paid with {lane.amount_received_nanos}"
                _wrong(proof, f"{words} {line['a']}, {paid}; {allowed} may be unsigned")


def _is_over(hold: Row[Any], lanes: list[Row[Any]]) -> bool:
    """Whether the gateway has signed everything, and said so."""
    return hold.closed_at_s is not None and all(lane.final for lane in lanes)


def _rows(lane: Row[Any]) -> tuple[int, int]:
    """Of the prompt and behind it, as the lane's receipts say."""
    layers = len(open_envelope(Lease, bytes(lane.lease)).span)
    return lane.prefill_token_layers // layers, lane.decode_token_layers // layers


def _wrong(proof: Proof, words: str) -> None:
    proof.paid_wrongly += 1
    _fault(proof, words)


def _fault(proof: Proof, words: str) -> None:
    if len(proof.faults) < FAULTS_MAX:
        proof.faults.append(words)
