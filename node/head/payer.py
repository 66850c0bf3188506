"""The payer of one session: signs what each hop may be paid, and keeps what each has signed back.

The key is made for one session and named in its leases, so nothing links two sessions of a buyer.
"""

from collections.abc import Sequence

from protocol.envelope import seal
from protocol.errors import RemoteProtocolError
from protocol.frame import Meter
from protocol.identity import KeyPair
from protocol.lease import Lease
from protocol.receipt import CosignedReceipt, Receipt

__all__ = ["Payer"]


class Payer:
    """Signs receipts under the leases of one route, in the route's order.

    A hop of it may be replaced under the same key; for a wholly new route there is a new payer.
    """

    def __init__(self, key: KeyPair, leases: Sequence[Lease]) -> None:
        self._key = key
        self._leases = list(leases)
        self._sequences = [0] * len(leases)
        self._signed: dict[int, bytes] = {}
        self.cosigned: dict[int, CosignedReceipt] = {}
        """The newest receipt of each hop that it has countersigned, by hop index."""
        self.past: list[CosignedReceipt] = []
        """The newest of each hop that is no longer on the route."""
        self._final_acked: set[int] = set()

    def replace(self, hop_index: int, lease: Lease) -> None:
        """Another hop stands there, under a lease of its own: its receipts begin at 1.

        What the hop before has countersigned is kept in `past`, and it is paid that.
        """
        self._leases[hop_index] = lease
        self._sequences[hop_index] = 0
        self._signed.pop(hop_index, None)
        self._final_acked.discard(hop_index)
        if cosigned := self.cosigned.pop(hop_index, None):
            self.past.append(cosigned)

    def extend(self, leases: Sequence[Lease]) -> None:
        """The same leases with higher limits: what was signed under them stands."""
        self._leases = list(leases)

    def sign(self, hop_index: int, meter: Meter) -> bytes:
        """The receipt for a meter that the head session has found payable.

        Raises LimitExceeded when the work passes the lease: nothing is signed then.
        """
        lease = self._leases[hop_index]
        amount_nanos = lease.amount_for(meter.work)
        self._sequences[hop_index] += 1
        receipt = Receipt(
            lease_id=lease.lease_id,
            sequence=self._sequences[hop_index],
            epoch=meter.epoch,
            steps=meter.steps,
            tokens=meter.tokens,
            work=meter.work,
            amount_nanos=amount_nanos,
            link_in_hash=meter.link_in_hash,
            link_out_hash=meter.link_out_hash,
            final=meter.final,
        )
        envelope = seal(receipt, self._key).encode()
        self._signed[hop_index] = envelope
        return envelope

    def acknowledge(self, hop_index: int, sequence: int, countersignature: bytes) -> None:
        """Keep a hop's countersignature; raises unless it is good for what we signed last."""
        if sequence < self._sequences[hop_index]:
            return
        if sequence != self._sequences[hop_index] or hop_index not in self._signed:
            raise RemoteProtocolError("The hop acknowledged a receipt we did not sign.")
        cosigned = CosignedReceipt(self._signed[hop_index], countersignature)
        receipt = cosigned.open(self._leases[hop_index])
        self.cosigned[hop_index] = cosigned
        if receipt.final:
            self._final_acked.add(hop_index)

    def is_settled(self, hop_index: int) -> bool:
        """Whether that hop has countersigned its final receipt."""
        return hop_index in self._final_acked
