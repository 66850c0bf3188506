"""Options that several commands share, as Typer wants them spelled."""

from pathlib import Path
from typing import Annotated

import typer

__all__ = ["HomeOption", "JsonOption"]

HomeOption = Annotated[
    Path | None,
    typer.Option("--home", envvar="PIECEWORK_HOME", help="Where this node keeps its own things."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="One JSON object on stdout.")]
