"""The proof: what the journals say was acknowledged, against what the books and the log hold."""

import time

from benchmarks.ledger_kills.oracle_gateways import prove_gateways
from benchmarks.ledger_kills.oracle_money import prove_money
from benchmarks.ledger_kills.oracle_payouts import prove_payouts
from benchmarks.ledger_kills.oracle_receipts import prove_receipts
from benchmarks.ledger_kills.place import Options, Place
from benchmarks.ledger_kills.report import Proof
from marketplace.db import Database

__all__ = ["prove"]


def prove(place: Place, options: Options, database_url: str, *, patient: bool) -> Proof:
    """To be run when everything has come to its end."""
    started, proof = time.monotonic(), Proof()
    database = Database(database_url)
    try:
        with database.reading() as session:
            last = prove_receipts(session, place, options, proof)
            prove_payouts(session, place, proof, patient=patient)
            prove_money(session, place, options, proof, last)
            prove_gateways(session, place, proof)
    finally:
        database.close()
    proof.seconds = time.monotonic() - started
    return proof
