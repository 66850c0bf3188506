"""The text a roofline engine writes: a token for every position, decided beforehand."""

import numpy as np
import numpy.typing as npt

__all__ = ["Script"]

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


class Script:
    """Token ids by position: the same in every process that makes one of the same seed."""

    def __init__(self, vocabulary_size: int, *, seed: int = 0) -> None:
        self._vocabulary_size = np.uint64(vocabulary_size)
        self._seed = np.uint64(seed)

    def tokens(self, position: int, count: int) -> npt.NDArray[np.int32]:
        """(count,) tokens that stand at `position` and behind it."""
        bits = np.arange(position, position + count, dtype=np.uint64) + (
            self._seed << np.uint64(32)
        )
        # splitmix64: neighbouring positions must not give neighbouring tokens
        bits = (bits + np.uint64(1)) * _GOLDEN
        bits = (bits ^ (bits >> np.uint64(30))) * _MIX_1
        bits = (bits ^ (bits >> np.uint64(27))) * _MIX_2
        bits ^= bits >> np.uint64(31)
        return (bits % self._vocabulary_size).astype(np.int32)
