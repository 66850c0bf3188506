"""What must hold at every commit, as SQL: run by tests after each step and by the operator.

Each query gives the rows that break its rule, so a healthy book gives nothing:

I1 debits equal credits; I2 balances equal the fold of transfers; I3 no overdraft; I4 a hold
resolves at most once, within its amount; I5 a watermark is its last receipt; I6 a hold covers its
leases; I7 what was settled is what was charged and what receipts say; I8 every receipt has its
leaf, and the log no gap; I12 clearing accounts are zero. I9, that checkpoints never contradict, is
checked by `publish_checkpoint`; I10 and I11 belong to payouts.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import text

from ledger.database import Session

__all__ = ["Violation", "check"]

VIOLATIONS_PER_RULE_MAX = 20
"""Enough to see what is wrong; the first is what matters."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One row that breaks one rule."""

    invariant: str
    detail: str


_BALANCED = """
SELECT 'posted ' || n.dr || ' <> ' || n.cr || ' or pending ' || n.dr_pending || ' <> '
    || n.cr_pending
FROM (
    SELECT SUM(debits_posted) AS dr, SUM(credits_posted) AS cr,
        SUM(debits_pending) AS dr_pending, SUM(credits_pending) AS cr_pending
    FROM ledger_account
) n
WHERE n.dr <> n.cr OR n.dr_pending <> n.cr_pending
"""

_FOLD = """
WITH movement AS (
    SELECT t.*, EXISTS (SELECT 1 FROM ledger_transfer r WHERE r.pending_id = t.id) AS resolved
    FROM ledger_transfer t WHERE t.state <> 'void'
), side AS (
    SELECT debit AS name, amount_nanos AS debit, 0 AS credit, state, resolved FROM movement
    UNION ALL
    SELECT credit, 0, amount_nanos, state, resolved FROM movement
), fold AS (
    SELECT name,
        SUM(CASE WHEN state = 'pending' AND NOT resolved THEN debit ELSE 0 END) AS dr_pending,
        SUM(CASE WHEN state <> 'pending' THEN debit ELSE 0 END) AS dr_posted,
        SUM(CASE WHEN state = 'pending' AND NOT resolved THEN credit ELSE 0 END) AS cr_pending,
        SUM(CASE WHEN state <> 'pending' THEN credit ELSE 0 END) AS cr_posted
    FROM side GROUP BY name
)
SELECT a.name || ' differs from its transfers'
FROM ledger_account a LEFT JOIN fold f ON f.name = a.name
WHERE a.debits_pending <> COALESCE(f.dr_pending, 0) OR a.debits_posted <> COALESCE(f.dr_posted, 0)
    OR a.credits_pending <> COALESCE(f.cr_pending, 0)
    OR a.credits_posted <> COALESCE(f.cr_posted, 0)
"""

_OVERDRAWN = """
SELECT name || ' is overdrawn' FROM ledger_account
WHERE no_overdraft AND debits_pending + debits_posted > credits_posted
"""

_RESOLVED_TWICE = """
SELECT 'transfer ' || pending_id || ' is resolved ' || COUNT(*) || ' times' FROM ledger_transfer
WHERE pending_id IS NOT NULL GROUP BY pending_id HAVING COUNT(*) > 1
"""

_RESOLVED_WRONGLY = """
SELECT 'transfer ' || r.id || ' does not fit the hold it resolves'
FROM ledger_transfer r JOIN ledger_transfer p ON p.id = r.pending_id
WHERE p.state <> 'pending' OR r.debit <> p.debit OR r.credit <> p.credit
    OR r.amount_nanos > p.amount_nanos
    OR (r.state = 'void' AND r.amount_nanos <> p.amount_nanos)
"""

_HOLD_STATE = """
SELECT 'hold of transfer ' || h.transfer_id || ' says other than the book'
FROM ledger_hold h
JOIN ledger_transfer p ON p.id = h.transfer_id
LEFT JOIN ledger_transfer r ON r.pending_id = p.id
WHERE h.amount_nanos <> p.amount_nanos
    OR (h.charged_nanos IS NULL) <> (r.id IS NULL)
    OR (r.state = 'post' AND h.charged_nanos <> r.amount_nanos)
    OR (r.state = 'void' AND h.charged_nanos <> 0)
"""

_WATERMARK = """
SELECT 'a lane of hold transfer ' || h.transfer_id || ' differs from its last receipt'
FROM ledger_lane l
JOIN ledger_hold h ON h.hold_id = l.hold_id
LEFT JOIN ledger_receipt r ON r.lease_id = l.lease_id AND r.sequence = l.last_sequence
WHERE l.amount_settled_nanos > l.amount_received_nanos
    OR l.amount_received_nanos > l.amount_nanos_max
    OR (l.last_sequence > 0 AND r.lease_id IS NULL)
    OR l.amount_received_nanos <> COALESCE(r.amount_nanos, 0)
    OR l.settled <> (h.charged_nanos IS NOT NULL)
    OR (l.settled AND l.amount_settled_nanos <> l.amount_received_nanos)
    OR EXISTS (SELECT 1 FROM ledger_receipt later
               WHERE later.lease_id = l.lease_id AND later.sequence > l.last_sequence)
"""

