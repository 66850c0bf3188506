"""A marketplace in this process, for routers that buy from it."""

from tests.marketplace.conftest import home, world

__all__ = ["home", "world"]
