"""Sampling parameters of one sequence, with the bounds every hop checks."""

import math
from dataclasses import dataclass

from protocol.errors import RemoteProtocolError

__all__ = ["SamplingParameters"]

_MILLION = 1_000_000


@dataclass(frozen=True, slots=True)
class SamplingParameters:
    """How the next token is drawn. Fractions travel as integer millionths: records have no floats.

    temperature 0 is greedy. top_k 0 means no limit. The draw at a position is keyed by
    (seed, position), so a repaired or replayed step draws the same token.
    """

    temperature_millionths: int = 1_000_000
    top_p_millionths: int = 1_000_000
    min_p_millionths: int = 0
    top_k: int = 0
    frequency_penalty_millionths: int = 0
    presence_penalty_millionths: int = 0
    seed: int = 0

    def __post_init__(self) -> None:
        _check("temperature", self.temperature_millionths, 0, 2 * _MILLION)
        _check("top_p", self.top_p_millionths, 1, _MILLION)
        _check("min_p", self.min_p_millionths, 0, _MILLION)
        _check("top_k", self.top_k, 0, 2**31)
        _check("frequency_penalty", self.frequency_penalty_millionths, -2 * _MILLION, 2 * _MILLION)
        _check("presence_penalty", self.presence_penalty_millionths, -2 * _MILLION, 2 * _MILLION)
        _check("seed", self.seed, 0, 2**63 - 1)

    @classmethod
    def from_floats(
        cls,
        *,
        temperature: float = 1.0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        top_k: int = 0,
        frequency_penalty: float = 0.0,
        presence_penalty: float = 0.0,
        seed: int = 0,
    ) -> "SamplingParameters":
        """From the floats an API speaks; raises RemoteProtocolError outside the bounds."""
        return cls(
            temperature_millionths=_millionths("temperature", temperature),
            top_p_millionths=_millionths("top_p", top_p),
            min_p_millionths=_millionths("min_p", min_p),
            top_k=top_k,
            frequency_penalty_millionths=_millionths("frequency_penalty", frequency_penalty),
            presence_penalty_millionths=_millionths("presence_penalty", presence_penalty),
            seed=seed,
        )

    @property
    def is_greedy(self) -> bool:
        return self.temperature_millionths == 0

    @property
    def temperature(self) -> float:
        return self.temperature_millionths / _MILLION

    @property
    def top_p(self) -> float:
        return self.top_p_millionths / _MILLION

    @property
    def min_p(self) -> float:
        return self.min_p_millionths / _MILLION

    @property
    def frequency_penalty(self) -> float:
        return self.frequency_penalty_millionths / _MILLION

    @property
    def presence_penalty(self) -> float:
        return self.presence_penalty_millionths / _MILLION


def _check(name: str, value: int, low: int, high: int) -> None:
    if not low <= value <= high:
        raise RemoteProtocolError(f"{name} must be between {low} and {high} (in its unit).")


def _millionths(name: str, value: float) -> int:
    if not math.isfinite(value):
        raise RemoteProtocolError(f"{name} must be a number.")
    return round(value * _MILLION)
