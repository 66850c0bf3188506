"""`piecework`: every command with its options. What a command does is in the module it imports."""

import sys
from typing import Annotated

import typer

from node.cli.account_commands import add_account_commands
from node.cli.annotations import (
    BackendOption,
    ComputeOption,
    DeviceOption,
    DraftOption,
    HomeOption,
    JsonOption,
    KeyOption,
    ListenOption,
    MarketOption,
    PortOption,
    RelayOption,
    ThreadsOption,
    WireOption,
)
from node.cli.ledger import ledger_app
from node.cli.models import models_app
from node.cli.provider_commands import add_provider_commands

__all__ = ["app", "main"]

app = typer.Typer(
    name="piecework",
    help="Run large language models in pieces, on machines at home, and be paid for the pieces.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(ledger_app, name="ledger")
app.add_typer(models_app, name="models")
add_provider_commands(app)
add_account_commands(app)


@app.command()
def up(
    model: Annotated[
        str, typer.Option(help="A directory, or org/name; the same on every machine.")
    ] = "piecework/tiny",
    name: Annotated[str, typer.Option(help="The cluster's name, the same on every machine.")] = (
        "home"
    ),
    key: Annotated[
        str,
        typer.Option(
            envvar="PIECEWORK_CLUSTER_KEY",
            help="The cluster's key; without one every machine of the network may join.",
        ),
    ] = "",
    machine: Annotated[str, typer.Option(help="This machine's name; else its host name.")] = "",
    memory: Annotated[
        str, typer.Option(help="How much memory to give, as 4G; 'auto': most of what is free.")
    ] = "auto",
    peer: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT of a machine that is not found by itself; again for more."),
    ] = None,
    port: Annotated[int, typer.Option(help="UDP port of the data socket; 0: a free one.")] = 0,
    listen: ListenOption = "::",
    api_port: Annotated[int, typer.Option(help="Port of the API; 0: a free one.")] = 8470,
    host: Annotated[
        str, typer.Option(help="Address of the API; 0.0.0.0 lets other machines use it, by token.")
    ] = "127.0.0.1",
    offline: Annotated[
        bool, typer.Option("--offline", help="Ask nobody outside, not even for the model.")
    ] = False,
    spread: Annotated[
        bool, typer.Option("--spread", help="Use every machine, also where fewer hold the model.")
    ] = False,
    mdns: Annotated[bool, typer.Option(help="Look for other machines of this network.")] = True,
    home: HomeOption = None,
    backend: BackendOption = "auto",
    device: DeviceOption = "auto",
    compute: ComputeOption = "bf16",
    wire: WireOption = "bf16",
    draft: DraftOption = "",
    threads: ThreadsOption = 0,
    kv_tokens: Annotated[int, typer.Option(min=256, help="Tokens held for all sessions.")] = 16_384,
    json_: Annotated[
        bool, typer.Option("--json", help="A JSON object on stdout with every change.")
    ] = False,
) -> None:
    """Run a model on the machines of this house, together. Ctrl-C drains and leaves."""
    from node.cli.up import UpOptions, go_up

    options = UpOptions(
        model=model, name=name, key=key, machine=machine, memory=memory, peers=tuple(peer or ()),
        listen=(listen, port), api=(host, api_port), offline=offline, spread=spread, discovers=mdns,
        home=home, engine=(backend, device, compute, threads), wire=wire, kv_tokens=kv_tokens,
        draft=draft,
    )  # fmt: skip
    go_up(options, as_json=json_)


@app.command()
def join(
    market: MarketOption,
    model: Annotated[str, typer.Option(help="A directory, or org/name.")] = "piecework/tiny",
    memory: Annotated[
        str, typer.Option(help="How much memory to give, as 4G; 'auto': most of what is free.")
    ] = "auto",
    span: Annotated[
        str, typer.Option(help="Layers START:END by hand; else the marketplace chooses.")
    ] = "",
    home: HomeOption = None,
    backend: BackendOption = "auto",
    device: DeviceOption = "auto",
    compute: ComputeOption = "bf16",
    threads: ThreadsOption = 0,
    kv_tokens: Annotated[int, typer.Option(min=256, help="Tokens held for all sessions.")] = 16_384,
    prefill_rate: Annotated[
        int, typer.Option(min=0, help="Nanos per million token-layers of prompt.")
    ] = 500_000,
    decode_rate: Annotated[
        int, typer.Option(min=0, help="Nanos per million token-layers of answer.")
    ] = 2_000_000,
    activation_rate: Annotated[int, typer.Option(min=0, help="Nanos per MiB sent on.")] = 5_000,
    listen: ListenOption = "::",
    listen_port: PortOption = 0,
    relay: RelayOption = None,
    map_port: Annotated[
        bool, typer.Option(help="Ask the home router to open the port (NAT-PMP, UPnP).")
    ] = True,
    share_weights: Annotated[
        bool, typer.Option("--share-weights", help="Let other nodes fetch this span's weights.")
    ] = False,
    login: Annotated[
        bool, typer.Option(help="At a terminal, ask whose the machine is; else earnings wait.")
    ] = True,
    country: Annotated[
        str, typer.Option(help="Where you are paid, as DE; else a terminal asks for it.")
    ] = "",
) -> None:
    """Join the pool: serve a span of layers and be paid for it. Ctrl-C drains and leaves."""
    from node.cli.join import join_pool

    join_pool(
        market=market, model=model, memory=memory, span=span, home=home,
        engine=(backend, device, compute, threads), kv_tokens=kv_tokens,
        rates=(prefill_rate, decode_rate, activation_rate), listen=(listen, listen_port),
        relays=tuple(relay or ()), maps_port=map_port, share_weights=share_weights, login=login,
        country=country,
    )  # fmt: skip


