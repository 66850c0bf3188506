"""Disputes, proposals and refusals as JSON."""

from ledger.blame import Blame, find_blame
from ledger.database import Session
from ledger.dispute_models import DisputeLeaseRow, DisputeRow, MismatchRow
from ledger.rulings import propose
from marketplace.disputes.models import StatementRow
from marketplace.disputes.repository import DisputeRepository
from marketplace.disputes.schemas import (
    DisputedLease,
    DisputeSchema,
    MismatchSchema,
    OpenDispute,
    ProposalSchema,
    RefusalSchema,
    StatementSchema,
)
from marketplace.disputes.service import APPEAL_S
from marketplace.machines import service as machines
from protocol.identity import PeerId

__all__ = ["open_disputes", "refusals", "show", "show_statement"]

OPEN_SHOWN_MAX = 200
LINKS_MAX = 20_000
"""Of the graph of blame: what a page may cost."""
REFUSALS_MAX = 100


def show(session: Session, row: DisputeRow) -> DisputeSchema:
    """One dispute, with its leases, links and statements."""
    repository = DisputeRepository(session)
    return DisputeSchema.model_validate(
        {
            "dispute_id": row.dispute_id,
            "kind": row.kind,
            "state": row.state,
            "claim": row.claim,
            "session_id": row.session_id,
            "opened_at_s": row.opened_at_s,
            "statements_until_s": row.opened_at_s + APPEAL_S,
            "ruled_at_s": row.ruled_at_s,
            "ruling": row.ruling,
            "leases": [_lease(lease) for lease in repository.leases(row.dispute_id)],
            "mismatches": [_mismatch(link) for link in repository.mismatches(row.dispute_id)],
            "statements": [show_statement(made) for made in repository.statements(row.dispute_id)],
        }
    )


def show_statement(row: StatementRow) -> StatementSchema:
    is_account = len(row.author) == 32  # an account's id; a PeerId has 52 characters
    return StatementSchema(
        statement_id=row.statement_id,
        author="member" if is_account else row.author,
        body=row.body,
        made_at_s=row.made_at_s,
    )


def open_disputes(session: Session) -> list[OpenDispute]:
    """Everything that waits for a ruling, the oldest first, with what the graph proposes."""
    repository = DisputeRepository(session)
    links = repository.open_links(LINKS_MAX)
    party_of = {peer: machines.account_of(session, peer) or peer for pair in links for peer in pair}
    blames = find_blame((party_of[one], party_of[other]) for one, other in links)
    return [
        OpenDispute(
            dispute=show(session, row),
            filed_by=row.filed_by,
            evidence=row.evidence,
            proposal=_proposal(session, row, party_of, blames),
            may_rule_from_s=row.opened_at_s + APPEAL_S,
        )
        for row in repository.open_ones(OPEN_SHOWN_MAX)
    ]


def refusals(session: Session, *, since_s: int) -> list[RefusalSchema]:
    """Accounts whose heads left hops without a last receipt, or contradicted themselves."""
    return [
        RefusalSchema(
            account_id=buyer,
            leases=int(leases),
            unsigned=int(unsigned),
            providers=int(providers),
            equivocations=int(equivocations),
        )
        for buyer, leases, unsigned, providers, equivocations in DisputeRepository(
            session
        ).refusals(since_s, REFUSALS_MAX)
    ]


def _proposal(
    session: Session, row: DisputeRow, party_of: dict[str, str], blames: tuple[Blame, ...]
) -> ProposalSchema | None:
    repository = DisputeRepository(session)
    leases = {lease.lease_id: lease for lease in repository.leases(row.dispute_id)}
    proposal = propose(
        {lease_id: lease.parked_nanos for lease_id, lease in leases.items()},
        {
            lease_id: party_of.get(lease.provider, lease.provider)
            for lease_id, lease in leases.items()
        },
        [
            (link.sender_lease, link.receiver_lease)
            for link in repository.mismatches(row.dispute_id)
        ],
        blames,
    )
    if proposal is None:
        return None
    decisions = [
        DisputedLease(
            lease_id=decision.lease_id,
            provider=PeerId.from_text(leases[decision.lease_id].provider),
            parked_nanos=leases[decision.lease_id].parked_nanos,
            to_provider_nanos=decision.to_provider_nanos,
            to_buyer_nanos=decision.to_buyer_nanos,
        )
        for decision in proposal.decisions
    ]
    return ProposalSchema(reason=proposal.reason, decisions=decisions)


def _lease(row: DisputeLeaseRow) -> DisputedLease:
    return DisputedLease(
        lease_id=row.lease_id,
        provider=PeerId.from_text(row.provider),
        parked_nanos=row.parked_nanos,
        to_provider_nanos=row.to_provider_nanos,
        to_buyer_nanos=row.to_buyer_nanos,
    )


def _mismatch(row: MismatchRow) -> MismatchSchema:
    return MismatchSchema(
        sender=PeerId.from_text(row.sender),
        receiver=PeerId.from_text(row.receiver),
        hop_index=row.hop_index,
        epoch=row.epoch,
        steps=row.steps,
        link_out_hash=row.link_out_hash,
        link_in_hash=row.link_in_hash,
        bytes_out=row.bytes_out,
        bytes_in=row.bytes_in,
    )
