"""From a request to a reply: authentication, faults, idempotency, routes, errors.

Handlers are functions of (store, request parameters, parts of the path); a table says which. All
run in one thread under one lock, so none needs a lock of its own.
"""

import json
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tests.fakestripe.errors import Refused
from tests.fakestripe.expand import expanded
from tests.fakestripe.faults import Fault, Faults
from tests.fakestripe.forms import parse_form
from tests.fakestripe.http import Outcome, Request
from tests.fakestripe.idempotency import Keys, Reply, in_progress
from tests.fakestripe.store import Object, Store

__all__ = ["Api", "Route"]

Handler = Callable[..., Object]


@dataclass(frozen=True, slots=True)
class Route:
    """One path, with `{}` where an id stands."""

    method: str
    path: str
    handler: Handler


class Api:
    """Handles requests; `requests` counts them by method and path form."""

    def __init__(
        self, store: Store, faults: Faults, keys: Keys, routes: Sequence[Route], api_key: str
    ) -> None:
        self._store = store
        self._faults = faults
        self._keys = keys
        self._api_key = api_key
        self._routes = [
            (r.method, re.compile(r.path.replace("{}", r"([^/]+)")), r.handler) for r in routes
        ]
        self.lock = threading.RLock()
        self.parameters: dict[str, set[str]] = {}
        """Of every route that was called, the names that were sent: `a[b]`, lists as `a[]`."""

    def handle(self, request: Request) -> Outcome:
        """One request, whole; never raises."""
        with self.lock:
            self._store.settle()
            try:
                self._authenticate(request.headers)
                fault = self._faults.choose(request.method, request.path)
                return self._faulty(request, fault)
            except Refused as refusal:
                return Outcome(self._reply(refusal.status, refusal.body))

    def _authenticate(self, headers: Mapping[str, str]) -> None:
        if headers.get("authorization") != f"Bearer {self._api_key}":
            raise Refused(401, "invalid_request_error", "api_key_invalid", "Invalid API Key.")

    def _faulty(self, request: Request, fault: Fault | None) -> Outcome:
        """The request with what goes wrong around it."""
        key = request.headers.get("idempotency-key", "") if request.method != "GET" else ""
        if key and (account := request.headers.get("stripe-account")):
            key = f"{account}/{key}"
        match fault:
            case Fault.DROP_BEFORE:
                return Outcome(None)
            case Fault.ERROR_BEFORE:
                return Outcome(self._reply(500, _server_error()))
            case Fault.RATE_LIMIT:
                raise Refused(429, "rate_limit_error", "rate_limit", "Too many requests.")
            case Fault.CONFLICT:
                raise in_progress(key)
        if key and (stored := self._keys.begin(key, request.path, request.body, self._now_s())):
            return Outcome(
                Reply(stored.status, stored.body, {**stored.headers, "Idempotent-Replayed": "true"})
            )
        if fault is Fault.ERROR_STORED:
            reply = self._reply(500, _server_error())
        else:
            reply = self._execute(request, key)
        if fault is Fault.ERROR_STORED_AFTER:
            reply = self._reply(500, _server_error())
        if fault is Fault.TIMEOUT:
            kept = reply
            return Outcome(kept, self._faults.hang_s, lambda: self._keep(request, key, kept))
        self._keep(request, key, reply)
        return Outcome(None if fault is Fault.DROP_AFTER else reply)

    def _keep(self, request: Request, key: str, reply: Reply) -> None:
        with self.lock:
            # v2 does not replay what failed: it is tried again
            if key and not (request.path.startswith("/v2/") and reply.status >= 400):
                self._keys.keep(key, reply)
            elif key:
                self._keys.drop(key)

    def _execute(self, request: Request, key: str) -> Reply:
        """What the handler gives; a failure of validation is not kept."""
        try:
            params = self._params(request)
            handler, parts = self._find(request, params)
            made = handler(self._store, params, *parts)
            return self._reply(200, expanded(self._store, made, params.get("expand", ())))
        except Refused as refusal:
            if not refusal.stored:
                self._keys.drop(key)
            return self._reply(refusal.status, refusal.body)

    def _params(self, request: Request) -> dict[str, Any]:
        if request.method == "GET":
            return parse_form(request.query)
        if request.path.startswith("/v2/"):
            found = json.loads(request.body or b"{}")
            assert isinstance(found, dict)
            return found
        return parse_form(request.body.decode())

    def _find(self, request: Request, params: dict[str, Any]) -> tuple[Handler, tuple[str, ...]]:
        for method, path, handler in self._routes:
            if method == request.method and (match := path.fullmatch(request.path)):
                names = self.parameters.setdefault(f"{method} {path.pattern}", set())
                names.update(_names(params))
                return handler, match.groups()
        message = f"Unrecognized request URL ({request.method}: {request.path})."
        raise Refused(404, "invalid_request_error", "", message)

    def _reply(self, status: int, body: object) -> Reply:
        headers = {"Request-Id": self._store.new_id("req")}
        return Reply(status, json.dumps(_shown(body)).encode(), headers)

    def _now_s(self) -> int:
        return self._store.clock.now_s()


def _shown(value: Any) -> Any:
    """Without what the fake keeps for itself: names that begin with an underscore."""
    if isinstance(value, dict):
        return {key: _shown(item) for key, item in value.items() if key[:1] != "_"}
    return [_shown(item) for item in value] if isinstance(value, list) else value


def _server_error() -> object:
    return {"error": {"type": "api_error", "message": "An unknown error occurred."}}


def _names(value: Any, prefix: str = "") -> set[str]:
    """Every parameter's full name; free keys (metadata) and places in lists are left out."""
    if isinstance(value, list):
        return set().union(*(_names(item, f"{prefix}[]") for item in value)) or {f"{prefix}[]"}
    if isinstance(value, dict) and not prefix.endswith("metadata"):
        named = ((f"{prefix}.{key}" if prefix else key, item) for key, item in value.items())
        return set().union(*(_names(item, name) for name, item in named)) or {prefix}
    return {prefix}
