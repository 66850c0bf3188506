"""The invariants while the campaign runs: what is new after every restart, everything now and then.

What reads every row takes longer than a restart at a million receipts; so it is run again whenever
that costs at most its share of the time, in a process of its own, for meanwhile the killing goes
on; and always at the end. How often each ran, and for how long, stands in the report.
"""

import importlib
import importlib.util
import multiprocessing
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field

from sqlalchemy import text
from sqlalchemy.exc import OperationalError

from ledger import integrity
from ledger.checkpoint import origin_of
from ledger.database import Session
from ledger.invariants import Violation
from ledger.log_check import check_log
from marketplace.db import Database
from marketplace.errors import DatabaseUnavailable
from marketplace.market import Market
from marketplace.payments.reconciling.service import reconcile
from protocol.identity import PeerId

__all__ = ["Checks", "Violation"]

SQL_SHARE, DEEP_SHARE = 0.08, 0.05
"""Of the time of a campaign: rules in SQL over all rows, and every digest, signature and proof."""
RECONCILED = "I13"
"""The processor's report against the book: a payment whose event is on its way stands in the one
and not yet in the other, so it is judged when nothing is under way any more."""
OVERLAP_S = 60
"""A transaction that began before the last look may have been committed after it."""
SQL_ROOMS = (
    "ledger.invariants",
    "marketplace.payments.books",
    "marketplace.payouts.books",
    "marketplace.disputes.books",
)
"""Each room's own rules, where the room has them."""

DEEP_ROOMS = ("ledger.integrity", "ledger.log_check")
PROCESSES = 2
"""What the machine has cores; at the end nothing else is left to do."""

Rule = Callable[[Session], list[Violation]]

_NEW: Mapping[str, str] = {
    "I1": """
        SELECT 'debits ' || n.dr || ' credits ' || n.cr FROM (
            SELECT SUM(debits_posted) AS dr, SUM(credits_posted) AS cr,
                SUM(debits_pending) AS drp, SUM(credits_pending) AS crp FROM ledger_account) n
        WHERE n.dr <> n.cr OR n.drp <> n.crp""",
    "I3": """
        SELECT name FROM ledger_account
        WHERE no_overdraft AND debits_pending + debits_posted > credits_posted""",
    "I5": """
        SELECT 'leaf ' || r.leaf_index FROM ledger_receipt r
        JOIN ledger_lane l ON l.lease_id = r.lease_id
        WHERE r.leaf_index >= :leaf AND (l.last_sequence < r.sequence
            OR l.amount_received_nanos < r.amount_nanos
            OR l.amount_received_nanos > l.amount_nanos_max)""",
    "I6": """
        SELECT 'a hold of ' || amount_nanos || ' backs leases for ' || leased_nanos
        FROM ledger_hold WHERE charged_nanos IS NULL AND leased_nanos > amount_nanos""",
    "I7": """
        SELECT 'charged ' || n.charged || ', credited ' || n.credited FROM (SELECT
            COALESCE(SUM(CASE WHEN code = 'post_hold' THEN amount_nanos END), 0) AS charged,
            COALESCE(SUM(CASE WHEN code = 'settle' THEN amount_nanos END), 0) AS credited
            FROM ledger_transfer WHERE created_at_s >= :since_s) n
        WHERE n.charged <> n.credited""",
    "I8": """
        SELECT 'new leaves ' || n.leaves || ', of receipts ' || n.kinds || ', receipts ' || n.rows_
        FROM (SELECT
            (SELECT COUNT(*) FROM ledger_leaf WHERE leaf_index >= :leaf) AS leaves,
            (SELECT COUNT(*) FROM ledger_leaf WHERE leaf_index >= :leaf AND kind = 'receipt')
                AS kinds,
            (SELECT COUNT(*) FROM ledger_receipt WHERE leaf_index >= :leaf) AS rows_,
            (SELECT COALESCE(SUM(size), 0) FROM ledger_log_head) AS size) n
        WHERE n.kinds <> n.rows_ OR n.leaves <> n.size - :leaf""",
    "I12": """
        SELECT name FROM ledger_account
        WHERE code LIKE 'clearing_%' AND debits_posted <> credits_posted""",
}


@dataclass(frozen=True, slots=True)
class _Place:
    """Which books. `market_peer` signs their leases and checkpoints."""

    url: str
    market_peer: str
    network: str


@dataclass(frozen=True, slots=True)
class _Outcome:
    name: str
    violations: Sequence[Violation]
    seconds: float


@dataclass(slots=True)
class _Tier:
    """Checks of one weight: those under way, when they ended last, and how long they took."""

    share: float
    names: tuple[str, ...]
    ended_at: float = 0.0
    lasted_s: float = 0.0
    under_way: list[Future[_Outcome | None]] = field(default_factory=list)

    def is_due(self) -> bool:
        return not self.under_way and time.monotonic() - self.ended_at > self.lasted_s / self.share


