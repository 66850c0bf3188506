"""One run's directory: what every process of it must know, and where each keeps its files."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from protocol.identity import KeyPair
from protocol.money import Rates

__all__ = [
    "HIDDEN_SIZE",
    "LAYERS_PER_HOP",
    "MODEL",
    "RATES",
    "Buyer",
    "Options",
    "Place",
    "PoolOptions",
]

MODEL = "kills"
LAYERS_PER_HOP = 4
HIDDEN_SIZE = 1024
RATES = Rates(31_000_007, 93_000_011, 100_003)
"""Odd on purpose, so that every amount is rounded."""


@dataclass(frozen=True, slots=True)
class Buyer:
    """An account that buys; `api_key` is its first key."""

    account_id: str
    api_key: str


@dataclass(frozen=True, slots=True)
class Options:
    """What the load processes are told; written once before they start."""

    seed: int
    markets: tuple[str, ...]
    """Base URLs; any of them takes any request."""
    market_peer: str
    hops: int
    """Providers, and hops of every session."""
    loads: int
    """Processes that share the providers out."""
    cohort_sessions: int
    """Sessions opened together; the receipts of one provider for one window are one batch."""
    receipts_per_lease: int
    receipts: int
    """At least so many in all."""
    fee_basis_points: int
    topup_cents: int
    """Of each top-up: about what a buyer's sessions of one cohort may cost."""
    buyers: tuple[Buyer, ...]

    @property
    def prompt_tokens(self) -> int:
        return 32

    @property
    def window_tokens(self) -> int:
        """Tokens from one receipt to the next."""
        return 4

    @property
    def max_tokens(self) -> int:
        return self.window_tokens * self.receipts_per_lease

    @property
    def cohort_receipts(self) -> int:
        return self.cohort_sessions * self.receipts_per_lease * self.hops

    def provider_key(self, hop: int) -> KeyPair:
        """The node key of the provider of one hop."""
        return KeyPair(f"{self.seed}:provider:{hop}".encode().ljust(32, b".")[:32])

    def encode(self) -> str:
        return json.dumps(dataclasses.asdict(self))

    @classmethod
    def decode(cls, text: str) -> "Options":
        data = json.loads(text)
        buyers = tuple(Buyer(**buyer) for buyer in data.pop("buyers"))
        return cls(**data | {"markets": tuple(data["markets"]), "buyers": buyers})


@dataclass(frozen=True, slots=True)
class PoolOptions:
    """What the buyer at the real gateways is told."""

    seed: int
    model: str
    account_id: str
    api_key: str
    paid_in_nanos: int
    ports: tuple[int, ...]
    """Of the gateways' API."""
    passages: tuple[int, ...]
    """Ports that lead to the marketplaces: one for each gateway, the last for all providers."""
    nodes: tuple[str, ...]
    """Names of the providers."""
    window_tokens: int
    credit_windows: int

    @property
    def credit_tokens(self) -> int:
        """Rows a hop works ahead of its last receipt, before the step that it is in."""
        return self.window_tokens * self.credit_windows

    @classmethod
    def decode(cls, text: str) -> "PoolOptions":
        data = json.loads(text)
        return cls(**data | {name: tuple(data[name]) for name in ("ports", "passages", "nodes")})


class Place:
    """The directory of one run."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def market_home(self) -> Path:
        return self.root / "market"

    @property
    def head_journal(self) -> Path:
        return self.root / "head.journal"

    def load_journal(self, load: int) -> Path:
        return self.root / f"load-{load}.journal"

    def progress(self, load: int) -> Path:
        """Eight bytes: how many receipts of this load process were acknowledged."""
        return self.root / f"load-{load}.progress"

    def spool(self, hop: int) -> Path:
        """Where the head lays the receipts for one provider."""
        return self.root / "spool" / f"hop-{hop}"

    @property
    def stop(self) -> Path:
        """While it is there, no new cohort is opened."""
        return self.root / "stop"

    @property
    def head_done(self) -> Path:
        """The head has nothing more to say."""
        return self.root / "head.done"

    @property
    def payee_journal(self) -> Path:
        return self.root / "payee.journal"

    @property
    def payees_path(self) -> Path:
        """Accounts that ask for payouts."""
        return self.root / "payees.json"

    @property
    def pages(self) -> Path:
        """A file for each of the processor's pages that a buyer was shown, by its id."""
        return self.root / "pages"

    @property
    def stripe_fund(self) -> Path:
        """Cents that the processor is to have available."""
        return self.root / "stripe.fund"

    @property
    def stripe_faulty(self) -> Path:
        """From when it is there, the processor loses replies."""
        return self.root / "stripe.faulty"

    @property
    def stripe_wanted(self) -> Path:
        """While it is there, the processor's book is asked for."""
        return self.root / "stripe.wanted"

    @property
    def stripe_book(self) -> Path:
        """The processor's transfers, as it last told them."""
        return self.root / "stripe.json"

    @property
    def pool_path(self) -> Path:
        """What is known of the real pool; not there where there is none."""
        return self.root / "pool.json"

    def pool(self) -> PoolOptions:
        return PoolOptions.decode(self.pool_path.read_text())

    @property
    def pool_ready(self) -> Path:
        """From when it is there, the gateways are asked."""
        return self.root / "pool.ready"

    def node_home(self, name: str) -> Path:
        return self.root / name

    def gateway_life(self, gateway: int) -> Path:
        """Who the gateway is at the moment, and at which point it is to die."""
        return self.root / f"gateway-{gateway}.life"

    def gateway_begun(self, gateway: int) -> Path:
        """Process id of the life that has opened a session."""
        return self.root / f"gateway-{gateway}.begun"

    @property
    def asker_journal(self) -> Path:
        return self.root / "asker.journal"

    @property
    def hops_journal(self) -> Path:
        """What the providers say that they have carried."""
        return self.root / "hops.journal"

    @property
    def asker_done(self) -> Path:
        """Every gateway has given its last answer."""
        return self.root / "asker.done"

    @property
    def options_path(self) -> Path:
        return self.root / "options.json"

    def options(self) -> Options:
        return Options.decode(self.options_path.read_text())

    def acknowledged(self, loads: int) -> int:
        """Receipts acknowledged so far, over all load processes."""
        total = 0
        for load in range(loads):
            path = self.progress(load)
            if path.exists():
                total += int.from_bytes(path.read_bytes()[:8], "big")
        return total
