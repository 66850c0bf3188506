"""The marketplace of the simulation: the real ledger, on SQLite in memory."""

from collections import Counter
from collections.abc import Sequence

from sqlalchemy import select

from benchmarks.ledger_byzantine.disputed import OpenDispute, open_disputes
from benchmarks.ledger_byzantine.judgement import Judgement
from ledger.accounts import AccountCode, AccountRef
from ledger.audit import AuditReport, audit
from ledger.blame import find_blame
from ledger.book import Book
from ledger.contradiction import EquivocationProof, verify_proof
from ledger.database import Session, create_all, open_database
from ledger.dispute_models import EquivocationRow
from ledger.disputes import rule
from ledger.equivocation import load_proof
from ledger.invariants import check
from ledger.leaf import LaneCredit
from ledger.log import LEAVES_PER_PAGE_MAX, Log, publish_checkpoint
from ledger.receipts import ReceiptOutcome, accept_receipts, open_lane
from ledger.rulings import Decision, propose
from ledger.settle_window import settle_ready
from protocol.envelope import seal
from protocol.identity import KeyPair, PeerId
from protocol.lease import Lease
from protocol.money import Nanos, with_fee_nanos

__all__ = ["Market"]

BEGIN_S = 1_800_000_000
FUND_NANOS = 10**12
ORIGIN = "piecework/byzantine"


class Market:
    """One transaction a request, as the real one."""

    def __init__(self, key: KeyPair) -> None:
        self.key = key
        self._engine = open_database("sqlite://")
        create_all(self._engine)
        self.charged: dict[bytes, Nanos] = {}
        """By hold."""
        self.credited: Counter[bytes] = Counter()
        """By lease, rulings included."""
        self.returned: Counter[bytes] = Counter()
        """To the buyer by rulings, by lease."""
        self.parked: dict[bytes, Nanos] = {}
        """By lease, before any ruling."""
        self.statuses: Counter[str] = Counter()
        self.reasons: Counter[str] = Counter()

    def fund(self, buyer: str) -> None:
        with Session(self._engine) as session, session.begin():
            Book(session).transfer(
                AccountRef(AccountCode.PROCESSOR_PENDING),
                AccountRef(AccountCode.BUYER_CASH, buyer),
                FUND_NANOS, code="topup", ref=buyer, now_s=BEGIN_S,
            )  # fmt: skip

    def open(self, buyer: str, leases: Sequence[Lease], now_s: int) -> list[bytes]:
        """Hold the most the leases can earn, and sign them."""
        total = sum(lease.amount_nanos_max for lease in leases)
        hold = with_fee_nanos(total, leases[0].fee_basis_points)
        envelopes = [seal(lease, self.key).encode() for lease in leases]
        with Session(self._engine) as session, session.begin():
            Book(session).hold(
                leases[0].hold_id, buyer, hold, now_s=now_s, expires_at_s=leases[0].settle_by_s
            )
            for envelope, lease in zip(envelopes, leases, strict=True):
                open_lane(session, envelope, lease)
        return envelopes

    def hand_in(self, provider: PeerId, batch: Sequence[bytes], now_s: int) -> list[ReceiptOutcome]:
        with Session(self._engine) as session, session.begin():
            outcomes = accept_receipts(session, batch, provider=provider, now_s=now_s)
        for outcome in outcomes:
            self.statuses[outcome.status.value] += 1
            if outcome.reason:
                self.reasons[outcome.reason.translate(_NO_DIGITS)[:60]] += 1
        return outcomes

    def settle(self, now_s: int) -> None:
        while True:
            with Session(self._engine) as session, session.begin():
                settled = settle_ready(session, now_s=now_s, limit=500)
            for hold in settled:
                self.charged[hold.hold_id] = hold.charged_nanos
                for credit in hold.credits:
                    self._count(credit)
            if not settled:
                return

    def _count(self, credit: LaneCredit) -> None:
        if credit.parked:
            self.parked[credit.lease_id] = credit.nanos
        else:
            self.credited[credit.lease_id] += credit.nanos

    def rule_all(self, now_s: int) -> Judgement:
        """Rule as proposed; where nobody is clearly to blame the payer, who signed for both ends,
        pays both."""
        with Session(self._engine) as session, session.begin():
            disputes = open_disputes(session)
        blames = find_blame([pair for dispute in disputes for pair in dispute.parties])
        judgement = Judgement(frozenset(blame.party for blame in blames))
        for dispute in disputes:
            proposal = propose(dispute.parked, dispute.party_of, dispute.links, blames)
            decisions = proposal.decisions if proposal else dispute.to_providers
            judgement.add(dispute.parties, decisions, is_proposed=proposal is not None)
            self._rule(dispute, decisions, now_s)
        return judgement

    def _rule(self, dispute: OpenDispute, decisions: Sequence[Decision], now_s: int) -> None:
        with Session(self._engine) as session, session.begin():
            rule(session, dispute.dispute_id, decisions, reason="ruled", by="two", now_s=now_s)
        for decision in decisions:
            self.credited[decision.lease_id] += decision.to_provider_nanos
            self.returned[decision.lease_id] += decision.to_buyer_nanos

    def equivocations(self) -> frozenset[bytes]:
        """Leases of which a proof was kept; each is verified as a stranger would."""
        with Session(self._engine) as session:
            query = select(EquivocationRow.__table__.c.lease_id)  # type: ignore[attr-defined]
            leases = frozenset(session.execute(query).scalars())
            for lease_id in leases:
                proof = load_proof(session, lease_id)
                assert proof is not None
                verify_proof(EquivocationProof.decode(proof.encode()), self.key.peer_id)
        return leases

    def verdict(self, now_s: int) -> tuple[list[str], AuditReport]:
        """What is wrong with the book, and what the audit of the whole log says."""
        with Session(self._engine) as session, session.begin():
            point = publish_checkpoint(session, self.key, ORIGIN, now_s)
            violations = [f"{v.invariant}: {v.detail}" for v in check(session)]
            leaves: list[bytes] = []
            while len(leaves) < point.size:
                leaves += Log(session).page(len(leaves), LEAVES_PER_PAGE_MAX)
        report = audit(leaves, point.note, self.key.peer_id, point.totals)
        return violations, report


_NO_DIGITS = str.maketrans("", "", "0123456789")
