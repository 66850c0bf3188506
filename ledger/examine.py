"""What can be said of one entry by itself: its hash, its kind, and whether its signatures hold.

This is nearly all of an audit's work and needs no order, so it can be shared among processes; what
entries mean together is `ledger/replay.py`.
"""

import hashlib
import multiprocessing
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from itertools import islice

from ledger.contradiction import contradicts
from ledger.errors import AuditFailed, ReceiptRejected, Unbalanced
from ledger.lane import Watermark
from ledger.leaf import EquivocationLeaf, Leaf, ReceiptLeaf, decode_leaf
from ledger.tree import leaf_hash
from protocol.envelope import Envelope, open_envelope
from protocol.errors import ProtocolError, VerificationError
from protocol.identity import PeerId
from protocol.lease import Lease
from protocol.money import Nanos, Work
from protocol.receipt import CosignedReceipt
from protocol.record import encode_canonical, encode_fields

__all__ = [
    "CheckedEquivocation",
    "CheckedReceipt",
    "Entry",
    "Examiner",
    "Flawed",
    "LeaseTerms",
    "examine_all",
]

ENTRIES_PER_TASK = 256
TASKS_PER_PROCESS = 4
"""Handed out ahead, so that no process waits; bounds what is in memory."""
LEASES_KEPT = 4096
"""Verified lately; the receipts of one lease stand near one another."""
_GROWS = ("work_max", "amount_nanos_max", "settle_by_s")


@dataclass(frozen=True, slots=True)
class LeaseTerms:
    """What of a lease the replay needs; `fixed` stands for all that no extension may change."""

    lease_id: bytes
    hold_id: bytes
    session_id: bytes
    hop_index: int
    hop_count: int
    provider: PeerId
    payer_key: bytes
    fee_basis_points: int
    fixed: bytes
    work_max: Work
    amount_nanos_max: Nanos
    settle_by_s: int

    @classmethod
    def of(cls, lease: Lease) -> "LeaseTerms":
        fields = encode_fields(lease)
        for name in _GROWS:
            del fields[name]
        return cls(
            lease_id=lease.lease_id,
            hold_id=lease.hold_id,
            session_id=lease.session_id,
            hop_index=lease.hop_index,
            hop_count=lease.hop_count,
            provider=lease.provider,
            payer_key=lease.payer_key,
            fee_basis_points=lease.fee_basis_points,
            fixed=hashlib.sha256(encode_canonical(fields)).digest(),
            work_max=lease.work_max,
            amount_nanos_max=lease.amount_nanos_max,
            settle_by_s=lease.settle_by_s,
        )

    def grew_from(self, earlier: "LeaseTerms") -> bool:
        """Whether this is the same lease with limits at least as high."""
        return (
            self.fixed == earlier.fixed
            and self.work_max.covers(earlier.work_max)
            and self.amount_nanos_max >= earlier.amount_nanos_max
            and self.settle_by_s >= earlier.settle_by_s
        )


@dataclass(frozen=True, slots=True)
class CheckedReceipt:
    """A receipt's entry: the marketplace signed the lease, payer and provider the receipt."""

    terms: LeaseTerms
    mark: Watermark


@dataclass(frozen=True, slots=True)
class CheckedEquivocation:
    """An entry that proves that a payer has contradicted itself."""

    terms: LeaseTerms
    amount_nanos: Nanos
    """The larger of the two."""


@dataclass(frozen=True, slots=True)
class Flawed:
    """An entry that is wrong by itself."""

    reason: str


Entry = CheckedReceipt | CheckedEquivocation | Leaf | Flawed


class Examiner:
    """Examines entries of one log."""

    def __init__(self, market_key: PeerId) -> None:
        self._market_key = market_key
        self._leases: dict[bytes, tuple[Lease, LeaseTerms]] = {}

    def examine(self, payload: bytes) -> tuple[bytes, Entry]:
        """The leaf hash of an entry, and what it says; never raises for what it holds."""
        try:
            return leaf_hash(payload), self._open(payload)
        except ReceiptRejected as error:
            return leaf_hash(payload), Flawed(error.reason)
        except (AuditFailed, Unbalanced, ProtocolError, VerificationError) as error:
            return leaf_hash(payload), Flawed(str(error))

    def _open(self, payload: bytes) -> Entry:
        leaf = decode_leaf(payload)
        if isinstance(leaf, EquivocationLeaf):
            return self._check_proof(leaf)
        if not isinstance(leaf, ReceiptLeaf):
            return leaf
        lease, terms = self._lease_of(leaf.lease_envelope)
        receipt = CosignedReceipt.decode(leaf.cosigned).open(lease)
        return CheckedReceipt(terms, Watermark.of(receipt))

    def _check_proof(self, leaf: EquivocationLeaf) -> CheckedEquivocation:
        lease, terms = self._lease_of(leaf.lease_envelope)
        pair = [CosignedReceipt.decode(each).open(lease) for each in (leaf.first, leaf.second)]
        if not contradicts(*pair):
            raise AuditFailed(f"both receipts of lease {lease.lease_id.hex()} can be true")
        return CheckedEquivocation(terms, max(receipt.amount_nanos for receipt in pair))

    def _lease_of(self, envelope: bytes) -> tuple[Lease, LeaseTerms]:
        if known := self._leases.get(envelope):
            return known
        lease = open_envelope(Lease, Envelope.decode(envelope), signer=self._market_key)
        if len(self._leases) == LEASES_KEPT:
            self._leases.pop(next(iter(self._leases)))
        self._leases[envelope] = found = (lease, LeaseTerms.of(lease))
        return found


def examine_all(
    payloads: Iterable[bytes], market_key: PeerId, *, processes: int = 1
) -> Iterator[tuple[bytes, Entry]]:
    """Every entry's hash and meaning, in order; `payloads` is read no further than it must be."""
    if processes <= 1:
        examiner = Examiner(market_key)
        yield from map(examiner.examine, payloads)
        return
    # not forked: the program that asks has threads and an event loop
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        processes, mp_context=context, initializer=_start, initargs=(market_key.public_key,)
    ) as pool:
        ahead: deque[Future[list[tuple[bytes, Entry]]]] = deque()
        for task in _tasks(payloads):
            ahead.append(pool.submit(_examine_task, task))
            if len(ahead) == processes * TASKS_PER_PROCESS:
                yield from ahead.popleft().result()
        while ahead:
            yield from ahead.popleft().result()


def _tasks(payloads: Iterable[bytes]) -> Iterator[tuple[bytes, ...]]:
    source = iter(payloads)
    while task := tuple(islice(source, ENTRIES_PER_TASK)):
        yield task


_examiners: list[Examiner] = []
"""The one of this process, where it was started to examine."""


def _start(market_key: bytes) -> None:
    _examiners[:] = [Examiner(PeerId(market_key))]


def _examine_task(payloads: tuple[bytes, ...]) -> list[tuple[bytes, Entry]]:
    return [_examiners[0].examine(payload) for payload in payloads]
