"""The buyers' top-ups: each with an id of ours, each paid at the processor, each credited once."""

import hashlib
import threading
import time
from collections.abc import Callable
from pathlib import Path

from benchmarks.ledger_kills.client import Client
from benchmarks.ledger_kills.head_state import HeadState
from benchmarks.ledger_kills.journal import Line
from benchmarks.ledger_kills.place import Options
from ledger.failpoint import reach
from protocol.money import NANOS_PER_USD

__all__ = ["TopUps"]

CENT = NANOS_PER_USD // 100
RETURNS_AFTER = 15
"""Looks at a top-up until the buyer comes back from the processor's page by itself."""
PAID_WITHIN_S = 120.0
"""Between a paid checkout and the credit: the processor's report may be late, or come twice."""


class TopUps:
    """Of one head."""

    def __init__(
        self,
        options: Options,
        state: HeadState,
        note: Callable[[Line], Line],
        client: Callable[[], Client],
        pages: Path,
    ) -> None:
        self._pages = pages
        self._options = options
        self._state = state
        self._note = note
        self._client = client
        self._lock = threading.Lock()

    def before(self, cohort: int) -> None:
        """Every buyer pays in for its sessions of this cohort; what was begun is brought to its
        end, with the same id."""
        for line in self._state.topups_of(cohort):
            if line["id"] not in self._state.topped:
                self._pay(line)
        for buyer in range(len(self._options.buyers)):
            self._pay(self._intent(cohort, buyer, 0))

    def again(self, cohort: int, buyer: int) -> None:
        """One more, for a buyer that has too little."""
        with self._lock:
            number = sum(line["b"] == buyer for line in self._state.topups_of(cohort))
            self._pay(self._intent(cohort, buyer, number))

    def _intent(self, cohort: int, buyer: int, number: int) -> Line:
        name = f"{self._options.seed}:topup:{cohort}:{buyer}:{number}"
        topup_id = hashlib.blake2b(name.encode(), digest_size=16).hexdigest()
        if topup_id in self._state.topups:
            return self._state.topups[topup_id]
        amount = self._options.topup_cents * CENT
        return self._note({"k": "topup", "id": topup_id, "c": cohort, "b": buyer, "n": amount})

    def _pay(self, line: Line) -> None:
        if line["id"] in self._state.topped:
            return
        api_key = self._options.buyers[line["b"]].api_key
        body = {"topup_id": line["id"], "amount_nanos": line["n"]}
        answer = self._client().send("POST", "/v1/topups", body, api_key=api_key)
        while answer.code == "conflict":
            answer = self._client().send("POST", "/v1/topups", body, api_key=api_key)
        if answer.code == "topup_limit":
            # a new account may pay in so much a day; what it has must do
            self._note({"k": "topped", "id": line["id"], "refused": True})
            return
        if answer.status != 200:
            raise RuntimeError(f"a top-up was refused: {answer.data}")
        reach("head.topup")
        if answer.data["status"] != "paid":
            self._wait_paid(line, answer.data["checkout_url"], api_key)
        self._note({"k": "topped", "id": line["id"]})

    def _wait_paid(self, line: Line, url: str, api_key: str) -> None:
        """Pay, and wait for the credit: by the processor's report, or as one who comes back."""
        if url.startswith("/"):
            # the test processor's page is on the marketplace itself
            done = self._client().send("POST", url)
            if done.status != 200:
                raise RuntimeError(f"a checkout was refused: {done.data}")
        else:
            (self._pages / url.rpartition("/")[2]).touch()
        path = f"/v1/topups/{line['id']}"
        give_up_at, looked = time.monotonic() + PAID_WITHIN_S, 0
        while True:
            looked += 1
            if looked % RETURNS_AFTER == 0:
                self._client().send("POST", f"{path}/refresh", api_key=api_key)
            seen = self._client().send("GET", path, api_key=api_key)
            if seen.status == 200 and seen.data["status"] == "paid":
                return
            if time.monotonic() > give_up_at:
                raise RuntimeError(f"a paid top-up was not credited: {seen.data}")
            time.sleep(0.1)
