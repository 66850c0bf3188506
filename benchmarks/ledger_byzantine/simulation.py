"""Many sessions at once over one market, and what each party lost by them."""

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypedDict

from benchmarks.ledger_byzantine.behaviour import Behaviours
from benchmarks.ledger_byzantine.handing_in import HandingIn
from benchmarks.ledger_byzantine.head import Head
from benchmarks.ledger_byzantine.hop import Hop
from benchmarks.ledger_byzantine.judgement import Judgement
from benchmarks.ledger_byzantine.losses import Losses, PlayedSession
from benchmarks.ledger_byzantine.market import BEGIN_S, Market
from benchmarks.ledger_byzantine.network import Loop
from benchmarks.ledger_byzantine.people import (
    LINK_LIARS,
    Buyer,
    PayerRole,
    Provider,
    ProviderRole,
    make_people,
)
from ledger.audit import AuditReport
from protocol.frame import Open, StepKind
from protocol.identity import KeyPair, PeerId
from protocol.lease import Lease
from protocol.money import Rates, work_bound
from protocol.route import Hop as RouteHop
from protocol.route import Route, Span
from protocol.tensor import WireDtype

__all__ = ["Outcome", "simulate"]

EVERY_S = 0.5
"""Between the beginnings of two sessions."""
SETTLE_EVERY_S = 60.0
WINDOW_TOKENS, CREDIT_WINDOWS = 16, 2
CHUNK_TOKENS = 16
"""Of a prompt, at most: the largest step."""
LAYERS_PER_STAGE = 4
HIDDEN = 8
ROWS_MAX = 200
RATES = Rates(2_000_000_000, 6_000_000_000, 50_000_000)
"""Large, so that no loss is lost in rounding."""
SETTLE_AFTER_S = 900
COLLUDING = 0.75
"""How often a payer that would gets a hop onto its route that lies with it."""
_COLLUDES = (PayerRole.CARELESS, PayerRole.EQUIVOCATE)
HEAD = KeyPair(b"h" * 32).peer_id
MANIFEST_HASH = bytes(32)


@dataclass(slots=True)
class Outcome:
    """What a run came to."""

    seed: int
    sessions: int
    losses: Losses
    behaviours: Behaviours
    violations: list[str]
    audit: AuditReport
    judgement: Judgement
    liars_blamed: dict[str, int]
    """By role; only roles whose lies show on a link."""
    liars_contradicted: dict[str, int]
    """By role: those whom any neighbour contradicted."""
    blamed_wrongly: list[str]
    """Anybody else who was blamed."""
    equivocations: int
    market: Market
    wall_s: float


class _Blame(TypedDict):
    liars_blamed: dict[str, int]
    liars_contradicted: dict[str, int]
    blamed_wrongly: list[str]


@dataclass(slots=True)
class _World:
    loop: Loop
    market: Market
    buyers: Sequence[Buyer]
    stages: Sequence[Sequence[Provider]]
    hands: dict[PeerId, HandingIn]
    played: list[PlayedSession] = field(default_factory=list)


def simulate(sessions: int, seed: int, *, contested: bool = False) -> Outcome:
    """One seed, one run: the same figures each time, but for how long it took.

    contested: only buyers that sign anything take part, so that every lie about a link is signed.
    """
    began = time.perf_counter()
    loop = Loop(seed)
    market = Market(KeyPair(loop.random.randbytes(32)))
    buyers, stages = make_people(loop.random)
    everyone = [provider for stage in stages for provider in stage]
    hands = {p.key.peer_id: HandingIn(loop, p, market) for p in everyone}
    if contested:
        buyers = [buyer for buyer in buyers if buyer.role is PayerRole.CARELESS]
    world = _World(loop, market, buyers, stages, hands)
    for buyer in buyers:
        market.fund(buyer.name)
    for number in range(sessions):
        loop.after(number * EVERY_S, _begin, world)
    ends_at = sessions * EVERY_S + 2 * SETTLE_AFTER_S
    for turn in range(int(ends_at / SETTLE_EVERY_S) + 1):
        loop.after(turn * SETTLE_EVERY_S, lambda: market.settle(BEGIN_S + int(loop.now)))
    loop.run()
    now_s = BEGIN_S + int(loop.now) + SETTLE_AFTER_S
    market.settle(now_s)
    judgement = market.rule_all(now_s)
    violations, report = market.verdict(now_s)
    proven = market.equivocations()
    refused = frozenset[bytes]().union(*(hand.refused for hand in hands.values()))
    return Outcome(
        seed=seed,
        sessions=sessions,
        losses=Losses.of(world.played, market),
        behaviours=Behaviours.of(world.played, market, proven, refused),
        violations=violations,
        audit=report,
        judgement=judgement,
        **_blame(everyone, judgement),
        equivocations=len(proven),
        market=market,
        wall_s=time.perf_counter() - began,
    )


def _blame(everyone: Sequence[Provider], judgement: Judgement) -> _Blame:
    """Who of them was blamed, rightly and wrongly."""
    liars = {str(p.key.peer_id): p.role.value for p in everyone if p.role in LINK_LIARS}
    contradicted = frozenset[str]().union(
        *judgement.decided, *judgement.both, *judgement.undecidable
    )
    return {
        "liars_blamed": Counter(liars[each] for each in judgement.blamed & liars.keys()),
        "liars_contradicted": Counter(liars[each] for each in contradicted & liars.keys()),
        "blamed_wrongly": sorted(judgement.blamed - liars.keys()),
    }


