"""Events and their delivery as Stripe does it: signed, at least once, in no order, for three days.

Nothing is sent by itself: a test calls `deliver` with something that posts, when it wants to, and
what is due by the fake's clock goes out. Disorder, delay and duplicates are drawn by a seed.
"""

import copy
import hashlib
import hmac
import json
import random
from collections.abc import Callable
from dataclasses import dataclass, field

from tests.fakestripe.store import Object, Store

__all__ = ["Webhooks", "sign"]

RETRY_AFTER_S = (300, 1_800, 7_200, 18_000, 36_000, 43_200, 43_200, 43_200, 43_200)
"""Waits between tries; their sum is three days short of minutes, and then the event is given up."""
API_VERSION = "2026-10-28.endive"

Post = Callable[[bytes, dict[str, str]], int]
"""Body and headers to the answer's status; raises where there is no answer."""


@dataclass(slots=True, eq=False)
class _Delivery:
    event: Object
    due_s: int
    tries: int = 0


@dataclass(slots=True)
class Webhooks:
    """What waits to be delivered, and what has been given up."""

    store: Store
    secret: str
    share_twice: float = 0.0
    """Of events that are sent twice though they were answered."""
    delay_s_max: int = 0
    seed: int = 0
    given_up: list[Object] = field(default_factory=list)
    delivered: int = 0
    _waiting: list[_Delivery] = field(default_factory=list)
    _random: random.Random = field(default_factory=random.Random)

    def __post_init__(self) -> None:
        self._random.seed(self.seed)
        self.store.emit = self.emit

    def misbehave(self, *, share_twice: float, delay_s_max: int, seed: int) -> None:
        """From now on events come twice, late, and so in another order."""
        self.share_twice, self.delay_s_max = share_twice, delay_s_max
        self._random.seed(seed)

    def emit(self, kind: str, thing: Object, account: str) -> None:
        """Something has happened; the event holds the object as it is now."""
        shown = {key: copy.deepcopy(v) for key, v in thing.items() if not key.startswith("_")}
        event = self.store.add(
            "event",
            "evt",
            api_version=API_VERSION,
            data={"object": shown},
            pending_webhooks=1,
            request={"id": None, "idempotency_key": None},
            type=kind,
            **({"account": account} if account else {}),
        )
        for _ in range(2 if self._random.random() < self.share_twice else 1):
            due_s = event["created"] + self._random.randint(0, self.delay_s_max)
            self._waiting.append(_Delivery(event, due_s))

    @property
    def waiting(self) -> int:
        return len(self._waiting)

    def deliver(self, post: Post) -> int:
        """Send everything that is due, in the order it is due; gives how many were taken."""
        now_s = self.store.clock.now_s()
        due = sorted((d for d in self._waiting if d.due_s <= now_s), key=lambda d: d.due_s)
        if self.delay_s_max:
            self._random.shuffle(due)
        taken = 0
        for delivery in due:
            self._waiting.remove(delivery)
            if self._send(delivery, post):
                taken += 1
            elif delivery.tries <= len(RETRY_AFTER_S):
                delivery.due_s = now_s + RETRY_AFTER_S[delivery.tries - 1]
                self._waiting.append(delivery)
            else:
                self.given_up.append(delivery.event)
        self.delivered += taken
        return taken

    def _send(self, delivery: _Delivery, post: Post) -> bool:
        delivery.tries += 1
        body = json.dumps(delivery.event).encode()
        headers = {
            "content-type": "application/json",
            "stripe-signature": sign(body, self.secret, self.store.clock.now_s()),
        }
        try:
            return 200 <= post(body, headers) < 300
        except OSError:
            return False


def sign(body: bytes, secret: str, now_s: int) -> str:
    """The header `Stripe-Signature`."""
    digest = hmac.new(secret.encode(), f"{now_s}.".encode() + body, hashlib.sha256).hexdigest()
    return f"t={now_s},v1={digest}"
