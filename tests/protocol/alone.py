"""A head or a hop alone, and the frames that tests give it by hand."""

from collections.abc import Sequence

from protocol.frame import Close, Open, Opened, Replay, Result, Step, StepKind
from protocol.head_session import HeadSession
from protocol.hop_session import HopSession
from protocol.identity import KeyPair
from protocol.route import Hop, Route, Span
from protocol.tensor import WireDtype, payload_hash

SESSION = b"s" * 16
HIDDEN = 8
DTYPE = WireDtype.BF16
ROW_BYTES = DTYPE.row_bytes(HIDDEN)
PEERS = [KeyPair(bytes([n + 1]) * 32).peer_id for n in range(4)]
HEAD = KeyPair(b"h" * 32).peer_id
THREE = [Span(0, 3), Span(3, 5), Span(5, 8)]


def route_of(spans: Sequence[Span], *, sealed: bool = True, peers=PEERS) -> Route:
    hops = [Hop(peer, span) for peer, span in zip(peers, spans, strict=False)]
    return Route.of("m", spans[-1].end, hops, sealed=sealed)


def an_open(index: int = 0, route: Route | None = None, **fields) -> Open:
    """OPEN for a hop of the route; of a route of three if none is given."""
    route = route or route_of(THREE)
    hops = route.hops
    values = {
        "session_id": SESSION, "epoch": 0, "hop_index": index, "hop_count": len(hops),
        "previous": hops[index - 1].peer_id if index else HEAD,
        "next": hops[index + 1].peer_id if index + 1 < len(hops) else HEAD,
        "next_addresses": (), "manifest_hash": bytes(32), "span": hops[index].span,
        "wire_dtype": DTYPE, "sealed": route.sealed, "capacity_tokens": 200, "sampling": None,
        "lease": None,
    }  # fmt: skip
    return Open(**values | fields)


def rows(kind, position, count, *, epoch=0, wanted=0, step=StepKind.PREFILL, fill=0, loop=0):
    """A Step, Replay or Result of activations, all bytes alike."""
    payload = bytes([fill]) * ((wanted if kind is Result else count) * ROW_BYTES)
    return kind(
        SESSION, epoch, step, position, count, wanted, DTYPE, HIDDEN, payload,
        payload_hash(payload), loop,
    )  # fmt: skip


def step(position, count=1, **fields) -> Step:
    return rows(Step, position, count, **fields)


def replay(position, count=1, **fields) -> Replay:
    return rows(Replay, position, count, **fields)


def token_rows(kind, position, token, *, epoch=0, step=StepKind.DECODE, loop=0):
    """One row of an open route: a Step to hop 0, or a Result of the last hop."""
    payload = token.to_bytes(4, "little")
    return kind(
        SESSION, epoch, step, position, 1, 1, None, 0, payload, payload_hash(payload), loop
    )  # fmt: skip


# --- a hop

LAYERS = 2
OUT = payload_hash(b"out")


def a_hop(*, window=None, credit=None, work_max=None, ready=True, **fields) -> HopSession:
    """Hop 1 of three, on a sealed route."""
    hop = HopSession(
        an_open(1, **fields), hidden_size=HIDDEN, window_tokens=window, credit_tokens=credit,
        work_max=work_max,
    )  # fmt: skip
    if ready:
        hop.ready()
    return hop


def run(hop, frame):
    """Take a step or a replay, and finish it; gives the METER that falls due."""
    if isinstance(frame, Step):
        assert hop.accept_step(frame)
        return hop.complete_step(frame, bytes_out=len(frame.payload), digest_out=OUT)
    assert hop.accept_replay(frame)
    return hop.complete_replay(frame)


def reopen(hop, *, resume, steps=0, epoch=None, ready=True, **fields):
    epoch = hop.open.epoch + 1 if epoch is None else epoch
    held = hop.reopen(an_open(1, epoch=epoch, resume=resume, steps=steps, **fields))
    if ready:
        hop.ready(cached_tokens=held)
    return held


def close(hop, steps=0):
    return hop.accept_close(Close(SESSION, hop.open.epoch, steps, cancelled=True))


# --- a head

DIGEST = payload_hash(b"rows")


def opened(index, held=0, *, epoch=0, replay_from=0):
    return Opened(SESSION, epoch, index, "fake", "lan", held, replay_from)


def a_head(*, sealed=True, metered=False, **fields) -> HeadSession:
    """Of a route of three, ready."""
    head = HeadSession(
        SESSION, route_of(THREE, sealed=sealed), hidden_size=HIDDEN, wire_dtype=DTYPE,
        metered=metered, **fields,
    )  # fmt: skip
    for index in range(3):
        head.accept_opened(index, opened(index, epoch=head.epoch))
    return head


def send(head, count=1, wanted=1, *, loop=0):
    kind = StepKind.DECODE if count == 1 else StepKind.VERIFY
    return head.send_step(kind, count, wanted, DIGEST, loop=loop)


def back(head, ticket, *, epoch=None):
    """The result of a step of a sealed route."""
    epoch = head.epoch if epoch is None else epoch
    return head.accept_result(
        rows(
            Result, ticket.position, ticket.count, wanted=ticket.wanted, step=ticket.kind,
            epoch=epoch,
        )
    )  # fmt: skip
