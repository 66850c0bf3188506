"""How the next token is drawn from logits: pure numpy, the same on every backend.

Order: penalties, temperature, top-k, top-p, min-p, draw. The draw at a position is keyed by (seed,
position) and by nothing else, so a repaired or replayed step draws the same token from the same
logits. Penalties count the tokens drawn at earlier positions of the sequence; to rebuild them
after a repair, replay the rows with their tokens wanted.
"""

import numpy as np
import numpy.typing as npt

from protocol.errors import EngineError
from protocol.sampling import SamplingParameters

__all__ = ["Logits", "SamplerState", "sample"]

Logits = npt.NDArray[np.float32]
"""(vocabulary,)"""


class SamplerState:
    """What one sequence has drawn so far: position to token, and how often each token."""

    __slots__ = ("_counts", "_tokens")

    def __init__(self) -> None:
        self._tokens: dict[int, int] = {}
        self._counts: dict[int, int] = {}

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


def sample(
    logits: Logits, parameters: SamplingParameters, state: SamplerState, position: int
) -> int:
    """Draw the token that stands at `position`, and record it in `state`.

    logits: (vocabulary,) float32, not changed. Greedy takes the highest, the lowest id on a tie.
    Raises EngineError for NaN, or where no token has a finite logit.
    """
    state.truncate(position)
    highest = int(np.argmax(logits))
    # argmax takes the first NaN for the highest, so this looks at one number for all of them.
    if not np.isfinite(logits[highest]):
        raise EngineError(f"The logits at position {position} hold NaN, infinity, or nothing else.")
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
    tokens, probabilities = _allowed(logits, parameters)
    cumulative = np.cumsum(probabilities)
    key = np.array([parameters.seed, position], dtype=np.uint64)
    share = np.random.Generator(np.random.Philox(key=key)).random()
    index = int(np.searchsorted(cumulative, share * cumulative[-1], side="right"))
    return int(tokens[min(index, len(tokens) - 1)])


def _allowed(
    logits: Logits, parameters: SamplingParameters
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.float64]]:
    """The tokens left by top-k, top-p and min-p, likeliest first, and their probabilities.

    Probabilities are over the tokens that top-k left and need not add up to one. Ties fall to the
    lower id, so that the result does not depend on the sort.
    """
    # In fp64: the running sum over a large vocabulary decides where top-p cuts.
    scaled = logits.astype(np.float64) / parameters.temperature
    order = np.argsort(-scaled, kind="stable")
    if parameters.top_k:
        order = order[: parameters.top_k]
    weights = np.exp(scaled[order] - scaled[order[0]])
    probabilities = weights / weights.sum()
    if parameters.top_p < 1:
        # The token that crosses the limit is the last one kept.
        before = np.cumsum(probabilities) - probabilities
        kept = int(np.count_nonzero(before < parameters.top_p))
        order, probabilities = order[:kept], probabilities[:kept]
    if parameters.min_p > 0:
        kept = int(np.count_nonzero(probabilities >= parameters.min_p * probabilities[0]))
        order, probabilities = order[:kept], probabilities[:kept]
    return order, probabilities
