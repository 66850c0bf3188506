"""The life of a session as tables: states, what moves them, and every deadline by name.

    head    OPENING ──all hops opened──► READY ──close──► CLOSING ──all settled──► CLOSED
                                       ▲    │ repair
                                       └─ REPAIRING ──close──► CLOSING
    hop     OPENING ──link stands──────► READY ──CLOSE──► CLOSING ──final receipt─► CLOSED
                                       ▲  ▲ │ a neighbour is lost
                                       │  │ └──► BROKEN ──CLOSE──► CLOSING
                      OPEN of the next └─ REOPENING ◄─┘
                      epoch moves OPENING, READY, BROKEN and REOPENING to REOPENING
    both    any state ──error, deadline, peer gone──► FAILED

`head_session.py` and `hop_session.py` are the two machines over these tables; neither reads a
clock or a socket. What a table does not list is a protocol error of whoever sent it.
"""

from collections.abc import Mapping
from enum import StrEnum

from protocol.errors import LocalProtocolError, RemoteProtocolError
from protocol.frame import StepKind
from protocol.money import Work

__all__ = [
    "CLOSE_TIMEOUT_S",
    "IDLE_TIMEOUT_S",
    "OPEN_TIMEOUT_S",
    "REPAIRS_MAX",
    "REPAIR_TIMEOUT_S",
    "REPAIR_WAIT_S",
    "STEPS_IN_FLIGHT_MAX",
    "STEP_TIMEOUT_S",
    "TRANSITIONS",
    "UNPAID_TIMEOUT_S",
    "Event",
    "SessionState",
    "advance",
    "step_work",
]

OPEN_TIMEOUT_S = 15.0
"""From OPEN to OPENED: one dial onward and a few round trips, on a bad link."""
STEP_TIMEOUT_S = 120.0
"""From STEP to RESULT: the longest chunk on the slowest machine we would wait for."""
IDLE_TIMEOUT_S = 180.0
"""A hop frees a session whose head has sent nothing for this long: above STEP_TIMEOUT_S."""
UNPAID_TIMEOUT_S = 15.0
"""How long a hop holds a step back for the receipt it is owed before it gives up."""
CLOSE_TIMEOUT_S = 5.0
"""How long the head waits for last meters and acks: the answer is out already."""
REPAIR_TIMEOUT_S = 60.0
"""What all attempts at one repair may take: a house that places its layers anew needs some tens."""
REPAIR_WAIT_S = 75.0
"""How long a hop that lost a neighbour keeps its rows for the repair: above REPAIR_TIMEOUT_S."""
REPAIRS_MAX = 8
"""Repairs of one answer; a route that breaks more often is not worth its replays."""
STEPS_IN_FLIGHT_MAX = 8
"""Steps a head may have on their way round: fills a long ring without flooding a hop."""


class SessionState(StrEnum):
    OPENING = "opening"
    READY = "ready"
    BROKEN = "broken"
    """Hop: a neighbour is lost; rows are kept for the repair."""
    REPAIRING = "repairing"
    """Head: some hops are being replaced, and all links made anew."""
    REOPENING = "reopening"
    """Hop: the same, seen from one that stays."""
    CLOSING = "closing"
    CLOSED = "closed"
    FAILED = "failed"


class Event(StrEnum):
    """What can happen to a session; frames are named by their type."""

    OPENED = "opened"
    """Head: every hop has answered. Hop: its KV is reserved and its link onward stands."""
    STEP = "step"
    REPLAY = "replay"
    RESULT = "result"
    TRUNCATE = "truncate"
    METER = "meter"
    RECEIPT = "receipt"
    ACK = "ack"
    CLOSE = "close"
    SETTLED = "settled"
    """Head: every hop has acknowledged its last receipt. Hop: it has its final receipt."""
    FAIL = "fail"
    LOST = "lost"
    """Hop: a neighbour's link has ended, or carried what it must not."""
    REOPEN = "reopen"
    """OPEN of the next epoch: head sends, hop takes."""
    EXTEND = "extend"
    """Higher limits of a lease: head sends, hop takes."""
    EXTENDED = "extended"


