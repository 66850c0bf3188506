"""A buyer at the real gateways: asks for answers, and writes down what it was told.

    python -m benchmarks.ledger_kills.asker DIRECTORY

It is never killed, and it holds the gateways' and the providers' way to the marketplaces
(`passage.py`). A question that was not answered whole is asked again, at the next gateway. At the
end every gateway must answer once more.
"""

import contextlib
import http.client
import itertools
import json
import random
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks.ledger_kills.hops import HopWatch
from benchmarks.ledger_kills.journal import Journal, Line
from benchmarks.ledger_kills.moments import Moments
from benchmarks.ledger_kills.passage import Passage
from benchmarks.ledger_kills.place import Place, PoolOptions

__all__ = ["ATTEMPTS_MAX", "main"]

PACE_S = 1.0
"""From an answer to the next question: the pool is to take a small share of the machine."""
AGAIN_S = 0.5
ATTEMPTS_MAX = 1200
"""Ten minutes: a gateway that was killed is back after seconds, on a crowded machine after two."""
TIMEOUT_S = 90.0
"""Without a word, not even a keep-alive comment."""
QUESTIONS = (
    "What is a relay?",
    "Tell me a short story about a lighthouse.",
    "Why does a provider sign receipts?",
    "Who pays for an answer?",
    "What is a window of tokens?",
)
SESSION = "x-piecework-session"


class _Asker:
    def __init__(self, place: Place, pool: PoolOptions, moments: Moments) -> None:
        self._place = place
        self._pool = pool
        self._moments = moments
        self._journal = Journal(place.asker_journal)
        self._rng = random.Random(pool.seed)
        self._turn = 0

    def run(self) -> None:
        """Until the stop file is there; then one answer of each gateway."""
        questions = itertools.count()
        for number in questions:
            if self._place.stop.exists():
                break
            self._ask(number, range(len(self._pool.ports)))
            time.sleep(PACE_S)
        for gateway in range(len(self._pool.ports)):
            self._ask(next(questions), [gateway], last=True)
        self._place.asker_done.touch()

    def _ask(self, number: int, gateways: range | list[int], *, last: bool = False) -> None:
        """One question, until it is answered whole or was asked often enough. `last`: nothing is
        killed any more, so it has to be answered."""
        body = self._body(number)
        refused: dict[str, int] = {}
        for attempt in range(ATTEMPTS_MAX):
            self._turn += 1
            gateway = gateways[self._turn % len(gateways)]
            told: Line = {"k": "told", "q": number, "a": attempt, "g": gateway}
            try:
                why = self._try(gateway, body, told)
            except (OSError, http.client.HTTPException, ValueError) as error:
                why = type(error).__name__
            if "s" in told:
                self._journal.write(told | ({"why": why} if why else {}))
            elif why:
                refused[why] = refused.get(why, 0) + 1
            if not why:
                self._moments.reach(gateway, "gateway.answered")
                break
            time.sleep(AGAIN_S)
        ended = {"k": "question", "q": number, "ok": not why, "refused": refused, "last": last}
        self._journal.write(ended)

    def _body(self, number: int) -> dict[str, Any]:
        question = self._rng.choice(QUESTIONS)
        body: dict[str, Any] = {
            "model": self._pool.model,
            # each its own, so that none is answered from what hops have kept
            "messages": [{"role": "user", "content": f"{number}. {question}"}],
            "temperature": 0.8, "seed": number, "stream": number % 4 != 3,
        }  # fmt: skip
        if body["stream"]:
            body["stream_options"] = {"include_usage": True}
        if number % 3:
            body["max_tokens"] = self._rng.randint(4, 40)
        # else it is paid for by instalments, up to as much as the gateway would give
        return body

    def _try(self, gateway: int, body: dict[str, Any], told: Line) -> str:
        """Ask once. Fills `told` as the answer comes; empty when it was whole, else why not."""
        connection = http.client.HTTPConnection(
            "127.0.0.1", self._pool.ports[gateway], timeout=TIMEOUT_S
        )
        with contextlib.closing(connection):
            headers = {
                "content-type": "application/json",
                "authorization": f"Bearer {self._pool.api_key}",
            }
            connection.request("POST", "/v1/chat/completions", json.dumps(body), headers)
            response = connection.getresponse()
            if response.status != 200:
                return f"status {response.status}"
            told["s"] = response.getheader(SESSION)
            told["n"] = 0
            self._journal.write({"k": "session", "s": told["s"], "g": gateway, "q": told["q"]})
            self._moments.begun(gateway)
            self._moments.reach(gateway, "gateway.opened")
            if not body["stream"]:
                _note(told, json.loads(response.read()))
                return ""
            return self._read(gateway, response, told)

    def _read(self, gateway: int, response: http.client.HTTPResponse, told: Line) -> str:
        for data in _events(response):
            if data == "[DONE]":
                response.read()  # to its very end: who leaves before it has given the answer up
                return "" if "u" in told else "no usage"
            chunk = json.loads(data)
            if "error" in chunk:
                return f"error {chunk['error'].get('code')}"
            _note(told, chunk)
            if any(choice["delta"].get("content") for choice in chunk["choices"]):
                told["n"] += 1
                first = told["n"] == 1
                self._moments.reach(gateway, "gateway.first_token" if first else "gateway.token")
        return "the stream ended early"


def _note(told: Line, said: dict[str, Any]) -> None:
    """What an object of the answer says of its money: prompt, cached and completion tokens."""
    if usage := said.get("usage"):
        cached = usage["prompt_tokens_details"]["cached_tokens"]
        told["u"] = [usage["prompt_tokens"], cached, usage["completion_tokens"]]
    for choice in said["choices"]:
        if choice.get("finish_reason"):
            told["f"] = choice["finish_reason"]


def _events(response: http.client.HTTPResponse) -> Iterator[str]:
    for line in response:
        if line.startswith(b"data: "):
            yield line[6:].strip().decode()


def main(arguments: list[str]) -> None:
    """Until SIGTERM: the passages are needed as long as a node lives."""
    place = Place(Path(arguments[0]))
    pool, options, moments = place.pool(), place.options(), Moments(place)
    HopWatch(place, pool.nodes).start()
    for number, port in enumerate(pool.passages):
        Passage(
            port, options.markets, moments, number if number < len(pool.ports) else None
        ).start()
    stopping = threading.Event()

    def stop(_: int, __: FrameType | None) -> None:
        stopping.set()

    signal.signal(signal.SIGTERM, stop)
    failed: list[BaseException] = []

    def ask() -> None:
        try:
            while not place.pool_ready.exists():
                time.sleep(0.1)
            _Asker(place, pool, moments).run()
        except BaseException as error:  # the edge of a thread: the main one raises it
            failed.append(error)

    threading.Thread(target=ask, daemon=True).start()
    while not stopping.wait(0.2):
        if failed:
            raise failed[0]


if __name__ == "__main__":
    main(sys.argv[1:])
