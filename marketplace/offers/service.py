"""Taking a provider's offer, and telling a joining node where it is needed."""

from ledger.database import Session
from marketplace.errors import Conflict, Malformed, NotYours
from marketplace.fields import RatesSchema, SpanSchema
from marketplace.manifests import service as manifests
from marketplace.manifests.models import ManifestRow
from marketplace.manifests.repository import ManifestRepository
from marketplace.market import Market
from marketplace.matching import OfferIndex
from marketplace.offers.models import OfferRow, PlacementRow
from marketplace.offers.repository import OfferRepository, PlacementRepository
from marketplace.offers.schemas import OfferList, OfferSchema
from planning.placement import choose_span, coverage_of
from protocol.envelope import check_time, open_envelope
from protocol.identity import PeerId
from protocol.limits import NAME_BYTES_MAX
from protocol.offer import Offer
from protocol.route import Span

__all__ = ["follow", "listing", "place", "publish", "rebuild", "withdraw"]

OFFERS_PAGE = 1000
"""Offers of one answer: about 400 kB."""
FOLLOW_OVERLAP_S = 30
"""Rows are looked at again for so long: a transaction may commit seconds after it was stamped, and
by the clock of another machine. An offer that is known already costs a comparison."""
MOVE_LEASE_S = 60
"""How long a span that was given to a node counts as covered; a node still loading asks again."""


def publish(session: Session, node: PeerId, data: bytes, *, now_s: int) -> Offer:
    """Take the offer that `node` signed for itself; the newest sequence stands.

    Raises Malformed, NotYours, ModelUnknown, ResaleForbidden, Conflict for an older sequence, or
    the protocol's own RemoteProtocolError, SignatureInvalid, WrongSigner and RecordExpired.
    """
    offer = open_envelope(Offer, data, signer=node)
    if offer.provider != node:
        raise NotYours(f"{node.short} offers for {offer.provider.short}.")
    check_time(offer, now_s)
    _check_texts(offer)
    manifest = manifests.find(session, offer.manifest_hash)
    manifests.require_for_sale(manifest)
    if offer.span.end > manifest.layers:
        raise Malformed(f"'{manifest.name}' has {manifest.layers} layers, not {offer.span}.")
    row = OfferRow(
        provider=str(node),
        sequence=offer.sequence,
        envelope=data,
        expires_at_s=offer.expires_at_s,
        changed_at_s=now_s,
    )
    repository = OfferRepository(session)
    if not repository.put(row):
        known = repository.get(str(node))
        if known is None or known.envelope != data or known.expires_at_s == 0:
            raise Conflict(
                f"Sequence {offer.sequence} is not newer than the offer that stands.",
                hint="Count the sequence up with every offer.",
            )
    return offer


def withdraw(session: Session, node: PeerId, *, now_s: int) -> None:
    """End the node's offer; again is no error."""
    OfferRepository(session).withdraw(str(node), now_s)


def listing(session: Session, market: Market, after: PeerId | None) -> OfferList:
    """A page of living offers, from the provider behind `after`."""
    offers = market.index.all(market.clock.now_s())
    offers = [offer for offer in offers if after is None or offer.provider > after]
    page = offers[:OFFERS_PAGE]
    names = ManifestRepository(session).names({offer.manifest_hash for offer in page})
    data = [
        OfferSchema(
            peer_id=offer.provider,
            model=names[offer.manifest_hash],
            manifest_hash=offer.manifest_hash,
            span=SpanSchema.of(offer.span),
            backend=offer.backend,
            rates=RatesSchema.of(offer.rates),
            addresses=list(offer.addresses),
            expires_at_s=offer.expires_at_s,
        )
        for offer in page
    ]
    return OfferList(data=data, next=page[-1].provider if len(offers) > len(page) else None)


def place(
    session: Session, market: Market, node: PeerId, manifest_hash: bytes, layers_max: int
) -> tuple[Span, int]:
    """The span the node should load, and until when it counts as covered.

    A node that asks again keeps its span while that is as long as what it can hold.
    """
    now_s = market.clock.now_s()
    manifest = manifests.find(session, manifest_hash)
    manifests.require_for_sale(manifest)
    ManifestRepository(session).lock(manifest_hash)
    spans = _spans_by_peer(session, market.index, manifest, now_s)
    own = spans.pop(str(node), None)
    if own is not None and len(own) == min(layers_max, manifest.layers):
        span = own
    else:
        coverage = coverage_of(manifest.layers, spans.values())
        span = choose_span(manifest.layers, coverage, layers_max)
    expires_at_s = now_s + MOVE_LEASE_S
    PlacementRepository(session).put(
        PlacementRow(
            peer_id=str(node),
            manifest_hash=manifest_hash,
            span_start=span.start,
            span_end=span.end,
            expires_at_s=expires_at_s,
        )
    )
    return span, expires_at_s


def rebuild(session: Session, index: OfferIndex, *, now_s: int) -> None:
    """Fill an empty index with what was alive before the marketplace stopped."""
    for row in OfferRepository(session).alive(now_s):
        index.put(_opened(row))
    index.followed_to_s = now_s


def follow(session: Session, index: OfferIndex, *, now_s: int) -> None:
    """Take in what other processes have put and withdrawn.

    The index of a process is its own, and the table is everybody's.
    """
    since_s = index.followed_to_s - FOLLOW_OVERLAP_S
    for row in OfferRepository(session).changed_since(since_s):
        provider = PeerId.from_text(row.provider)
        if row.expires_at_s <= now_s:
            index.remove(provider, up_to=row.sequence)
        elif index.sequence_of(provider) < row.sequence:
            index.put(_opened(row))
    index.followed_to_s = max(index.followed_to_s, now_s)


def _opened(row: OfferRow) -> Offer:
    # verified when it came, but a database is easier to change than a signature
    return open_envelope(Offer, row.envelope, signer=PeerId.from_text(row.provider))


def _check_texts(offer: Offer) -> None:
    """The offer goes into quotes as it is, 64 to a quote; so its texts have limits."""
    for text in (*offer.addresses, offer.backend, offer.compute_dtype):
        if not text.isprintable() or not 0 < len(text.encode()) <= NAME_BYTES_MAX:
            raise Malformed(f"An offer's texts are printable, 1 to {NAME_BYTES_MAX} bytes.")


def _spans_by_peer(
    session: Session, index: OfferIndex, manifest: ManifestRow, now_s: int
) -> dict[str, Span]:
    """Who covers what of a model: by a living offer, else by a pending placement."""
    spans = {
        row.peer_id: Span(row.span_start, row.span_end)
        for row in PlacementRepository(session).pending(manifest.manifest_hash, now_s)
    }
    offers = index.of_model(manifest.manifest_hash, now_s)
    spans.update({str(offer.provider): offer.span for offer in offers})
    return spans
