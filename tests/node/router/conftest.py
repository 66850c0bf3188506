"""A marketplace in this process, for the router that buys from one."""

from tests.marketplace.conftest import database_url, home, world

__all__ = ["database_url", "home", "world"]
