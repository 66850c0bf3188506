"""What may differ between one API and another; each surface reads the same value."""

import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass

from node.api.middleware import BODY_BYTES_MAX
from node.api.sse import KEEP_ALIVE_S

__all__ = ["ApiSettings"]


def _draw_seed() -> int:
    return secrets.randbits(63)


def _now_s() -> int:
    return int(time.time())


@dataclass(frozen=True, slots=True)
class ApiSettings:
    """Settings of one API. The defaults are a node's own; a gateway sets the first two.

    require_key: 401 for whoever brings no API key. Without it a key is passed on if there is one.
    any_origin: browsers on any page may call (CORS `*`, never with credentials).
    draw_seed: the seed of a request that brings none, in [0, 2**63).
    pairing_token: 401 for whoever is not on this machine and does not show it as bearer token.
    """

    require_key: bool = False
    any_origin: bool = False
    body_bytes_max: int = BODY_BYTES_MAX
    keep_alive_s: float = KEEP_ALIVE_S
    now_s: Callable[[], int] = _now_s
    draw_seed: Callable[[], int] = _draw_seed
    pairing_token: str | None = None
