"""The session protocol, on one page: how head and hops talk on a stream.

Flow, for a route head → hop 0 → … → hop n-1 → head:

    head → every hop   OPEN      on a stream of its own; the hop checks the lease, reserves KV
    hop k → hop k+1    ATTACH    hop k opens the link stream; hop k+1 matches it to the OPEN
    hop k+1 → hop k    OPENED    the link stands; so from the head to hop 0
    hop k → head       OPENED    this hop and its link are ready
    head → hop 0       STEP      rows to run; hop k sends on the result as STEP on its link
    hop n-1 → head     RESULT    the wanted rows, on the head's own stream to the last hop
    hop k → head       METER     at every window: what this hop has carried so far
    head → hop k       RECEIPT   the payer's signature over it
    hop k → head       ACK       the hop's countersignature
    head → hop k       EXTEND    the same lease with higher limits: more of the answer is paid for
    hop k → head       EXTENDED  the hop works up to them from now on
    head → hop 0       TRUNCATE  forget rows; passed on along the links, in order with the steps
    head → hop k       PROBE     say how far you are
    hop k → head       PROGRESS  rows come in, rows gone out: silence and lag are told apart
    head → every hop   CLOSE     free everything; a last METER follows
    either             ERROR     why it is over

Nothing is sent twice: OPEN offers the hashes of the prompt's leading blocks of 64 rows, OPENED says
how many of those rows the hop still has, and the first STEP begins at the fewest of all hops; a
TRUNCATE goes before it where some hop has more. CLOSE names the blocks that the next may find.

Repair: when a hop fails, the head sends every hop OPEN again, of the next epoch, with `resume`, the
rows whose results have arrived; who has the session keeps those rows. Links are attached anew, the
OPENED of each says how many rows its hop has, and the sender brings it up to `resume` with REPLAY
from what it has kept of its own output. Frames of an older epoch are void.

Loop (open routes): a STEP with `loop` n lets the last hop feed what it samples straight to hop 0,
up to n times; the head listens. A standby is opened like a hop and is sent REPLAY alone.

A frame travels length-prefixed (transport); its first byte is the type. STEP and RESULT have the
fixed layout below; TRUNCATE too; all others are one canonical CBOR map. Unknown types are skipped.
Bytes behind a known layout belong to its payload. All integers big-endian.

    STEP 0x04, RESULT 0x05, REPLAY 0x07            TRUNCATE 0x06
    0   1 type                                     0   1 type, 3 zero
    1   1 kind    1 prefill 2 decode 3 verify      4  16 session
    2   1 content (below)                          20  4 epoch
    3   1 loop (below)                             24  4 position
    4  16 session
    20  4 epoch
    24  4 position   of the first row
    28  2 count      rows of the step
    30  2 wanted     trailing rows whose output the head wants
    32  4 hidden     hidden size; 0 for tokens
    36 32 SHA-256 of the payload
    68    payload: `count` rows in a STEP, `wanted` in a RESULT, all little-endian
          content 0 tokens (int32) 1 fp32 2 bf16 3 int8b32 4 int8b32h (WireDtype.row_bytes)
          loop    STEP: how many more steps the last hop may feed on; RESULT: 1 where it fed one on
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import TypeVar

from protocol.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from protocol.identity import PUBLIC_KEY_BYTES, PeerId
from protocol.lease import ID_BYTES
from protocol.limits import (
    CONTROL_BYTES_MAX,
    FRAME_BYTES_MAX,
    HOPS_MAX,
    PREFIX_BLOCK_TOKENS,
    PREFIX_BLOCKS_MAX,
    PREFIX_HASH_BYTES,
    STEP_TOKENS_MAX,
)
from protocol.money import Nanos, Work
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import TensorHeader, WireDtype, payload_hash

__all__ = [
    "PROTOCOL",
    "Ack",
    "Attach",
    "Close",
    "ErrorFrame",
    "Extend",
    "Extended",
    "Frame",
    "FrameType",
    "LinkRole",
    "Meter",
    "Open",
    "Opened",
    "Probe",
    "Progress",
    "ReceiptFrame",
    "Replay",
    "Result",
    "Step",
    "StepKind",
    "Truncate",
    "decode_frame",
    "encode_frame",
]

PROTOCOL = "/piecework/session/1"
TOKEN_BYTES = 4
EPOCH_MAX = 2**32 - 1
POSITION_MAX = 2**31 - 1
NEIGHBOURS_MAX = 2
"""Leases of others in an OPEN: a hop has two neighbours."""
EOS_MAX = 64
"""Stop tokens of a model; published ones have one to five."""
LOOP_MAX = 255
_STEP = struct.Struct(">BBBB16sIIHHI32s")
_TRUNCATE = struct.Struct(">B3x16sII")
_CONTENT: dict[WireDtype | None, int] = {
    None: 0,
    WireDtype.FP32: 1,
    WireDtype.BF16: 2,
    WireDtype.INT8B32: 3,
    WireDtype.INT8B32H: 4,
}
_DTYPES = {code: dtype for dtype, code in _CONTENT.items()}


class FrameType(IntEnum):
    OPEN = 0x01
    OPENED = 0x02
    ATTACH = 0x03
    STEP = 0x04
    RESULT = 0x05
    TRUNCATE = 0x06
    REPLAY = 0x07
    METER = 0x08
    RECEIPT = 0x09
    ACK = 0x0A
    CLOSE = 0x0B
    ERROR = 0x0C
    PROBE = 0x0D
    PROGRESS = 0x0E
    EXTEND = 0x0F
    EXTENDED = 0x10


class StepKind(IntEnum):
    PREFILL = 1
    """A chunk of the prompt; `wanted` is 0 but for the last chunk."""
    DECODE = 2
    """One row, output wanted."""
    VERIFY = 3
    """The last accepted token and k drafted ones; every row wanted."""


@dataclass(frozen=True, slots=True)
class Open:
    """head → hop: begin a session here. `lease` is the marketplace's envelope, None on a LAN."""

    session_id: bytes
    epoch: int
    hop_index: int
    hop_count: int
    previous: PeerId
    next: PeerId
    next_addresses: tuple[str, ...]
    manifest_hash: bytes
    span: Span
    wire_dtype: WireDtype
    sealed: bool
    capacity_tokens: int
    """Rows the session may hold; KV is reserved for them."""
    sampling: SamplingParameters | None
    """For the last hop of an open route, which samples."""
    lease: bytes | None
    prefix: tuple[bytes, ...] = ()
    """One hash for each leading block of rows that the session will have: see node/head/prefix."""
    resume: int = 0
    """Rows the session has already: REPLAY brings the hop there before the first step."""
    steps: int = 0
    """Steps of the epoch before whose results have arrived; what was done beyond does not count."""
    forget: bool = False
    """Keep no rows of the epoch before: this hop cannot replay what the next one needs."""
    neighbours: tuple[bytes, ...] = ()
    """Leases of hops that have taken a neighbour's place since this hop's own was signed."""
    drawn: bytes = b""
    """For the hop that samples with penalties: the tokens drawn so far, int32 little-endian; the
    last of them stands at position `resume`."""
    standby: bool = False
    """Be ready to take this hop's place: take REPLAY, send nothing on."""
    mirror: PeerId | None = None
    """The standby of the next hop; it is sent a copy of what this hop sends on."""
    mirror_addresses: tuple[str, ...] = ()
    loop: PeerId | None = None
    """Open routes: for the last hop, hop 0; for hop 0, the last hop."""
    loop_addresses: tuple[str, ...] = ()
    eos: tuple[int, ...] = ()
    """For the last hop: tokens that end a loop."""

    def __post_init__(self) -> None:
        _check_session(self.session_id, self.epoch)
        _check_prefix(self.prefix)
        _check_resume(self)
        if not 0 <= self.hop_index < self.hop_count <= HOPS_MAX or len(self.span) == 0:
            raise RemoteProtocolError("OPEN names a hop that is not on its route.")
        if not 0 < self.capacity_tokens <= POSITION_MAX:
            raise RemoteProtocolError("OPEN asks for an absurd capacity.")
        if len(self.prefix) * PREFIX_BLOCK_TOKENS >= self.capacity_tokens:
            raise RemoteProtocolError("OPEN offers a prefix that leaves no room for a step.")

    @property
    def is_last(self) -> bool:
        return self.hop_index == self.hop_count - 1


