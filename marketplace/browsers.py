"""Browsers: the session's cookie, and which page of which site a request comes from.

A cookie is sent by whatever page makes the request, so a request that changes something and shows
only a cookie must come from a page of ours: its Origin header says so, and no script can forge it.
Programs show a bearer token instead, which no browser sends by itself; they need no Origin.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

from marketplace.config import MarketConfig

__all__ = ["Cookie", "cookie_for", "is_own_page"]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Cookie:
    """How the session's cookie is set: HttpOnly and SameSite=Lax always."""

    name: str
    secure: bool


def cookie_for(config: MarketConfig) -> Cookie:
    """Secure, and tied to this very host by its name, where people come by https."""
    if urlsplit(config.public_url).scheme == "https":
        return Cookie("__Host-piecework", secure=True)
    return Cookie("piecework", secure=False)


def is_own_page(config: MarketConfig, method: str, headers: Mapping[str, str]) -> bool:
    """Whether a request that shows a cookie may do what it asks. Header names are lower case."""
    if method.upper() in SAFE_METHODS:
        return True
    origin = headers.get("origin")
    if origin is None:
        # every browser of the last years sends one of the two with such a request
        return headers.get("sec-fetch-site") == "same-origin"
    return origin == _own_origin(config, headers)


def _own_origin(config: MarketConfig, headers: Mapping[str, str]) -> str:
    """Of `public_url`; without one, the address that this request was sent to."""
    parts = urlsplit(config.public_url)
    if parts.netloc:
        return f"{parts.scheme}://{parts.netloc}"
    return f"http://{headers.get('host', '')}"
