"""A buyer's head in one session: the real account and payer, driven honestly or by a cheat."""

import dataclasses
import hashlib
from collections import Counter
from collections.abc import Sequence

from benchmarks.ledger_byzantine.hop import Hop
from benchmarks.ledger_byzantine.network import Loop, Stream
from benchmarks.ledger_byzantine.people import PayerRole
from node.head.payer import Payer
from protocol.envelope import seal
from protocol.errors import HopFailed, PieceworkError
from protocol.frame import Close, Meter, Step, StepKind
from protocol.head_account import HeadAccount
from protocol.identity import KeyPair
from protocol.lease import Lease
from protocol.money import Nanos, Work
from protocol.receipt import Receipt
from protocol.route import Route
from protocol.session import CLOSE_TIMEOUT_S, step_work

__all__ = ["Head"]

IN_FLIGHT_MAX = 4
SILENCE_S = 60.0
"""Without a result the session is closed; nothing is repaired here."""
TURNS_AT = (1, 40)
"""The result after which a cheat begins."""


class Head:
    """Sends `steps`, counts what arrives, and pays for it or does not."""

    def __init__(
        self,
        loop: Loop,
        role: PayerRole,
        route: Route,
        leases: Sequence[Lease],
        hops: Sequence[Hop],
        payer_key: KeyPair,
        steps: Sequence[tuple[StepKind, int]],
    ) -> None:
        self.role = role
        self.arrived: list[tuple[StepKind, int]] = []
        self.is_closed = False
        self._loop = loop
        self._leases, self._hops, self._key = leases, hops, payer_key
        self._account = HeadAccount(route, leases[0].hidden_size, leases[0].wire_dtype, keeps=True)
        self._payer = Payer(payer_key, leases)
        self._steps = list(steps)
        self._sent: list[tuple[StepKind, int, bytes]] = []
        self._position = 0
        self._gone: set[int] = set()
        self._first = Stream(loop)
        self._to_hop = [Stream(loop) for _ in hops]
        self._last_given: set[int] = set()
        """Hops whose final meter has come."""
        self._sequences: Counter[int] = Counter()
        self._first_receipt: dict[int, bytes] = {}
        self._turns_at = loop.random.randint(*TURNS_AT)

    def start(self) -> None:
        self._send()
        self._loop.after(SILENCE_S, self._look, 0)

    def due_nanos(self, lease: Lease) -> Nanos:
        """What a hop's work is worth whose results have arrived here."""
        total = Work()
        for kind, count in self.arrived:
            size = count * lease.wire_dtype.row_bytes(lease.hidden_size)
            total += step_work(kind, count, len(lease.span), bytes_in=size, bytes_out=size)
        return lease.amount_for(total)

    @property
    def left_out(self) -> frozenset[int]:
        """Hops that it signs nothing more for: they metered what is not so, or nothing."""
        return frozenset(self._gone)

    def on_result(self, result: Step) -> None:
        kind, count, sent = self._sent[len(self.arrived)]
        self.arrived.append((kind, count))
        if self.is_closed:
            return
        self._account.count(kind, count, count, sent, result.payload_sha256)
        self._pay()
        self._send()
        if len(self.arrived) == len(self._steps):
            self._close()

    def on_meter(self, index: int, meter: Meter) -> None:
        if index in self._gone or self._is_silent():
            return
        if self.role is PayerRole.CARELESS:
            self._sign(index, meter)
            return
        if meter.final:
            self._last_given.add(index)
        try:
            self._account.keep(index, meter)
        except PieceworkError:
            return
        self._pay()

    def _is_silent(self) -> bool:
        quiet = self.role in (PayerRole.STALL, PayerRole.VANISH)
        return quiet and len(self.arrived) >= self._turns_at

    def _send(self) -> None:
        if self.role is PayerRole.VANISH and self._is_silent():
            return
        while len(self._sent) < len(self._steps) and not self.is_closed:
            if len(self._sent) - len(self.arrived) >= IN_FLIGHT_MAX:
                return
            kind, count = self._steps[len(self._sent)]
            lease = self._leases[0]
            payload = self._loop.random.randbytes(
                count * lease.wire_dtype.row_bytes(lease.hidden_size)
            )
            digest = hashlib.sha256(payload).digest()
            step = Step(
                lease.session_id, 0, kind, self._position, count, count,
                lease.wire_dtype, lease.hidden_size, payload, digest,
            )  # fmt: skip
            self._sent.append((kind, count, digest))
            self._position += count
            self._first.send(self._hops[0].on_step, step)

    def _pay(self) -> None:
        """Sign what has arrived and on which all hops agree; who does not is left out for good."""
        try:
            due = self._account.payable(self._gone)
        except HopFailed as error:
            self._gone.add(error.hop_index)
            self._account.drop_meters()
            self._close()
            return
        for index, meter in due:
            if index not in self._gone:
                self._sign(index, meter)

    def _sign(self, index: int, meter: Meter) -> None:
        try:
            envelope = self._payer.sign(index, self._twisted(index, meter))
        except PieceworkError:
            return
        self._sequences[index] += 1
        first = self._first_receipt.setdefault(index, envelope)
        if self.role is PayerRole.REPLAY:
            envelope = first
        self._to_hop[index].send(self._hops[index].on_receipt, envelope)
        if self.role is PayerRole.EQUIVOCATE and len(self.arrived) >= self._turns_at:
            self._to_hop[index].send(self._hops[index].on_receipt, self._second(index, meter))

    def _twisted(self, index: int, meter: Meter) -> Meter:
        """What a cheat signs in a meter's place."""
        if len(self.arrived) < self._turns_at:
            return meter
        match self.role:
            case PayerRole.OVERCLAIM:
                return dataclasses.replace(
                    meter, tokens=meter.tokens + 1, work=meter.work + Work(0, 1, 0, 0)
                )
            case PayerRole.MISCOUNT if index == 0:
                work = dataclasses.replace(meter.work, bytes_in=meter.work.bytes_in // 2)
                return dataclasses.replace(meter, work=work)
            case PayerRole.UNDERPAY:
                return dataclasses.replace(meter, tokens=meter.tokens // 2, work=_half(meter.work))
        return meter

    def _second(self, index: int, meter: Meter) -> bytes:
        """Another receipt of the sequence that was signed last, for less."""
        lease, work = self._leases[index], _half(meter.work)
        receipt = Receipt(
            lease.lease_id, self._sequences[index], meter.epoch, meter.steps,
            meter.tokens, work, lease.amount_for(work),
            meter.link_in_hash, meter.link_out_hash, meter.final,
        )  # fmt: skip
        return seal(receipt, self._key).encode()

    def _look(self, arrived: int) -> None:
        if self.is_closed or self._is_silent():
            return
        if len(self.arrived) == arrived:
            self._close()
            return
        self._loop.after(SILENCE_S, self._look, len(self.arrived))

    def _close(self) -> None:
        if self.is_closed or self._is_silent():
            return
        self.is_closed = True
        close = Close(self._leases[0].session_id, 0, len(self.arrived), cancelled=False)
        for stream, hop in zip(self._to_hop, self._hops, strict=True):
            stream.send(hop.on_close, close)
        self._loop.after(CLOSE_TIMEOUT_S, self._leave_out_silent)

    def _leave_out_silent(self) -> None:
        """The last meters are in; whoever gave none holds up nobody."""
        self._gone |= set(range(len(self._hops))) - self._last_given
        self._pay()


def _half(work: Work) -> Work:
    return Work(
        work.prefill_token_layers // 2, work.decode_token_layers // 2,
        work.bytes_in // 2, work.bytes_out // 2,
    )  # fmt: skip
