"""The rules of I11 and their neighbours; each query gives the rows that break its rule.

Plain SQL for both engines. A `ref` is text and an id bytes, so a payout's id is compared as hex.
"""

from collections.abc import Mapping, Sequence

from sqlalchemy import text
from sqlmodel import Session

__all__ = ["RULES", "RuleRepository"]

_SENT = "(p.transfer_id IS NOT NULL)"
_NOT_SENT = "((p.state = 'failed' AND p.transfer_id IS NULL) OR p.state = 'canceled')"


def _posting(code: str, condition: str) -> str:
    """Payouts of the condition have one transfer of the code, with their amount; others none."""
    return f"""
SELECT 'payout ' || {{hex}} || ' is ' || p.state || ' and its ' || '{code}' || ' says '
    || COALESCE(t.amount_nanos, 0)
FROM market_payout p
LEFT JOIN ledger_transfer t ON t.code = '{code}' AND t.ref = {{hex}}
WHERE (({condition}) AND (t.amount_nanos IS NULL OR t.amount_nanos <> p.amount_nanos))
    OR (NOT ({condition}) AND t.amount_nanos IS NOT NULL)
"""


_STRAY = """
SELECT 'transfer ' || t.code || ' ' || t.ref || ' has no payout'
FROM ledger_transfer t
WHERE t.code IN ('payout', 'payout_sent', 'payout_failed') AND NOT EXISTS (
    SELECT 1 FROM market_payout p WHERE {hex} = t.ref)
"""

_TRANSFER_TWICE = """
SELECT 'transfer ' || p.transfer_id || ' belongs to ' || COUNT(*) || ' payouts'
FROM market_payout p WHERE p.transfer_id IS NOT NULL
GROUP BY p.transfer_id HAVING COUNT(*) > 1
"""

_SUM_SENT = """
SELECT 'payouts with a transfer sum to ' || n.payouts || ', postings to ' || n.postings
FROM (
    SELECT (SELECT COALESCE(SUM(p.amount_nanos), 0) FROM market_payout p
            WHERE p.transfer_id IS NOT NULL) AS payouts,
        (SELECT COALESCE(SUM(t.amount_nanos), 0) FROM ledger_transfer t
         WHERE t.code = 'payout_sent' AND t.credit = 'processor_available:') AS postings
) n WHERE n.payouts <> n.postings
"""

_REVERSED = """
SELECT 'payout ' || {hex} || ' says that ' || p.reversed_cents || ' cents came back, postings '
    || COALESCE(r.amount_nanos, 0)
FROM market_payout p
LEFT JOIN (
    SELECT substr(t.ref, 1, 32) AS payout, SUM(t.amount_nanos) AS amount_nanos
    FROM ledger_transfer t WHERE t.code = 'payout_reversed' GROUP BY substr(t.ref, 1, 32)
) r ON r.payout = {hex}
WHERE p.reversed_cents * 10000000 <> COALESCE(r.amount_nanos, 0)
    OR (p.state = 'reversed') <> (p.reversed_cents = p.amount_cents)
"""

_IN_TRANSIT = """
SELECT a.name || ' holds ' || (a.credits_posted - a.debits_posted) || ', open payouts '
    || COALESCE(o.amount_nanos, 0)
FROM ledger_account a
LEFT JOIN (
    SELECT account_id, SUM(amount_nanos) AS amount_nanos FROM market_payout
    WHERE state IN ('reserved', 'submitting', 'held') GROUP BY account_id
) o ON o.account_id = a.owner
WHERE a.code = 'provider_in_transit'
    AND a.credits_posted - a.debits_posted <> COALESCE(o.amount_nanos, 0)
"""

