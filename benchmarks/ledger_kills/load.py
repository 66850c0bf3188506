"""Providers without models: they countersign the receipts they are given, and hand them in.

    python -m benchmarks.ledger_kills.load DIRECTORY NUMBER

A batch is in the journal before it is sent, and again with its leaf indexes once it is
acknowledged. What is not acknowledged is sent until it is. Some batches are sent once more on
purpose: they must come back as duplicates, with the leaf indexes they had.
"""

import base64
import hashlib
import os
import random
import sys
import threading
import time
from pathlib import Path
from typing import Any

from benchmarks.ledger_kills.client import Client
from benchmarks.ledger_kills.journal import Journal, Line, read_journal
from benchmarks.ledger_kills.place import LAYERS_PER_HOP, MODEL, RATES, Options, Place
from benchmarks.ledger_kills.setting import manifest_of
from benchmarks.ledger_kills.spool import Slip, outstanding, take
from ledger.failpoint import reach
from protocol.envelope import seal
from protocol.identity import KeyPair
from protocol.offer import OFFER_LIFETIME_MAX_S, Offer
from protocol.receipt import cosign
from protocol.route import Span

__all__ = ["DIGEST_BYTES", "digest_of", "main"]

DIGEST_BYTES = 8
"""Of each receipt, in the journal: enough to see a changed one, small enough for a million."""
REPLAYED_SHARE = 0.03
OFFERED_AGAIN_S = 60.0
IDLE_S = 0.02


def digest_of(cosigned: bytes) -> bytes:
    """How a journal names a receipt's bytes."""
    return hashlib.blake2b(cosigned, digest_size=DIGEST_BYTES).digest()


class _Load:
    """One process: some of the providers."""

    def __init__(self, place: Place, number: int) -> None:
        self.place = place
        self.options: Options = place.options()
        self.acknowledged: dict[str, Line] = {}
        path = place.load_journal(number)
        self._count = 0
        for line in read_journal(path):
            if line["k"] == "ack" and line["f"] not in self.acknowledged:
                self.acknowledged[line["f"]] = line
                self._count += len(line["x"])
        self.journal = Journal(path)
        self._lock = threading.Lock()
        self._progress = os.open(place.progress(number), os.O_RDWR | os.O_CREAT)
        self._tell()
        self.hops = range(number, self.options.hops, self.options.loads)

    def run(self) -> None:
        failed: list[BaseException] = []
        threads = [
            threading.Thread(target=self._serve, args=(hop, failed), daemon=True)
            for hop in self.hops
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            if failed:
                raise failed[0]
            time.sleep(0.1)
        if failed:
            raise failed[0]

    def acknowledge(self, line: Line) -> None:
        """Write it down and count it, the first time."""
        self.journal.write(line)
        with self._lock:
            if line["f"] not in self.acknowledged:
                self.acknowledged[line["f"]] = line
                self._count += len(line["x"])
                self._tell()

    def _tell(self) -> None:
        os.pwrite(self._progress, self._count.to_bytes(8, "big"), 0)

    def _serve(self, hop: int, failed: list[BaseException]) -> None:
        try:
            _Provider(self, hop).run()
        except BaseException as error:  # the edge of a thread: the main one raises it
            failed.append(error)


class _Provider:
    def __init__(self, load: _Load, hop: int) -> None:
        self._load = load
        self._hop = hop
        self._options = load.options
        self._key: KeyPair = load.options.provider_key(hop)
        self._folder = load.place.spool(hop)
        self._client = Client(load.options.markets)
        self._offered_at_s = 0.0
        self._rng = random.Random(os.getpid() * 1000 + hop)

    def run(self) -> None:
        while True:
            if time.monotonic() - self._offered_at_s > OFFERED_AGAIN_S:
                self._offer()
            done = self._load.place.head_done.exists()
            names = outstanding(self._folder)
            for name in names:
                self._hand_in(name)
            if not names:
                if done:
                    return
                time.sleep(IDLE_S)

    def _offer(self) -> None:
        """To every marketplace: each has an index of its own."""
        model = manifest_of(self._options)
        now_s = int(time.time())
        offer = Offer(
            provider=self._key.peer_id,
            # milliseconds, so that a provider that is killed at once offers anew
            sequence=time.time_ns() // 1_000_000,
            addresses=("/ip4/192.0.2.1/udp/4001/quic-v1",),
            model=MODEL,
            manifest_hash=model.manifest_hash,
            span=Span(self._hop * LAYERS_PER_HOP, (self._hop + 1) * LAYERS_PER_HOP),
            backend="none",
            compute_dtype="fp32",
            rates=RATES,
            sessions_max=10_000,
            kv_tokens=1_000_000,
            issued_at_s=now_s,
            expires_at_s=now_s + OFFER_LIFETIME_MAX_S,
        )
        body = {"offer": base64.b64encode(seal(offer, self._key).encode()).decode()}
        for answer in self._client.each("PUT", "/v1/offers", body, key=self._key):
            if answer.status != 200:
                raise RuntimeError(f"an offer was refused: {answer.data}")
        self._offered_at_s = time.monotonic()

    def _hand_in(self, name: str) -> None:
        slips = take(self._folder, name)
        cosigned = [cosign(slip.envelope, self._key).encode() for slip in slips]
        batch = f"{self._hop}/{name}"
        self._load.journal.write(_sent(batch, slips, cosigned))
        reach("load.sent")
        self._send(batch, cosigned)
        reach("load.acknowledged")
        if self._rng.random() < REPLAYED_SHARE:
            self._send(batch, cosigned)
        (self._folder / name).unlink(missing_ok=True)

    def _send(self, batch: str, cosigned: list[bytes]) -> None:
        body = {"receipts": [base64.b64encode(data).decode() for data in cosigned]}
        answer = self._client.send("POST", "/v1/receipts", body, key=self._key)
        if answer.status != 200:
            raise RuntimeError(f"a batch was refused: {answer.status} {answer.data}")
        self._load.acknowledge(_acknowledged(batch, answer.data["results"], self._client))


def _sent(batch: str, slips: list[Slip], cosigned: list[bytes]) -> Line:
    leases = base64.b64encode(b"".join(slip.lease_id for slip in slips)).decode()
    digests = base64.b64encode(b"".join(map(digest_of, cosigned))).decode()
    return {"k": "sent", "f": batch, "l": leases, "d": digests}


def _acknowledged(batch: str, results: list[dict[str, Any]], client: Client) -> Line:
    """Leaf indexes in the batch's order; -1 for what was not acknowledged, with the reasons."""
    line: Line = {
        "k": "ack", "f": batch, "x": [-1 if r["leaf_index"] is None else r["leaf_index"]
                                      for r in results],
        "t": int(time.time()), "e": client.failures, "m": client.mistakes,
    }  # fmt: skip
    refused = [r for r in results if r["status"] not in ("accepted", "duplicate")]
    if refused:
        line["r"] = refused[:5]
    return line


def main(arguments: list[str]) -> None:
    """Until the head is done and everything it laid is acknowledged."""
    _Load(Place(Path(arguments[0])), int(arguments[1])).run()


if __name__ == "__main__":
    main(sys.argv[1:])
