"""What the entries of a log mean together: watermarks, settlements, and everybody's pay. Pure.

Of a lease something is kept only while its hold is open; of a hold that is settled its id alone,
as a hash (`ledger/id_set.py`), so that nothing is settled twice. A replay that begins in the midst
of a log counts what it cannot judge.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ledger.dispute_replay import DisputeReplay
from ledger.errors import AuditFailed, ReceiptRejected, Unbalanced
from ledger.examine import CheckedEquivocation, CheckedReceipt, Entry, Flawed, LeaseTerms
from ledger.id_set import IdSet
from ledger.lane import Watermark, check_order
from ledger.leaf import BalancesLeaf, LaneCredit, ParkLeaf, RulingLeaf, SettlementLeaf
from ledger.links import LinkEnds
from ledger.settlement import LaneState, settle_hold
from protocol.identity import PeerId
from protocol.money import Nanos

__all__ = ["PROBLEMS_MAX", "Replay", "Unjudged"]

PROBLEMS_MAX = 100
"""One bad entry can make many others seem bad; the first hundred tell the story."""


@dataclass(slots=True)
class Unjudged:
    """What a replay that began in the midst of a log could not judge; 0 from the beginning."""

    receipts: int = 0
    """Verified, but what they continue is older."""
    settlements: int = 0
    """Arithmetic and fee are right, but some receipt they pay is older."""


@dataclass(slots=True)
class _Lane:
    """One lease as the log has told of it so far."""

    terms: LeaseTerms
    mark: Watermark = field(default_factory=Watermark)


class Replay:
    """Folds entries into watermarks and sums, and writes down what is wrong."""

    def __init__(self, *, from_start: bool = True) -> None:
        self._from_start = from_start
        self._lanes: dict[bytes, _Lane] = {}
        self._by_hold: dict[bytes, set[bytes]] = defaultdict(set)
        self._settled = IdSet()
        """Holds and leases whose settlement has been; their ids are drawn from one space."""
        self._balances_at_s = 0
        self.credited: dict[PeerId, Nanos] = defaultdict(int)
        self.credited_nanos = self.charged_nanos = self.fee_nanos = 0
        """As the book counts: what was ever credited, charged and kept."""
        self.leaves = self.receipts = self.settlements = self.balances = 0
        self.disputes = DisputeReplay(from_start=from_start)
        self.unjudged = Unjudged()
        self.problems: list[str] = []

    @property
    def open_lanes(self) -> int:
        """Leases whose hold is not settled yet: what bounds memory."""
        return len(self._lanes)

    def problem(self, sentence: str) -> None:
        """Write down what is wrong, if it is among the first."""
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(sentence)

    def take(self, index: int, entry: Entry) -> None:
        """One entry, in order."""
        self.leaves += 1
        try:
            match entry:
                case Flawed():
                    self.problem(f"entry {index}: {entry.reason}")
                case CheckedReceipt():
                    self.receipts += 1
                    self._take_receipt(entry)
                case SettlementLeaf():
                    self.settlements += 1
                    self._take_settlement(entry)
                case BalancesLeaf():
                    self.balances += 1
                    self._take_balances(entry)
                case CheckedEquivocation():
                    self._take_equivocation(entry)
                case ParkLeaf():
                    self._check_settled(entry.lease_id)
                    self.disputes.park(entry.lease_id, entry.provider, entry.nanos)
                case RulingLeaf():
                    self._credit(entry.provider, entry.to_provider_nanos)
                    self.disputes.rule(entry)
                case _:
                    raise AuditFailed("a receipt or a proof that was not examined")
        except ReceiptRejected as error:
            self.problem(f"entry {index}: {error.reason}")
        except (AuditFailed, Unbalanced) as error:
            self.problem(f"entry {index}: {error}")

    def compare(self, totals: Mapping[str, int]) -> None:
        """The log's sums against the book's; a key that is missing is not compared."""
        ours = {
            "charged_nanos": self.charged_nanos,
            "credited_nanos": self.credited_nanos,
            "fee_nanos": self.fee_nanos,
            "parked_nanos": self.disputes.parked_nanos,
        }
        for name, amount in ours.items():
            if name in totals and totals[name] != amount:
                self.problem(f"book: {name} is {totals[name]}, the log comes to {amount}")

    def _credit(self, provider: PeerId, nanos: Nanos) -> None:
        self.credited[provider] += nanos
        self.credited_nanos += nanos

    def _take_receipt(self, receipt: CheckedReceipt) -> None:
        lease_id, mark = receipt.terms.lease_id, receipt.mark
        lane = self._lane_of(receipt.terms)
        if not self._from_start and not lane.mark.sequence and mark.sequence > 1:
            self.unjudged.receipts += 1
        if mark.sequence <= lane.mark.sequence:
            raise AuditFailed(
                f"receipt {mark.sequence} of lease {lease_id.hex()} after {lane.mark.sequence}"
            )
        check_order(lease_id, lane.mark, mark)
        lane.mark = mark

    def _lane_of(self, terms: LeaseTerms) -> _Lane:
        """The lease's lane; a lease that was issued again with higher limits is the same."""
        lease_id = terms.lease_id
        if lane := self._lanes.get(lease_id):
            if lane.terms is not terms and not terms.grew_from(lane.terms):
                raise AuditFailed(f"two different leases are called {lease_id.hex()}")
            lane.terms = terms
            return lane
        if terms.hold_id in self._settled:
            raise AuditFailed(f"a receipt under lease {lease_id.hex()} after its settlement")
        if lease_id in self._settled:
            raise AuditFailed(f"two different leases are called {lease_id.hex()}")
        self._lanes[lease_id] = lane = _Lane(terms)
        self._by_hold[terms.hold_id].add(lease_id)
        return lane

    def _take_settlement(self, leaf: SettlementLeaf) -> None:
        # counted as the book posted it, right or wrong; problems say what is wrong
        self.charged_nanos += leaf.charged_nanos
        self.fee_nanos += leaf.fee_nanos
        for credit in leaf.credits:
            self._take_credit(credit)
        hold = leaf.hold_id.hex()
        if leaf.hold_id in self._settled:
            raise AuditFailed(f"hold {hold} is settled twice")
        self._settled.add(leaf.hold_id)
        seen = self._by_hold.pop(leaf.hold_id, set())
        lanes = {lease_id: self._lanes.pop(lease_id) for lease_id in seen}
        for lease_id in (*seen, *(credit.lease_id for credit in leaf.credits)):
            self._settled.add(lease_id)
        self._check_named(leaf, seen)
        for credit in leaf.credits:
            if lane := lanes.get(credit.lease_id):
                _check_credit(credit, lane, leaf.fee_basis_points)
        self.disputes.check_parked(
            [LinkEnds.of(lane.terms, lane.mark) for lane in lanes.values() if lane.mark.sequence],
            {credit.lease_id for credit in leaf.credits if credit.parked},
        )
        states = [LaneState(credit.provider, credit.nanos) for credit in leaf.credits]
        expected = settle_hold(states, leaf.fee_basis_points)
        if (leaf.charged_nanos, leaf.fee_nanos) != (expected.charged_nanos, expected.fee_nanos):
            raise AuditFailed(
                f"hold {hold} was charged {leaf.charged_nanos} with a fee of {leaf.fee_nanos};"
                f" its receipts come to {expected.charged_nanos} and {expected.fee_nanos}"
            )

    def _take_credit(self, credit: LaneCredit) -> None:
        """What one lease's settlement brings, before anything of it is judged."""
        if credit.parked:
            self.disputes.park(credit.lease_id, credit.provider, credit.nanos)
        else:
            self._credit(credit.provider, credit.nanos)

    def _check_named(self, leaf: SettlementLeaf, seen: set[bytes]) -> None:
        """That a settlement names each lease of its hold that had a receipt, once."""
        named = {credit.lease_id for credit in leaf.credits}
        if not self._from_start and seen < named:
            self.unjudged.settlements += 1
            seen = named
        if len(named) != len(leaf.credits) or named != seen:
            raise AuditFailed(
                f"the settlement of hold {leaf.hold_id.hex()} does not name exactly its leases"
            )

    def _take_balances(self, leaf: BalancesLeaf) -> None:
        if leaf.sum_nanos < 0 or leaf.count < 0 or len(leaf.root) != 32:
            raise AuditFailed("a balance tree owes less than nothing, or has no root")
        if leaf.taken_at_s < self._balances_at_s:
            raise AuditFailed("a balance tree is older than the one before it")
        self._balances_at_s = leaf.taken_at_s

    def _take_equivocation(self, proof: CheckedEquivocation) -> None:
        """The larger of the two is paid, and nothing more counts under the lease."""
        lane = self._lane_of(proof.terms)
        if self._from_start and not lane.mark.sequence:
            raise AuditFailed(
                f"lease {proof.terms.lease_id.hex()} is contradicted before a receipt"
            )
        amount = max(lane.mark.amount_nanos, proof.amount_nanos)
        lane.mark = replace(lane.mark, amount_nanos=amount, final=True)

    def _check_settled(self, lease_id: bytes) -> None:
        if self._from_start and lease_id not in self._settled:
            raise AuditFailed(f"lease {lease_id.hex()} is parked before it was settled")


def _check_credit(credit: LaneCredit, lane: _Lane, fee_basis_points: int) -> None:
    """That a lease's receipt, its provider and its fee are those of the settlement."""
    lease_id, terms = credit.lease_id.hex(), lane.terms
    if terms.provider != credit.provider:
        raise AuditFailed(f"lease {lease_id} is not that provider's")
    if terms.fee_basis_points != fee_basis_points:
        raise AuditFailed(f"lease {lease_id} has another fee")
    if credit.nanos != lane.mark.amount_nanos:
        raise AuditFailed(
            f"lease {lease_id} was credited {credit.nanos}; its receipt says"
            f" {lane.mark.amount_nanos}"
        )