@dataclass(frozen=True, slots=True)
class Opened:
    """hop → head, or hop k+1 → hop k on a link: ready. Tells how the way onward travels."""

    session_id: bytes
    epoch: int
    hop_index: int
    backend: str
    path_kind: str
    """PathKind of the link this hop sends on."""
    cached_tokens: int = 0
    """Rows that are here already: of the offered prefix (whole blocks), or of the epoch before."""
    replay_from: int = 0
    """hop → head: the first row this hop can replay to the next one."""

    def __post_init__(self) -> None:
        _check_session(self.session_id, self.epoch)
        if not 0 <= self.cached_tokens <= POSITION_MAX or not 0 <= self.replay_from <= POSITION_MAX:
            raise RemoteProtocolError("OPENED claims an absurd number of rows.")


class LinkRole(IntEnum):
    """What an attached link carries."""

    STEPS = 0
    """From the hop before: REPLAY, then STEP and TRUNCATE."""
    MIRROR = 1
    """To a standby: REPLAY and TRUNCATE."""
    LOOP = 2
    """From the last hop to hop 0: STEP."""


@dataclass(frozen=True, slots=True)
class Attach:
    """hop k → hop k+1, first on the link stream: these steps belong to that session."""

    session_id: bytes
    epoch: int
    hop_index: int
    """Of the receiver."""
    role: LinkRole = LinkRole.STEPS

    def __post_init__(self) -> None:
        _check_session(self.session_id, self.epoch)


