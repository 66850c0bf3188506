"""Keys and values of every sequence, kept together as they are used together.

Sequences that step together lie in one group: one array a layer, a lane for each. As long as the
same ones step together nothing is copied; when the set changes, its lanes are gathered into a new
group, once. mlx_lm's own caches either cannot be cut back exactly (rotating ones, once wrapped) or
cut all sequences by the same amount; here every row is kept, windowed layers' too, and forgetting
is lowering a length.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import mlx.core as mx

from node.engine.mlx_backend.grouping import rounded_rows
from node.engine.mlx_backend.lanes import LanePass, LayerKV

__all__ = ["KVGroup", "KVSequence", "KVShape", "gather"]


@dataclass(frozen=True, slots=True)
class KVShape:
    """Of one row in one layer."""

    kv_heads: int
    key_dim: int
    value_dim: int
    dtype: mx.Dtype

    @property
    def bytes_per_token(self) -> int:
        return self.kv_heads * (self.key_dim + self.value_dim) * self.dtype.size


class KVSequence:
    """One sequence's rows: a lane of a group, of which the first `length` count."""

    def __init__(self, shape: KVShape, layers: int) -> None:
        self.length = 0
        self.group = KVGroup(shape, [self], _empty(shape, layers))

    def share(self, tokens: int) -> "KVSequence":
        """A new sequence that begins with the first `tokens` rows of this one.

        MLX copies what two hold when one writes; until then they share.
        """
        group = self.group
        other = KVSequence(group.shape, 0)
        other.group = KVGroup(group.shape, [other], group.lane_of(self, tokens))
        other.length = tokens
        return other

    def cut(self, tokens: int) -> None:
        """Keep the first `tokens` rows and give up all other memory; with 0, everything."""
        group, self.length = self.group, tokens
        layers = group.lane_of(self, tokens) if tokens else _empty(group.shape, len(group.layers))
        group.leave([self])
        self.group = KVGroup(group.shape, [self], layers)
        self.group.settle()
        mx.eval(group.arrays)

    def erase(self, rows: int) -> None:
        """Zero the `rows` rows after those that count: NaN there would reach masked sums. Lazy."""
        lane, end = self.group.members.index(self), self.length + rows
        for layer in self.group.layers:
            layer.keys[lane, :, self.length : end] = 0
            layer.values[lane, :, self.length : end] = 0


class KVGroup:
    """Sequences whose rows lie in the same arrays, one lane each. Made by `gather`."""

    def __init__(self, shape: KVShape, members: list[KVSequence], layers: list[LayerKV]) -> None:
        self.shape = shape
        self.members = members
        self.layers = layers

    @property
    def arrays(self) -> list[mx.array]:
        """What is to be evaluated after a step."""
        return [array for layer in self.layers for array in (layer.keys, layer.values)]

    def settle(self) -> None:
        """Evaluate, copying what is a view: otherwise the array it was cut from stays in memory."""
        for layer in self.layers:
            layer.keys, layer.values = mx.contiguous(layer.keys), mx.contiguous(layer.values)
        mx.eval(self.arrays)

    def begin(self, counts: Sequence[int]) -> LanePass:
        """Make room for, and set up, a pass that adds `counts` rows to the members, in order."""
        step = LanePass([member.length for member in self.members], counts)
        for layer in self.layers:
            layer.keys = _grown(layer.keys, step.end)
            layer.values = _grown(layer.values, step.end)
            layer.current = step
        return step

    def end(self, counts: Sequence[int]) -> None:
        """The rows of the pass count now."""
        for member, count in zip(self.members, counts, strict=True):
            member.length += count
        for layer in self.layers:
            layer.current = None

    def lane_of(self, member: KVSequence, tokens: int) -> list[LayerKV]:
        """The first `tokens` rows of a member, one lane a layer; views until evaluated."""
        lane = slice(at := self.members.index(member), at + 1)
        return [
            LayerKV(layer.keys[lane, :, :tokens], layer.values[lane, :, :tokens])
            for layer in self.layers
        ]

    def leave(self, members: Sequence[KVSequence]) -> None:
        """Drop lanes; the others move together, so that no memory is held for nobody. Lazy."""
        stay = [lane for lane, member in enumerate(self.members) if member not in members]
        self.members = [self.members[lane] for lane in stay]
        if not stay:
            self.layers = []
            return
        held = rounded_rows(max(member.length for member in self.members))
        lanes = mx.array(stay)
        for layer in self.layers:
            layer.keys = layer.keys[:, :, :held][lanes]
            layer.values = layer.values[:, :, :held][lanes]


def gather(sequences: Sequence[KVSequence]) -> KVGroup:
    """The group of exactly these sequences, in its own order; made if there is none."""
    first = sequences[0].group
    if len(sequences) == len(first.members) and all(other.group is first for other in sequences):
        return first
    held = rounded_rows(max(sequence.length for sequence in sequences))
    lanes = [sequence.group.lane_of(sequence, sequence.length) for sequence in sequences]
    layers = [
        LayerKV(
            mx.concatenate([_grown(layer.keys, held) for layer in same]),
            mx.concatenate([_grown(layer.values, held) for layer in same]),
        )
        for same in zip(*lanes, strict=True)
    ]
    new = KVGroup(first.shape, list(sequences), layers)
    left = {id(sequence.group): sequence.group for sequence in sequences}
    for group in left.values():
        group.leave(sequences)
    for sequence in sequences:
        sequence.group = new
    # All at once, when nothing else holds the old arrays: each is freed as soon as it is copied.
    del lanes
    mx.eval(new.arrays, *(group.arrays for group in left.values()))
    return new


def _empty(shape: KVShape, layers: int) -> list[LayerKV]:
    heads = shape.kv_heads
    return [
        LayerKV(
            mx.zeros((1, heads, 0, shape.key_dim), shape.dtype),
            mx.zeros((1, heads, 0, shape.value_dim), shape.dtype),
        )
        for _ in range(layers)
    ]


def _grown(buffer: mx.array, rows: int) -> mx.array:
    """The buffer with zeros behind it, up to at least `rows` rows."""
    lanes, heads, held, dim = buffer.shape
    if rows <= held:
        return buffer
    more = mx.zeros((lanes, heads, rounded_rows(rows) - held, dim), buffer.dtype)
    return mx.concatenate([buffer, more], axis=2)
