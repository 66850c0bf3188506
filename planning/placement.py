"""Who holds which layers: for a machine that joins the pool, and for a house full of machines.

Pure: everybody who knows the same facts comes to the same plan, so no one has to be asked.
"""

from collections.abc import Iterable, Sequence

from planning.house import NOTHING, Machine, place
from protocol.errors import LocalProtocolError
from protocol.route import Span

__all__ = ["NOTHING", "Machine", "choose_span", "coverage_of", "place"]


def coverage_of(layers: int, spans: Iterable[Span]) -> list[int]:
    """How many of `spans` hold each layer of [0, layers)."""
    steps = [0] * (layers + 1)
    for span in spans:
        if span.start < layers:
            steps[span.start] += 1
            steps[min(span.end, layers)] -= 1
    coverage, depth = [], 0
    for step in steps[:layers]:
        depth += step
        coverage.append(depth)
    return coverage


def choose_span(layers: int, coverage: Sequence[int], layers_max: int) -> Span:
    """The scarcest window of min(layers_max, layers) layers, for one more machine.

    Scarcest: its coverages, least first, are the smallest, so that one layer nobody holds weighs
    more than any number that few hold. Of equals the lowest start: machines that join one after
    another then pack from layer 0, and ceil(layers / layers_max) of them tile the model.
    """
    if layers_max <= 0 or len(coverage) != layers:
        raise LocalProtocolError("A span needs at least one layer and the coverage of every layer.")
    size = min(layers_max, layers)
    start = min(
        range(layers - size + 1), key=lambda first: (sorted(coverage[first : first + size]), first)
    )
    return Span(start, start + size)