_RELEASED = """
SELECT 'release ' || r.machine || ':' || r.period_s || ' differs from its postings'
FROM market_release r
LEFT JOIN ledger_transfer t
    ON t.code = 'release' AND t.ref = r.machine || ':' || r.period_s
LEFT JOIN ledger_transfer h
    ON h.code = 'hold_back' AND h.ref = r.machine || ':' || r.period_s
WHERE COALESCE(t.amount_nanos, 0) <> r.payable_nanos OR COALESCE(h.amount_nanos, 0) <> r.held_nanos
UNION ALL
SELECT 'posting ' || t.code || ' ' || t.ref || ' has no release'
FROM ledger_transfer t
WHERE t.code IN ('release', 'hold_back') AND NOT EXISTS (
    SELECT 1 FROM market_release r WHERE r.machine || ':' || r.period_s = t.ref)
"""

_CREDITED = """
SELECT 'release ' || r.machine || ':' || r.period_s || ' is of ' || r.credited_nanos
    || ', settlement credited ' || COALESCE(c.amount_nanos, 0)
FROM market_release r
LEFT JOIN (
    SELECT t.credit, t.created_at_s - t.created_at_s % 86400 AS period_s,
        SUM(t.amount_nanos) AS amount_nanos
    FROM ledger_transfer t
    WHERE t.code IN ('settle', 'ruling') AND substr(t.credit, 1, 16) = 'provider_earned:'
    GROUP BY t.credit, t.created_at_s - t.created_at_s % 86400
) c ON c.credit = 'provider_earned:' || r.machine AND c.period_s = r.period_s
WHERE r.credited_nanos <> COALESCE(c.amount_nanos, 0)
"""

_PASSED_OVER = """
SELECT 'credits of ' || t.credit || ' at ' || MIN(t.created_at_s) || ' were passed over'
FROM ledger_transfer t
JOIN (SELECT machine, MAX(period_s) AS last_s FROM market_release GROUP BY machine) l
    ON t.credit = 'provider_earned:' || l.machine
WHERE t.code IN ('settle', 'ruling') AND t.created_at_s < l.last_s AND NOT EXISTS (
    SELECT 1 FROM market_release r
    WHERE r.machine = l.machine AND r.period_s = t.created_at_s - t.created_at_s % 86400)
GROUP BY t.credit
"""

_HELD = """
SELECT 'the held parts of ' || r.machine || ':' || r.period_s || ' are ' || COALESCE(h.parts, 0)
    || ', not ' || r.held_nanos
FROM market_release r
LEFT JOIN (
    SELECT machine, period_s, SUM(amount_nanos) AS parts FROM market_held
    GROUP BY machine, period_s
) h ON h.machine = r.machine AND h.period_s = r.period_s
WHERE COALESCE(h.parts, 0) <> r.held_nanos
UNION ALL
SELECT 'a held part of ' || h.machine || ':' || h.period_s || ' was given back as '
    || COALESCE(h.given_back_nanos, 0) || ', its posting says ' || COALESCE(t.amount_nanos, 0)
FROM market_held h
LEFT JOIN ledger_transfer t ON t.code = 'held_release'
    AND t.ref = h.machine || ':' || h.period_s || ':' || h.reason || ':' || h.buyer
WHERE COALESCE(h.given_back_nanos, 0) <> COALESCE(t.amount_nanos, 0)
"""

RULES: Mapping[str, Sequence[str]] = {
    "I11": (
        _posting("payout", "1 = 1"),
        _posting("payout_sent", _SENT),
        _posting("payout_failed", _NOT_SENT),
        _STRAY,
        _TRANSFER_TWICE,
        _SUM_SENT,
        _REVERSED,
        _IN_TRANSIT,
    ),
    "releases": (_RELEASED, _CREDITED, _PASSED_OVER, _HELD),
}


class RuleRepository:
    """The rules, asked of one database."""

    def __init__(self, session: Session) -> None:
        self._session = session
        on_sqlite = session.get_bind().dialect.name == "sqlite"
        self._hex = "lower(hex(p.payout_id))" if on_sqlite else "encode(p.payout_id, 'hex')"

    def broken(self, query: str, limit: int) -> Sequence[str]:
        """Up to `limit` sentences, one for each row that breaks the rule."""
        statement = text(query.replace("{hex}", self._hex))
        return [str(row) for row in self._session.execute(statement).scalars().fetchmany(limit)]
