"""The route of a session some of whose hops are lost: others in their places, or a new one. Reads
only; what a new hop may earn follows from the rows that are replayed to it and those to come."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ledger.database import Session
from marketplace.errors import NoCapacity
from marketplace.leases.repository import SessionRepository
from marketplace.leases.schemas import ReplacementRequest
from marketplace.manifests import service as manifests
from marketplace.market import Market
from marketplace.matching import search_replacements, search_route
from marketplace.pricing import WorkPlan
from marketplace.quotes.terms import QuotedHop, QuoteTerms, hold_nanos
from planning.routes import missing_spans
from protocol.money import Nanos
from protocol.offer import Offer

__all__ = ["NewRoute", "Present", "reroute"]


@dataclass(frozen=True, slots=True)
class Present:
    """A session as it is at `epoch`: what it was opened for, and its route now."""

    epoch: int
    first: QuoteTerms
    terms: QuoteTerms


@dataclass(frozen=True, slots=True)
class NewRoute:
    """A route found for a session as it was at `after_epoch`. `hops`: the indexes that are new."""

    after_epoch: int
    terms: QuoteTerms
    hops: Sequence[int]

    @property
    def amount_nanos(self) -> Nanos:
        """What is held for the hops that are new."""
        new = [self.terms.hops[index] for index in self.hops]
        return hold_nanos(new, self.terms.fee_basis_points)


def reroute(
    session: Session, market: Market, present: Present, request: ReplacementRequest
) -> NewRoute:
    """The cheapest there is. Raises NoCapacity or ResaleForbidden."""
    plan = _work(present.first, request)
    offers = _able(session, market, present.first, request)
    if len(request.lost) < len(present.terms.hops):
        lost = sorted(request.lost)
        return _route(present, plan, _patched(session, offers, plan, present.terms, lost), lost)
    hops = _anew(session, offers, plan, present.terms.model)
    return _route(present, plan, hops, range(len(hops)))


def _patched(
    session: Session,
    offers: Sequence[Offer],
    plan: WorkPlan,
    terms: QuoteTerms,
    lost: Sequence[int],
) -> list[QuotedHop]:
    """The same route with one other provider for each lost hop; who stays keeps his place."""
    hops = list(terms.hops)
    staying = {hop.provider for index, hop in enumerate(hops) if index not in lost}
    others = [offer for offer in offers if offer.provider not in staying]
    spans = [hops[index].span for index in lost]
    busy = SessionRepository(session).open_by_provider([offer.provider for offer in others])
    chosen = search_replacements(others, spans, plan, open_sessions=busy)
    missing = [span for span, offer in zip(spans, chosen, strict=True) if offer is None]
    if missing:
        raise NoCapacity(terms.model, missing)
    for index, offer in zip(lost, chosen, strict=True):
        assert offer is not None
        hops[index] = QuotedHop.of(offer, hops[index].span, plan)
    return hops


def _anew(session: Session, offers: Sequence[Offer], plan: WorkPlan, model: str) -> list[QuotedHop]:
    """A wholly new route, found as a quote's."""
    busy = SessionRepository(session).open_by_provider([offer.provider for offer in offers])
    route = search_route(offers, plan, open_sessions=busy)
    if route is None:
        raise NoCapacity(model, missing_spans(plan.layers, [offer.span for offer in offers]))
    return [QuotedHop.of(hop.offer, hop.span, plan) for hop in route]


def _able(
    session: Session, market: Market, first: QuoteTerms, request: ReplacementRequest
) -> list[Offer]:
    """Living offers of the session's model that the buyer allows and that have room for it."""
    manifest = manifests.find(session, first.manifest_hash)
    manifests.require_for_sale(manifest)
    allow = None if request.allow is None else frozenset(request.allow)
    deny = frozenset(request.deny)
    return [
        offer
        for offer in market.index.of_model(manifest.manifest_hash, market.clock.now_s())
        if offer.kv_tokens >= first.tokens_max
        and (allow is None or offer.provider in allow)
        and offer.provider not in deny
    ]


def _work(first: QuoteTerms, request: ReplacementRequest) -> WorkPlan:
    """What is asked of a new hop: the rows there are, and what of the prompt has yet to come, pass
    as prefill; all others are decoded."""
    tokens = request.rows + request.remaining_tokens
    prompt_tokens = min(max(request.rows, first.prompt_tokens), tokens)
    drafted, funded = request.drafted_tokens, request.funded_tokens
    if funded is not None:
        funded = max(request.rows + funded - prompt_tokens, 0)
    return WorkPlan(
        layers=first.layers,
        hidden_size=first.hidden_size,
        prompt_tokens=prompt_tokens,
        max_tokens=tokens - prompt_tokens,
        wire_dtype=first.wire_dtype,
        drafted_tokens=first.drafted_tokens if drafted is None else drafted,
        funded_tokens=funded,
    )


def _route(
    present: Present, plan: WorkPlan, hops: Sequence[QuotedHop], new: Sequence[int]
) -> NewRoute:
    terms = replace(
        present.terms,
        prompt_tokens=plan.prompt_tokens,
        max_tokens=plan.max_tokens,
        drafted_tokens=plan.drafted_tokens,
        funded_tokens=plan.funded_tokens,
        hops=tuple(hops),
    )
    route = NewRoute(present.epoch, terms, new)
    return replace(route, terms=replace(terms, amount_nanos_max=route.amount_nanos))
