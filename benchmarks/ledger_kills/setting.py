"""Before anything is killed: the model, the buyers' accounts and the first offers are there."""

import hashlib

from benchmarks.ledger_kills.client import Client
from benchmarks.ledger_kills.place import HIDDEN_SIZE, LAYERS_PER_HOP, MODEL, Buyer, Options
from protocol.identity import KeyPair
from protocol.model import ModelManifest

__all__ = ["make_buyers", "manifest_of", "register"]


def manifest_of(options: Options) -> ModelManifest:
    """A model with nothing in it, of as many layers as there are providers for."""
    return ModelManifest(
        name=MODEL,
        family="llama",
        layers=options.hops * LAYERS_PER_HOP,
        hidden_size=HIDDEN_SIZE,
        vocabulary_size=1000,
        context_tokens=options.prompt_tokens + options.max_tokens,
        dtype="bf16",
        licence="apache-2.0",
        resale_allowed=True,
        config_sha256=hashlib.sha256(MODEL.encode()).digest(),
        tokenizer_sha256=bytes(32),
        tensors=(),
    )


def register(options: Options) -> None:
    """Put the model into the catalogue."""
    model = manifest_of(options)
    path = f"/v1/manifests/{model.manifest_hash.hex()}"
    with Client(options.markets) as client:
        answer = client.send("PUT", path, raw=model.encode(), key=KeyPair.generate())
    if answer.status != 204:
        raise RuntimeError(f"the model was refused: {answer.data}")


def make_buyers(markets: tuple[str, ...], count: int) -> tuple[Buyer, ...]:
    """Accounts with a key each."""
    buyers = []
    with Client(markets) as client:
        for number in range(count):
            answer = client.send("POST", "/v1/accounts", {"name": f"buyer {number}"})
            if answer.status != 201:
                raise RuntimeError(f"no account was made: {answer.data}")
            buyers.append(Buyer(answer.data["account_id"], answer.data["api_key"]))
    return tuple(buyers)
