"""Each layer's sliding window, by the rules of transformers' classes and not of mlx_lm's. No mlx.

mlx_lm's classes choose masks in the model's loop, which a shard does not run; ours hands each layer
the mask its window asks for.
"""

from collections.abc import Mapping
from typing import Any

from node.engine.errors import ModelUnsupported

__all__ = ["full_pattern", "read_windows"]

WINDOW_DEFAULT = 4096
"""What transformers takes where a config that may have a window names none."""

FIRST_WINDOW_LAYER_DEFAULT = 28
"""Qwen's max_window_layers where the config names none."""

GEMMA3_PATTERN_DEFAULT = 6
"""Every sixth layer sees all, where the config names neither kinds nor a pattern."""

_KINDS = ["sliding_attention", "full_attention"]


def read_windows(name: str, config: Mapping[str, Any]) -> tuple[int | None, ...]:
    """Per layer, how many positions a row sees, itself included; None for all of them."""
    layers = int(config["num_hidden_layers"])
    window = _window(name, config)
    match name:
        case "mistral" | "mixtral" | "phi3" | "qwen3_moe":
            return (window,) * layers
        case "qwen2" | "qwen3":
            first = _count(name, config, "max_window_layers", FIRST_WINDOW_LAYER_DEFAULT)
            slides = [index >= first for index in range(layers)]
        case "gemma2":
            slides = [index % 2 == 0 for index in range(layers)]
        case "gemma3_text":
            pattern = _count(name, config, "sliding_window_pattern", GEMMA3_PATTERN_DEFAULT)
            slides = [(index + 1) % pattern != 0 for index in range(layers)]
        case _:
            return (None,) * layers
    kinds = config.get("layer_types")
    if kinds is not None:
        is_list = isinstance(kinds, list) and len(kinds) == layers
        if not is_list or not all(kind in _KINDS for kind in kinds):
            raise ModelUnsupported(f"This {name} model's layer_types are not served.")
        slides = [kind == "sliding_attention" for kind in kinds]
    return tuple(window if is_sliding else None for is_sliding in slides)


def _window(name: str, config: Mapping[str, Any]) -> int | None:
    """The one width that a model's windows have."""
    if name.startswith("qwen") and not config.get("use_sliding_window"):
        return None
    is_gemma = name.startswith("gemma")
    default = WINDOW_DEFAULT if is_gemma or name.startswith(("mistral", "qwen")) else None
    if config.get("sliding_window", default) is None and not is_gemma:
        return None
    return _count(name, config, "sliding_window", WINDOW_DEFAULT)


def _count(name: str, config: Mapping[str, Any], key: str, default: int) -> int:
    value = config.get(key, default)
    if not isinstance(value, int) or isinstance(value, bool) or value <= 0:
        raise ModelUnsupported(f"This {name} model's {key} is no number of rows or layers.")
    return value


def full_pattern(windows: tuple[int | None, ...]) -> int:
    """Of how many layers one is full: by that number Gemma 3's class tells them apart.

    Raises ModelUnsupported where the layers follow no such rule.
    """
    is_full = [window is None for window in windows]
    pattern = is_full.index(True) + 1 if any(is_full) else len(windows) + 1
    if is_full != [(index + 1) % pattern == 0 for index in range(len(windows))]:
        raise ModelUnsupported("This gemma3_text model's full layers follow no regular pattern.")
    return pattern
