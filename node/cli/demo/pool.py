"""A whole pool on this machine: marketplace, providers, gateway, and a buyer with money."""

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from node.app.shard import LoadedModel, load_model
from node.cli.demo.processes import Children, free_ports
from node.config import Home
from node.engine.backends import available_backends, choose_backend
from node.engine.base import ComputeDtype
from node.errors import ConfigInvalid, MarketUnreachable
from node.hardware import memory_for_layers
from node.market_client import MarketClient
from protocol.identity import KeyPair
from protocol.money import NANOS_PER_USD
from protocol.tensor import WireDtype

__all__ = ["DemoOptions", "DemoPool", "start_pool"]

MARKET_TIMEOUT_S = 60.0
NODE_TIMEOUT_S = 180.0
"""A cold start imports torch from disk, three times over on two cores."""
KV_TOKENS = 4096
USUAL_PORTS = (8471, 8470)
"""Marketplace and gateway where the guides expect them, for a pool that is kept."""
TOP_UP_NANOS = 5 * NANOS_PER_USD


@dataclass(frozen=True, slots=True)
class DemoOptions:
    """What `piecework demo` was told."""

    nodes: int
    model: str
    prompt: str
    engines: str
    exact: bool
    keep: bool = False
    wire_dtype: WireDtype | None = None
    """None: fp32 where `exact`, else bf16."""
    provider_options: tuple[str, ...] = ()
    gateway_options: tuple[str, ...] = ()
    """Further arguments of their commands."""


@dataclass(frozen=True, slots=True)
class DemoPool:
    """What is running, and how to reach it."""

    market_url: str
    base_url: str
    api_key: str
    model: str
    provider_homes: tuple[Path, ...]


async def start_pool(
    options: DemoOptions, directory: Path, children: Children, note: Callable[[str], None]
) -> DemoPool:
    """Start everything, each by its own command; ready for requests when it returns."""
    model = load_model(options.model, Home(directory / "demo"))
    shares = _shares(model.manifest.layers, options.nodes)
    backends = _backends(options)
    market_port, api_port = free_ports(*(USUAL_PORTS if options.keep else (0, 0)))
    market_url = f"http://127.0.0.1:{market_port}"
    note("starting the marketplace")
    await children.start(
        "market", "piecework-market", "--home", str(directory / "market"),
        "--port", str(market_port), "--settlement-window-s", "1",
    )  # fmt: skip
    await children.wait_until(
        "market", lambda _: _answers(market_url), "answer", timeout_s=MARKET_TIMEOUT_S
    )
    homes = tuple(directory / f"provider-{index}" for index in range(options.nodes))
    dtype = ComputeDtype.FP32 if options.exact else ComputeDtype.BF16
    wire_dtype = options.wire_dtype or (WireDtype.FP32 if options.exact else WireDtype.BF16)
    for index, (share, backend, home) in enumerate(zip(shares, backends, homes, strict=True)):
        note(f"provider {index + 1} of {options.nodes} joins")
        await _start_provider(children, index, market_url, options, model, share, backend, home)
    note("starting the gateway")
    await children.start(
        "gateway", "piecework", "gateway", "--market", market_url, "--model", options.model,
        "--port", str(api_port), "--home", str(directory / "gateway"), "--listen", "127.0.0.1",
        "--compute", dtype, "--wire", wire_dtype, *options.gateway_options,
    )  # fmt: skip
    note("loading the spans")
    for index, home in enumerate(homes):
        path = Home(home).status_path
        await _wait_file(children, f"provider-{index}", path)
    await _wait_file(children, "gateway", Home(directory / "gateway").status_path)
    note("a buyer opens an account and tops up")
    api_key = await _make_buyer(market_url)
    return DemoPool(
        market_url, f"http://127.0.0.1:{api_port}/v1", api_key, model.manifest.name, homes
    )


async def _start_provider(
    children: Children,
    index: int,
    market_url: str,
    options: DemoOptions,
    model: LoadedModel,
    share: int,
    backend: str,
    home: Path,
) -> None:
    """Start one provider with memory for `share` layers, and wait until it knows its span."""
    dtype = ComputeDtype.FP32 if options.exact else ComputeDtype.BF16
    largest = sorted(model.layer_sizes, reverse=True)[:share]
    memory = memory_for_layers(
        largest, stored_element_bytes=model.stored_element_bytes, dtype=dtype,
        kv_bytes=model.kv_bytes_per_token_layer(dtype), kv_tokens=KV_TOKENS,
    )  # fmt: skip
    name = f"provider-{index}"
    await children.start(
        name, "piecework", "join", "--market", market_url, "--model", options.model,
        "--memory", f"{-(-memory // 1024)}K", "--home", str(home), "--backend", backend,
        "--kv-tokens", str(KV_TOKENS), "--listen", "127.0.0.1", "--threads", "1",
        "--compute", dtype, *options.provider_options,
    )  # fmt: skip
    await children.wait_until(name, _knows_span, "span", timeout_s=NODE_TIMEOUT_S)


async def _wait_file(children: Children, name: str, path: Path) -> None:
    async def exists(_: str) -> bool:
        return path.exists()  # noqa: ASYNC240 - a stat of a local file

    await children.wait_until(name, exists, "status", timeout_s=NODE_TIMEOUT_S)


async def _knows_span(log: str) -> bool:
    return "loads layers" in log


async def _answers(market_url: str) -> bool:
    try:
        async with MarketClient(market_url, KeyPair.generate()) as client:
            await client.terms()
    except MarketUnreachable:
        return False
    return True


async def _make_buyer(market_url: str) -> str:
    """A new account with five dollars from the test processor; its API key."""
    async with MarketClient(market_url, KeyPair.generate()) as client:
        account = await client.create_account("demo buyer")
        api_key: str = account["api_key"]
        topup_id = secrets.token_hex(16)
        await client.top_up(topup_id, TOP_UP_NANOS, api_key)
        await client.complete_test_checkout(topup_id)
    return api_key


def _shares(layers: int, nodes: int) -> list[int]:
    """Layers as evenly as they go, the larger shares first."""
    if nodes > layers:
        raise ConfigInvalid(
            f"The model has {layers} layers, too few for {nodes} providers.",
            hint="Choose fewer with --nodes.",
        )
    return [layers // nodes + (index < layers % nodes) for index in range(nodes)]


def _backends(options: DemoOptions) -> list[str]:
    """`auto`: torch everywhere, but the second provider runs MLX where that is installed."""
    if options.engines != "auto":
        return [choose_backend(options.engines)] * options.nodes
    backends = [choose_backend()] * options.nodes
    if options.nodes > 1 and "mlx" in available_backends():
        backends[1] = "mlx"
    return backends
