"""Making a quote: the cheapest route now, and the most that it can come to."""

import secrets
from collections.abc import Sequence

from ledger.database import Session
from marketplace.errors import ContextTooLong, NoCapacity, PriceTooHigh
from marketplace.leases.repository import SessionRepository
from marketplace.manifests import service as manifests
from marketplace.manifests.models import ManifestRow
from marketplace.market import Market
from marketplace.matching import RoutedHop, search_route
from marketplace.offers.service import follow
from marketplace.pricing import WorkPlan
from marketplace.quotes.errors import ChoiceForbidden
from marketplace.quotes.models import QuoteRow
from marketplace.quotes.repository import QuoteRepository
from marketplace.quotes.schemas import QuotedHopSchema, QuoteRequest, QuoteSchema
from marketplace.quotes.terms import QuotedHop, QuoteTerms, hold_nanos
from marketplace.standing.service import may_choose
from planning.routes import missing_spans
from protocol.identity import PeerId
from protocol.lease import ID_BYTES
from protocol.offer import Offer

__all__ = ["keep", "price", "require_choice"]

QUOTE_LIFETIME_S = 60
"""Offers live five minutes at most, so a quote that rests on them must be short."""


def require_choice(
    session: Session, market: Market, account_id: str, allow: Sequence[PeerId] | None
) -> None:
    """Raise ChoiceForbidden where a buyer who may not names the providers that shall serve it."""
    if allow is not None and not may_choose(
        session,
        account_id,
        now_s=market.clock.now_s(),
        processor_name=market.processor.name,
    ):
        raise ChoiceForbidden


def price(session: Session, market: Market, request: QuoteRequest) -> QuoteTerms:
    """The cheapest route that meets the request, and the most that it can cost. Reads only.

    Raises ModelUnknown, ResaleForbidden, ContextTooLong, NoCapacity or PriceTooHigh.
    """
    manifest = manifests.find(session, request.model)
    manifests.require_for_sale(manifest)
    plan = _plan(manifest, request)
    route = _route(session, market, manifest, plan, request)
    terms = _terms(manifest, plan, route, market.config.fee_basis_points)
    limit = request.amount_nanos_max
    if limit is not None and terms.amount_nanos_max > limit:
        raise PriceTooHigh(terms.amount_nanos_max, limit)
    return terms


def keep(session: Session, account_id: str, terms: QuoteTerms, *, now_s: int) -> QuoteSchema:
    """Make a quote of the terms, for this account to accept."""
    row = QuoteRow(
        quote_id=secrets.token_bytes(ID_BYTES),
        account_id=account_id,
        expires_at_s=now_s + QUOTE_LIFETIME_S,
        terms=terms.encode(),
    )
    QuoteRepository(session).add(row)
    return _schema(row, terms)


def _plan(manifest: ManifestRow, request: QuoteRequest) -> WorkPlan:
    plan = WorkPlan(
        layers=manifest.layers,
        hidden_size=manifest.hidden_size,
        prompt_tokens=request.prompt_tokens,
        max_tokens=request.max_tokens,
        wire_dtype=request.wire_dtype,
        drafted_tokens=request.drafted_tokens,
        funded_tokens=request.funded_tokens,
    )
    if plan.tokens > manifest.context_tokens:
        raise ContextTooLong(
            f"{plan.tokens} tokens are above the {manifest.context_tokens} of '{manifest.name}'.",
            hint="Shorten the prompt or lower max_tokens.",
            details={"context_tokens": manifest.context_tokens},
        )
    return plan


def _route(
    session: Session,
    market: Market,
    manifest: ManifestRow,
    plan: WorkPlan,
    request: QuoteRequest,
) -> list[RoutedHop]:
    seen = market.index.version
    route, offers = _search(session, market, manifest, plan, request)
    if route is None:
        # another process of the marketplace may know more than this one yet does
        follow(session, market.index, now_s=market.clock.now_s())
        if market.index.version != seen:
            route, offers = _search(session, market, manifest, plan, request)
    if route is None:
        able = [offer.span for offer in offers if offer.kv_tokens >= plan.tokens]
        raise NoCapacity(manifest.name, missing_spans(plan.layers, able))
    return route


def _search(
    session: Session,
    market: Market,
    manifest: ManifestRow,
    plan: WorkPlan,
    request: QuoteRequest,
) -> tuple[list[RoutedHop] | None, list[Offer]]:
    """The cheapest route, and the offers it was looked for among."""
    allow = None if request.allow is None else frozenset(request.allow)
    deny = frozenset(request.deny)
    offers = [
        offer
        for offer in market.index.of_model(manifest.manifest_hash, market.clock.now_s())
        if (allow is None or offer.provider in allow) and offer.provider not in deny
    ]
    busy = SessionRepository(session).open_by_provider([offer.provider for offer in offers])
    return search_route(offers, plan, open_sessions=busy), offers


def _terms(
    manifest: ManifestRow, plan: WorkPlan, route: list[RoutedHop], fee_basis_points: int
) -> QuoteTerms:
    hops = tuple(QuotedHop.of(hop.offer, hop.span, plan) for hop in route)
    return QuoteTerms(
        model=manifest.name,
        manifest_hash=manifest.manifest_hash,
        layers=plan.layers,
        hidden_size=plan.hidden_size,
        prompt_tokens=plan.prompt_tokens,
        max_tokens=plan.max_tokens,
        wire_dtype=plan.wire_dtype,
        fee_basis_points=fee_basis_points,
        amount_nanos_max=hold_nanos(hops, fee_basis_points),
        hops=hops,
        drafted_tokens=plan.drafted_tokens,
        funded_tokens=plan.funded_tokens,
    )


def _schema(row: QuoteRow, terms: QuoteTerms) -> QuoteSchema:
    return QuoteSchema(
        quote_id=row.quote_id,
        expires_at_s=row.expires_at_s,
        manifest_hash=terms.manifest_hash,
        model=terms.model,
        layers=terms.layers,
        hidden_size=terms.hidden_size,
        wire_dtype=terms.wire_dtype.value,
        amount_nanos_max=terms.amount_nanos_max,
        fee_basis_points=terms.fee_basis_points,
        hops=[QuotedHopSchema.of(hop) for hop in terms.hops],
    )
