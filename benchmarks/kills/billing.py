"""What hops were paid for, against what was carried: nothing twice, nothing that did not arrive."""

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from hashlib import sha256

from benchmarks.kills.channel import Message
from protocol.envelope import open_envelope
from protocol.receipt import CosignedReceipt, Receipt

__all__ = ["Billing"]


@dataclass(slots=True)
class _Lease:
    lease_id: str
    session: str
    hop: int
    provider: str
    largest: Receipt | None = None
    seen: dict[int, bytes] = field(default_factory=dict)
    """By sequence, the hash of the receipt that the payer signed."""


class Billing:
    """Every lease of one lane, every receipt that reached the marketplace's place."""

    def __init__(self) -> None:
        self._leases: dict[str, _Lease] = {}
        self._by_session: defaultdict[str, list[_Lease]] = defaultdict(list)
        self._replayed: Counter[tuple[str, str]] = Counter()
        self.receipts = 0
        self.faults: list[str] = []

    def leased(self, message: Message) -> None:
        lease = _Lease(
            message["leased"], message["session"], message["hop"], message["provider"]
        )  # fmt: skip
        self._leases[lease.lease_id] = lease
        self._by_session[lease.session].append(lease)

    def replayed(self, provider: str, session: str, rows: int) -> None:
        """Rows that a hop was sent to run again, or in place of a lost one."""
        self._replayed[session, provider] += rows

    def receipt(self, provider: str, encoded: bytes) -> None:
        """A receipt as a hop handed it in. The same one again is its right: an ack was lost."""
        cosigned = CosignedReceipt.decode(encoded)
        receipt = open_envelope(Receipt, cosigned.envelope)
        self.receipts += 1
        lease = self._leases.get(receipt.lease_id.hex())
        if lease is None or lease.provider != provider:
            self.faults.append(f"a receipt of {provider[-8:]} for a lease that is not its own")
            return
        known = lease.seen.setdefault(receipt.sequence, sha256(cosigned.envelope).digest())
        if known != sha256(cosigned.envelope).digest():
            self._fault(lease, f"two receipts of sequence {receipt.sequence}")
        if lease.largest is None or receipt.sequence > lease.largest.sequence:
            if lease.largest is not None and receipt.tokens < lease.largest.tokens:
                self._fault(lease, "a later receipt covers less")
            lease.largest = receipt
        elif receipt.sequence < lease.largest.sequence and receipt.tokens > lease.largest.tokens:
            self._fault(lease, "an earlier receipt covers more")

    def close(self, session: str, rows: int) -> list[str]:
        """The faults of a session of which the results of `rows` rows reached the head.

        Every hop has carried those, and what was replayed to it; nothing else may be billed.
        """
        faults_before = len(self.faults)
        billed: Counter[int] = Counter()
        bound: Counter[int] = Counter()
        for lease in self._by_session.get(session, ()):
            tokens = lease.largest.tokens if lease.largest else 0
            replayed = self._replayed[session, lease.provider]
            if tokens > rows + replayed:
                self._fault(lease, f"{tokens} rows billed; {rows} arrived, {replayed} replayed")
            billed[lease.hop] += tokens
            bound[lease.hop] += replayed
        for hop, tokens in billed.items():
            if tokens > rows + bound[hop]:
                self.faults.append(
                    f"session {session[:8]} hop {hop}: {tokens} rows billed over all its leases; "
                    f"{rows} arrived, {bound[hop]} replayed"
                )
        return self.faults[faults_before:]

    def short(self, session: str, rows: int) -> int:
        """Hops of a session whose newest lease is not paid for all the rows that arrived."""
        newest = {lease.hop: lease for lease in self._by_session.get(session, ())}
        return sum(
            lease.largest is None or not lease.largest.final or lease.largest.tokens < rows
            for lease in newest.values()
        )

    def _fault(self, lease: _Lease, what: str) -> None:
        self.faults.append(
            f"session {lease.session[:8]} hop {lease.hop} lease {lease.lease_id[:8]}: {what}"
        )
