"""Every top-up credited once, every session settled once for what its receipts say, every payout
paid once; and all of it together, to the nano."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from sqlalchemy import text

from benchmarks.ledger_kills.content import amount_at, plan_of
from benchmarks.ledger_kills.head_state import HeadState, Leased
from benchmarks.ledger_kills.place import Options, Place
from benchmarks.ledger_kills.report import Proof
from ledger.accounts import AccountCode
from ledger.database import Session
from protocol.money import Nanos, with_fee_nanos

__all__ = ["prove_money"]

FAULTS_MAX = 40
ROWS_AT_ONCE = 5_000
OWED = (
    AccountCode.BUYER_CASH,
    AccountCode.PROVIDER_EARNED,
    AccountCode.PROVIDER_HELD,
    AccountCode.PROVIDER_PAYABLE,
    AccountCode.PROVIDER_IN_TRANSIT,
    AccountCode.DISPUTED,
    AccountCode.FEE,
)
"""Where paid-in money may be, as long as it has not been paid out."""

_TRANSFERS = "SELECT code, ref, debit, credit, amount_nanos FROM ledger_transfer ORDER BY id"
_ACCOUNTS = "SELECT code, owner, debits_posted, credits_posted FROM ledger_account"
_OPEN_HOLDS = "SELECT COUNT(*) FROM ledger_hold WHERE charged_nanos IS NULL"


@dataclass(slots=True)
class _Books:
    """What moved, by what it was for."""

    topups: dict[str, list[Nanos]] = field(default_factory=lambda: defaultdict(list))
    charges: dict[str, list[Nanos]] = field(default_factory=lambda: defaultdict(list))
    """By hold id in hex."""
    legs: dict[str, list[tuple[str, Nanos]]] = field(default_factory=lambda: defaultdict(list))
    """Credits of a settlement, by hold id."""
    opened_nanos: Nanos = 0
    """What payees began with."""


def prove_money(
    session: Session, place: Place, options: Options, proof: Proof, last: Mapping[str, int]
) -> None:
    """Fills in what concerns money. last: the sequence of each lease's last acknowledged receipt,
    by lease id in hex."""
    state, books = HeadState.read(place.head_journal), _read(session)
    cash: dict[str, Nanos] = defaultdict(int)
    earned: dict[str, Nanos] = defaultdict(int)
    _prove_topups(state, books, options, proof, cash)
    for session_place in sorted(state.leased):
        if session_place not in state.closed:
            _fault(proof, f"session {session_place} was leased and never closed")
            continue
        _prove_session(state.leased[session_place], books, options, proof, cash, earned, last)
    _prove_balances(session, proof, cash, earned, books)
    open_holds = session.execute(text(_OPEN_HOLDS)).scalar_one()
    proof.unacknowledged_holds = int(open_holds)
    known = {leased.hold_id for leased in state.leased.values()}
    if state.leased and not known:
        _fault(proof, "no hold is known")


def _read(session: Session) -> _Books:
    books = _Books()
    rows = session.execute(text(_TRANSFERS).execution_options(yield_per=ROWS_AT_ONCE))
    for code, ref, _, credit, amount in rows:
        match code:
            case "topup":
                books.topups[ref].append(amount)
            case "post_hold":
                books.charges[ref.partition(":")[0]].append(amount)
            case "settle":
                books.legs[ref.partition(":")[0]].append((credit, amount))
            case "opening":
                books.opened_nanos += amount
    return books


def _prove_topups(
    state: HeadState, books: _Books, options: Options, proof: Proof, cash: dict[str, Nanos]
) -> None:
    for topup_id, line in state.topups.items():
        moved = books.topups.pop(topup_id, [])
        proof.topups += 1
        proof.paid_in_nanos += sum(moved)
        cash[options.buyers[line["b"]].account_id] += sum(moved)
        if len(moved) > 1:
            proof.paid_twice += 1
        wanted = [] if topup_id in state.refused else [line["n"]]
        if topup_id in state.topped and moved != wanted:
            proof.paid_wrongly += 1
            _fault(proof, f"top-up {topup_id} of {line['n']} moved {moved}")
    # what is left was paid in by others: the buyer at the real gateways
    proof.paid_in_nanos += sum(sum(moved) for moved in books.topups.values())


def _prove_session(
    leased: Leased,
    books: _Books,
    options: Options,
    proof: Proof,
    cash: dict[str, Nanos],
    earned: dict[str, Nanos],
    last: Mapping[str, int],
) -> None:
    """Charged once, each hop credited once, and for exactly what its last receipt says."""
    plan = plan_of(options, leased.cohort, leased.index, leased.attempt)
    each = [amount_at(options, plan, last.get(lease, 0)) for lease in leased.lease_ids]
    charged = with_fee_nanos(sum(each), options.fee_basis_points)
    moved, legs = books.charges[leased.hold_id], books.legs[leased.hold_id]
    proof.sessions += 1
    if len(moved) > 1:
        proof.paid_twice += 1
    wanted = {
        str(options.provider_key(hop).peer_id): amount for hop, amount in enumerate(each) if amount
    }
    got: dict[str, Nanos] = defaultdict(int)
    fee = 0
    for credit, amount in legs:
        code, _, owner = credit.partition(":")
        if code == AccountCode.FEE:
            fee += amount
        elif code == AccountCode.PROVIDER_EARNED:
            proof.paid_twice += owner in got
            got[owner] += amount
        else:
            _fault(proof, f"hold {leased.hold_id} credited {credit}")
    right = ([charged] if charged else [], wanted, charged - sum(each))
    if (moved, dict(got), fee) != right:
        proof.paid_wrongly += 1
        _fault(proof, f"hold {leased.hold_id} charged {moved}, not {charged}; its legs: {legs[:3]}")
    proof.charged_nanos += sum(moved)
    proof.fee_nanos += fee
    cash[options.buyers[plan.buyer].account_id] -= charged
    for owner, amount in wanted.items():
        earned[owner] += amount


def _prove_balances(
    session: Session,
    proof: Proof,
    cash: dict[str, Nanos],
    earned: dict[str, Nanos],
    books: _Books,
) -> None:
    """Every buyer's and machine's balance from the journals alone, and the sum over everything."""
    owed = 0
    for code, owner, debits, credits_ in session.execute(text(_ACCOUNTS)):
        balance = credits_ - debits
        if code in OWED:
            owed += balance
        if code == AccountCode.BUYER_CASH and owner in cash and balance != cash[owner]:
            proof.paid_wrongly += 1
            _fault(proof, f"buyer {owner} has {balance}, the journals give {cash[owner]}")
        if code == AccountCode.PROVIDER_EARNED and owner in earned and credits_ != earned[owner]:
            proof.paid_wrongly += 1
            _fault(proof, f"machine {owner} earned {credits_}, receipts give {earned[owner]}")
    proof.paid_in_nanos += books.opened_nanos
    proof.unaccounted_nanos = proof.paid_in_nanos - owed - proof.paid_out_nanos


def _fault(proof: Proof, words: str) -> None:
    if len(proof.faults) < FAULTS_MAX:
        proof.faults.append(words)
