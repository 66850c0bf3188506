"""Whose signature counts: the key on the command line, or the one this home has pinned."""

import json
from pathlib import Path

from node.cli.options import home_path
from node.config import Home
from node.errors import ConfigInvalid
from node.market_client import MarketClient, MarketTerms
from protocol.errors import RemoteProtocolError
from protocol.identity import PeerId

__all__ = ["pinned_terms", "trusted_key"]


def trusted_key(market_key: str, market: str, home: Path | None) -> PeerId:
    """The marketplace's key, without asking anybody; raises ConfigInvalid where none is known.

    market: which pin is meant, where this home has several.
    """
    if market_key:
        return _parse(market_key, "--market-key")
    path = home_path(home) / "markets.json"
    pins: dict[str, str] = json.loads(path.read_text()) if path.exists() else {}
    found = {pins[market.rstrip("/")]} if market.rstrip("/") in pins else set(pins.values())
    if len(found) != 1:
        raise ConfigInvalid(
            f"{path} does not say which marketplace must have signed.",
            hint="Give --market-key, as the operator publishes it.",
        )
    return _parse(found.pop(), str(path))


async def pinned_terms(client: MarketClient, home: Path | None, market_key: str) -> MarketTerms:
    """What the marketplace says of itself, if it shows the key that it must."""
    terms = await client.terms()
    if market_key and terms.peer_id != _parse(market_key, "--market-key"):
        raise ConfigInvalid(f"The marketplace at {client.url} shows the key {terms.peer_id}.")
    Home(home_path(home)).pin_market(client.url, terms.peer_id)
    return terms


def _parse(text: str, where: str) -> PeerId:
    try:
        return PeerId.from_text(text)
    except RemoteProtocolError as error:
        raise ConfigInvalid(f"{where}: {error.message}") from None
