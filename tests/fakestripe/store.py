"""Everything the fake knows: objects by id in the order in which they were made, and its balance.

Amounts are cents. The balance is kept as Stripe keeps it: every change is a balance transaction
with a fee, a net and a day on which it becomes available.
"""

import heapq
import itertools
from collections.abc import Callable, Iterable
from typing import Any

from tests.fakestripe.clock import FakeClock
from tests.fakestripe.errors import invalid, missing

__all__ = ["AVAILABLE_AFTER_S", "Object", "Store"]

Object = dict[str, Any]
AVAILABLE_AFTER_S = 2 * 24 * 3600
"""A card payment in the United States is free to use two days later."""
PAGE_DEFAULT = 10
_WITHOUT_MODE = frozenset({"balance_transaction", "refund", "transfer_reversal"})
"""Kinds that do not say whether they are of the live mode."""
PAGE_MAX = 100


class Store:
    """Objects and money. `emit` is told every event: its type, its object, and the account."""

    def __init__(self, clock: FakeClock) -> None:
        self.clock = clock
        self.emit: Callable[[str, Object, str], None] = lambda *_: None
        self._counts = itertools.count(1)
        self._tables: dict[str, dict[str, Object]] = {}
        self._pending: list[tuple[int, str]] = []
        self._by_group: dict[str, list[str]] = {}
        self.available_cents = 0
        self.pending_cents = 0
        self.waiting_refunds: list[str] = []

    def new_id(self, prefix: str) -> str:
        return f"{prefix}_fake{next(self._counts):012d}"

    def table(self, kind: str) -> dict[str, Object]:
        """All objects of a kind by id, oldest first."""
        return self._tables.setdefault(kind, {})

    def add(self, kind: str, prefix: str, **fields: Any) -> Object:
        """A new object with the fields that all have."""
        created = {"id": self.new_id(prefix), "object": kind, "created": self.clock.now_s()}
        made = {**created, **({} if kind in _WITHOUT_MODE else {"livemode": False}), **fields}
        self.table(kind)[made["id"]] = made
        return made

    def get(self, kind: str, object_id: str) -> Object:
        found = self.table(kind).get(object_id)
        if found is None:
            raise missing(kind, object_id)
        return found

    def group(self, name: str, object_id: str | None = None) -> list[str]:
        """Ids of the transfers of a group; adds one where given."""
        ids = self._by_group.setdefault(name, [])
        if object_id is not None:
            ids.append(object_id)
        return ids

    def move(
        self,
        kind: str,
        amount: int,
        *,
        source: str,
        fee: int = 0,
        available_after_s: int = 0,
        description: str = "",
    ) -> Object:
        """A balance transaction, which changes the balance now or on its day."""
        now_s = self.clock.now_s()
        later = available_after_s > 0
        made = self.add(
            "balance_transaction",
            "txn",
            amount=amount,
            available_on=now_s + available_after_s,
            currency="usd",
            description=description or None,
            exchange_rate=None,
            fee=fee,
            fee_details=[],
            net=amount - fee,
            reporting_category=kind,
            source=source,
            status="pending" if later else "available",
            type=kind,
            balance_type="payments",
        )
        if later:
            self.pending_cents += made["net"]
            heapq.heappush(self._pending, (made["available_on"], made["id"]))
        else:
            self.available_cents += made["net"]
        return made

    def settle(self) -> None:
        """What has become available by now."""
        now_s = self.clock.now_s()
        while self._pending and self._pending[0][0] <= now_s:
            _, txn_id = heapq.heappop(self._pending)
            txn = self.table("balance_transaction")[txn_id]
            txn["status"] = "available"
            self.pending_cents -= txn["net"]
            self.available_cents += txn["net"]

    def page(self, path: str, items: Iterable[Object], params: dict[str, Any]) -> Object:
        """Stripe's list: newest first, `limit`, cursors, `created`."""
        found = _within(items, params.get("created"))[::-1]
        ids = [item["id"] for item in found]
        for cursor in ("starting_after", "ending_before"):
            if params.get(cursor) and params[cursor] not in ids:
                raise invalid(f"No such object: '{params[cursor]}'", param=cursor)
        limit = int(params.get("limit", PAGE_DEFAULT))
        if not 1 <= limit <= PAGE_MAX:
            raise invalid("Limits are 1 to 100.", code="parameter_invalid_integer", param="limit")
        if before := params.get("ending_before"):
            rest = found[: ids.index(before)]
            return _list(path, rest[-limit:], has_more=len(rest) > limit)
        if after := params.get("starting_after"):
            found = found[ids.index(after) + 1 :]
        return _list(path, found[:limit], has_more=len(found) > limit)


def _within(items: Iterable[Object], created: Any) -> list[Object]:
    if created is None:
        return list(items)
    if not isinstance(created, dict):
        created = {"gte": created, "lte": created}
    low, above = int(created.get("gte", 0)), int(created.get("gt", -1))
    high, below = int(created.get("lte", 2**62)), int(created.get("lt", 2**62))
    return [
        item for item in items if low <= item["created"] <= high and above < item["created"] < below
    ]


def _list(path: str, data: list[Object], *, has_more: bool) -> Object:
    return {"object": "list", "url": path, "has_more": has_more, "data": data}
