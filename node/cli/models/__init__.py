"""`piecework models`: the weights on this machine. Each command's work has a module of its own."""

from pathlib import Path
from typing import Annotated

import typer

from node.cli.annotations import HomeOption, JsonOption

__all__ = ["models_app"]

models_app = typer.Typer(
    help="Fetch, convert, list, check, cut and remove weights.", no_args_is_help=True
)

NameArgument = Annotated[str, typer.Argument(help="org/name.")]
ModelArgument = Annotated[str, typer.Argument(help="org/name, or a directory.")]
SpanOption = Annotated[str, typer.Option("--span", help="Layers START:END; else the whole model.")]
EndsOption = Annotated[
    bool, typer.Option("--ends", help="With a span: embedding, LM head and tokenizer too.")
]


@models_app.command()
def ls(home: HomeOption = None, json_: JsonOption = False) -> None:
    """What is here of each model, and whether its licence lets it be sold."""
    from node.cli.models.ls import list_models

    list_models(home=home, as_json=json_)


@models_app.command()
def pull(
    name: NameArgument,
    span: SpanOption = "",
    ends: EndsOption = False,
    from_: Annotated[
        list[str] | None,
        typer.Option("--from", help="hub, a mirror's URL, or a peer's multiaddr; may be repeated."),
    ] = None,
    revision: Annotated[str, typer.Option(help="Branch, tag or commit at the hub.")] = "",
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Fetch a model, or a span's tensors alone; goes on where it was interrupted."""
    from node.cli.models.pull import pull_weights

    pull_weights(
        name=name, span=span, ends=ends, sources=tuple(from_ or ()), revision=revision,
        home=home, as_json=json_,
    )  # fmt: skip


@models_app.command()
def convert(
    file: Annotated[Path, typer.Argument(help="A GGUF file of a Llama-like model.")],
    name: Annotated[str, typer.Option("--as", help="What to call it here: org/name.")],
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Make a model of a GGUF file. What its quantization lost stays lost."""
    from node.cli.models.convert import convert_weights

    convert_weights(file=file, name=name, home=home, as_json=json_)


@models_app.command()
def rm(
    name: NameArgument,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Remove a model from this machine."""
    from node.cli.models.rm import remove_weights

    remove_weights(name=name, is_sure=yes, home=home, as_json=json_)


@models_app.command()
def split(
    name: ModelArgument,
    span: Annotated[str, typer.Option("--span", help="Layers START:END.")],
    to: Annotated[Path, typer.Option("--to", help="A new directory, to copy by hand.")],
    ends: EndsOption = False,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Write a shard as a directory that another machine can load."""
    from node.cli.models.split import split_weights

    split_weights(name=name, span=span, ends=ends, target=to, home=home, as_json=json_)


@models_app.command()
def verify(name: ModelArgument, home: HomeOption = None, json_: JsonOption = False) -> None:
    """Read all that is here again and compare it with the manifest."""
    from node.cli.models.verify import verify_weights

    verify_weights(name=name, home=home, as_json=json_)
