"""What must hold at every commit, as SQL: run by tests after each step and by the operator.

Each query gives the rows that break its rule, so a healthy book gives nothing:

I1 debits equal credits; I2 balances equal the fold of transfers; I3 no overdraft, and an account is
what its name says; I4 a hold resolves at most once, within its amount, and its row says what its
transfers say; I5 a watermark is its last receipt; I6 a hold covers its leases and lasts as long;
I7 what was settled is what was charged and what receipts say; I8 every receipt has its leaf, and
the log no gap; I12 clearing accounts are zero. `ledger/integrity.py` reads what SQL cannot:
digests, signatures and records. I9, that checkpoints never contradict, is checked by
`publish_checkpoint` and `ledger/log_check.py`; I10 and I11 belong to payouts.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import text

from ledger.accounts import AccountCode
from ledger.database import Session

__all__ = ["Violation", "check"]

VIOLATIONS_PER_RULE_MAX = 20
"""Enough to see what is wrong; the first is what matters."""


@dataclass(frozen=True, slots=True)
class Violation:
    """One row that breaks one rule."""

    invariant: str
    detail: str


_HEX = re.compile(r"HEX\(([\w.]+)\)")
"""Bytes as lower-case text: the two engines have no word for it in common."""

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

_HOMELESS = """
SELECT 'there is no account ' || n.name || ' that a transfer names'
FROM (SELECT debit AS name FROM ledger_transfer UNION SELECT credit FROM ledger_transfer) n
LEFT JOIN ledger_account a ON a.name = n.name WHERE a.name IS NULL
"""

_OVERDRAWN = """
SELECT name || ' is overdrawn' FROM ledger_account
WHERE no_overdraft AND debits_pending + debits_posted > credits_posted
"""

_CODES = ", ".join(f"'{code.value}'" for code in AccountCode)
_LIMITED = ", ".join(f"'{code.value}'" for code in AccountCode if code.no_overdraft)
_NAMED = f"""
SELECT name || ' is not the account it says' FROM ledger_account
WHERE name <> code || ':' || owner OR code NOT IN ({_CODES})
    OR no_overdraft <> (code IN ({_LIMITED}))
"""

_RESOLVED_TWICE = """
SELECT 'transfer ' || HEX(pending_id) || ' is resolved ' || COUNT(*) || ' times'
FROM ledger_transfer WHERE pending_id IS NOT NULL GROUP BY pending_id HAVING COUNT(*) > 1
"""

_RESOLVED_WRONGLY = """
SELECT 'transfer ' || HEX(r.id) || ' does not fit the hold it resolves'
FROM ledger_transfer r JOIN ledger_transfer p ON p.id = r.pending_id
WHERE p.state <> 'pending' OR r.ref <> p.ref OR r.debit <> p.debit OR r.credit <> p.credit
    OR r.amount_nanos > p.amount_nanos
    OR (r.state = 'void' AND r.amount_nanos <> p.amount_nanos)
"""

_HOLD_STATE = """
WITH part AS (
    SELECT substr(p.ref, 1, 32) AS hold, COUNT(*) AS parts, SUM(p.amount_nanos) AS amount,
        COUNT(r.id) AS resolved,
        SUM(CASE WHEN r.state = 'post' THEN r.amount_nanos ELSE 0 END) AS charged,
        MIN(p.debit) AS debit, MAX(p.debit) AS last_debit
    FROM ledger_transfer p LEFT JOIN ledger_transfer r ON r.pending_id = p.id
    WHERE p.code = 'hold' GROUP BY substr(p.ref, 1, 32)
)
SELECT 'hold ' || HEX(h.hold_id) || ' says other than the book'
FROM ledger_hold h LEFT JOIN part ON part.hold = HEX(h.hold_id)
WHERE part.hold IS NULL OR h.amount_nanos <> part.amount OR h.parts <> part.parts
    OR 'buyer_cash:' || h.buyer <> part.debit OR part.debit <> part.last_debit
    OR part.resolved <> (CASE WHEN h.charged_nanos IS NULL THEN 0 ELSE part.parts END)
    OR COALESCE(h.charged_nanos, 0) <> part.charged
UNION ALL
SELECT 'hold ' || part.hold || ' is in the book alone'
FROM part LEFT JOIN ledger_hold h ON part.hold = HEX(h.hold_id)
WHERE h.hold_id IS NULL
"""

_HOLD_OVER = """
SELECT 'hold ' || HEX(h.hold_id) || ' and its closing differ'
FROM ledger_hold h LEFT JOIN ledger_hold_closing c ON c.hold_id = h.hold_id
WHERE h.closed <> (c.hold_id IS NOT NULL)
UNION ALL
SELECT 'there is no hold ' || HEX(c.hold_id) || ' that was closed'
FROM ledger_hold_closing c LEFT JOIN ledger_hold h ON c.hold_id = h.hold_id
WHERE h.hold_id IS NULL
"""

_WATERMARK = """
SELECT 'lease ' || HEX(l.lease_id) || ' differs from its last receipt'
FROM ledger_lane l
LEFT JOIN ledger_hold h ON h.hold_id = l.hold_id
LEFT JOIN ledger_receipt r ON r.lease_id = l.lease_id AND r.sequence = l.last_sequence
LEFT JOIN ledger_equivocation e ON e.lease_id = l.lease_id
WHERE h.hold_id IS NULL OR l.amount_settled_nanos > l.amount_received_nanos
    OR l.amount_received_nanos > l.amount_nanos_max
    OR (l.last_sequence > 0 AND r.lease_id IS NULL)
    OR l.amount_received_nanos <> COALESCE(e.amount_nanos, r.amount_nanos, 0)
    OR l.settled <> (h.charged_nanos IS NOT NULL)
    OR l.amount_settled_nanos <> (CASE WHEN l.settled THEN l.amount_received_nanos ELSE 0 END)
    OR EXISTS (SELECT 1 FROM ledger_receipt later
               WHERE later.lease_id = l.lease_id AND later.sequence > l.last_sequence)
