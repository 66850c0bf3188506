"""A book full of leased holds, and the receipts under them, for the ledger's benchmarks."""

import hashlib
import multiprocessing
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sqlalchemy import Engine

from ledger.accounts import AccountCode, AccountRef
from ledger.book import Book
from ledger.database import Session, create_all, open_database
from ledger.receipts import open_lane
from ledger.settle_window import mark_closed
from protocol.envelope import seal
from protocol.identity import KeyPair, PeerId
from protocol.lease import Lease
from protocol.money import Rates, Work
from protocol.receipt import Receipt, cosign
from protocol.route import Span
from protocol.tensor import WireDtype
from tests.postgres import Server

__all__ = [
    "HOPS",
    "NOW_S",
    "RECEIPTS_PER_LEASE",
    "SETTLE_BY_S",
    "SPAWN",
    "Load",
    "database",
    "fill",
    "fund",
    "id_of",
]

NOW_S = 1_800_000_000
SETTLE_BY_S = NOW_S + 86_400
HOPS = 8
RECEIPTS_PER_LEASE = 4
HOLD_NANOS = 10_000_000_000
TOKENS = 64
"""Between two receipts."""

_RATES = Rates(2_000_000, 6_000_000, 1_000)
_SPAN = Span(0, 4)
_HIDDEN = 4096


@dataclass(frozen=True, slots=True)
class Load:
    """Batches to hand in, in this order: (who hands in, encoded co-signed receipts)."""

    batches: Sequence[tuple[PeerId, Sequence[bytes]]]
    receipt_count: int
    hold_count: int


@contextmanager
def database(engine_name: str) -> Iterator[str]:
    """URL of an empty ledger, with fsync on: a file, or a server of its own on the same disk."""
    with tempfile.TemporaryDirectory(prefix="pw", dir="/tmp") as folder:
        if engine_name == "sqlite":
            url = f"sqlite:///{folder}/ledger.db"
            _make(url)
            yield url
            return
        Path(folder).chmod(0o755)
        server_folder = Path(folder) / "s"
        server_folder.mkdir()
        server = Server(server_folder)
        server.start()
        try:
            _make(server.url)
            yield server.url
        finally:
            server.stop()


def fill(engine: Engine, hold_count: int, seed: str) -> Load:
    """Fund a buyer, lease `hold_count` holds of HOPS hops, and sign all receipts under them."""
    market, payer = _key(seed, "market"), _key(seed, "payer")
    providers = [_key(seed, f"provider {hop}") for hop in range(HOPS)]
    leases: list[list[Lease]] = [[] for _ in providers]
    fund(engine, f"buyer {seed}", hold_count * HOLD_NANOS)
    for number in range(hold_count):
        hold_id = id_of(f"{seed} hold {number}")
        with Session(engine) as session, session.begin():
            Book(session).hold(
                hold_id, f"buyer {seed}", HOLD_NANOS, now_s=NOW_S, expires_at_s=SETTLE_BY_S
            )
            for hop, provider in enumerate(providers):
                lease = _lease(seed, number, hop, hold_id, provider.peer_id, payer)
                open_lane(session, seal(lease, market).encode(), lease)
                leases[hop].append(lease)
            mark_closed(session, hold_id)
    batches = [
        (provider.peer_id, [_receipt(lease, sequence, payer, provider) for lease in leases[hop]])
        for sequence in range(1, RECEIPTS_PER_LEASE + 1)
        for hop, provider in enumerate(providers)
    ]
    return Load(batches, sum(len(batch) for _, batch in batches), hold_count)


def fund(engine: Engine, buyer: str, nanos: int) -> None:
    """Put money there, once."""
    with Session(engine) as session, session.begin():
        processor = AccountRef(AccountCode.PROCESSOR_PENDING)
        cash = AccountRef(AccountCode.BUYER_CASH, buyer)
        Book(session).transfer(processor, cash, nanos, code="topup", ref=buyer, now_s=NOW_S)


def id_of(name: str) -> bytes:
    """16 bytes that a name stands for."""
    return hashlib.sha256(name.encode()).digest()[:16]


def _make(url: str) -> None:
    engine = open_database(url)
    create_all(engine)
    engine.dispose()


def _key(seed: str, name: str) -> KeyPair:
    return KeyPair(hashlib.sha256(f"{seed} {name}".encode()).digest())


def _lease(
    seed: str, number: int, hop: int, hold_id: bytes, provider: PeerId, payer: KeyPair
) -> Lease:
    head = payer.peer_id
    return Lease(
        lease_id=id_of(f"{seed} lease {number}.{hop}"),
        session_id=id_of(f"{seed} session {number}"),
        hold_id=hold_id,
        hop_index=hop,
        hop_count=HOPS,
        payer_key=payer.peer_id.public_key,
        provider=provider,
        head=head,
        previous=head,
        next=head,
        manifest_hash=bytes(32),
        span=_SPAN,
        hidden_size=_HIDDEN,
        wire_dtype=WireDtype.BF16,
        rates=_RATES,
        work_max=Work(1_000_000, 1_000_000, 2**40, 2**40),
        amount_nanos_max=HOLD_NANOS // HOPS // 2,
        tokens_max=4096,
        window_tokens=TOKENS,
        credit_windows=8,
        fee_basis_points=500,
        issued_at_s=NOW_S,
        expires_at_s=NOW_S + 60,
        settle_by_s=SETTLE_BY_S,
    )


def _receipt(lease: Lease, sequence: int, payer: KeyPair, provider: KeyPair) -> bytes:
    tokens = sequence * TOKENS
    row_bytes = lease.wire_dtype.row_bytes(lease.hidden_size)
    work = Work(0, tokens * len(lease.span), tokens * row_bytes, tokens * row_bytes)
    # every link of a route has the same hash at both of its ends
    link = [
        hashlib.sha256(lease.session_id + bytes([lease.hop_index + end, sequence])).digest()
        for end in (0, 1)
    ]
    receipt = Receipt(
        lease_id=lease.lease_id,
        sequence=sequence,
        epoch=0,
        steps=tokens,
        tokens=tokens,
        work=work,
        amount_nanos=lease.amount_for(work),
        link_in_hash=link[0],
        link_out_hash=link[1],
        final=sequence == RECEIPTS_PER_LEASE,
    )
    return cosign(seal(receipt, payer).encode(), provider).encode()


SPAWN = multiprocessing.get_context("spawn")
"""Processes of their own, as a marketplace's are: nothing is inherited."""
