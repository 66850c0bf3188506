"""Receipts of the head, as a session takes them: verified, countersigned, and counted."""

from node.serve.hop_state import HopState
from protocol.errors import RemoteProtocolError
from protocol.frame import Ack, ReceiptFrame
from protocol.receipt import Receipt

__all__ = ["take_receipt"]


async def take_receipt(state: HopState, frame: ReceiptFrame) -> None:
    """Keep a receipt, let work go on, and send the countersignature.

    Raises RemoteProtocolError or a VerificationError for one that is not what it should be.
    """
    if state.lease is None or state.parts.collector is None:
        raise RemoteProtocolError("A receipt came on a session without a lease.")
    receipt, countersignature = await state.parts.collector.collect(
        frame.receipt, state.lease, check=lambda receipt: _check(receipt, state)
    )
    state.session.accept_receipt(receipt.tokens)
    state.paid.set()
    await state.head.send(Ack(frame.session_id, receipt.sequence, countersignature))
    if receipt.final:
        state.session.settled()


def _check(receipt: Receipt, state: HopState) -> None:
    """What is countersigned is what this hop has metered itself, and no more than it carried."""
    carried, epoch = state.session.carried, state.request.epoch
    if receipt.epoch > epoch or receipt.tokens > carried.tokens:
        raise RemoteProtocolError("The receipt covers work that was not done.")
    if receipt.epoch == epoch and receipt.steps > carried.steps:
        raise RemoteProtocolError("The receipt covers steps that were not done.")
    if not state.session.sent_meters.say(receipt):
        raise RemoteProtocolError("The receipt says other than this hop has metered.")
