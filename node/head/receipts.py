"""What a session's hops are paid while it runs, and the last of it when it ends."""

import asyncio
import logging

from node.head.hops import RouteHops
from node.head.payer import Payer
from protocol.errors import ErrorCode, LimitExceeded, PieceworkError, SessionError
from protocol.frame import Ack, Meter, ReceiptFrame
from protocol.head_session import HeadSession
from protocol.session import CLOSE_TIMEOUT_S, SessionState

__all__ = ["Receipts"]

logger = logging.getLogger(__name__)


class Receipts:
    """Signs what the head session finds payable and sends each hop its own, in order."""

    def __init__(self, session: HeadSession, hops: RouteHops, payer: Payer) -> None:
        self._session = session
        self._hops = hops
        self._payer = payer
        self._lock = asyncio.Lock()

    def replace(self, lost: frozenset[int]) -> None:
        """Other hops stand there, under leases of their own: those of the plan as it is now."""
        for index in lost:
            self._payer.replace(index, self._hops.plan.leases[index])

    def extend(self) -> None:
        """The plan's leases have higher limits than before."""
        self._payer.extend(self._hops.plan.leases)

    async def take_meter(self, index: int, meter: Meter) -> None:
        self._session.accept_meter(index, meter)
        await self.pay()

    def take_ack(self, index: int, ack: Ack) -> None:
        self._payer.acknowledge(index, ack.sequence, ack.countersignature)

    async def pay(self) -> None:
        """Sign what is payable now. Raises HopFailed for a hop that meters what is not true."""
        async with self._lock:
            gone = set()
            if self._session.state is SessionState.CLOSING:
                gone = set(range(len(self._hops.plan.route.hops))) - self._hops.living
            for hop_index, meter in self._session.payable(gone=gone):
                try:
                    receipt = self._payer.sign(hop_index, meter)
                except LimitExceeded as error:
                    self._hops.give_up(SessionError(error.message, code=ErrorCode.UNPAID))
                    return
                await self._hops.tell(hop_index, ReceiptFrame(self._session.session_id, receipt))

    async def settle(self) -> None:
        """After CLOSE: the last receipts of every hop that is still there. Never raises."""
        if self._session.state is not SessionState.CLOSING:
            return
        try:
            async with asyncio.timeout(CLOSE_TIMEOUT_S):
                while not all(self._payer.is_settled(index) for index in self._hops.living):
                    await self.pay()
                    await self._hops.wait_change()
            self._session.settled()
        except (PieceworkError, TimeoutError) as error:
            logger.warning("the last receipts are not all countersigned: %s", error)
