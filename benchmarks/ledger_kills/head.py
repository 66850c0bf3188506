"""The gateways of many buyers in one process: they top up, quote, lease, sign receipts and close.

    python -m benchmarks.ledger_kills.head DIRECTORY

It runs no model: real gateways with real hops stand beside it (`pool.py`). Everything goes through
the marketplace's HTTP API; everything is in the journal before it is sent, so a head that was
killed goes on where it was, with the same ids and the same words.
"""

import base64
import itertools
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.ledger_kills.client import Client
from benchmarks.ledger_kills.content import SessionPlan, plan_of, receipts_of
from benchmarks.ledger_kills.head_state import HeadState, Leased
from benchmarks.ledger_kills.journal import Journal, Line
from benchmarks.ledger_kills.money_in import TopUps
from benchmarks.ledger_kills.place import MODEL, Options, Place
from benchmarks.ledger_kills.spool import Slip, batch_name, lay, outstanding
from ledger.failpoint import reach
from protocol.envelope import Envelope
from protocol.lease import Lease
from protocol.record import decode_canonical, decode_fields

__all__ = ["main"]

THREADS = 4
"""Buyers that ask at the same time."""
BATCHES_AHEAD = 6
"""Of one provider in the spool: more would only be a heap on the disk."""
COHORTS_AHEAD = 1
ATTEMPTS_MAX = 50
"""Sessions given up in one place: quotes that expired while everything was down."""
QUOTE_GONE = frozenset({"quote_expired", "quote_unknown", "no_capacity"})


