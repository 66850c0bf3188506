"""Every payout that was accepted moved once at the processor, by as many cents as the book says."""

import json
import time
from collections import defaultdict
from typing import Any

from sqlalchemy import text

from benchmarks.ledger_kills.journal import read_journal
from benchmarks.ledger_kills.place import Place
from benchmarks.ledger_kills.report import Proof
from ledger.database import Session
from marketplace.payments.processor import NANOS_PER_CENT

__all__ = ["prove_payouts"]

FAULTS_MAX = 60
BOOK_S = 30.0
_SENT = "SELECT ref, amount_nanos FROM ledger_transfer WHERE code = 'payout_sent'"


def prove_payouts(session: Session, place: Place, proof: Proof, *, patient: bool) -> None:
    """Fills in what concerns payouts; nothing where none were asked for.

    patient: every answer was waited for; else one that was sent may not be booked yet.
    """
    if not place.payees_path.exists():
        return
    told = _book_of(place)
    at_stripe: dict[str, list[int]] = defaultdict(list)
    for transfer in told["transfers"]:
        at_stripe[transfer["group"]].append(transfer["amount"])
    in_book: dict[str, list[int]] = defaultdict(list)
    for ref, amount in session.execute(text(_SENT)):
        in_book[ref].append(amount)
    proof.processor_faults = sum(told["faults"].values())
    proof.paid_out_nanos = sum(sum(moved) for moved in in_book.values())
    # whoever was killed has asked for the same payout again
    asked = {
        line["id"]: line["n"] for line in read_journal(place.payee_journal) if line["k"] == "asked"
    }
    for payout, cents in asked.items():
        sent, booked = at_stripe.pop(payout, []), in_book.pop(payout, [])
        proof.paid_twice += len(sent) > 1 or len(booked) > 1
        if sent == [cents] and booked == [cents * NANOS_PER_CENT]:
            proof.payouts += 1
        elif booked or sent not in ([], [cents]) or (sent and patient):
            proof.paid_wrongly += 1
            _fault(proof, f"payout {payout} of {cents}: sent {sent}, booked {booked}")
        else:
            proof.payouts_open += 1
    for payout in {**at_stripe, **in_book}:
        proof.paid_wrongly += 1
        _fault(proof, f"nobody asked for payout {payout}")


def _book_of(place: Place) -> dict[str, Any]:
    """What the processor says now."""
    place.stripe_wanted.touch()
    give_up_at = time.monotonic() + BOOK_S
    while place.stripe_wanted.exists():
        if time.monotonic() > give_up_at:
            raise RuntimeError("the processor does not tell its book")
        time.sleep(0.05)
    found: dict[str, Any] = json.loads(place.stripe_book.read_text())
    return found


def _fault(proof: Proof, words: str) -> None:
    if len(proof.faults) < FAULTS_MAX:
        proof.faults.append(words)
