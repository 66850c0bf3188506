"""Check a written command line against the real programs, without running it."""

import contextlib
import importlib
import io
from typing import Any

import typer.main

# program -> module and name of its Typer app
PROGRAMS = {
    "piecework": ("node.cli.main", "app"),
    "piecework-market": ("marketplace.cli", "app"),
    "piecework-relay": ("relay.cli", "app"),
}


def find_fault(words: list[str], *, whole: bool = True) -> str:
    """Why these words would be refused, or "" when the program takes them.

    `whole` False: prose that names a command may leave out what it needs.
    """
    program, *arguments = words
    command = command_of(program)
    path = program
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        while True:
            subcommands: dict[str, Any] = getattr(command, "commands", {})
            own, rest = _split(arguments, subcommands)
            fault = _parse(command, path, own + rest[:1] if subcommands else own, whole=whole)
            if fault or not subcommands or not rest:
                return fault
            path, command, arguments = f"{path} {rest[0]}", subcommands[rest[0]], rest[1:]


def command_of(program: str) -> Any:
    """The click command behind a console script."""
    module, name = PROGRAMS[program]
    return typer.main.get_command(getattr(importlib.import_module(module), name))


def parameters_of(command: Any) -> list[Any]:
    """Every parameter of a command and of all below it."""
    found = list(command.params)
    for below in getattr(command, "commands", {}).values():
        found += parameters_of(below)
    return found


def _split(arguments: list[str], subcommands: dict[str, Any]) -> tuple[list[str], list[str]]:
    """What belongs to a group itself, and its subcommand with what follows."""
    for index, word in enumerate(arguments):
        if word in subcommands:
            return arguments[:index], arguments[index:]
    return arguments, []


def _parse(command: Any, path: str, arguments: list[str], *, whole: bool) -> str:
    try:
        command.make_context(path, list(arguments))
    except SystemExit as stop:  # --help, --version
        return "" if not stop.code else f"{path}: exit {stop.code}"
    except Exception as error:
        if type(error).__name__ in (("Exit",) if whole else ("Exit", "MissingParameter")):
            return ""
        return f"{path}: {getattr(error, 'message', error)}"
    return ""
