"""What one operator asks for and another decides. Nobody alone moves money or lifts a freeze."""

import json
from typing import Any

from pydantic import ValidationError

from ledger.database import Session
from ledger.failpoint import reach
from marketplace.errors import Conflict, Malformed
from marketplace.market import Market
from marketplace.operations.actions import ACTIONS, Doing
from marketplace.operations.errors import ApprovalOver, ApprovalUnknown, TwoPeopleNeeded
from marketplace.operations.models import ApprovalRow
from marketplace.operations.repository import ApprovalRepository
from marketplace.operations.schemas import ApprovalList, ApprovalRequest, ApprovalSchema

__all__ = ["approve", "ask", "listing", "refuse"]

LIFETIME_S = 7 * 86_400
"""After that the circumstances are others: it is asked for again."""
APPROVALS_PAGE = 200


def ask(session: Session, user_id: str, request: ApprovalRequest, *, now_s: int) -> ApprovalSchema:
    """Ask for an action; the same again is the same. Raises Malformed or Conflict."""
    action = ACTIONS.get(request.action)
    if action is None:
        known = ", ".join(sorted(ACTIONS))
        raise Malformed(f"There is no action '{request.action[:32]}'.", hint=f"Choose of {known}.")
    try:
        parameters = action.parameters.model_validate(request.parameters)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise Malformed(f"parameters.{where}: {first['msg']}") from None
    text = json.dumps(parameters.model_dump(mode="json"), sort_keys=True)
    repository = ApprovalRepository(session)
    row = repository.get(request.approval_id)
    if row is not None:
        same = (row.action, row.subject, row.parameters, row.reason, row.asked_by)
        if same != (request.action, request.subject, text, request.reason, user_id):
            raise Conflict("This approval id was used before.", hint="Choose a new one.")
        return _schema(row)
    action.check(session, request.subject, parameters)
    row = ApprovalRow(
        approval_id=request.approval_id,
        action=request.action,
        subject=request.subject,
        parameters=text,
        reason=request.reason,
        asked_by=user_id,
        asked_at_s=now_s,
        expires_at_s=now_s + LIFETIME_S,
    )
    repository.add(row)
    return _schema(row)


def approve(
    session: Session, market: Market, user_id: str, approval_id: bytes, *, now_s: int
) -> ApprovalSchema:
    """The second person agrees, and it is done in this transaction. Once done, again is no error.

    Raises ApprovalUnknown, TwoPeopleNeeded, ApprovalOver, or what the action itself refuses.
    """
    row = _waiting(session, approval_id, now_s, again="done", by=user_id)
    if row.outcome == "done":
        return _schema(row)
    if row.asked_by == user_id:
        raise TwoPeopleNeeded
    action = ACTIONS[row.action]
    parameters = action.parameters.model_validate(json.loads(row.parameters))
    doing = Doing(
        market=market,
        session=session,
        subject=row.subject,
        reason=row.reason,
        ref=row.approval_id.hex(),
        by=(row.asked_by, user_id),
        now_s=now_s,
    )
    action.run(doing, parameters)
    reach("operations.approved")
    ApprovalRepository(session).decide(row, user_id, "done", now_s)
    return _schema(row)


def refuse(session: Session, user_id: str, approval_id: bytes, *, now_s: int) -> ApprovalSchema:
    """Say no, or take one's own wish back."""
    row = _waiting(session, approval_id, now_s, again="refused", by=user_id)
    if row.outcome is None:
        outcome = "withdrawn" if row.asked_by == user_id else "refused"
        ApprovalRepository(session).decide(row, user_id, outcome, now_s)
    return _schema(row)


def listing(session: Session, *, open_only: bool) -> ApprovalList:
    """The newest first."""
    rows = ApprovalRepository(session).newest(APPROVALS_PAGE, open_only=open_only)
    return ApprovalList(data=[_schema(row) for row in rows])


def _waiting(
    session: Session, approval_id: bytes, now_s: int, *, again: str, by: str
) -> ApprovalRow:
    """The row, locked: one that waits, or that this person has decided just so before."""
    row = ApprovalRepository(session).get(approval_id, lock=True)
    if row is None:
        raise ApprovalUnknown
    if row.outcome is not None and (row.outcome, row.decided_by) != (again, by):
        raise ApprovalOver(f"It is {row.outcome} already.")
    if row.outcome is None and row.expires_at_s <= now_s:
        raise ApprovalOver("Nobody decided it in time.", hint="Ask for it again.")
    return row


def _schema(row: ApprovalRow) -> ApprovalSchema:
    parameters: dict[str, Any] = json.loads(row.parameters)
    return ApprovalSchema(
        approval_id=row.approval_id,
        action=row.action,
        subject=row.subject,
        parameters=parameters,
        reason=row.reason,
        asked_by=row.asked_by,
        asked_at_s=row.asked_at_s,
        expires_at_s=row.expires_at_s,
        decided_by=row.decided_by,
        decided_at_s=row.decided_at_s,
        outcome=row.outcome,
    )
