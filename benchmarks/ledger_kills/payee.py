"""Providers who ask for their payouts, each with an id of its own, spread over the campaign.

    python -m benchmarks.ledger_kills.payee DIRECTORY

Their accounts began with money to be paid out: what is earned during a campaign is released only
after days. An id is in the journal before it is sent, and again once the payout was accepted.
"""

import hashlib
import json
import sys
import time
from pathlib import Path

from benchmarks.ledger_kills.client import Client
from benchmarks.ledger_kills.journal import Journal, read_journal
from benchmarks.ledger_kills.place import Options, Place
from ledger.failpoint import reach

__all__ = ["main", "payout_id_of"]

SPREAD = 0.8
"""Of the campaign: after it no payouts are asked for, so that those under way come to an end."""
WAIT_S = 0.1


def payout_id_of(options: Options, number: int) -> str:
    """Of the payout that the account of this number asks for."""
    name = f"{options.seed}:payout:{number}"
    return hashlib.blake2b(name.encode(), digest_size=16).hexdigest()


def main(arguments: list[str]) -> None:
    """Until every payout was accepted, or the head is done."""
    place = Place(Path(arguments[0]))
    options = place.options()
    accepted = {line["id"] for line in read_journal(place.payee_journal) if line["k"] == "accepted"}
    journal, client = Journal(place.payee_journal), Client(options.markets)
    payees = json.loads(place.payees_path.read_text())
    for number, payee in enumerate(payees):
        payout_id = payout_id_of(options, number)
        if payout_id in accepted:
            continue
        if not _wait_turn(place, options, number / len(payees)):
            return
        journal.write({"k": "asked", "id": payout_id, "n": payee["cents"]})
        reach("payee.asked")
        body = {"payout_id": payout_id}
        answer = client.send("POST", "/v1/payouts", body, api_key=payee["api_key"])
        while answer.code == "conflict":
            answer = client.send("POST", "/v1/payouts", body, api_key=payee["api_key"])
        if answer.status != 200:
            raise RuntimeError(f"a payout was refused: {answer.data}")
        reach("payee.answered")
        journal.write({"k": "accepted", "id": payout_id})


def _wait_turn(place: Place, options: Options, share: float) -> bool:
    """Until so much of the campaign is over; False where it has come to its end."""
    while place.acknowledged(options.loads) < share * SPREAD * options.receipts:
        if place.head_done.exists():
            return False
        time.sleep(WAIT_S)
    return True


if __name__ == "__main__":
    main(sys.argv[1:])