@dataclass(frozen=True, slots=True)
class Rows:
    """What STEP and RESULT share: rows of one step. `dtype` None: the payload is token ids."""

    session_id: bytes
    epoch: int
    kind: StepKind
    position: int
    count: int
    wanted: int
    dtype: WireDtype | None
    hidden_size: int
    payload: bytes
    payload_sha256: bytes
    loop: int = 0

    @property
    def rows(self) -> int:
        """How many rows the payload holds."""
        raise LocalProtocolError("Rows travel as a Step, a Result or a Replay.")

    def __post_init__(self) -> None:
        _check_rows(self)


@dataclass(frozen=True, slots=True)
class Step(Rows):
    """Rows to run: all `count` of them are in the payload."""

    @property
    def rows(self) -> int:
        return self.count


@dataclass(frozen=True, slots=True)
class Replay(Rows):
    """Rows a hop has lost or never had: run for their KV, and no result is wanted of them."""

    @property
    def rows(self) -> int:
        return self.count


@dataclass(frozen=True, slots=True)
class Result(Rows):
    """The `wanted` rows of a step, back at the head."""

    @property
    def rows(self) -> int:
        return self.wanted


@dataclass(frozen=True, slots=True)
class Truncate:
    """Forget every row at or after `position`."""

    session_id: bytes
    epoch: int
    position: int

    def __post_init__(self) -> None:
        _check_session(self.session_id, self.epoch)
        if not 0 <= self.position <= POSITION_MAX:
            raise RemoteProtocolError("TRUNCATE to an absurd position.")


@dataclass(frozen=True, slots=True)
class Meter:
    """hop → head: what this hop has carried so far, and the hashes of its two links."""

    session_id: bytes
    epoch: int
    steps: int
    tokens: int
    work: Work
    link_in_hash: bytes
    link_out_hash: bytes
    final: bool

    def __post_init__(self) -> None:
        _check_session(self.session_id, self.epoch)
        if min(self.steps, self.tokens) < 0 or {
            len(self.link_in_hash),
            len(self.link_out_hash),
        } != {32}:
            raise RemoteProtocolError("METER with a negative count or a short hash.")


@dataclass(frozen=True, slots=True)
class ReceiptFrame:
    """head → hop: the payer's signed receipt, as an encoded envelope."""

    session_id: bytes
    receipt: bytes


@dataclass(frozen=True, slots=True)
class Ack:
    """hop → head: the hop's countersignature under the receipt of that sequence."""

    session_id: bytes
    sequence: int
    countersignature: bytes


@dataclass(frozen=True, slots=True)
class Close:
    """head → hop: the session is over; free its KV now. `cancelled` tells a stop from an end.

    `steps`: how many results have reached the head. The hop's last METER is taken as of that
    step, so that nothing is billed that did not arrive. `keep` names the leading blocks of rows
    whose results have arrived, as `prefix` of OPEN: the hop may keep them for a later session.
    """

    session_id: bytes
    epoch: int
    steps: int
    cancelled: bool
    keep: tuple[bytes, ...] = ()

    def __post_init__(self) -> None:
        _check_session(self.session_id, self.epoch)
        _check_prefix(self.keep)
        if self.steps < 0:
            raise RemoteProtocolError("CLOSE counts steps from 0.")