_S, _E = SessionState, Event
_COMMON: dict[tuple[SessionState, Event], SessionState] = {
    (_S.OPENING, _E.OPENED): _S.READY,
    (_S.OPENING, _E.CLOSE): _S.CLOSED,
    (_S.READY, _E.STEP): _S.READY,
    (_S.READY, _E.TRUNCATE): _S.READY,
    (_S.READY, _E.RECEIPT): _S.READY,
    (_S.READY, _E.CLOSE): _S.CLOSING,
    (_S.CLOSING, _E.RECEIPT): _S.CLOSING,
    (_S.CLOSING, _E.CLOSE): _S.CLOSING,
    (_S.CLOSING, _E.SETTLED): _S.CLOSED,
    (_S.CLOSED, _E.CLOSE): _S.CLOSED,
    (_S.OPENING, _E.FAIL): _S.FAILED,
    (_S.READY, _E.FAIL): _S.FAILED,
    (_S.CLOSING, _E.FAIL): _S.FAILED,
    (_S.CLOSED, _E.FAIL): _S.CLOSED,
    (_S.FAILED, _E.FAIL): _S.FAILED,
    (_S.FAILED, _E.CLOSE): _S.FAILED,
}
_HOP_TAKES_EXTEND = (
    _S.OPENING, _S.READY, _S.BROKEN, _S.REOPENING, _S.CLOSING, _S.CLOSED,
)  # fmt: skip
TRANSITIONS: Mapping[str, Mapping[tuple[SessionState, Event], SessionState]] = {
    # what is still on its way to a hop whose CLOSE has overtaken it is dropped there
    "hop": _COMMON
    | {
        (_S.CLOSING, _E.STEP): _S.CLOSING,
        (_S.CLOSED, _E.STEP): _S.CLOSED,
        (_S.CLOSING, _E.TRUNCATE): _S.CLOSING,
        (_S.CLOSED, _E.TRUNCATE): _S.CLOSED,
        (_S.READY, _E.REPLAY): _S.READY,
        (_S.CLOSING, _E.REPLAY): _S.CLOSING,
        (_S.CLOSED, _E.REPLAY): _S.CLOSED,
        # a hop that lost a neighbour keeps its rows and takes nothing but a repair or the end
        (_S.READY, _E.LOST): _S.BROKEN,
        (_S.REOPENING, _E.LOST): _S.BROKEN,
        (_S.BROKEN, _E.LOST): _S.BROKEN,
        (_S.CLOSING, _E.LOST): _S.CLOSING,
        (_S.CLOSED, _E.LOST): _S.CLOSED,
        (_S.READY, _E.REOPEN): _S.REOPENING,
        (_S.BROKEN, _E.REOPEN): _S.REOPENING,
        (_S.REOPENING, _E.REOPEN): _S.REOPENING,
        # a hop that came with one repair, when the next follows at once
        (_S.OPENING, _E.REOPEN): _S.REOPENING,
        (_S.REOPENING, _E.OPENED): _S.READY,
        **{(state, _E.RECEIPT): state for state in (_S.BROKEN, _S.REOPENING)},
        # the head may repair, or close, while its word is on the way
        **{(state, _E.EXTEND): state for state in _HOP_TAKES_EXTEND},
        **{(state, _E.CLOSE): _S.CLOSING for state in (_S.BROKEN, _S.REOPENING)},
        **{(state, _E.FAIL): _S.FAILED for state in (_S.BROKEN, _S.REOPENING)},
        # what the old links still carry is dropped
        **{(_S.BROKEN, event): _S.BROKEN for event in (_E.STEP, _E.REPLAY, _E.TRUNCATE)},
        **{(_S.REOPENING, event): _S.REOPENING for event in (_E.STEP, _E.REPLAY, _E.TRUNCATE)},
    },
    "head": _COMMON
    | {
        (_S.READY, _E.RESULT): _S.READY,
        (_S.READY, _E.METER): _S.READY,
        (_S.READY, _E.ACK): _S.READY,
        (_S.CLOSING, _E.RESULT): _S.CLOSING,
        (_S.CLOSING, _E.METER): _S.CLOSING,
        (_S.CLOSING, _E.ACK): _S.CLOSING,
        # hops that have opened are owed a final receipt, if only over nothing
        (_S.OPENING, _E.CLOSE): _S.CLOSING,
        (_S.CLOSING, _E.OPENED): _S.CLOSING,
        (_S.READY, _E.REOPEN): _S.REPAIRING,
        (_S.REPAIRING, _E.REOPEN): _S.REPAIRING,
        (_S.REPAIRING, _E.OPENED): _S.READY,
        (_S.REPAIRING, _E.METER): _S.REPAIRING,
        (_S.REPAIRING, _E.ACK): _S.REPAIRING,
        (_S.REPAIRING, _E.CLOSE): _S.CLOSING,
        (_S.REPAIRING, _E.FAIL): _S.FAILED,
        (_S.READY, _E.EXTEND): _S.READY,
        **{(state, _E.EXTENDED): state for state in (_S.READY, _S.REPAIRING, _S.CLOSING)},
    },
}


def advance(role: str, state: SessionState, event: Event, *, ours: bool = False) -> SessionState:
    """The next state; raises LocalProtocolError for an event of ours that is not allowed here,
    RemoteProtocolError for one of the peer's."""
    following = TRANSITIONS[role].get((state, event))
    if following is None:
        kind = LocalProtocolError if ours else RemoteProtocolError
        raise kind(f"A {role} session that is {state} does not take {event}.")
    return following


def step_work(kind: StepKind, count: int, layers: int, *, bytes_in: int, bytes_out: int) -> Work:
    """What one step is worth at a hop of `layers`; head and hop must agree to the byte."""
    prefill = kind is StepKind.PREFILL
    return Work(
        prefill_token_layers=count * layers if prefill else 0,
        decode_token_layers=0 if prefill else count * layers,
        bytes_in=bytes_in,
        bytes_out=bytes_out,
    )