def _begin(world: _World) -> None:
    rng = world.loop.random
    buyer = rng.choice(world.buyers)
    providers = [rng.choice(stage) for stage in world.stages]
    if buyer.role in _COLLUDES and rng.random() < COLLUDING:
        _place_accomplice(world, providers)
    payer = KeyPair(rng.randbytes(32))
    steps = _steps(world.loop)
    leases = _leases(world, providers, payer, steps)
    envelopes = world.market.open(buyer.name, leases, BEGIN_S + int(world.loop.now))
    paired = [p.role is ProviderRole.PAIR for p in providers]
    hops = [
        Hop(
            world.loop, provider, lease, _opened(lease, envelope, providers),
            world.hands[provider.key.peer_id].collect,
            partner=any(paired[n] for n in (index - 1, index + 1) if 0 <= n < len(paired)),
        )
        for index, (provider, lease, envelope) in enumerate(
            zip(providers, leases, envelopes, strict=True)
        )
    ]  # fmt: skip
    route = Route.of(
        "toy", LAYERS_PER_STAGE * len(providers),
        [RouteHop(lease.provider, lease.span, ()) for lease in leases], sealed=True,
    )  # fmt: skip
    head = Head(world.loop, buyer.role, route, leases, hops, payer, steps)
    for index, hop in enumerate(hops):
        hop.head = head
        hop.onward = hops[index + 1] if index + 1 < len(hops) else None
    world.played.append(PlayedSession(buyer, head, hops))
    head.start()


def _place_accomplice(world: _World, providers: list[Provider]) -> None:
    """A payer that cheats with a provider gets it onto its route now and then."""
    rng = world.loop.random
    role = rng.choice(sorted(LINK_LIARS))
    liars = [[p for p in stage if p.role is role] for stage in world.stages]
    present = [stage for stage, some in enumerate(liars) if some]
    # a pair stands side by side; of the others there is one on a route
    placed = present if role is ProviderRole.PAIR else [rng.choice(present)]
    for stage in placed:
        providers[stage] = rng.choice(liars[stage])


def _steps(loop: Loop) -> list[tuple[StepKind, int]]:
    """A prompt in chunks, then tokens one by one and some drafts of four."""
    rng = loop.random
    prompt = rng.randint(8, 64)
    steps = [
        (StepKind.PREFILL, min(CHUNK_TOKENS, prompt - done))
        for done in range(0, prompt, CHUNK_TOKENS)
    ]
    steps += [(StepKind.DECODE, 1) for _ in range(rng.randint(8, 60))]
    return steps


def _leases(
    world: _World,
    providers: Sequence[Provider],
    payer: KeyPair,
    steps: Sequence[tuple[StepKind, int]],
) -> list[Lease]:
    rng, now_s = world.loop.random, BEGIN_S + int(world.loop.now)
    session_id, hold_id = rng.randbytes(16), rng.randbytes(16)
    peers = [HEAD, *(provider.key.peer_id for provider in providers), HEAD]
    prompt = sum(count for kind, count in steps if kind is StepKind.PREFILL)
    output = sum(count for kind, count in steps) - prompt
    work = work_bound(
        # room enough for who claims twice of everything
        layers=LAYERS_PER_STAGE, prompt_tokens=2 * prompt, output_tokens=2 * output + 8,
        bytes_per_token=WireDtype.FP32.row_bytes(HIDDEN),
    )  # fmt: skip
    return [
        Lease(
            lease_id=rng.randbytes(16), session_id=session_id, hold_id=hold_id,
            hop_index=index, hop_count=len(providers), payer_key=payer.peer_id.public_key,
            provider=provider.key.peer_id, head=HEAD, previous=peers[index],
            next=peers[index + 2], manifest_hash=MANIFEST_HASH,
            span=Span(index * LAYERS_PER_STAGE, (index + 1) * LAYERS_PER_STAGE),
            hidden_size=HIDDEN, wire_dtype=WireDtype.FP32, rates=RATES, work_max=work,
            amount_nanos_max=10**7, tokens_max=ROWS_MAX, window_tokens=WINDOW_TOKENS,
            credit_windows=CREDIT_WINDOWS, fee_basis_points=500, issued_at_s=now_s,
            expires_at_s=now_s + 60, settle_by_s=now_s + SETTLE_AFTER_S,
        )
        for index, provider in enumerate(providers)
    ]  # fmt: skip


def _opened(lease: Lease, envelope: bytes, providers: Sequence[Provider]) -> Open:
    return Open(
        session_id=lease.session_id, epoch=0, hop_index=lease.hop_index,
        hop_count=len(providers), previous=lease.previous, next=lease.next, next_addresses=(),
        manifest_hash=MANIFEST_HASH, span=lease.span, wire_dtype=lease.wire_dtype, sealed=True,
        capacity_tokens=ROWS_MAX, sampling=None, lease=envelope,
    )  # fmt: skip
