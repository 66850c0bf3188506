"""Any frame that can be made comes back from its bytes as it was; what cannot be, is not made."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocol.errors import ErrorCode, RemoteProtocolError
from protocol.frame import (
    EOS_MAX,
    EPOCH_MAX,
    LOOP_MAX,
    NEIGHBOURS_MAX,
    POSITION_MAX,
    Attach,
    ErrorFrame,
    Extend,
    Extended,
    LinkRole,
    Open,
    Opened,
    Probe,
    Progress,
    Replay,
    Result,
    Step,
    StepKind,
    Truncate,
    decode_frame,
    encode_frame,
)
from protocol.tensor import WireDtype, payload_hash
from tests.protocol.frames import FED_ON, LAST, LOOPED, OPEN, REPLAY, SESSION
from tests.protocol.samples import peer_ids, spans, texts

sessions = st.binary(min_size=16, max_size=16)
epochs = st.integers(0, EPOCH_MAX)
positions = st.integers(0, POSITION_MAX)
indices = st.integers(0, 63)
optional_peers = st.none() | peer_ids
address_lists = st.lists(texts, max_size=3).map(tuple)


@st.composite
def row_frames(draw):
    """A STEP, RESULT or REPLAY of any content, few rows and a narrow model."""
    kind = draw(st.sampled_from([Step, Result, Replay]))
    count = draw(st.integers(1, 6))
    wanted = draw(st.integers(0, count))
    dtype = draw(st.none() | st.sampled_from(WireDtype))
    hidden = draw(st.integers(1, 70)) if dtype else 0
    row_bytes = dtype.row_bytes(hidden) if dtype else 4
    size = (wanted if kind is Result else count) * row_bytes
    payload = draw(st.binary(min_size=size, max_size=size))
    loop = draw(st.integers(0, LOOP_MAX)) if wanted == 1 else 0
    return kind(
        draw(sessions), draw(epochs), draw(st.sampled_from(StepKind)), draw(positions), count,
        wanted, dtype, hidden, payload, payload_hash(payload), loop,
    )  # fmt: skip


@st.composite
def opens(draw):
    capacity = draw(st.integers(2, POSITION_MAX))
    resume = draw(st.integers(0, capacity - 1))
    drawn = draw(st.integers(0, min(resume, 5)))
    hop_count = draw(st.integers(1, 64))
    return Open(
        session_id=draw(sessions), epoch=draw(epochs), hop_count=hop_count,
        hop_index=draw(st.integers(0, hop_count - 1)), previous=draw(peer_ids),
        next=draw(peer_ids), next_addresses=draw(address_lists), manifest_hash=bytes(32),
        span=draw(spans), wire_dtype=draw(st.sampled_from(WireDtype)), sealed=draw(st.booleans()),
        capacity_tokens=capacity, sampling=None, lease=draw(st.none() | st.binary(max_size=9)),
        resume=resume, steps=draw(positions), forget=draw(st.booleans()),
        neighbours=draw(st.lists(st.binary(max_size=9), max_size=NEIGHBOURS_MAX).map(tuple)),
        drawn=draw(st.binary(min_size=4 * drawn, max_size=4 * drawn)),
        standby=draw(st.booleans()), mirror=draw(optional_peers),
        mirror_addresses=draw(address_lists), loop=draw(optional_peers),
        loop_addresses=draw(address_lists),
        eos=draw(st.lists(positions, max_size=EOS_MAX).map(tuple)),
    )  # fmt: skip


CONTROL = st.one_of(
    opens(),
    st.builds(Opened, sessions, epochs, indices, texts, texts, positions, positions),
    st.builds(Attach, sessions, epochs, indices, st.sampled_from(LinkRole)),
    st.builds(Truncate, sessions, epochs, positions),
    st.builds(Probe, sessions, epochs),
    st.builds(Progress, sessions, epochs, epochs, positions, positions),
    st.builds(Extend, sessions, st.binary(max_size=9)),
    st.builds(Extended, sessions, st.integers(0, 2**62)),
    st.builds(ErrorFrame, sessions, st.sampled_from(ErrorCode), texts, optional_peers, epochs),
)


@given(st.one_of(row_frames(), CONTROL))
def test_it_comes_back_as_it_was(frame):
    assert decode_frame(b"".join(encode_frame(frame))) == frame


@given(row_frames(), st.integers(1, 70))
def test_a_payload_of_another_length_is_refused(frame, more):
    with pytest.raises(RemoteProtocolError):
        dataclasses.replace(frame, payload=frame.payload + bytes(more))


@pytest.mark.parametrize(
    ("frame", "change"),
    [
        (LOOPED, {"loop": LOOP_MAX + 1}),
        (LOOPED, {"loop": -1}),
        (LOOPED, {"wanted": 0}),
        (FED_ON, {"loop": LOOP_MAX + 1}),
        (REPLAY, {"count": 0}),
        (REPLAY, {"position": -1}),
        (REPLAY, {"epoch": EPOCH_MAX + 1}),
        (REPLAY, {"wanted": 3}),
        (LAST, {"drawn": bytes(6)}),
        (LAST, {"resume": 1}),  # fewer rows than tokens drawn
        (LAST, {"steps": -1}),
        (LAST, {"eos": (1,) * (EOS_MAX + 1)}),
        (LAST, {"neighbours": (b"",) * (NEIGHBOURS_MAX + 1)}),
        (OPEN, {"resume": -1}),
        (Opened(SESSION, 1, 0, "", ""), {"cached_tokens": POSITION_MAX + 1}),
        (Opened(SESSION, 1, 0, "", ""), {"replay_from": -1}),
        (Attach(SESSION, 1, 0), {"epoch": EPOCH_MAX + 1}),
        (Attach(SESSION, 1, 0), {"session_id": SESSION[:15]}),
        (Probe(SESSION, 0), {"nonce": EPOCH_MAX + 1}),
        (Progress(SESSION, 0, 0, 0, 0), {"nonce": -1}),
        (Progress(SESSION, 0, 0, 0, 0), {"rows_in": POSITION_MAX + 1}),
        (Progress(SESSION, 0, 0, 0, 0), {"rows_out": -1}),
        (Extended(SESSION, 0), {"amount_nanos_max": -1}),
        (Extended(SESSION, 0), {"session_id": SESSION[:15]}),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_is_out_of_range_is_not_made(frame, change):
    with pytest.raises(RemoteProtocolError):
        dataclasses.replace(frame, **change)


def test_a_session_that_is_full_can_be_repaired():
    assert dataclasses.replace(LAST, resume=LAST.capacity_tokens).resume == LAST.capacity_tokens
