"""A house that has changed: who holds which layers now, with as little moved as can be."""

from collections.abc import Iterable, Sequence

from planning.house import NOTHING, Machine, place
from protocol.route import Span

__all__ = ["replace_lost"]


def replace_lost(
    layers: int,
    machines: Sequence[Machine],
    held: Sequence[Span | None],
    *,
    spread: bool = False,
) -> list[Span] | None:
    """As `place`, but moving as little as can be of what is `held` (None or empty: nothing).

    What is held stays where it all fits together. A gap is filled by machines that hold nothing;
    only where they cannot are the spans cut anew, in the order in which they lay. So a machine that
    comes changes nothing in a model that is whole, unless it is to be spread.
    """
    keeping = [span if span is not None and len(span) else None for span in held]
    filled = _fill(layers, machines, keeping)
    if filled is not None and not spread:
        return filled
    # survivors in the order in which they lay, then the others as they came
    order = sorted(range(len(machines)), key=lambda i: _lying(keeping[i], i))
    fresh = place(layers, [machines[i] for i in order], spread=spread)
    if fresh is None or (filled is not None and _count(filled) >= _count(fresh)):
        return filled
    spans = [NOTHING] * len(machines)
    for index, span in zip(order, fresh, strict=True):
        spans[index] = span
    return spans


def _lying(span: Span | None, index: int) -> tuple[bool, int, int]:
    return (span is None, span.start if span else 0, index)


def _count(spans: Iterable[Span | None]) -> int:
    return sum(1 for span in spans if span)


def _fill(
    layers: int, machines: Sequence[Machine], held: Sequence[Span | None]
) -> list[Span] | None:
    """Every held span as it is, and idle machines in the gaps; None if that cannot be."""
    spans = [span or NOTHING for span in held]
    kept = sorted((span, i) for i, span in enumerate(held) if span is not None)
    if not kept or not all(_fits(layers, machines[i], span) for span, i in kept):
        return None
    gaps, position = [], 0
    for span, _ in [*kept, (Span(layers, layers), -1)]:
        if span.start < position:
            return None  # two hold the same layer: not a plan that was ever made
        if span.start > position:
            gaps.append(Span(position, span.start))
        position = span.end
    idle = [i for i, span in enumerate(held) if span is None]
    for gap in sorted(gaps, key=lambda gap: (-len(gap), gap.start)):
        found = place(
            len(gap),
            [machines[i] for i in idle],
            starts=gap.start == 0,
            finishes=gap.end == layers,
        )
        if found is None:
            return None
        for index, span in zip(list(idle), found, strict=True):
            if len(span):
                spans[index] = Span(gap.start + span.start, gap.start + span.end)
                idle.remove(index)
    return spans


def _fits(layers: int, machine: Machine, span: Span) -> bool:
    ends = (span.start == 0) + (span.end == layers)
    return machine.is_able and span.end <= layers and len(span) <= machine.limit(layers, ends)
