"""Replaying the public log: does every pay follow from receipts both sides signed? Pure.

Runs on a provider's own machine with nothing but the leaves, a signed checkpoint and the
marketplace's public key: no database, no SQL. What is wrong is named with the entry it is in.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from ledger import tree
from ledger.checkpoint import Checkpoint, open_checkpoint
from ledger.errors import AuditFailed, ForkDetected, ReceiptRejected, Unbalanced
from ledger.lane import Watermark, check_order
from ledger.leaf import LaneCredit, ReceiptLeaf, SettlementLeaf, decode_leaf
from ledger.settlement import LaneState, settle_hold
from protocol.envelope import open_envelope
from protocol.errors import ProtocolError, VerificationError
from protocol.identity import PeerId
from protocol.lease import Lease
from protocol.money import Nanos
from protocol.receipt import CosignedReceipt

__all__ = ["PROBLEMS_MAX", "AuditReport", "audit", "verify_consistency"]

PROBLEMS_MAX = 100
"""One bad entry can make many others seem bad; the first hundred tell the story."""


@dataclass(frozen=True, slots=True)
class AuditReport:
    """What the log says, and what is wrong with it. Money in nanos."""

    ok: bool
    leaves: int
    receipts: int
    settlements: int
    credited: Mapping[PeerId, Nanos]
    """Settled so far, by provider."""
    charged_nanos: Nanos
    fee_nanos: Nanos
    problems: tuple[str, ...]
    """At most PROBLEMS_MAX, in the log's order."""
    size: int = 0
    """Of the signed checkpoint."""
    root: bytes = b""

    @property
    def credited_nanos(self) -> Nanos:
        return sum(self.credited.values())


def audit(
    leaves: Iterable[bytes],
    checkpoint_note: str,
    market_key: PeerId,
    totals: Mapping[str, int] | None = None,
    *,
    older_note: str | None = None,
    origin: str | None = None,
) -> AuditReport:
    """Check every entry up to the checkpoint's size; never raises for what the log says.

    totals: what the book says at that size, as `SignedCheckpoint.totals` gives it: `charged_nanos`,
    `credited_nanos`, `fee_nanos`; a key that is missing is not compared.
    older_note: an earlier checkpoint the log must be a continuation of. Leaves beyond the
    checkpoint are not read.
    """
    replay = _Replay(market_key)
    try:
        checkpoint = open_checkpoint(checkpoint_note, market_key, origin=origin)
        older = open_checkpoint(older_note, market_key, origin=origin) if older_note else None
    except AuditFailed as error:
        replay.problem(str(error))
        return replay.report(Checkpoint("", 0, b""))
    frontier = tree.Frontier()
    _check_older(replay, older, frontier)
    for payload in leaves:
        if frontier.size == checkpoint.size:
            break
        index = frontier.size
        frontier.append(tree.leaf_hash(payload))
        replay.take(index, payload)
        _check_older(replay, older, frontier)
    if frontier.size != checkpoint.size:
        replay.problem(f"log: {frontier.size} entries were given, {checkpoint.size} are signed")
    elif frontier.root != checkpoint.root:
        replay.problem("log: the root of the entries is not the one that was signed")
    if older and older.size > checkpoint.size:
        replay.problem(f"log: it had {older.size} entries before, now {checkpoint.size}")
    replay.compare(totals or {})
    return replay.report(checkpoint)


def verify_consistency(
    old_note: str, new_note: str, proof: list[bytes], market_key: PeerId
) -> tuple[Checkpoint, Checkpoint]:
    """Both checkpoints, if the log only grew between them.

    Raises AuditFailed for a bad signature, ForkDetected when both are signed and contradict: then
    the two notes together are proof of fraud that anyone can check.
    """
    old, new = open_checkpoint(old_note, market_key), open_checkpoint(new_note, market_key)
    try:
        if old.origin != new.origin:
            raise AuditFailed("the checkpoints are of different logs")
        tree.verify_consistency(old.size, old.root, new.size, new.root, proof)
    except AuditFailed as error:
        raise ForkDetected(f"Two signed checkpoints contradict one another: {error}") from None
    return old, new


@dataclass(slots=True)
class _LeaseState:
    """One lease as the log has told of it so far."""

    lease: Lease
    mark: Watermark = field(default_factory=Watermark)
    settled: bool = False


