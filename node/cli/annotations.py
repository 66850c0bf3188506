"""Options that several commands share, as Typer wants them spelled."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = [
    "BackendOption",
    "ComputeOption",
    "DeviceOption",
    "DraftOption",
    "HomeOption",
    "JsonOption",
    "KeyOption",
    "ListenOption",
    "MarketOption",
    "PortOption",
    "RelayOption",
    "ThreadsOption",
    "WireOption",
]

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", envvar="PIECEWORK_HOME", help="Where this node keeps its own things."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]

MarketOption = Annotated[
    str, typer.Option("--market", envvar="PIECEWORK_MARKET", help="Address of the marketplace.")
]
KeyOption = Annotated[
    str, typer.Option("--key", envvar="PIECEWORK_API_KEY", help="A buyer's API key.")
]
BackendOption = Annotated[str, typer.Option(help="torch, mlx, or auto for the fastest here.")]
DeviceOption = Annotated[
    str, typer.Option(help="cpu, cuda, cuda:1, mps, gpu (MLX), or auto for the fastest here.")
]
ComputeOption = Annotated[
    str,
    typer.Option("--compute", help="bf16; int8 or int4 weights; or fp32 for exactness."),
]
DraftOption = Annotated[
    str,
    typer.Option(
        "--draft",
        help="A small model of the same tokenizer that guesses ahead; 'off': not even look-up.",
    ),
]
WireOption = Annotated[
    str,
    typer.Option(
        "--wire", help="How activations travel: fp32, bf16, int8b32 (half), int8b32h (outliers)."
    ),
]
ThreadsOption = Annotated[
    int, typer.Option(min=0, help="Threads of the engine; 0 leaves one core free.")
]
ListenOption = Annotated[str, typer.Option(help="Address of the data socket.")]
PortOption = Annotated[int, typer.Option("--listen-port", help="UDP port of it; 0: a free one.")]
RelayOption = Annotated[
    list[str] | None,
    typer.Option(
        "--relay",
        envvar="PIECEWORK_RELAYS",
        help="A relay's multiaddr, again for more; else those the marketplace names.",
    ),
]