@dataclass(frozen=True, slots=True)
class Probe:
    """head → hop: answer at once with PROGRESS, whatever the engine is doing."""

    session_id: bytes
    nonce: int

    def __post_init__(self) -> None:
        _check_session(self.session_id, self.nonce)


@dataclass(frozen=True, slots=True)
class Progress:
    """hop → head: how far this hop is, in rows of the session.

    A hop with `rows_in` above `rows_out` is at work; a link whose sender's `rows_out` stays above
    its receiver's `rows_in` is broken.
    """

    session_id: bytes
    epoch: int
    nonce: int
    rows_in: int
    """Position behind the last row that has come in."""
    rows_out: int
    """Position behind the last row that has been handed to the link onward."""

    def __post_init__(self) -> None:
        _check_session(self.session_id, self.epoch)
        _check_session(self.session_id, self.nonce)
        if not (0 <= self.rows_in <= POSITION_MAX and 0 <= self.rows_out <= POSITION_MAX):
            raise RemoteProtocolError("PROGRESS of an absurd number of rows.")


@dataclass(frozen=True, slots=True)
class Extend:
    """head → hop: the hop's lease again, as the marketplace's envelope, with higher limits.

    The head sends no row that an earlier lease does not cover before the hop has answered.
    """

    session_id: bytes
    lease: bytes

    def __post_init__(self) -> None:
        _check_session(self.session_id, 0)


@dataclass(frozen=True, slots=True)
class Extended:
    """hop → head: the limits of that lease hold here, of that amount at least."""

    session_id: bytes
    amount_nanos_max: Nanos
    """Of the lease it works under: tells extensions apart, for limits only grow."""

    def __post_init__(self) -> None:
        _check_session(self.session_id, 0)
        if self.amount_nanos_max < 0:
            raise RemoteProtocolError("EXTENDED names a negative amount.")


@dataclass(frozen=True, slots=True)
class ErrorFrame:
    """Either side: why this stream is over. The message is for people; the code is for code.

    `about`: the neighbour that the sender lost, where it is not the sender itself that failed.
    """

    session_id: bytes
    code: ErrorCode
    message: str
    about: PeerId | None = None
    epoch: int = 0
    """Of the sender: who was lost in an earlier one may be back."""

    def __post_init__(self) -> None:
        _check_session(self.session_id, self.epoch)


Frame = (
    Open
    | Opened
    | Attach
    | Step
    | Result
    | Replay
    | Truncate
    | Meter
    | ReceiptFrame
    | Ack
    | Close
    | ErrorFrame
    | Probe
    | Progress
    | Extend
    | Extended
)
_CONTROL: dict[FrameType, type[Frame]] = {
    FrameType.OPEN: Open,
    FrameType.OPENED: Opened,
    FrameType.ATTACH: Attach,
    FrameType.METER: Meter,
    FrameType.RECEIPT: ReceiptFrame,
    FrameType.ACK: Ack,
    FrameType.CLOSE: Close,
    FrameType.ERROR: ErrorFrame,
    FrameType.PROBE: Probe,
    FrameType.PROGRESS: Progress,
    FrameType.EXTEND: Extend,
    FrameType.EXTENDED: Extended,
}
_ROWS: dict[FrameType, type[Rows]] = {
    FrameType.STEP: Step,
    FrameType.RESULT: Result,
    FrameType.REPLAY: Replay,
}
_ROWS_TYPES = {kind: frame_type for frame_type, kind in _ROWS.items()}
_CONTROL_TYPES = {kind: frame_type for frame_type, kind in _CONTROL.items()}


def encode_frame(frame: Frame) -> tuple[bytes, ...]:
    """The frame as parts to send one after another; a payload is passed on, not copied."""
    match frame:
        case Step() | Result() | Replay():
            header = _STEP.pack(
                _ROWS_TYPES[type(frame)],
                frame.kind,
                _CONTENT[frame.dtype],
                frame.loop,
                frame.session_id,
                frame.epoch,
                frame.position,
                frame.count,
                frame.wanted,
                frame.hidden_size,
                frame.payload_sha256,
            )
            return header, frame.payload
        case Truncate():
            return (
                _TRUNCATE.pack(FrameType.TRUNCATE, frame.session_id, frame.epoch, frame.position),
            )
    body = encode_canonical(encode_fields(frame))
    return (bytes((_CONTROL_TYPES[type(frame)],)) + body,)


