"""The outbox: what must be done outside because of a commit, and is done at least once after it.

A row is written in the transaction that makes it necessary, under a key that makes it one. Whoever
claims it has it for CLAIM_S; who dies meanwhile loses it to the next. What fails is tried again
later and later, and at last given up as a dead letter that a person must look at.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from ledger.database import Session
from marketplace.payouts.outbox.repository import OutboxRepository

__all__ = ["Letter", "Topic", "claim", "claim_and_finish", "fail", "finish", "put"]

CLAIM_S = 120
"""Longer than a processor's call may take with its retries."""
BACK_OFF_S = 30
BACK_OFF_S_MAX = 3600
ATTEMPTS_MAX = 20
"""About 13 hours of trying: an outage at a processor is over by then."""


class Topic(StrEnum):
    """What is to be done."""

    SEND = "payout.send"
    """Submit a payout that is reserved."""
    LOOK = "payout.look"
    """Compare a payout with the processor's transfers: an event says that something changed."""
    RECIPIENT = "recipient.look"
    """Fetch a recipient's state: an event says that it changed."""


@dataclass(frozen=True, slots=True)
class Letter:
    """One piece of work that was claimed."""

    row_id: int
    payload: Mapping[str, str]
    attempts: int


def put(
    session: Session, topic: Topic, subject: str, payload: Mapping[str, str], *, now_s: int
) -> None:
    """Have it done soon. Once for a subject; again after it was done, it is to be done again."""
    key = f"{topic.value}:{subject}"
    OutboxRepository(session).put(topic.value, key, json.dumps(dict(payload)), now_s)


def claim(session: Session, topic: Topic, *, now_s: int) -> Letter | None:
    """One piece of work that is due, this worker's for CLAIM_S; None where there is none."""
    row = OutboxRepository(session).claim(topic.value, now_s, now_s + CLAIM_S)
    if row is None or row.id is None:
        return None
    return Letter(row.id, json.loads(row.payload), row.attempts)


def claim_and_finish(session: Session, topic: Topic, *, now_s: int) -> Letter | None:
    """As `claim`, for work that this very transaction hands on to something that lasts."""
    letter = claim(session, topic, now_s=now_s)
    if letter is not None:
        finish(session, letter, now_s=now_s)
    return letter


def finish(session: Session, letter: Letter, *, now_s: int) -> None:
    """It is done, unless it was asked for again meanwhile."""
    OutboxRepository(session).finish(letter.row_id, letter.attempts, now_s)


def fail(session: Session, letter: Letter, error: str, *, now_s: int) -> None:
    """Try again later; after ATTEMPTS_MAX not at all."""
    wait_s = min(BACK_OFF_S * 2 ** min(letter.attempts, 10), BACK_OFF_S_MAX)
    is_dead = letter.attempts >= ATTEMPTS_MAX
    OutboxRepository(session).fail(
        letter.row_id, letter.attempts, error[:500], now_s + wait_s, now_s if is_dead else None
    )
