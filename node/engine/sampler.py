"""How the next token is drawn from logits: pure numpy, the same on every backend.

Order: penalties, temperature, top-k, top-p, min-p, draw. The draw at a position is keyed by (seed,
position) and by nothing else, so a repaired or replayed step draws the same token from the same
logits. Penalties count the tokens drawn at earlier positions of the sequence; where a repair opens
the sequence anew, its state begins with the tokens that were drawn elsewhere.
"""

import itertools
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from node.engine.errors import StepInvalid
from protocol.errors import EngineError
from protocol.sampling import SamplingParameters

__all__ = ["Logits", "SamplerState", "sample", "validate_drawn"]

Logits = npt.NDArray[np.float32]
"""(vocabulary,)"""

Weights = npt.NDArray[np.float64]
"""(vocabulary,) probabilities up to a factor; the highest is one."""

Tokens = npt.NDArray[np.int64]

LIKELY_LIMITS = (1e-2, 1e-4, 1e-6)
"""Weights down to which the nucleus is looked for before the whole vocabulary is sorted."""


class SamplerState:
    """What one sequence has drawn so far: position to token, and how often each token.

    `drawn` stands at `drawn_at` and the positions behind it: it was drawn elsewhere, and is ahead
    of the sequence's rows until these have been replayed.
    """

    __slots__ = ("_counts", "_tokens")

    def __init__(self, drawn: Sequence[int] = (), drawn_at: int = 0) -> None:
        self._tokens: dict[int, int] = {}
        self._counts: dict[int, int] = {}
        for position, token in enumerate(drawn, drawn_at):
            self.record(position, int(token))

    @property
    def counts(self) -> dict[int, int]:
        """Token to the number of positions it was drawn at. Not to be changed by the reader."""
        return self._counts

    def record(self, position: int, token: int) -> None:
        """Note that `token` stands at `position`; later positions are void then."""
        self.truncate(position)
        self._tokens[position] = token
        self._counts[token] = self._counts.get(token, 0) + 1

    def truncate(self, position: int) -> None:
        """Forget the tokens at or after `position`."""
        # Positions are recorded in rising order, so the last key is the highest.
        while self._tokens and next(reversed(self._tokens)) >= position:
            _, token = self._tokens.popitem()
            self._counts[token] -= 1
            if self._counts[token] == 0:
                del self._counts[token]

    def since(self, position: int) -> dict[int, int]:
        """The tokens at or after `position`, by position: for `put_back`."""
        falling = itertools.takewhile(lambda place: place >= position, reversed(self._tokens))
        return {place: self._tokens[place] for place in reversed(list(falling))}

    def put_back(self, position: int, tokens: Mapping[int, int]) -> None:
        """Undo what was drawn at or after `position`: `since` gave `tokens` there before."""
        self.truncate(position)
        for place, token in tokens.items():
            self.record(place, token)

    def forget_rows(self, position: int, length: int | None) -> None:
        """The sequence goes back from `length` rows to `position`; None where no rows are kept.

        The token at `position` stays: the row before it drew it. While tokens are ahead of the
        rows, all stay: the rows that go are a replay's, which drew nothing and comes again.
        """
        if length is None or next(reversed(self._tokens), 0) <= length:
            self.truncate(position + 1)


def validate_drawn(
    drawn: Sequence[int], drawn_at: int, capacity_tokens: int, *, vocabulary_size: int
) -> None:
    """Raise StepInvalid for tokens that a sequence of this capacity cannot have drawn.

    The last may stand at `capacity_tokens`, behind the last row there is room for.
    """
    count = len(drawn)
    if drawn_at < 0 or count > capacity_tokens or drawn_at + count > capacity_tokens + 1:
        raise StepInvalid(
            f"{count} drawn tokens from position {drawn_at} on do not fit a sequence of "
            f"{capacity_tokens}."
        )
    if count and not (min(drawn) >= 0 and max(drawn) < vocabulary_size):
        raise StepInvalid(f"A drawn token is outside [0, {vocabulary_size}).")


