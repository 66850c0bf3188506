"""A provider's commands with their options: `earnings`, and its household's `limits`, `pause`,
`resume`."""

from enum import StrEnum
from typing import Annotated

import typer

from node.cli.annotations import HomeOption, JsonOption, MarketOption

__all__ = ["Grouping", "add_provider_commands"]


def add_provider_commands(app: typer.Typer) -> None:
    """Put them under `piecework`."""
    app.command()(earnings)
    app.command()(limits)
    app.command()(pause)
    app.command()(resume)


class Grouping(StrEnum):
    """What earnings are summed by."""

    MACHINE = "machine"
    MODEL = "model"
    DAY = "day"


def earnings(
    market: MarketOption,
    by: Annotated[Grouping, typer.Option(help="Sum by machine, model or day.")] = Grouping.DAY,
    days: Annotated[int, typer.Option(min=1, max=366, help="How far back.")] = 30,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """What this household has earned, and where that money is: held, payable, paid, and why."""
    from node.cli.earnings import show_earnings

    show_earnings(market=market, home=home, by=by.value, days=days, as_json=json_)


def limits(
    hours: Annotated[
        str | None,
        typer.Option(help="When work is taken: '22:00-07:00', 'mon-fri 22-7; sat,sun 0-24', none."),
    ] = None,
    data_cap: Annotated[
        str | None, typer.Option(help="Up and down in a calendar month, as 500G; none.")
    ] = None,
    upload: Annotated[
        str | None, typer.Option(help="Of the uplink, in bits a second as 8M; none.")
    ] = None,
    pause_while_busy: Annotated[
        bool | None, typer.Option(help="Take no new work while the machine is in use.")
    ] = None,
    floor_prefill: Annotated[
        int | None, typer.Option(min=0, help="Least nanos per million token-layers of prompt.")
    ] = None,
    floor_decode: Annotated[
        int | None, typer.Option(min=0, help="Least nanos per million token-layers of answer.")
    ] = None,
    home: HomeOption = None,
    json_: JsonOption = False,
) -> None:
    """Show what this household allows its node, or change it; a running node follows."""
    from node.cli.household import LimitTexts, set_limits

    texts = LimitTexts(hours, data_cap, upload, pause_while_busy, floor_prefill, floor_decode)
    set_limits(texts, home=home, as_json=json_)


def pause(
    duration: Annotated[str, typer.Argument(help="30m, 2h, 1d; without: until resumed.")] = "",
    home: HomeOption = None,
) -> None:
    """Take no new work for a while; answers under way end in peace."""
    from node.cli.household import pause_node

    pause_node(duration, home=home)


def resume(home: HomeOption = None) -> None:
    """Take work again, as far as the limits allow."""
    from node.cli.household import resume_node

    resume_node(home=home)
