"""How fast a log is audited: hashing alone, replay with signatures, one process and two.

    python -m benchmarks.ledger_audit [--leases 2000]

Each lease has two receipts, each hold three leases: seven entries, six of them with signatures.
"""

import argparse
import dataclasses
import hashlib
import time

from ledger.audit import audit
from ledger.checkpoint import Checkpoint, sign_checkpoint
from ledger.leaf import LaneCredit, ReceiptLeaf, SettlementLeaf, encode_leaf
from ledger.tree import Frontier, leaf_hash
from protocol.envelope import seal
from protocol.identity import KeyPair
from protocol.money import Work, with_fee_nanos
from protocol.receipt import Receipt, cosign
from tests.protocol.samples import LEASE, MARKET, PAYER, PROVIDER

LANES_PER_HOLD = 3


def entries(leases: int) -> list[bytes]:
    """A log of settled holds, as an honest market writes it."""
    log = []
    for hold in range(leases // LANES_PER_HOLD):
        credits_ = []
        for lane in range(LANES_PER_HOLD):
            lease = dataclasses.replace(
                LEASE,
                lease_id=_id(f"lease {hold} {lane}"),
                hold_id=_id(f"hold {hold}"),
                provider=PROVIDER.peer_id,
            )
            envelope = seal(lease, MARKET).encode()
            for sequence, tokens in ((1, 10), (2, 20)):
                work = Work(0, tokens * len(lease.span), tokens * 1024, tokens * 1024)
                receipt = Receipt(
                    lease.lease_id, sequence, 0, tokens, tokens, work, lease.amount_for(work),
                    hashlib.sha256(b"in" + bytes([tokens])).digest(),
                    hashlib.sha256(b"out" + bytes([tokens])).digest(), sequence == 2,
                )  # fmt: skip
                cosigned = cosign(seal(receipt, PAYER).encode(), PROVIDER).encode()
                log.append(encode_leaf(ReceiptLeaf(envelope, cosigned)))
            credits_.append(LaneCredit(lease.lease_id, PROVIDER.peer_id, lease.amount_for(work)))
        earned = sum(credit.nanos for credit in credits_)
        charged = with_fee_nanos(earned, LEASE.fee_basis_points)
        ordered = tuple(sorted(credits_, key=lambda credit: credit.lease_id))
        leaf = SettlementLeaf(
            _id(f"hold {hold}"), charged, charged - earned, LEASE.fee_basis_points, ordered
        )
        log.append(encode_leaf(leaf))
    return log


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--leases", type=int, default=2000)
    log = entries(parser.parse_args().leases)
    begin, begin_cpu = time.perf_counter(), time.process_time()
    frontier = Frontier()
    for payload in log:
        frontier.append(leaf_hash(payload))
    _say("hashing alone", len(log), time.perf_counter() - begin)
    _say("  by CPU time", len(log), time.process_time() - begin_cpu)
    note = sign_checkpoint(Checkpoint("piecework/bench", frontier.size, frontier.root), MARKET)
    for processes in (1, 2):
        begin, begin_cpu = time.perf_counter(), time.process_time()
        report = audit(log, note, MARKET.peer_id, processes=processes)
        assert report.ok, report.problems
        _say(f"whole audit, {processes} process(es)", len(log), time.perf_counter() - begin)
        if processes == 1:
            _say("  by CPU time", len(log), time.process_time() - begin_cpu)


def _id(name: str) -> bytes:
    return hashlib.sha256(name.encode()).digest()[:16]


def _say(what: str, count: int, seconds: float) -> None:
    rate = count / seconds
    print(f"{what:28s} {rate:10,.0f} entries/s; 10 000 000 in {10_000_000 / rate / 60:6.1f} min")


if __name__ == "__main__":
    assert isinstance(MARKET, KeyPair)
    main()