class _Head:
    def __init__(self, place: Place) -> None:
        self._place = place
        self._options: Options = place.options()
        self._state = HeadState.read(place.head_journal)
        self._journal = Journal(place.head_journal)
        self._threads = threading.local()
        self._pool = ThreadPoolExecutor(THREADS)
        self._topups = TopUps(self._options, self._state, self._note, self._client, place.pages)

    def run(self) -> None:
        opened: queue.Queue[int | None] = queue.Queue(COHORTS_AHEAD)
        failed: list[BaseException] = []
        opener = threading.Thread(target=self._open_all, args=(opened, failed), daemon=True)
        opener.start()
        while (cohort := opened.get()) is not None:
            self._sign(cohort)
            self._close(cohort)
        if failed:
            raise failed[0]
        self._place.head_done.touch()

    def _open_all(self, opened: queue.Queue[int | None], failed: list[BaseException]) -> None:
        try:
            for cohort in itertools.count():
                if cohort in self._state.finished:
                    continue
                begun = (cohort, 0) in self._state.intents or self._state.topups_of(cohort)
                if self._place.stop.exists() and not begun:
                    break
                self._open(cohort)
                opened.put(cohort)
        except BaseException as error:  # the edge of a thread: the main one raises it
            failed.append(error)
        opened.put(None)

    def _open(self, cohort: int) -> None:
        self._topups.before(cohort)
        self._each(lambda index: self._lease(cohort, index), range(self._options.cohort_sessions))

    def _lease(self, cohort: int, index: int) -> None:
        """Quote and lease until a lease stands; the newest request of a killed head comes first."""
        place = (cohort, index)
        if place in self._state.leased:
            return
        pending = self._state.intents.get(place)
        for _ in range(ATTEMPTS_MAX):
            plan = plan_of(self._options, cohort, index, pending["a"] if pending else 0)
            if pending is None or pending.get("q") is None:
                pending = self._quote(plan)
                if pending is None:
                    time.sleep(0.1)
                    continue
            if self._ask_lease(plan, pending):
                return
            # a quote that is gone was not accepted: another session takes the place
            pending = {"a": plan.attempt + 1, "q": None}
        raise RuntimeError(f"no lease for session {cohort}:{index} in {ATTEMPTS_MAX} attempts")

    def _quote(self, plan: SessionPlan) -> Line | None:
        """A quote, kept as an intent; None where none is given just now."""
        body = {
            "model": MODEL, "prompt_tokens": self._options.prompt_tokens,
            "max_tokens": self._options.max_tokens,
        }  # fmt: skip
        buyer = self._options.buyers[plan.buyer]
        answer = self._client().send("POST", "/v1/quotes", body, api_key=buyer.api_key)
        if answer.code in QUOTE_GONE:
            return None
        _expect(answer.status == 200, "a quote", answer.data)
        reach("head.quoted")
        return self._note({
            "k": "intent", "c": plan.cohort, "i": plan.index, "a": plan.attempt,
            "q": answer.data["quote_id"], "n": answer.data["amount_nanos_max"],
        })  # fmt: skip

    def _ask_lease(self, plan: SessionPlan, intent: Line) -> bool:
        body = {
            "quote_id": intent["q"],
            "session_id": plan.session_id.hex(),
            "payer_key": plan.payer.peer_id.public_key.hex(),
            "head": str(plan.payer.peer_id),
        }
        buyer = self._options.buyers[plan.buyer]
        for _ in range(ATTEMPTS_MAX):
            answer = self._client().send("POST", "/v1/leases", body, api_key=buyer.api_key)
            if answer.code == "conflict":
                time.sleep(0.05)  # an earlier try of ours is being committed at this moment
                continue
            if answer.code in QUOTE_GONE:
                return False
            if answer.status == 402:
                self._topups.again(plan.cohort, plan.buyer)
                continue
            _expect(answer.status == 200, "a lease", answer.data)
            reach("head.leased")
            self._note({
                "k": "leased", "c": plan.cohort, "i": plan.index, "a": plan.attempt,
                "h": answer.data["hold_id"], "n": answer.data["amount_nanos"],
                "l": [_lease_id(text, hop) for hop, text in enumerate(answer.data["leases"])],
            })  # fmt: skip
            return True
        raise RuntimeError(f"session {plan.session_id.hex()} is refused again and again")

    def _sign(self, cohort: int) -> None:
        """Lay the batches of every window, for every provider."""
        options = self._options
        sessions = [self._state.leased[cohort, i] for i in range(options.cohort_sessions)]
        plans = [plan_of(options, cohort, s.index, s.attempt) for s in sessions]
        for sequence in range(self._state.laid.get(cohort, 0) + 1, options.receipts_per_lease + 1):
            for hop in range(options.hops):
                folder = self._place.spool(hop)
                while len(outstanding(folder)) >= BATCHES_AHEAD:
                    time.sleep(0.02)
                slips = [
                    _slip(options, plan, session, hop, sequence)
                    for plan, session in zip(plans, sessions, strict=True)
                ]
                lay(folder, batch_name(cohort, sequence), slips)
            reach("head.laid")
            self._note({"k": "laid", "c": cohort, "n": sequence})

    def _close(self, cohort: int) -> None:
        self._each(lambda index: self._close_one(cohort, index),
                   range(self._options.cohort_sessions))  # fmt: skip
        self._note({"k": "cohort", "c": cohort})

    def _close_one(self, cohort: int, index: int) -> None:
        if (cohort, index) in self._state.closed:
            return
        leased = self._state.leased[cohort, index]
        plan = plan_of(self._options, cohort, index, leased.attempt)
        path = f"/v1/sessions/{plan.session_id.hex()}/close"
        buyer = self._options.buyers[plan.buyer]
        answer = self._client().send("POST", path, api_key=buyer.api_key)
        _expect(answer.status == 202, "the session's end", answer.data)
        reach("head.closed")
        self._note({"k": "closed", "c": cohort, "i": index})

    def _each(self, do: Callable[[int], None], indexes: Iterable[int]) -> None:
        for _ in self._pool.map(do, indexes):
            pass

    def _note(self, line: Line) -> Line:
        self._journal.write(line)
        self._state.note(line)
        return line

    def _client(self) -> Client:
        if not hasattr(self._threads, "client"):
            self._threads.client = Client(self._options.markets)
        client: Client = self._threads.client
        return client


def _slip(options: Options, plan: SessionPlan, leased: Leased, hop: int, sequence: int) -> Slip:
    lease_id = bytes.fromhex(leased.lease_ids[hop])
    return Slip(lease_id, receipts_of(options, plan, lease_id, hop, sequence))


def _lease_id(text: str, hop: int) -> str:
    """The id of the lease of this hop."""
    payload = Envelope.decode(base64.b64decode(text)).payload
    lease = decode_fields(Lease, decode_canonical(payload))
    _expect(lease.hop_index == hop, "leases in the order of the route", lease.hop_index)
    return lease.lease_id.hex()


def _expect(holds: bool, what: str, found: Any) -> None:
    if not holds:
        raise RuntimeError(f"expected {what}, got {found}")


def main(arguments: list[str]) -> None:
    """Until the cohorts are finished and the stop file is there."""
    _Head(Place(Path(arguments[0]))).run()


if __name__ == "__main__":
    main(sys.argv[1:])
