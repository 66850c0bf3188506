"""A provider's machine in one session: the real hop session, driven honestly or by a cheat."""

import dataclasses
import hashlib
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from benchmarks.ledger_byzantine.network import Loop, Stream
from benchmarks.ledger_byzantine.people import Provider, ProviderRole
from node.serve.collector import check_supersedes
from protocol.errors import PieceworkError, RemoteProtocolError
from protocol.frame import Close, Meter, Open, Step
from protocol.hop_session import HopSession
from protocol.lease import Lease
from protocol.money import Nanos
from protocol.receipt import Receipt, cosign, open_receipt
from protocol.session import UNPAID_TIMEOUT_S
from protocol.tensor import LINK_HASH_START

if TYPE_CHECKING:
    from benchmarks.ledger_byzantine.head import Head

__all__ = ["Hop"]

WORK_S = (0.01, 0.05)
GIVES_UP_AT = (1, 40)
"""The step at which one that withholds or stalls begins."""


class Hop:
    """One lease at its provider. `collect`: keeps a co-signed receipt to be handed in."""

    def __init__(
        self,
        loop: Loop,
        provider: Provider,
        lease: Lease,
        opened: Open,
        collect: Callable[[Lease, bytes], None],
        *,
        partner: bool,
    ) -> None:
        self.lease = lease
        self.provider = provider
        self.session = HopSession(
            opened, hidden_size=lease.hidden_size, window_tokens=lease.window_tokens,
            credit_tokens=lease.credit_tokens, work_max=lease.work_max,
        )  # fmt: skip
        self.session.ready()
        self.onward: Hop | None = None
        self.head: Head | None = None
        self._loop = loop
        self._collect = collect
        self._partner = partner
        self._link, self._to_head = Stream(loop), Stream(loop)
        self._waiting: deque[Step] = deque()
        self._busy = self.is_over = False
        self._held: tuple[Receipt, bytes] | None = None
        self._false_hash = LINK_HASH_START
        self._gives_up_at = loop.random.randint(*GIVES_UP_AT)

    @property
    def carried_nanos(self) -> Nanos:
        """What all work done here is worth."""
        return self.lease.amount_for(self.session.carried.work)

    @property
    def signed_nanos(self) -> Nanos:
        """What the newest receipt kept here says."""
        return self._held[0].amount_nanos if self._held else 0

    def on_step(self, step: Step) -> None:
        if self.is_over or self._has(ProviderRole.STALL, step):
            return
        try:
            if self.session.accept_step(step):
                self.session.check_covered(step)
                self._waiting.append(step)
        except PieceworkError:
            self.is_over = True
        self._work()

    def _work(self) -> None:
        if self._busy or not self._waiting or self.is_over:
            return
        if not self.session.may_work():
            self._loop.after(UNPAID_TIMEOUT_S, self._give_up, self.session.tokens_paid)
            return
        self._busy = True
        self._loop.after(self._loop.random.uniform(*WORK_S), self._finish)

    def _give_up(self, paid: int) -> None:
        if self.session.tokens_paid == paid and not self.session.may_work():
            self.is_over = True

    def _finish(self) -> None:
        self._busy = False
        if self.is_over or not self._waiting:
            return
        step = self._waiting.popleft()
        payload = self._loop.random.randbytes(len(step.payload))
        digest = hashlib.sha256(payload).digest()
        meter = self.session.complete_step(step, bytes_out=len(payload), digest_out=digest)
        if not self._has(ProviderRole.WITHHOLD, step):
            out = dataclasses.replace(step, payload=payload, payload_sha256=digest)
            target = self.onward.on_step if self.onward else _head(self).on_result
            self._link.send(target, out)
        if meter:
            self._to_head.send(_head(self).on_meter, self.lease.hop_index, self._metered(meter))
        self._work()

    def on_close(self, close: Close) -> None:
        self._waiting.clear()
        if self.provider.role is ProviderRole.STALL and self.is_over:
            return
        try:
            meter = self.session.accept_close(close)
        except PieceworkError:
            return
        if meter:
            self._to_head.send(_head(self).on_meter, self.lease.hop_index, self._metered(meter))

    def on_receipt(self, envelope: bytes) -> None:
        """As `node.serve.payment` does: what is not our own meter ends the session."""
        if self.is_over:
            return
        try:
            receipt = open_receipt(envelope, self.lease)
            if self.provider.is_honest or self.provider.role is ProviderRole.REPLAY:
                self._check(receipt, envelope)
            cosigned = cosign(envelope, self.provider.key)
            self._held = receipt, cosigned.encode()
            self._collect(self.lease, cosigned.encode())
            self.session.accept_receipt(receipt.tokens)
            if receipt.final:
                self.session.settled()
        except PieceworkError:
            self.is_over = True
            return
        self._work()

    def _check(self, receipt: Receipt, envelope: bytes) -> None:
        if receipt.tokens > self.session.carried.tokens or not self.session.sent_meters.say(
            receipt
        ):
            raise RemoteProtocolError("The receipt says other than this hop has metered.")
        if self._held:
            check_supersedes(receipt, self._held[0], envelope, self._held[1])

    def _has(self, role: ProviderRole, step: Step) -> bool:
        return self.provider.role is role and step.position >= self._gives_up_at

    def _metered(self, meter: Meter) -> Meter:
        """What this machine says it has carried."""
        match self.provider.role:
            case ProviderRole.OVERCLAIM:
                return dataclasses.replace(
                    meter, tokens=2 * meter.tokens, work=meter.work + meter.work
                )
            case ProviderRole.LIE:
                return dataclasses.replace(meter, link_out_hash=_false(meter.link_out_hash))
            case ProviderRole.UNDER_RECEIVE:
                return _with_bytes(meter, meter.work.bytes_in // 2, meter.work.bytes_out)
            case ProviderRole.OVER_SEND:
                return _with_bytes(meter, meter.work.bytes_in, 2 * meter.work.bytes_out)
            case ProviderRole.PAIR if self._partner:
                return _with_bytes(meter, 2 * meter.work.bytes_in, 2 * meter.work.bytes_out)
        return meter


def _with_bytes(meter: Meter, bytes_in: int, bytes_out: int) -> Meter:
    work = dataclasses.replace(meter.work, bytes_in=bytes_in, bytes_out=bytes_out)
    return dataclasses.replace(meter, work=work)


def _false(link_hash: bytes) -> bytes:
    return hashlib.sha256(b"false" + link_hash).digest()


def _head(hop: Hop) -> "Head":
    assert hop.head is not None, "a route is whole before it runs"
    return hop.head
