"""What a machine says of itself: one encoding, and nothing out of range."""

from dataclasses import replace

import pytest

from protocol.envelope import open_envelope, seal
from protocol.errors import RemoteProtocolError
from protocol.identity import KeyPair
from protocol.machine import (
    Assignment,
    ClusterPlan,
    Holding,
    MachineRecord,
    MachineState,
    Room,
)
from protocol.record import decode_canonical, decode_fields, encode_canonical, encode_fields
from protocol.route import Span

KEYS = [KeyPair(bytes([n]) * 32) for n in range(3)]
PLAN = ClusterPlan(
    3, b"m" * 32, 8,
    (Assignment(KEYS[0].peer_id, Span(0, 5)), Assignment(KEYS[1].peer_id, Span(5, 8))),
)  # fmt: skip
RECORD = MachineRecord(
    peer_id=KEYS[0].peer_id, sequence=7, joined_at_ms=1_800_000_000_000, name="desk", version="1",
    addresses=(f"/ip4/192.168.1.7/udp/4001/quic-v1/p2p/{KEYS[0].peer_id}",), api_port=8470,
    memory_bytes=2**34, backends=("torch", "mlx"), model="org/name", state=MachineState.SERVING,
    done_percent=100, token_layers_per_s=900, rows_per_s=12, spread=False,
    issued_at_s=1_800_000_000, expires_at_s=1_800_000_015, manifest_hash=b"m" * 32,
    room=Room(6, 5, 3), holding=Holding(Span(0, 5), "torch", 16_384), plan=PLAN,
)  # fmt: skip


def test_a_record_survives_its_envelope():
    assert open_envelope(MachineRecord, seal(RECORD, KEYS[0]).encode()) == RECORD


def test_what_is_not_known_yet_is_left_out():
    bare = replace(RECORD, manifest_hash=None, room=None, holding=None, plan=None)
    data = encode_canonical(encode_fields(bare))
    assert decode_fields(MachineRecord, decode_canonical(data)) == bare


@pytest.mark.parametrize(
    "change",
    [
        {"expires_at_s": 1_800_000_000}, {"expires_at_s": 1_800_000_061}, {"name": "x" * 65},
        {"name": "two\nlines"}, {"addresses": ("/",) * 17}, {"addresses": ("x" * 257,)},
        {"backends": ("b",) * 9}, {"sequence": -1}, {"rows_per_s": -1}, {"done_percent": 101},
        {"api_port": 65_536}, {"manifest_hash": b"short"}, {"model": "m" * 257},
    ],
    ids=str,
)  # fmt: skip
def test_a_record_out_of_range_is_refused(change):
    with pytest.raises(RemoteProtocolError):
        replace(RECORD, **change)


@pytest.mark.parametrize("room", [(3, 4, 0), (3, 2, 3), (1025, 0, 0), (0, 0, -1)])
def test_more_room_beside_an_end_than_without_is_refused(room):
    with pytest.raises(RemoteProtocolError):
        Room(*room)


@pytest.mark.parametrize(
    "spans",
    [[(0, 5)], [(0, 5), (6, 8)], [(0, 5), (4, 8)], [(5, 8), (0, 5)], [(0, 0), (0, 8)], []],
    ids=str,
)
def test_a_plan_that_does_not_tile_the_model_is_refused(spans):
    assignments = tuple(
        Assignment(key.peer_id, Span(*span)) for key, span in zip(KEYS, spans, strict=False)
    )
    with pytest.raises(RemoteProtocolError):
        ClusterPlan(1, b"m" * 32, 8, assignments)


def test_a_plan_names_no_machine_twice():
    twice = tuple(Assignment(KEYS[0].peer_id, span) for span in (Span(0, 4), Span(4, 8)))
    with pytest.raises(RemoteProtocolError):
        ClusterPlan(1, b"m" * 32, 8, twice)


def test_a_plan_knows_who_is_not_needed():
    assert [PLAN.span_of(key.peer_id) for key in KEYS] == [Span(0, 5), Span(5, 8), None]