def decode_frame(data: bytes) -> Frame | None:
    """A stranger's frame, checked in every field; None for a type we do not know.

    Raises RemoteProtocolError for anything malformed, and when a payload is not what its hash
    says.
    """
    if not 0 < len(data) <= FRAME_BYTES_MAX:
        raise RemoteProtocolError(f"A frame of {len(data)} bytes is empty or above the limit.")
    match data[0]:
        case FrameType.STEP:
            return _decode_rows(Step, data)
        case FrameType.RESULT:
            return _decode_rows(Result, data)
        case FrameType.REPLAY:
            return _decode_rows(Replay, data)
        case FrameType.TRUNCATE:
            if len(data) < _TRUNCATE.size:
                raise RemoteProtocolError("TRUNCATE is too short.")
            _, session_id, epoch, position = _TRUNCATE.unpack_from(data)
            return Truncate(session_id, epoch, position)
        case known if known in _CONTROL:
            body = decode_canonical(data[1:], size_max=CONTROL_BYTES_MAX)
            return decode_fields(_CONTROL[FrameType(known)], body)
    return None


R = TypeVar("R", Step, Result, Replay)


def _decode_rows(kind: type[R], data: bytes) -> R:
    if len(data) < _STEP.size:
        raise RemoteProtocolError(f"{kind.__name__} is shorter than its header.")
    _, step_kind, content, loop, *rest = _STEP.unpack_from(data)
    session_id, epoch, position, count, wanted, hidden_size, digest = rest
    if step_kind not in StepKind.__members__.values() or content not in _DTYPES:
        raise RemoteProtocolError(f"{kind.__name__} of an unknown kind or content.")
    payload = data[_STEP.size :]
    if payload_hash(payload) != digest:
        raise RemoteProtocolError(f"{kind.__name__}: the payload does not match its hash.")
    return kind(
        session_id, epoch, StepKind(step_kind), position, count, wanted,
        _DTYPES[content], hidden_size, payload, digest, loop,
    )  # fmt: skip


def _check_rows(frame: Rows) -> None:
    _check_session(frame.session_id, frame.epoch)
    if not 0 < frame.count <= STEP_TOKENS_MAX or not 0 <= frame.wanted <= frame.count:
        raise RemoteProtocolError("A step's row counts are out of range.")
    if not 0 <= frame.position <= POSITION_MAX:
        raise RemoteProtocolError("A step's position is out of range.")
    if not 0 <= frame.loop <= LOOP_MAX or (frame.loop and frame.wanted != 1):
        raise RemoteProtocolError("Only a step that wants one row can be fed on.")
    if frame.dtype is None:
        expected = frame.rows * TOKEN_BYTES
    else:
        expected = TensorHeader(frame.rows, frame.hidden_size, frame.dtype).size_bytes
    if len(frame.payload) != expected:
        raise RemoteProtocolError(
            f"A payload of {len(frame.payload)} bytes should have {expected}."
        )


def _check_session(session_id: bytes, epoch: int) -> None:
    if len(session_id) != ID_BYTES or not 0 <= epoch <= EPOCH_MAX:
        raise RemoteProtocolError("A session id has 16 bytes and an epoch 32 bits.")


def _check_resume(frame: Open) -> None:
    if not 0 <= frame.resume <= frame.capacity_tokens or frame.steps < 0:
        raise RemoteProtocolError("OPEN resumes beyond what the session may hold.")
    if len(frame.drawn) % TOKEN_BYTES or len(frame.drawn) // TOKEN_BYTES > frame.resume:
        raise RemoteProtocolError("OPEN names more tokens drawn than there are rows.")
    if len(frame.neighbours) > NEIGHBOURS_MAX or len(frame.eos) > EOS_MAX:
        raise RemoteProtocolError("OPEN lists more neighbours or stop tokens than there can be.")


def _check_prefix(hashes: tuple[bytes, ...]) -> None:
    if len(hashes) > PREFIX_BLOCKS_MAX or any(len(h) != PREFIX_HASH_BYTES for h in hashes):
        raise RemoteProtocolError(
            f"A prefix has at most {PREFIX_BLOCKS_MAX} hashes of {PREFIX_HASH_BYTES} bytes each."
        )


# held here so that a change of either size is seen beside the layouts that depend on it
assert _STEP.size == 68
assert PUBLIC_KEY_BYTES == 32
