"""A real pool beside the stand-ins: providers and gateways by the commands a person would type,
with the model that comes in the package, and one buyer who asks for answers all along.

The providers are never killed, so that the session of a dead gateway has its receipts all the same.
"""

import dataclasses
import hashlib
import json
import sys
import time
from typing import Any

from benchmarks.ledger_kills.client import Client
from benchmarks.ledger_kills.moments import Gateway
from benchmarks.ledger_kills.place import RATES, Options, Place, PoolOptions
from benchmarks.ledger_kills.processes import Program, console_script
from protocol.money import NANOS_PER_USD

__all__ = ["CREDIT_WINDOWS", "WINDOW_TOKENS", "Pool"]

MODEL = "piecework/tiny"
LAYERS = 8
NODES = 2
WINDOW_TOKENS, CREDIT_WINDOWS = 4, 2
"""Short, so that an answer of ten tokens has receipts on its way."""
INSTALMENT_TOKENS = 16
KV_TOKENS = 4096
PAID_IN_NANOS = 20 * NANOS_PER_USD
"""Far more than is asked for: money set aside for a dead gateway comes back after minutes."""
READY_S = 240.0
"""A cold start imports torch from disk, several times over on two busy cores."""
READY_WORDS = "gateway ready"


@dataclasses.dataclass(slots=True)
class Pool:
    """The asker with its passages, the providers, and the gateways that are killed."""

    place: Place
    options: PoolOptions
    asker: Program
    nodes: list[Program]
    gateways: list[Gateway]

    @classmethod
    def make(cls, place: Place, options: Options, count: int, ports: tuple[int, ...]) -> "Pool":
        """`count` gateways; `ports`: 2 `count` + 1, for their APIs and for all the passages."""
        account = _buyer(options, place)
        pool = PoolOptions(
            seed=options.seed, model=MODEL, ports=ports[:count], passages=ports[count:],
            nodes=tuple(f"node-{number}" for number in range(NODES)),
            window_tokens=WINDOW_TOKENS, credit_windows=CREDIT_WINDOWS, **account,
        )  # fmt: skip
        place.pool_path.write_text(json.dumps(dataclasses.asdict(pool)))
        return cls(
            place, pool, _asker(place), [_node(place, pool, n) for n in range(NODES)],
            [_gateway(place, pool, n) for n in range(count)],
        )  # fmt: skip

    @property
    def outside(self) -> list[Program]:
        return [self.asker, *self.nodes]

    def start(self) -> None:
        """Ready for questions when it returns."""
        self.asker.start()
        for node in self.nodes:
            node.start()
            # one after the other, for the second to register a new model at once is turned away
            self._wait([node], "loads layers")
        self._wait(self.nodes, "serving layers")
        for gateway in self.gateways:
            gateway.start()
        self._wait(self.gateways, READY_WORDS)
        self.place.pool_ready.touch()

    def _wait(self, programs: list[Program] | list[Gateway], words: str) -> None:
        give_up_at = time.monotonic() + READY_S
        for program in programs:
            while words not in program.said():
                if program.code is not None or time.monotonic() > give_up_at:
                    raise RuntimeError(f"{program.name} did not start:\n{program.tail()}")
                time.sleep(0.1)


def _buyer(options: Options, place: Place) -> dict[str, Any]:
    """An account that has paid in."""
    topup_id = hashlib.blake2b(f"{options.seed}:pool".encode(), digest_size=16).hexdigest()
    with Client(options.markets) as client:
        made = client.send("POST", "/v1/accounts", {"name": "the pool's buyer"}).data
        api_key = made["api_key"]
        body = {"topup_id": topup_id, "amount_nanos": PAID_IN_NANOS}
        topup = client.send("POST", "/v1/topups", body, api_key=api_key)
        if topup.status != 200:
            raise RuntimeError(f"the pool's buyer could not pay in: {topup.data}")
        (place.pages / topup.data["checkout_url"].rpartition("/")[2]).touch()
        give_up_at = time.monotonic() + READY_S
        while True:
            client.send("POST", f"/v1/topups/{topup_id}/refresh", api_key=api_key)
            seen = client.send("GET", f"/v1/topups/{topup_id}", api_key=api_key)
            if seen.status == 200 and seen.data["status"] == "paid":
                break
            if time.monotonic() > give_up_at:
                raise RuntimeError(f"the pool's buyer was not credited: {seen.data}")
            time.sleep(0.2)
    return {
        "account_id": made["account_id"], "api_key": api_key, "paid_in_nanos": PAID_IN_NANOS,
    }  # fmt: skip


def _asker(place: Place) -> Program:
    command = [sys.executable, "-m", "benchmarks.ledger_kills.asker", str(place.root)]
    return Program("asker", "outside", command, place.root / "logs", {})


def _node(place: Place, pool: PoolOptions, number: int) -> Program:
    name, each = pool.nodes[number], LAYERS // NODES
    command = [
        console_script("piecework"), "join", "--market", _url(pool.passages[-1]), "--model", MODEL,
        "--span", f"{number * each}:{(number + 1) * each}", "--memory", "1G",
        "--home", str(place.node_home(name)), "--backend", "torch", "--device", "cpu",
        "--compute", "fp32", "--threads", "1", "--kv-tokens", str(KV_TOKENS),
        "--prefill-rate", str(RATES.prefill_nanos_per_million_token_layers),
        "--decode-rate", str(RATES.decode_nanos_per_million_token_layers),
        "--activation-rate", str(RATES.activation_nanos_per_mib),
        "--listen", "127.0.0.1", "--no-map-port", "--no-login",
    ]  # fmt: skip
    return Program(name, "outside", command, place.root / "logs", {})


def _gateway(place: Place, pool: PoolOptions, number: int) -> Gateway:
    name = f"gateway-{number}"
    command = [
        console_script("piecework"), "gateway", "--market", _url(pool.passages[number]),
        "--model", MODEL, "--port", str(pool.ports[number]),
        "--home", str(place.node_home(name)), "--backend", "torch", "--device", "cpu",
        "--compute", "fp32", "--wire", "fp32", "--threads", "1",
        "--instalment-tokens", str(INSTALMENT_TOKENS), "--listen", "127.0.0.1",
    ]  # fmt: skip
    made = Gateway(name, "gateway", command, place.root / "logs", {})
    made.number, made.place = number, place
    return made


def _url(port: int) -> str:
    return f"http://127.0.0.1:{port}"