"""

_LEASED = """
SELECT 'hold ' || n.hold || ' backs leases for ' || n.leased || ' or lasts otherwise than they'
FROM (
    SELECT HEX(h.hold_id) AS hold, h.amount_nanos, h.leased_nanos, h.settle_by_s,
        h.fee_basis_points, COUNT(l.lease_id) AS leases,
        COALESCE(SUM(l.amount_nanos_max), 0) AS leased, COALESCE(MAX(l.settle_by_s), 0) AS last_s
    FROM ledger_hold h LEFT JOIN ledger_lane l ON l.hold_id = h.hold_id
    GROUP BY h.hold_id, h.amount_nanos, h.leased_nanos, h.settle_by_s, h.fee_basis_points
) n
LEFT JOIN (
    SELECT substr(ref, 1, 32) AS hold, MAX(expires_at_s) AS last_s FROM ledger_transfer
    WHERE code = 'hold' GROUP BY substr(ref, 1, 32)
) p ON p.hold = n.hold
WHERE n.leased <> n.leased_nanos OR n.leased_nanos > n.amount_nanos
    OR (n.fee_basis_points IS NULL) <> (n.leases = 0)
    OR n.settle_by_s <> (CASE WHEN p.last_s > n.last_s THEN p.last_s ELSE n.last_s END)
"""

_LEGS = """
WITH leg AS (
    SELECT substr(ref, 1, 32) AS hold, SUM(amount_nanos) AS total,
        SUM(CASE WHEN credit LIKE 'fee:%' THEN 0 ELSE amount_nanos END) AS earned,
        MIN(debit) AS debit, MAX(debit) AS last_debit,
        SUM(CASE WHEN credit LIKE 'fee:%' OR credit LIKE 'provider_earned:%'
            OR credit LIKE 'disputed:%' THEN 0 ELSE 1 END) AS strange
    FROM ledger_transfer WHERE code = 'settle' GROUP BY substr(ref, 1, 32)
), charge AS (
    SELECT substr(ref, 1, 32) AS hold, SUM(amount_nanos) AS total, MIN(credit) AS credit
    FROM ledger_transfer WHERE code = 'post_hold' GROUP BY substr(ref, 1, 32)
)
"""

_SETTLED = f"""{_LEGS}
SELECT 'settlement of hold ' || charge.hold || ' does not sum to its charge'
FROM charge LEFT JOIN leg ON leg.hold = charge.hold
WHERE leg.hold IS NULL OR leg.total <> charge.total OR leg.strange > 0
    OR leg.debit <> charge.credit OR leg.last_debit <> charge.credit
UNION ALL
SELECT 'settlement of hold ' || leg.hold || ' has no charge'
FROM leg LEFT JOIN charge ON charge.hold = leg.hold
WHERE charge.hold IS NULL
"""

_EARNED = f"""{_LEGS}
SELECT 'hold ' || n.hold || ' credited ' || n.earned || ', its receipts say ' || n.received
FROM (
    SELECT l.hold, COALESCE(leg.earned, 0) AS earned, l.received
    FROM (
        SELECT HEX(hold_id) AS hold, SUM(amount_settled_nanos) AS received
        FROM ledger_lane GROUP BY hold_id
    ) l LEFT JOIN leg ON leg.hold = l.hold
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

_LEAF_TWICE = """
SELECT 'leaf ' || leaf_index || ' is of ' || COUNT(*) || ' receipts' FROM ledger_receipt
GROUP BY leaf_index HAVING COUNT(*) > 1
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
    "I2": (_FOLD, _HOMELESS),
    "I3": (_OVERDRAWN, _NAMED),
    "I4": (_RESOLVED_TWICE, _RESOLVED_WRONGLY, _HOLD_STATE, _HOLD_OVER),
    "I5": (_WATERMARK,),
    "I6": (_LEASED,),
    "I7": (_SETTLED, _EARNED),
    "I8": (_LOGGED, _LEAF_TWICE, _LOG_SIZE),
    "I12": (_CLEARED,),
}


def check(session: Session) -> list[Violation]:
    """Every rule that is broken now, with at most VIOLATIONS_PER_RULE_MAX rows a query."""
    violations: list[Violation] = []
    for invariant, queries in _RULES.items():
        for query in queries:
            rows = (
                session.execute(text(_spell(session, query)))
                .scalars()
                .fetchmany(VIOLATIONS_PER_RULE_MAX)
            )
            violations += [Violation(invariant, str(row)) for row in rows]
    return violations


def _spell(session: Session, query: str) -> str:
    on_sqlite = session.get_bind().dialect.name == "sqlite"
    return _HEX.sub(r"lower(hex(\1))" if on_sqlite else r"encode(\1, 'hex')", query)
