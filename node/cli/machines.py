"""A cluster as a table: machines, their spans, how they are linked, what they carry."""

from typing import Any

from rich.console import Group
from rich.table import Table
from rich.text import Text

__all__ = ["cluster_panel"]

BAND_CELLS = 16
"""Width of the band that shows where in the model a span lies."""
_STYLES = {"serving": "green", "failed": "red", "leaving": "yellow"}


def cluster_panel(view: dict[str, Any]) -> Group:
    """One line about the model, then a row a machine."""
    return Group(_headline(view), _machines(view))


def _headline(view: dict[str, Any]) -> Text:
    line = Text(f"{view['cluster']}  {view['model']}  ", style="bold")
    if view["is_ready"]:
        line.append("ready", style="green")
    elif view["room"] is not None and view["room"] < view["layers"]:
        line.append(f"room for {view['room']} of {view['layers']} layers only", style="yellow")
    elif view["missing"]:
        line.append(f"nobody serves layers {', '.join(view['missing'])}", style="yellow")
    else:
        line.append("looking for the model", style="yellow")
    if view.get("api_url"):
        line.append(f"  {view['api_url']}", style="dim")
    return line


def _machines(view: dict[str, Any]) -> Table:
    table = Table("machine", "", "layers", "", "engine", "link", "memory", "tokens/s", box=None)
    for column in table.columns[-2:]:
        column.justify = "right"
    for machine in view["machines"]:
        state = machine["state"]
        if state == "fetching" and machine["done_percent"]:
            state = f"fetching {machine['done_percent']} %"
        name = f"{machine['name']} *" if machine["is_self"] else machine["name"]
        is_other = not machine["has_same_model"]
        table.add_row(
            Text(name),
            Text(state, style=_STYLES.get(machine["state"], "dim")),
            Text(machine["model"] if is_other else machine["span"] or machine["planned"] or "-"),
            _band(machine, view["layers"]),
            Text(machine["backend"] or ""),
            Text("here" if machine["is_self"] else machine["path_kind"]),
            Text(f"{machine['memory_bytes'] / 2**30:.1f} G"),
            Text(str(machine["rows_per_s"] or "")),
        )
    return table


def _band(machine: dict[str, Any], layers: int | None) -> Text:
    """Where the span lies: full where it is served, light where it is on its way."""
    text = machine["span"] or machine["planned"]
    if not layers or text is None or not machine["has_same_model"]:
        return Text("·" * BAND_CELLS, style="dim")
    start, end = (int(part) for part in text.split(":"))
    first = start * BAND_CELLS // layers
    last = max(first + 1, end * BAND_CELLS // layers)
    mark = "█" if machine["span"] else "░"
    return Text.assemble(
        ("·" * first, "dim"),
        (mark * (last - first), "green" if machine["span"] else "yellow"),
        ("·" * (BAND_CELLS - last), "dim"),
    )
