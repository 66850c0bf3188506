"""One frame of every type, fixed, for golden vectors and round trips."""

import dataclasses

from protocol.errors import ErrorCode
from protocol.frame import (
    Ack,
    Attach,
    Close,
    ErrorFrame,
    Extend,
    Extended,
    Frame,
    LinkRole,
    Meter,
    Open,
    Opened,
    Probe,
    Progress,
    ReceiptFrame,
    Replay,
    Result,
    Step,
    StepKind,
    Truncate,
)
from protocol.identity import KeyPair
from protocol.money import Work
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype, payload_hash

SESSION = bytes(range(16))
HEAD, FIRST, SECOND = (KeyPair(bytes([n]) * 32).peer_id for n in (1, 2, 3))
ROWS = bytes(range(16)) * 2
TOKENS = b"".join(n.to_bytes(4, "little") for n in (5, 70_000))

OPEN = Open(
    session_id=SESSION,
    epoch=0,
    hop_index=0,
    hop_count=2,
    previous=HEAD,
    next=SECOND,
    next_addresses=(f"/ip4/192.0.2.1/udp/4001/quic-v1/p2p/{SECOND}",),
    manifest_hash=bytes(32),
    span=Span(0, 3),
    wire_dtype=WireDtype.BF16,
    sealed=True,
    capacity_tokens=512,
    sampling=None,
    lease=b"an envelope",
    prefix=(b"p" * 16, b"q" * 16),
)
LAST = Open(
    session_id=SESSION,
    epoch=1,
    hop_index=1,
    hop_count=2,
    previous=FIRST,
    next=HEAD,
    next_addresses=(),
    manifest_hash=bytes(32),
    span=Span(3, 8),
    wire_dtype=WireDtype.FP32,
    sealed=False,
    capacity_tokens=512,
    sampling=SamplingParameters.from_floats(temperature=0.7, top_p=0.9, seed=42),
    lease=None,
    resume=40,
    steps=3,
    forget=True,
    neighbours=(b"an envelope",),
    drawn=TOKENS,
    loop=FIRST,
    loop_addresses=(f"/ip4/192.0.2.1/udp/4001/quic-v1/p2p/{FIRST}",),
    eos=(4, 1),
)
STANDBY = dataclasses.replace(
    OPEN, epoch=2, prefix=(), resume=40, standby=True, mirror=SECOND,
    mirror_addresses=(f"/ip4/192.0.2.2/udp/4001/quic-v1/p2p/{SECOND}",),
)  # fmt: skip
STEP = Step(
    SESSION, 0, StepKind.PREFILL, 7, 2, 1, WireDtype.BF16, 8, ROWS, payload_hash(ROWS)
)  # fmt: skip
TOKEN_STEP = Step(SESSION, 0, StepKind.VERIFY, 9, 2, 2, None, 0, TOKENS, payload_hash(TOKENS))
RESULT = Result(
    SESSION, 3, StepKind.DECODE, 11, 1, 1, WireDtype.FP32, 8, ROWS, payload_hash(ROWS)
)  # fmt: skip
INT8_STEP = Step(
    SESSION, 0, StepKind.DECODE, 13, 2, 1, WireDtype.INT8B32, 14, ROWS, payload_hash(ROWS)
)  # fmt: skip
INT8_RESULT = Result(
    SESSION, 0, StepKind.VERIFY, 15, 2, 2, WireDtype.INT8B32H, 14, ROWS, payload_hash(ROWS)
)  # fmt: skip
LOOPED = Step(
    SESSION, 1, StepKind.DECODE, 17, 1, 1, None, 0, TOKENS[:4], payload_hash(TOKENS[:4]), loop=255
)  # fmt: skip
FED_ON = Result(
    SESSION, 1, StepKind.DECODE, 17, 1, 1, None, 0, TOKENS[4:], payload_hash(TOKENS[4:]), loop=1
)  # fmt: skip
REPLAY = Replay(
    SESSION, 4, StepKind.PREFILL, 0, 2, 0, WireDtype.BF16, 8, ROWS, payload_hash(ROWS)
)  # fmt: skip
METER = Meter(SESSION, 0, 4, 66, Work(180, 18, 1056, 1040), b"i" * 32, b"o" * 32, final=False)

FRAMES: dict[str, Frame] = {
    "open": OPEN,
    "open_last": LAST,
    "open_standby": STANDBY,
    "opened": Opened(SESSION, 0, 1, "torch", "direct", cached_tokens=64),
    "opened_again": Opened(SESSION, 3, 1, "mlx", "relayed", cached_tokens=41, replay_from=7),
    "attach": Attach(SESSION, 0, 1),
    "attach_loop": Attach(SESSION, 5, 0, LinkRole.LOOP),
    "step": STEP,
    "step_tokens": TOKEN_STEP,
    "result": RESULT,
    "step_int8b32": INT8_STEP,
    "result_int8b32h": INT8_RESULT,
    "step_looped": LOOPED,
    "result_fed_on": FED_ON,
    "replay": REPLAY,
    "probe": Probe(SESSION, 12),
    "progress": Progress(SESSION, 3, 12, rows_in=41, rows_out=40),
    "extend": Extend(SESSION, b"an envelope"),
    "extended": Extended(SESSION, 1_234_567),
    "truncate": Truncate(SESSION, 2, 40),
    "meter": METER,
    "receipt": ReceiptFrame(SESSION, b"an envelope"),
    "ack": Ack(SESSION, 3, b"s" * 64),
    "close": Close(SESSION, 0, 12, cancelled=True, keep=(b"p" * 16,)),
    "error": ErrorFrame(SESSION, ErrorCode.UNPAID, "no receipt came"),
    "error_about": ErrorFrame(SESSION, ErrorCode.PEER_GONE, "the next hop has left", SECOND),
}
