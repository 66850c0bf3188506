"""HTTP as a buyer or a provider speaks it to a marketplace that dies again and again.

A request is sent until it is answered: to the next marketplace where there are several, with a new
signature and nonce each time, and always with the same content, for the ids in it are the sender's.
"""

import http.client
import json
import random
import time
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

from protocol.identity import KeyPair
from protocol.request import sign_request

__all__ = ["Answer", "Client", "GaveUp"]

TIMEOUT_S = 20.0
"""A batch of 1 000 receipts takes under a second; a commit may wait for a checkpoint."""
GIVE_UP_S = 120.0
"""No restart takes so long: then something is broken, and the run must say so."""
WAIT_S = 0.05


class GaveUp(Exception):
    """A request was not answered in GIVE_UP_S, whatever was tried."""


@dataclass(frozen=True, slots=True)
class Answer:
    """A whole answer. `tries`: how often the request went out."""

    status: int
    data: Any
    tries: int

    @property
    def code(self) -> str:
        """Of an error."""
        error = self.data.get("error", {}) if isinstance(self.data, dict) else {}
        return str(error.get("code", ""))


class Client:
    """One connection at a time; not to be shared between threads."""

    def __init__(self, markets: tuple[str, ...]) -> None:
        self._hosts = [urlsplit(url).netloc for url in markets]
        self._at = random.randrange(len(markets))
        self._connection: http.client.HTTPConnection | None = None
        self.failures = 0
        """Requests that broke off, or were answered with a 5xx."""
        self.mistakes = 0
        """Of these, answers that name a mistake of the marketplace's own (500)."""

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """The connection; the next request opens another."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def send(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        api_key: str = "",
        key: KeyPair | None = None,
        raw: bytes | None = None,
    ) -> Answer:
        """Send until there is an answer below 500; raises GaveUp."""
        data = raw if raw is not None else b"" if body is None else json.dumps(body).encode()
        give_up_at, tries = time.monotonic() + GIVE_UP_S, 0
        while True:
            tries += 1
            headers = {"content-type": "application/json"} if raw is None and data else {}
            if api_key:
                headers["authorization"] = f"Bearer {api_key}"
            if key is not None:
                headers |= sign_request(key, method, path, data, now_s=time.time())
            answer = self._once(method, path, data, headers, tries)
            if answer is not None and answer.status < 500 and answer.status != 429:
                return answer
            self.failures += 1
            self.mistakes += answer is not None and answer.status == 500
            if time.monotonic() > give_up_at:
                raise GaveUp(f"{method} {path}: {answer}")
            self._leave()
            time.sleep(WAIT_S)

    def answers(self, path: str) -> bool:
        """One try: whether there is an answer of 200."""
        answer = self._once("GET", path, b"", {}, 1)
        self.close()
        return answer is not None and answer.status == 200

    def each(self, method: str, path: str, body: Any, *, key: KeyPair) -> list[Answer]:
        """The same request to every marketplace, each until it answers."""
        answers = []
        for host in self._hosts:
            with Client((f"http://{host}",)) as one:
                answers.append(one.send(method, path, body, key=key))
        return answers

    def _once(
        self, method: str, path: str, data: bytes, headers: dict[str, str], tries: int
    ) -> Answer | None:
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection(
                    self._hosts[self._at], timeout=TIMEOUT_S
                )
            self._connection.request(method, path, data, headers)
            response = self._connection.getresponse()
            text = response.read()
            return Answer(response.status, json.loads(text) if text else None, tries)
        except (OSError, http.client.HTTPException, ValueError):
            return None

    def _leave(self) -> None:
        """Try the next one."""
        self.close()
        self._at = (self._at + 1) % len(self._hosts)
