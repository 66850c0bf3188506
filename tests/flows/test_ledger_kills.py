"""Some kills on each engine, and the laboratory's own parts: what judges must be judged."""

import json
import shutil
import sys

import pytest

from benchmarks.ledger_kills.campaign import Campaign, run_campaign
from benchmarks.ledger_kills.content import amount_at, plan_of, receipts_of
from benchmarks.ledger_kills.failpoints import named_in
from benchmarks.ledger_kills.journal import Journal, read_journal
from benchmarks.ledger_kills.oracle_money import prove_money
from benchmarks.ledger_kills.oracle_receipts import prove_receipts
from benchmarks.ledger_kills.place import Buyer, Options, Place
from benchmarks.ledger_kills.report import Proof
from benchmarks.ledger_kills.spool import Slip, lay, outstanding, take
from marketplace.config import DATABASE_FILE
from marketplace.db import Database
from protocol.envelope import open_envelope
from protocol.receipt import Receipt

linux = pytest.mark.skipif(sys.platform != "linux", reason="its processes die with their parent")


def small(engine, **changed):
    return Campaign(
        **{
            "engine": engine, "kills": 6, "receipts": 300, "seed": 5, "hops": 2, "loads": 1,
            "cohort_sessions": 10, "receipts_per_lease": 5, "buyers": 2, "payouts": 3,
            "gateways": 0, "patient": False, "quiet": True,
        } | changed
    )  # fmt: skip


@linux
@pytest.mark.slow
def test_kills_on_postgresql_lose_nothing():
    report = run_campaign(small("postgresql"))
    assert report.is_good, report.table()
    assert report.kills >= 6
    assert report.proof.receipts_acknowledged == report.proof.receipts_stored >= 300


@linux
@pytest.mark.slow
def test_kills_on_sqlite_lose_nothing_and_the_oracle_sees_what_it_is_for():
    report = run_campaign(small("sqlite", keep=True))
    try:
        assert report.is_good, report.table()
        assert report.kills >= 6
        place = Place(report.directory)
        assert prove(place).holds
        a_receipt_that_is_not_there(place)
        an_answer_that_changed(place)
        a_top_up_that_was_not_credited(place)
    finally:
        shutil.rmtree(report.directory)


def prove(place) -> Proof:
    """The books against the journals, without the processor, which has ended."""
    proof, options = Proof(), place.options()
    database = Database(f"sqlite:///{place.market_home / DATABASE_FILE}")
    with database.reading() as session:
        last = prove_receipts(session, place, options, proof)
        prove_money(session, place, options, proof, last)
        # what went out is the processor's to say, and is proved with it
        proof.paid_wrongly += proof.unaccounted_nanos % 10_000_000 != 0
    database.close()
    proof.unaccounted_nanos = 0
    return proof


def a_receipt_that_is_not_there(place):
    journal = place.load_journal(0)
    kept = journal.read_bytes()
    lines = list(read_journal(journal))
    sent = next(line for line in lines if line["k"] == "sent")
    ack = next(line for line in lines if line["k"] == "ack" and line["f"] == sent["f"])
    more = [{**sent, "f": "0/000999-0001"}, {**ack, "f": "0/000999-0001"}]
    more[1]["x"] = [10**9 + number for number in range(len(ack["x"]))]
    journal.write_bytes(kept + b"".join(json.dumps(line).encode() + b"\n" for line in more))
    assert prove(place).lost == len(ack["x"])
    journal.write_bytes(kept)


def an_answer_that_changed(place):
    journal = place.load_journal(0)
    kept = journal.read_bytes()
    ack = next(line for line in read_journal(journal) if line["k"] == "ack")
    again = {**ack, "x": list(reversed(ack["x"]))}
    journal.write_bytes(kept + json.dumps(again).encode() + b"\n")
    assert any("other leaf indexes" in fault for fault in prove(place).faults)
    journal.write_bytes(kept)


def a_top_up_that_was_not_credited(place):
    journal = place.head_journal
    kept = journal.read_bytes()
    lines = [
        {"k": "topup", "id": "ab" * 16, "c": 0, "b": 0, "n": 10_000_000},
        {"k": "topped", "id": "ab" * 16},
    ]
    journal.write_bytes(kept + b"".join(json.dumps(line).encode() + b"\n" for line in lines))
    found = prove(place)
    assert found.paid_wrongly
    assert any("ab" * 16 in fault for fault in found.faults)
    journal.write_bytes(kept)


def write(path, *lines):
    journal = Journal(path)
    journal.write(*lines)
    journal.close()


def test_a_torn_line_was_never_written(tmp_path):
    path = tmp_path / "journal"
    write(path, {"k": 1}, {"k": 2})
    path.write_bytes(path.read_bytes() + b'{"k":')
    assert [line["k"] for line in read_journal(path)] == [1, 2]
    write(path, {"k": 3})
    assert [line["k"] for line in read_journal(path)] == [1, 2, 3]


def test_a_spool_gives_back_what_was_laid(tmp_path):
    slips = [Slip(bytes([number]) * 16, b"x" * number) for number in range(3)]
    lay(tmp_path, "000001-0002", slips)
    lay(tmp_path, "000000-0003", slips[:1])
    assert outstanding(tmp_path) == ["000000-0003", "000001-0002"]
    assert take(tmp_path, "000001-0002") == slips


def test_a_session_says_the_same_again_and_never_less():
    options = Options(
        seed=3, markets=(), market_peer="", hops=2, loads=1, cohort_sessions=1,
        receipts_per_lease=4, receipts=8, fee_basis_points=0, topup_cents=1,
        buyers=(Buyer("account", "key"),),
    )  # fmt: skip
    plan = plan_of(options, 0, 0, 0)
    assert plan.session_id == plan_of(options, 0, 0, 0).session_id
    assert plan.session_id != plan_of(options, 0, 0, 1).session_id
    data = receipts_of(options, plan, bytes(16), 0, 4)
    assert data == receipts_of(options, plan, bytes(16), 0, 4)
    receipt = open_envelope(Receipt, data, signer=plan.payer.peer_id)
    amounts = [amount_at(options, plan, sequence) for sequence in range(5)]
    assert amounts == sorted(amounts)
    assert amounts[0] == 0
    assert receipt.amount_nanos == amounts[-1]
    assert receipt.final


def test_the_fail_points_are_found_in_the_source():
    found = named_in("ledger", "marketplace", "benchmarks/ledger_kills")
    assert {"commit.before", "commit.after", "head.leased", "load.sent"} <= found
