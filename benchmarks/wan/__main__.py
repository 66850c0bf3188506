"""Run one scenario alone: `python -m benchmarks.wan decode`, with `--json` for its rows as JSON.

Begins again in a network namespace of its own, where the scenario's modules are imported.
"""

import importlib
import json
import sys
from typing import Any, Final

import uvloop

from benchmarks.wan.figures import Figures
from benchmarks.wan.namespace import enter, run_inside, what_is_missing

__all__ = ["SCENARIOS", "run_scenario"]

SCENARIOS: Final = ("decode", "drafting", "many", "prefill")
INSIDE: Final = "--inside"
TIMEOUT_S: Final = 900.0


def run_scenario(name: str) -> dict[str, Any]:
    """Its rows and tables, measured in a new namespace; empty where there can be none."""
    if missing := what_is_missing():
        print(f"{name} was left out. {missing}", file=sys.stderr)
        return {"rows": [], "tables": []}
    told = run_inside("benchmarks.wan", [INSIDE, name], timeout_s=TIMEOUT_S)
    measured: dict[str, Any] = json.loads(told.strip().splitlines()[-1])
    return measured


async def measure(name: str) -> dict[str, Any]:
    figures = Figures()
    await importlib.import_module(f"benchmarks.wan.{name}").measure(figures)
    return figures.to_json()


def main(arguments: list[str]) -> int:
    if arguments[:1] == [INSIDE]:
        enter()
        print(json.dumps(uvloop.run(measure(arguments[1]))))
        return 0
    names = [name for name in arguments if not name.startswith("-")]
    if len(names) != 1 or names[0] not in SCENARIOS:
        print(f"Usage: python -m benchmarks.wan {'|'.join(SCENARIOS)} [--json]", file=sys.stderr)
        return 2
    measured = run_scenario(names[0])
    if "--json" in arguments:
        print(json.dumps(measured))
    else:
        print("\n".join(measured["tables"]))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