class _Replay:
    """Folds entries into watermarks and sums, and writes down what is wrong."""

    def __init__(self, market_key: PeerId) -> None:
        self._market_key = market_key
        self._leases: dict[bytes, _LeaseState] = {}
        self._by_envelope: dict[bytes, _LeaseState] = {}
        self._by_hold: dict[bytes, set[bytes]] = defaultdict(set)
        self._settled_holds: set[bytes] = set()
        self._credited: dict[PeerId, Nanos] = defaultdict(int)
        self._problems: list[str] = []
        self._leaves = self._receipts = self._settlements = 0
        self._charged = self._fee = 0

    def problem(self, sentence: str) -> None:
        if len(self._problems) < PROBLEMS_MAX:
            self._problems.append(sentence)

    def take(self, index: int, payload: bytes) -> None:
        """One entry, in order."""
        self._leaves += 1
        try:
            match decode_leaf(payload):
                case ReceiptLeaf() as leaf:
                    self._receipts += 1
                    self._take_receipt(leaf)
                case SettlementLeaf() as leaf:
                    self._settlements += 1
                    self._take_settlement(leaf)
        except ReceiptRejected as error:
            self.problem(f"entry {index}: {error.reason}")
        except (AuditFailed, Unbalanced, ProtocolError, VerificationError) as error:
            self.problem(f"entry {index}: {error}")

    def compare(self, totals: Mapping[str, int]) -> None:
        """The log's sums against the book's."""
        ours = {
            "charged_nanos": self._charged,
            "credited_nanos": sum(self._credited.values()),
            "fee_nanos": self._fee,
        }
        for name, amount in ours.items():
            if name in totals and totals[name] != amount:
                self.problem(f"book: {name} is {totals[name]}, the log comes to {amount}")

    def report(self, checkpoint: Checkpoint) -> AuditReport:
        return AuditReport(
            ok=not self._problems,
            leaves=self._leaves,
            receipts=self._receipts,
            settlements=self._settlements,
            credited=dict(self._credited),
            charged_nanos=self._charged,
            fee_nanos=self._fee,
            problems=tuple(self._problems),
            size=checkpoint.size,
            root=checkpoint.root,
        )

    def _take_receipt(self, leaf: ReceiptLeaf) -> None:
        state = self._lease_of(leaf.lease_envelope)
        lease_id = state.lease.lease_id
        mark = Watermark.of(CosignedReceipt.decode(leaf.cosigned).open(state.lease))
        if state.settled or state.lease.hold_id in self._settled_holds:
            raise AuditFailed(f"a receipt under lease {lease_id.hex()} after its settlement")
        if mark.sequence <= state.mark.sequence:
            raise AuditFailed(
                f"receipt {mark.sequence} of lease {lease_id.hex()} after {state.mark.sequence}"
            )
        check_order(lease_id, state.mark, mark)
        state.mark = mark

    def _lease_of(self, envelope: bytes) -> _LeaseState:
        if known := self._by_envelope.get(envelope):
            return known
        lease = open_envelope(Lease, envelope, signer=self._market_key)
        if lease.lease_id in self._leases:
            raise AuditFailed(f"two different leases are called {lease.lease_id.hex()}")
        state = _LeaseState(lease)
        self._by_envelope[envelope] = self._leases[lease.lease_id] = state
        self._by_hold[lease.hold_id].add(lease.lease_id)
        return state

    def _take_settlement(self, leaf: SettlementLeaf) -> None:
        # counted as the book posted it, right or wrong; problems say what is wrong
        self._charged += leaf.charged_nanos
        self._fee += leaf.fee_nanos
        for credit in leaf.credits:
            self._credited[credit.provider] += credit.nanos
        if leaf.hold_id in self._settled_holds:
            raise AuditFailed(f"hold {leaf.hold_id.hex()} is settled twice")
        self._settled_holds.add(leaf.hold_id)
        lease_ids = [credit.lease_id for credit in leaf.credits]
        if len(set(lease_ids)) != len(lease_ids) or set(lease_ids) != self._by_hold[leaf.hold_id]:
            raise AuditFailed(
                f"the settlement of hold {leaf.hold_id.hex()} does not name exactly its leases"
            )
        states = [self._credited_lane(credit, leaf) for credit in leaf.credits]
        expected = settle_hold(states, leaf.fee_basis_points)
        if (leaf.charged_nanos, leaf.fee_nanos) != (expected.charged_nanos, expected.fee_nanos):
            raise AuditFailed(
                f"hold {leaf.hold_id.hex()} was charged {leaf.charged_nanos} with a fee of"
                f" {leaf.fee_nanos}; its receipts come to {expected.charged_nanos} and"
                f" {expected.fee_nanos}"
            )

    def _credited_lane(self, credit: LaneCredit, leaf: SettlementLeaf) -> LaneState:
        state = self._leases[credit.lease_id]
        state.settled = True
        lease_id = credit.lease_id.hex()
        if state.lease.provider != credit.provider:
            raise AuditFailed(f"lease {lease_id} is not that provider's")
        if state.lease.fee_basis_points != leaf.fee_basis_points:
            raise AuditFailed(f"lease {lease_id} has another fee")
        if credit.nanos != state.mark.amount_nanos:
            raise AuditFailed(
                f"lease {lease_id} was credited {credit.nanos}; its receipt says"
                f" {state.mark.amount_nanos}"
            )
        return LaneState(credit.provider, state.mark.amount_nanos)


def _check_older(replay: _Replay, older: Checkpoint | None, frontier: tree.Frontier) -> None:
    if older and frontier.size == older.size and frontier.root != older.root:
        replay.problem(f"log: its first {older.size} entries are not those signed before")
