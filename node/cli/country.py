"""The country in which somebody is paid: said by option or at the terminal, never assumed."""

import re
from collections.abc import Mapping

import typer

from node.errors import ConfigInvalid
from protocol.countries import COUNTRY_HINT, normal_country

__all__ = ["ask_country", "country_option", "suggested_country"]

TRIES_MAX = 3
"""Whoever mistypes it more often is better served by the hint."""

_TERRITORY = re.compile(r"[A-Za-z]{2,3}_([A-Z]{2})(?:[.@].*)?")


def country_option(text: str) -> str:
    """`--country` in capitals, empty where it was not given; raises ConfigInvalid."""
    code = normal_country(text) if text else ""
    if code is None:
        raise ConfigInvalid(f"--country cannot be '{text[:64]}'.", hint=COUNTRY_HINT)
    return code


def suggested_country(environment: Mapping[str, str]) -> str:
    """What the locale names, to be confirmed; empty where it names none.

    As POSIX has it, the first of these that is set decides: `C` says no country at all.
    """
    names = ("LC_ALL", "LC_MONETARY", "LANG")
    locale = next((environment[name] for name in names if environment.get(name)), "")
    found = _TERRITORY.fullmatch(locale)
    return (normal_country(found[1]) or "") if found else ""


def ask_country(environment: Mapping[str, str]) -> str:
    """Ask on stderr; empty for who says it later, on the page that sets payouts up.

    Raises ConfigInvalid when the third answer is no country either.
    """
    suggested = suggested_country(environment)
    question = "Country where you are paid, two letters" + ("" if suggested else " (or later)")
    for _ in range(TRIES_MAX):
        text = typer.prompt(question, default=suggested, show_default=bool(suggested), err=True)
        code = normal_country(text) if text.strip() else ""
        if code is not None:
            return code
        typer.echo(f"'{text[:64]}' is no country. {COUNTRY_HINT}", err=True)
    raise ConfigInvalid("No country was named.", hint="Give --country, as --country DE.")