@app.command()
def gateway(
    market: MarketOption,
    model: Annotated[
        list[str] | None, typer.Option(help="A directory, or org/name; may be repeated.")
    ] = None,
    host: Annotated[str, typer.Option(help="Address of the API.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port of the API; 0: a free one.")] = 8470,
    home: HomeOption = None,
    backend: BackendOption = "auto",
    device: DeviceOption = "auto",
    compute: ComputeOption = "bf16",
    wire: WireOption = "bf16",
    draft: DraftOption = "",
    threads: ThreadsOption = 1,
    listen: ListenOption = "::",
    listen_port: PortOption = 0,
    relay: RelayOption = None,
    instalment_tokens: Annotated[
        int, typer.Option(min=16, help="Tokens of a long answer that are paid for at once.")
    ] = 256,
) -> None:
    """Sell the pool to any OpenAI client: HTTP in, sessions out. Ctrl-C drains and leaves."""
    from node.cli.gateway import serve_gateway

    serve_gateway(
        market=market, models=tuple(model or ("piecework/tiny",)), api=(host, port), home=home,
        engine=(backend, device, compute, threads), wire=wire, listen=(listen, listen_port),
        relays=tuple(relay or ()), draft=draft, instalment_tokens=instalment_tokens,
    )  # fmt: skip


@app.command()
def run(
    model: Annotated[str, typer.Argument(help="A directory, or org/name.")],
    prompt: Annotated[str, typer.Argument(help="What to ask; '-' reads standard input.")],
    market: Annotated[
        str, typer.Option(envvar="PIECEWORK_MARKET", help="Use the pool; else this machine alone.")
    ] = "",
    key: KeyOption = "",
    max_tokens: Annotated[int, typer.Option(min=1, help="Length of the answer.")] = 512,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 0.0,
    seed: Annotated[int, typer.Option(min=0)] = 0,
    home: HomeOption = None,
    backend: BackendOption = "auto",
    device: DeviceOption = "auto",
    compute: ComputeOption = "bf16",
    wire: WireOption = "bf16",
    draft: DraftOption = "",
    threads: ThreadsOption = 0,
    json_: JsonOption = False,
) -> None:
    """Ask once and print the answer as it comes: on this machine, or in the pool with --market."""
    from node.cli.account import stored_key
    from node.cli.run import run_once

    run_once(
        model=model, prompt=sys.stdin.read() if prompt == "-" else prompt, market=market,
        key=key or stored_key(home, market), max_tokens=max_tokens, temperature=temperature,
        seed=seed, home=home, engine=(backend, device, compute, threads), wire=wire, draft=draft,
        as_json=json_,
    )  # fmt: skip


@app.command()
def status(
    home: HomeOption = None,
    market: Annotated[
        str, typer.Option(envvar="PIECEWORK_MARKET", help="Show a marketplace's pool as well.")
    ] = "",
    json_: JsonOption = False,
) -> None:
    """What the node of this home is doing, and what the pool offers."""
    from node.cli.status import show_status

    show_status(home=home, market=market, as_json=json_)


@app.command()
def doctor(
    relay: RelayOption = None,
    market: Annotated[
        str, typer.Option(envvar="PIECEWORK_MARKET", help="Look at a marketplace as well.")
    ] = "",
    peer: Annotated[
        list[str] | None,
        typer.Option(help="HOST:PORT of a machine of this house to look for; again for more."),
    ] = None,
    home: HomeOption = None,
    api_port: Annotated[int, typer.Option(min=1, max=65535, help="Port of the API.")] = 8470,
    listen_port: PortOption = 0,
    json_: JsonOption = False,
) -> None:
    """Look at machine and network, and say what is to be mended. Exit 1 if something must be."""
    from node.cli.doctor import run_doctor

    run_doctor(
        home=home, relays=tuple(relay or ()), market=market, peers=tuple(peer or ()),
        api_port=api_port, listen_port=listen_port, as_json=json_,
    )  # fmt: skip


@app.command()
def demo(
    nodes: Annotated[int, typer.Option(min=1, max=16, help="How many providers.")] = 3,
    model: Annotated[str, typer.Option(help="Any HF directory of a family that is served.")] = (
        "piecework/tiny"
    ),
    prompt: Annotated[str, typer.Option(help="What the buyer asks.")] = (
        "Explain what a span is and why a model runs in pieces."
    ),
    engines: Annotated[
        str, typer.Option(help="auto: torch, and one mlx where it is installed; or torch, or mlx.")
    ] = "auto",
    exact: Annotated[bool, typer.Option(help="Compute and wire in fp32.")] = False,
    wire: WireOption = "",
    keep: Annotated[bool, typer.Option(help="Leave it running; prints base URL and key.")] = False,
    json_: JsonOption = False,
) -> None:
    """A whole paid pool on this machine: marketplace, providers, gateway, one answer, the books."""
    from node.cli.demo import show_demo

    show_demo(
        nodes=nodes, model=model, prompt=prompt, engines=engines, exact=exact, wire=wire,
        keep=keep, as_json=json_,
    )  # fmt: skip


@app.callback(invoke_without_command=True)
def root(
    version: Annotated[bool, typer.Option("--version", help="Show the version and leave.")] = False,
) -> None:
    if version:
        from importlib.metadata import version as installed

        typer.echo(installed("piecework"))
        raise typer.Exit


def main() -> None:
    app()
