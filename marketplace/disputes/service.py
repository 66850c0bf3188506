"""Disputes as people meet them: who may see one, be heard on it, file one, and rule on it.

Money moves by `rule` alone, which two operators approve together. Nobody loses money unheard: a
ruling that takes from a machine waits until it has made a statement or its time for one is over.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ledger import disputes
from ledger.accounts import AccountCode, AccountRef
from ledger.database import Session
from ledger.dispute_models import DisputeKind, DisputeRow, DisputeState
from ledger.disputes import Opening
from ledger.log import Log
from ledger.rulings import Decision
from ledger.turns import take_turns
from marketplace.disputes.errors import (
    DisputeUnknown,
    NothingToDispute,
    RulingTooEarly,
    StatementTooLate,
    TooManyClaims,
    TooManyStatements,
)
from marketplace.disputes.models import StatementRow
from marketplace.disputes.repository import DisputeRepository
from marketplace.errors import Conflict
from marketplace.machines import service as machines
from protocol.envelope import Envelope
from protocol.lease import Lease
from protocol.record import decode_canonical, decode_fields

__all__ = [
    "APPEAL_S",
    "EVIDENCE_BYTES_MAX",
    "OPEN_CLAIMS_MAX",
    "PAGE",
    "Party",
    "claim_bad_output",
    "get",
    "of_party",
    "rule",
    "seen_by",
    "state",
]

APPEAL_S = 14 * 86_400
"""How long those concerned may make statements."""
STATEMENTS_MAX = 5
"""Of one author on one dispute."""
OPEN_CLAIMS_MAX = 20
"""Unproven claims of one filer at a time: a claim parks somebody else's money."""
EVIDENCE_BYTES_MAX = 16 * 1024
"""Two sketches of a window with their places."""
PAGE = 50


@dataclass(frozen=True, slots=True)
class Party:
    """Whose disputes are asked for: an account, and the machine that asks, if one does."""

    account_id: str
    peer_id: str | None = None


def of_party(session: Session, party: Party, *, before_s: int) -> Sequence[DisputeRow]:
    """Disputes over what the account's machines earned or the account paid, the newest first."""
    peers = _machines(session, party)
    return DisputeRepository(session).concerning(
        party.account_id, peers, before_s=before_s, limit=PAGE
    )


def seen_by(session: Session, party: Party, dispute_id: bytes) -> DisputeRow:
    """One dispute. Raises DisputeUnknown, for those of others too."""
    row = DisputeRepository(session).get(dispute_id)
    if row is None or not _concerns(session, party, dispute_id):
        raise DisputeUnknown
    return row


def get(session: Session, dispute_id: bytes) -> DisputeRow:
    """Any dispute, for operators. Raises DisputeUnknown."""
    row = DisputeRepository(session).get(dispute_id)
    if row is None:
        raise DisputeUnknown
    return row


def state(
    session: Session, party: Party, dispute_id: bytes, statement_id: bytes, body: str, *, now_s: int
) -> StatementRow:
    """Say something on a dispute, within its time; the same again is answered the same.

    Raises DisputeUnknown, StatementTooLate, TooManyStatements, or Conflict for an id that is taken.
    """
    repository = DisputeRepository(session)
    seen_by(session, party, dispute_id)
    row = repository.lock(dispute_id)
    assert row is not None, "no dispute goes away"
    author = party.peer_id or party.account_id
    if known := repository.statement(statement_id):
        if (known.dispute_id, known.author, known.body) != (dispute_id, author, body):
            raise Conflict("This statement_id is taken.", hint="Choose 16 random bytes.")
        return known
    if row.state != DisputeState.OPEN or now_s > row.opened_at_s + APPEAL_S:
        raise StatementTooLate("This dispute takes no more statements.")
    if sum(s.author == author for s in repository.statements(dispute_id)) >= STATEMENTS_MAX:
        raise TooManyStatements(f"You have made {STATEMENTS_MAX} statements on this dispute.")
    made = StatementRow(
        statement_id=statement_id, dispute_id=dispute_id, author=author, body=body, made_at_s=now_s
    )
    repository.add(made)
    return made