_LEASED = """
SELECT 'hold of transfer ' || h.transfer_id || ' backs leases for '
    || COALESCE(SUM(l.amount_nanos_max), 0)
FROM ledger_hold h LEFT JOIN ledger_lane l ON l.hold_id = h.hold_id
GROUP BY h.transfer_id, h.amount_nanos, h.leased_nanos
HAVING COALESCE(SUM(l.amount_nanos_max), 0) <> h.leased_nanos OR h.leased_nanos > h.amount_nanos
"""

_LEGS = """
WITH leg AS (
    SELECT substr(ref, 1, 32) AS hold, SUM(amount_nanos) AS total,
        SUM(CASE WHEN credit LIKE 'provider_earned:%' THEN amount_nanos ELSE 0 END) AS earned
    FROM ledger_transfer WHERE code = 'settle' GROUP BY substr(ref, 1, 32)
)
"""

_SETTLED = f"""{_LEGS}
SELECT 'settlement of hold ' || p.ref || ' does not sum to its charge'
FROM ledger_transfer p LEFT JOIN leg ON leg.hold = p.ref
WHERE p.code = 'post_hold' AND (leg.hold IS NULL OR leg.total <> p.amount_nanos)
UNION ALL
SELECT 'settlement of hold ' || leg.hold || ' has no charge'
FROM leg LEFT JOIN ledger_transfer p ON p.code = 'post_hold' AND p.ref = leg.hold
WHERE p.ref IS NULL
"""

_EARNED = f"""{_LEGS}
SELECT 'hold ' || n.ref || ' credited ' || n.earned || ', its receipts say ' || n.received
FROM (
    SELECT p.ref, COALESCE(MAX(leg.earned), 0) AS earned, SUM(l.amount_settled_nanos) AS received
    FROM ledger_lane l
    JOIN ledger_hold h ON h.hold_id = l.hold_id
    JOIN ledger_transfer p ON p.id = h.transfer_id
    LEFT JOIN leg ON leg.hold = p.ref
    GROUP BY p.ref
) n
WHERE n.earned <> n.received
"""

_LOGGED = """
SELECT 'a receipt has no leaf, or leaf ' || r.leaf_index || ' is no receipt'
FROM ledger_receipt r LEFT JOIN ledger_leaf f ON f.leaf_index = r.leaf_index
WHERE f.leaf_index IS NULL OR f.kind <> 'receipt'
UNION ALL
SELECT 'leaf ' || f.leaf_index || ' has no receipt'
FROM ledger_leaf f LEFT JOIN ledger_receipt r ON r.leaf_index = f.leaf_index
WHERE f.kind = 'receipt' AND r.leaf_index IS NULL
"""

_LOG_SIZE = """
SELECT 'the log has ' || n.leaves || ' leaves up to ' || n.last || ', its head says ' || n.size
FROM (
    SELECT (SELECT COUNT(*) FROM ledger_leaf) AS leaves,
        (SELECT COALESCE(MAX(leaf_index), -1) FROM ledger_leaf) AS last,
        (SELECT COALESCE(SUM(size), 0) FROM ledger_log_head) AS size
) n
WHERE n.leaves <> n.size OR n.last <> n.size - 1
"""

_CLEARED = """
SELECT name || ' is not zero' FROM ledger_account
WHERE code LIKE 'clearing_%' AND debits_posted <> credits_posted
"""

_RULES: Mapping[str, tuple[str, ...]] = {
    "I1": (_BALANCED,),
    "I2": (_FOLD,),
    "I3": (_OVERDRAWN,),
    "I4": (_RESOLVED_TWICE, _RESOLVED_WRONGLY, _HOLD_STATE),
    "I5": (_WATERMARK,),
    "I6": (_LEASED,),
    "I7": (_SETTLED, _EARNED),
    "I8": (_LOGGED, _LOG_SIZE),
    "I12": (_CLEARED,),
}


def check(session: Session) -> list[Violation]:
    """Every rule that is broken now, with at most VIOLATIONS_PER_RULE_MAX rows a query."""
    violations: list[Violation] = []
    for invariant, queries in _RULES.items():
        for query in queries:
            rows = session.execute(text(query)).scalars().fetchmany(VIOLATIONS_PER_RULE_MAX)
            violations += [Violation(invariant, str(row)) for row in rows]
    return violations
