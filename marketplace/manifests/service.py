"""Registering manifests, finding a model by name or hash, and the catalogue."""

from ledger.database import Session
from marketplace.errors import Malformed, ModelUnknown, ResaleForbidden
from marketplace.manifests.models import ManifestRow
from marketplace.manifests.repository import ManifestRepository
from marketplace.manifests.schemas import ModelList, ModelSchema, PriceSchema
from marketplace.market import Market
from marketplace.matching import search_route
from marketplace.pricing import WorkPlan, price_list
from planning.placement import coverage_of
from protocol.limits import NAME_BYTES_MAX
from protocol.model import ModelManifest
from protocol.tensor import WireDtype

__all__ = ["catalogue", "find", "register", "require_for_sale"]

CATALOGUE_MAX = 500
"""Models of one answer: each costs a route search."""
REFERENCE_TOKENS = 1
"""Prompt and answer of the session whose cheapest route gives a model its list price; only their
ratio matters, and so small a session fits every provider's KV."""
FAMILY_CHARACTERS_MAX = 128
HASH_DIGITS = 64
SUFFIX_DIGITS = 12


def register(session: Session, manifest_hash: bytes, body: bytes, *, now_s: int) -> None:
    """Take a manifest whose hash is `manifest_hash`; again is no error.

    The first to use a name keeps it. Raises Malformed or RemoteProtocolError.
    """
    manifest = ModelManifest.decode(body)
    if manifest.manifest_hash != manifest_hash:
        raise Malformed(
            f"The manifest's hash is {manifest.manifest_hash.hex()}.",
            hint="PUT it under its own hash.",
        )
    for text in (manifest.name, manifest.family, manifest.licence):
        if not text.isprintable() or len(text.encode()) > NAME_BYTES_MAX:
            raise Malformed(f"A manifest's texts are printable, up to {NAME_BYTES_MAX} bytes.")
    if len(manifest.family) > FAMILY_CHARACTERS_MAX:
        raise Malformed(f"A family's name has at most {FAMILY_CHARACTERS_MAX} characters.")
    repository = ManifestRepository(session)
    if repository.by_hash(manifest_hash) is not None:
        return
    name = manifest.name
    if repository.by_name(name) is not None or _is_hash(name):
        name = f"{name}@{manifest_hash.hex()[:SUFFIX_DIGITS]}"
    repository.add(
        ManifestRow(
            manifest_hash=manifest_hash,
            name=name,
            family=manifest.family,
            layers=manifest.layers,
            hidden_size=manifest.hidden_size,
            context_tokens=manifest.context_tokens,
            licence=manifest.licence,
            resale_allowed=manifest.resale_allowed,
            registered_at_s=now_s,
        )
    )


def find(session: Session, model: str | bytes) -> ManifestRow:
    """The manifest of a name, a hash, or a hash in hex; raises ModelUnknown."""
    repository = ManifestRepository(session)
    if isinstance(model, str) and _is_hash(model):
        model = bytes.fromhex(model)
    if isinstance(model, bytes):
        row, name = repository.by_hash(model), model.hex()
    else:
        row, name = repository.by_name(model), model
    if row is None:
        raise ModelUnknown(name)
    return row


def require_for_sale(row: ManifestRow) -> None:
    """Raise ResaleForbidden where the licence says so."""
    if not row.resale_allowed:
        raise ResaleForbidden(row.name, row.licence)


def catalogue(session: Session, market: Market) -> ModelList:
    """Every registered model that may be sold, with who covers it and what it costs now."""
    rows = ManifestRepository(session).page(CATALOGUE_MAX)
    return ModelList(data=[_entry(row, market) for row in rows if row.resale_allowed])


def _entry(row: ManifestRow, market: Market) -> ModelSchema:
    offers = market.index.of_model(row.manifest_hash, market.clock.now_s())
    plan = WorkPlan(row.layers, row.hidden_size, REFERENCE_TOKENS, REFERENCE_TOKENS, WireDtype.BF16)
    coverage = coverage_of(row.layers, [offer.span for offer in offers])
    price = None
    route = search_route(offers, plan) if all(coverage) else None
    if route is not None:
        hops = [(hop.span, hop.offer.rates) for hop in route]
        listed = price_list(hops, plan, market.config.fee_basis_points)
        price = PriceSchema(
            prompt_nanos_per_million_tokens=listed.prompt_nanos_per_million_tokens,
            completion_nanos_per_million_tokens=listed.completion_nanos_per_million_tokens,
        )
    return ModelSchema(
        id=row.name,
        manifest_hash=row.manifest_hash,
        layers=row.layers,
        hidden_size=row.hidden_size,
        context_tokens=row.context_tokens,
        family=row.family,
        available=route is not None,
        coverage=coverage,
        price=price,
    )


def _is_hash(text: str) -> bool:
    return len(text) == HASH_DIGITS and all(c in "0123456789abcdef" for c in text)
