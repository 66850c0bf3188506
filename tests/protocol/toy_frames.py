"""Frames with rows, as toy heads and hops send them."""

from protocol.frame import Open, Replay, Result, Step, StepKind
from protocol.tensor import payload_hash
from tests.protocol.toy_model import DTYPE, HIDDEN

REPLAY_ROWS = 5
"""Rows of one REPLAY: few, so that a replay is several frames and can be cut short."""


def passed_on(step: Step, opened: Open, payload: bytes, *, loop: int) -> Step | Result:
    """What a hop makes of a step: a STEP for the next one, or the RESULT for the head."""
    kind = Result if opened.is_last else Step
    dtype = None if opened.is_last and not opened.sealed else DTYPE
    return kind(
        step.session_id, step.epoch, step.kind, step.position, step.count, step.wanted, dtype,
        HIDDEN if dtype else 0, payload, payload_hash(payload), loop,
    )  # fmt: skip


def fed_on(step: Step, payload: bytes) -> Step:
    """What the last hop of a loop sends to hop 0: the token it has drawn."""
    return Step(
        step.session_id, step.epoch, StepKind.DECODE, step.position + step.count, 1, 1, None, 0,
        payload, payload_hash(payload), step.loop - 1,
    )  # fmt: skip


def replays(
    session_id: bytes, epoch: int, position: int, rows: list[bytes], *, are_tokens: bool = False
) -> list[Replay]:
    """Rows as REPLAY frames, the first of them at `position`."""
    frames = []
    for at in range(0, len(rows), REPLAY_ROWS):
        chunk = rows[at : at + REPLAY_ROWS]
        payload = b"".join(chunk)
        frames.append(
            Replay(
                session_id, epoch, StepKind.PREFILL, position + at, len(chunk), 0,
                None if are_tokens else DTYPE, 0 if are_tokens else HIDDEN,
                payload, payload_hash(payload),
            )
        )  # fmt: skip
    return frames
