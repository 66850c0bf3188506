"""Rope settings, as mlx_lm must be told them.

transformers 5 writes them under `rope_parameters` (for Gemma 3 one map per layer type), which most
of mlx_lm's classes do not read: theta would fall back to 10000 and the scaling be dropped without
a word. No mlx here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from node.engine.errors import ModelUnsupported
from node.engine.mlx_backend.families import Family

__all__ = ["RopeSettings", "read_rope"]

GEMMA3_THETA = {"full_attention": "rope_theta", "sliding_attention": "rope_local_base_freq"}
"""Where configs of transformers 4 keep each layer type's theta, and mlx_lm still looks."""

_COMMON = frozenset({"rope_type", "type", "rope_theta", "partial_rotary_factor"})
_READ = {
    "default": _COMMON,
    "linear": _COMMON | {"factor"},
    "llama3": _COMMON
    | {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
    "yarn": _COMMON
    | {"factor", "original_max_position_embeddings", "beta_fast", "beta_slow"}
    | {"mscale", "mscale_all_dim"},
}
"""What mlx_lm reads of each scaling and computes as transformers does."""


@dataclass(frozen=True, slots=True)
class RopeSettings:
    theta: float
    scaling: dict[str, Any] | None
    """None where there is none."""
    rotated_share: float = 1.0
    """How much of a head's dimensions turns."""
    local_theta: float | None = None
    """Of sliding layers, where they have their own."""


def read_rope(name: str, family: Family, config: Mapping[str, Any]) -> RopeSettings:
    """Raises ModelUnsupported for a rope that mlx_lm's class would compute otherwise."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if not isinstance(rope, dict):
        raise ModelUnsupported(f"This {name} model's rope settings are not a map.")
    if name != "gemma3_text":
        return _one_rope(name, family, rope, config)
    if not all(isinstance(rope.get(kind), dict) for kind in GEMMA3_THETA):
        # as transformers 4 writes it: the scaling is the full layers' alone
        rope = {"full_attention": rope, "sliding_attention": {}}
    full, local = (
        _one_rope(name, family, rope[kind], {**config, "rope_theta": config.get(theta)})
        for kind, theta in GEMMA3_THETA.items()
    )
    if local.scaling is not None:
        raise ModelUnsupported(f"This {name} model scales the rope of its sliding layers.")
    return RopeSettings(full.theta, full.scaling, local_theta=local.theta)


def _one_rope(
    name: str, family: Family, rope: Mapping[str, Any], config: Mapping[str, Any]
) -> RopeSettings:
    kind = rope.get("rope_type", rope.get("type", "default"))
    if not isinstance(kind, str) or kind not in family.rope_types:
        raise ModelUnsupported(
            f"This {name} model uses rope type '{str(kind)[:32]}', which the MLX backend lacks.",
            hint=f"Served are {', '.join(sorted(family.rope_types))}.",
        )
    if unread := sorted(str(key) for key in set(rope) - _READ[kind] if rope[key] is not None):
        raise ModelUnsupported(f"This {name} model's {kind} rope sets {unread[0][:32]}.")
    if bool(rope.get("mscale")) != bool(rope.get("mscale_all_dim")):
        raise ModelUnsupported(f"This {name} model's rope sets only one of its two mscales.")
    theta = _positive(name, "rope_theta", rope, config, family.theta_default)
    share = _positive(name, "partial_rotary_factor", rope, config, 1.0)
    if share != 1.0 and not (family.reads_partial_rope and share < 1.0):
        raise ModelUnsupported(f"This {name} model has a partial rotary embedding of {share}.")
    if kind == "default":
        return RopeSettings(theta, None, share)
    _positive(name, "factor", rope, {}, None)
    scaling = {key: value for key, value in rope.items() if value is not None}
    if kind != "linear":
        # transformers takes the model's context where the original is not named
        scaling.setdefault("original_max_position_embeddings", config["max_position_embeddings"])
    return RopeSettings(theta, {**scaling, "rope_type": kind}, share)


def _positive(
    name: str,
    key: str,
    rope: Mapping[str, Any],
    config: Mapping[str, Any],
    default: float | None,
) -> float:
    value = rope.get(key) or config.get(key) or default
    if not isinstance(value, int | float) or isinstance(value, bool) or not value > 0:
        raise ModelUnsupported(f"This {name} model's config.json does not say {key}.")
    return float(value)