def claim_bad_output(
    session: Session,
    dispute_id: bytes,
    lease_id: bytes,
    *,
    claim: str,
    evidence: bytes,
    filed_by: str,
    now_s: int,
) -> int:
    """File that a lease's output was not its model's: parks what it earned, as far as that is
    still unreleased or held; gives how much. The same dispute_id again parks nothing more.

    `filed_by`: a referee's PeerId or an operator. Raises NothingToDispute, TooManyClaims, Conflict.
    """
    repository = DisputeRepository(session)
    if known := repository.get(dispute_id):
        rows = [row for row in repository.leases(dispute_id) if row.lease_id == lease_id]
        if known.filed_by != filed_by or not rows:
            raise Conflict("This dispute_id is taken.", hint="Choose 16 random bytes.")
        return rows[0].parked_nanos
    if len(evidence) > EVIDENCE_BYTES_MAX:
        raise NothingToDispute(f"Evidence has at most {EVIDENCE_BYTES_MAX} bytes.")
    # of two claims at once each would count without the other
    take_turns(session, "disputes.claims", [filed_by.encode()])
    if repository.open_claims_of(filed_by) >= OPEN_CLAIMS_MAX:
        raise TooManyClaims(f"{OPEN_CLAIMS_MAX} claims of yours wait for a ruling.")
    lane = repository.lane(lease_id)
    if lane is None or not lane.settled:
        raise NothingToDispute("No such lease has been settled.")
    lease = decode_fields(Lease, decode_canonical(Envelope.decode(lane.lease).payload))
    opening = Opening(
        dispute_id, DisputeKind.BAD_OUTPUT, lease.session_id, claim, now_s, filed_by, evidence
    )
    disputes.open_dispute(session, opening, ())
    entries = disputes.park_paid(
        session, dispute_id, lease,
        buyer=lane.buyer, sources=_sources(session, lease), nanos=lane.amount_settled_nanos,
        reason=DisputeKind.BAD_OUTPUT.value, now_s=now_s,
    )  # fmt: skip
    if not entries:
        raise NothingToDispute("Nothing of what this lease earned is within reach.")
    Log(session).append(entries)
    return entries[0].nanos


def rule(
    session: Session,
    dispute_id: bytes,
    decisions: Sequence[Decision],
    *,
    reason: str,
    by: str,
    now_s: int,
) -> range:
    """Divide what is parked, and close the dispute; gives the indexes of the log's entries.

    To be called when two operators have approved it. The same again changes nothing. Raises
    RulingTooEarly, ledger.errors.DisputeUnknown, DisputeRuled, or LedgerError where the decisions
    do not divide exactly what is parked.
    """
    repository = DisputeRepository(session)
    row = repository.get(dispute_id)
    if row is not None and row.state == DisputeState.OPEN and now_s <= row.opened_at_s + APPEAL_S:
        losing = {decision.lease_id for decision in decisions if decision.to_buyer_nanos}
        providers = {r.provider for r in repository.leases(dispute_id) if r.lease_id in losing}
        if unheard := sorted(providers - _heard(session, dispute_id, providers)):
            raise RulingTooEarly(
                f"{unheard[0]} is to lose money and has made no statement.",
                hint=f"It may be heard until {row.opened_at_s + APPEAL_S}.",
            )
    return disputes.rule(session, dispute_id, decisions, reason=reason, by=by, now_s=now_s)


def _heard(session: Session, dispute_id: bytes, providers: Iterable[str]) -> set[str]:
    """Machines that have made a statement, themselves or by a member of their account."""
    authors = {row.author for row in DisputeRepository(session).statements(dispute_id)}
    return {
        peer for peer in providers if {peer, machines.account_of(session, peer) or peer} & authors
    }


def _concerns(session: Session, party: Party, dispute_id: bytes) -> bool:
    peers = set(_machines(session, party))
    return any(
        row.buyer == party.account_id or row.provider in peers
        for row in DisputeRepository(session).leases(dispute_id)
    )


def _machines(session: Session, party: Party) -> list[str]:
    return [row.peer_id for row in machines.machines_of(session, party.account_id)]


def _sources(session: Session, lease: Lease) -> list[AccountRef]:
    """Where a provider's pay lies before it is payable: with the machine, then in its reserve."""
    peer = str(lease.provider)
    sources = [AccountRef(AccountCode.PROVIDER_EARNED, peer)]
    if account_id := machines.account_of(session, peer):
        sources.append(AccountRef(AccountCode.PROVIDER_HELD, account_id))
    return sources
