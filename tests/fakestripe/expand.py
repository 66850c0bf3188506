"""`expand[]`: ids replaced by what they name, `data.source` and the like."""

import copy
from collections.abc import Iterable
from typing import Any

from tests.fakestripe.errors import Refused
from tests.fakestripe.store import Object, Store

__all__ = ["expanded"]

DEPTH_MAX = 4
KINDS = {
    "tr": "transfer", "trr": "transfer_reversal", "ch": "charge", "re": "refund", "dp": "dispute",
    "pi": "payment_intent", "pm": "payment_method", "seti": "setup_intent", "cus": "customer",
    "txn": "balance_transaction", "po": "payout", "tu": "topup",
}  # fmt: skip


def expanded(store: Store, made: Object, names: Iterable[str]) -> Object:
    """A copy with each named field replaced; a field that cannot be expanded is refused."""
    names = list(names)
    if not names:
        return made
    made = copy.deepcopy(made)
    for name in names:
        path = name.split(".")
        if len(path) > DEPTH_MAX:
            raise Refused(400, "invalid_request_error", "", f"Too deep to expand: {name}")
        _expand(store, made, path)
    return made


def _expand(store: Store, value: Any, path: list[str]) -> None:
    head, rest = path[0], path[1:]
    if head == "data" and isinstance(value.get("data"), list):
        for item in value["data"]:
            _expand(store, item, rest)
        return
    if head not in value:
        message = f"This property cannot be expanded ({head})."
        raise Refused(400, "invalid_request_error", "", message)
    inner = value[head]
    if isinstance(inner, str):
        kind = KINDS.get(inner.split("_", 1)[0])
        inner = copy.deepcopy(store.table(kind or "").get(inner, inner))
        value[head] = inner
    if rest and isinstance(inner, dict):
        _expand(store, inner, rest)