class Checks:
    """Of one database, while it is in use."""

    def __init__(self, url: str, market_peer: str, network: str) -> None:
        self.runs: Counter[str] = Counter()
        self.cut_short: Counter[str] = Counter()
        """Begun, and ended by the database's death."""
        self.seconds: defaultdict[str, float] = defaultdict(float)
        self.violations: list[Violation] = []
        self._place = _Place(url, market_peer, network)
        self._unripe = frozenset({RECONCILED})
        self._leaf = 0
        self._since_s = 0
        self._sql = _Tier(SQL_SHARE, tuple(name for name in SQL_ROOMS if _rule(name)))
        self._deep = _Tier(DEEP_SHARE, DEEP_ROOMS)
        self._processes = ProcessPoolExecutor(
            PROCESSES, mp_context=multiprocessing.get_context("spawn")
        )

    def close(self) -> None:
        """The processes; what is under way there is given up."""
        self._processes.shutdown(cancel_futures=True)

    def after_restart(self) -> None:
        """What is new since the last time, now; and what reads more, where it is due, beside."""
        self._note(_timed("new rows", self._new, self._place.url))
        for tier in (self._sql, self._deep):
            if tier.under_way and all(future.done() for future in tier.under_way):
                self._gather(tier, patient=False)
            if tier.is_due():
                self._begin(tier)

    def full(self, market: Market | None) -> None:
        """Everything; with a market, the processor is asked first and what it says is judged."""
        tiers = (self._sql, self._deep)
        for tier in tiers:
            self._gather(tier, patient=False)
        if market is not None:
            reconcile(market)
            self._unripe = frozenset()
        for tier in tiers:
            self._begin(tier)
        for tier in tiers:
            self._gather(tier, patient=True)

    def _begin(self, tier: _Tier) -> None:
        tier.under_way = [self._processes.submit(_judge, name, self._place) for name in tier.names]

    def _gather(self, tier: _Tier, *, patient: bool) -> None:
        """Wait for what is under way; the database may be killed meanwhile, unless `patient`."""
        tier.lasted_s = 0.0
        for name, future in zip(tier.names, tier.under_way, strict=False):
            outcome = future.result()
            if outcome is not None:
                self._note(outcome)
                tier.lasted_s += outcome.seconds
            elif patient:
                raise DatabaseUnavailable()
            else:
                self.cut_short[name] += 1
        tier.under_way, tier.ended_at = [], time.monotonic()

    def _note(self, outcome: _Outcome) -> None:
        self.violations += [v for v in outcome.violations if v.invariant not in self._unripe]
        self.runs[outcome.name] += 1
        self.seconds[outcome.name] += outcome.seconds

    def _new(self, session: Session) -> list[Violation]:
        given = {"leaf": self._leaf, "since_s": self._since_s}
        size = session.execute(text("SELECT COALESCE(SUM(size), 0) FROM ledger_log_head"))
        size_now, now_s = int(size.scalar_one()), int(time.time())
        found = [
            Violation(rule, str(row))
            for rule, query in _NEW.items()
            for row in session.execute(text(query), given).scalars().fetchmany(5)
        ]
        self._leaf, self._since_s = size_now, now_s - OVERLAP_S
        return found


def _judge(name: str, place: _Place) -> _Outcome | None:
    """One room's rules, in a process of its own; None where the database was killed meanwhile."""
    key, origin = PeerId.from_text(place.market_peer), origin_of(place.network)
    deep: Mapping[str, Rule] = {
        "ledger.integrity": lambda session: integrity.check(session, key),
        "ledger.log_check": lambda session: check_log(session, key, origin),
    }
    rule = deep.get(name) or _rule(name)
    assert rule is not None, "only rooms with rules are asked"
    try:
        return _timed(name, rule, place.url)
    except (DatabaseUnavailable, OperationalError):
        # named here, for an error of the marketplace's does not travel between processes
        return None


def _timed(name: str, rule: Rule, url: str) -> _Outcome:
    started = time.monotonic()
    database = Database(url)
    try:
        with database.reading() as session:
            if session.get_bind().dialect.name == "postgresql":
                # one snapshot for all statements of a rule: the book moves on meanwhile
                session.connection(execution_options={"isolation_level": "REPEATABLE READ"})
            found = rule(session)
    finally:
        database.close()
    return _Outcome(name, found, time.monotonic() - started)


def _rule(module: str) -> Rule | None:
    """A room's rules; None where the room has none."""
    if importlib.util.find_spec(module) is None:
        return None
    found: Rule = importlib.import_module(module).check
    return found