def sample(
    logits: Logits, parameters: SamplingParameters, state: SamplerState, position: int
) -> int:
    """Draw the token that stands at `position`, and record it in `state`.

    logits: (vocabulary,) float32, not changed. Greedy takes the highest, the lowest id on a tie.
    Raises EngineError for NaN, or where no token has a finite logit; `state` is unchanged then.
    """
    highest = int(np.argmax(logits))
    # argmax takes the first NaN for the highest, so this looks at one number for all of them.
    if not np.isfinite(logits[highest]):
        raise EngineError(f"The logits at position {position} hold NaN, infinity, or nothing else.")
    state.truncate(position)
    penalized = _penalize(logits, parameters, state)
    if parameters.is_greedy:
        token = highest if penalized is logits else int(np.argmax(penalized))
    else:
        token = _draw(penalized, parameters, position)
    state.record(position, token)
    return token


def _penalize(logits: Logits, parameters: SamplingParameters, state: SamplerState) -> Logits:
    """Lower the logits of tokens drawn before: frequency per occurrence, presence once."""
    frequency, presence = parameters.frequency_penalty, parameters.presence_penalty
    if not state.counts or (frequency == 0 and presence == 0):
        return logits
    tokens = np.fromiter(state.counts.keys(), dtype=np.int64)
    counts = np.fromiter(state.counts.values(), dtype=np.float32)
    penalized = logits.copy()
    penalized[tokens] -= (counts * frequency + presence).astype(np.float32)
    return penalized


def _draw(logits: Logits, parameters: SamplingParameters, position: int) -> int:
    """A token of the allowed ones, by its share of their probability."""
    # In fp64: the running sum over a large vocabulary decides where top-p cuts. The highest weight
    # is one, so that weights neither overflow nor all vanish.
    scaled = logits.astype(np.float64)
    scaled -= scaled.max()
    scaled /= parameters.temperature
    weights = np.exp(scaled, out=scaled)
    tokens = _allowed(weights, parameters)
    cumulative = np.cumsum(weights if tokens is None else weights[tokens])
    key = np.array([parameters.seed, position], dtype=np.uint64)
    share = np.random.Generator(np.random.Philox(key=key)).random()
    total = cumulative[-1]
    # Below the total even where the product rounds up: the last token may have no weight.
    target = min(share * total, np.nextafter(total, 0))
    index = int(np.searchsorted(cumulative, target, side="right"))
    return index if tokens is None else int(tokens[index])


def _allowed(weights: Weights, parameters: SamplingParameters) -> Tokens | None:
    """The tokens left by top-k, then top-p, then min-p; None for all of them.

    Ties fall to the lower id, so that the result does not depend on how a sort treats them.
    """
    tokens = None
    if 0 < parameters.top_k < len(weights):
        tokens = _highest(weights, parameters.top_k)
    if parameters.top_p < 1:
        tokens = _nucleus(weights, tokens, parameters.top_p)
    if parameters.min_p > 0:
        # The highest weight is one, and top-k and top-p never take it away.
        likely = weights >= parameters.min_p
        tokens = np.flatnonzero(likely) if tokens is None else tokens[likely[tokens]]
    return tokens


def _highest(weights: Weights, count: int) -> Tokens:
    """The `count` tokens of the highest weights, by rising id."""
    limit = np.partition(weights, -count)[-count]
    above = np.flatnonzero(weights > limit)
    level = np.flatnonzero(weights == limit)[: count - len(above)]
    return np.sort(np.concatenate((above, level)))


def _nucleus(weights: Weights, tokens: Tokens | None, top_p: float) -> Tokens:
    """The fewest of `tokens` (None: all) whose share reaches `top_p`, likeliest first.

    The token that crosses the limit is the last one kept.
    """
    kept = weights if tokens is None else weights[tokens]
    needed = top_p * kept.sum()
    likely: Tokens = np.arange(len(kept))
    # Sorting a whole vocabulary takes milliseconds, and the likely tokens are few.
    for limit in LIKELY_LIMITS:
        above = np.flatnonzero(kept >= limit)
        if kept[above].sum() >= needed:
            likely = above
            break
    likely = likely[np.argsort(-kept[likely], kind="stable")]
    count = int(np.searchsorted(np.cumsum(kept[likely]), needed, side="left")) + 1
    return likely[:count] if tokens is None else tokens[likely[:count]]
