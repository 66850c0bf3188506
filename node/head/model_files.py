"""The small JSON and text files beside a model's weights, read with bounds.

A model directory comes from a stranger's hub, so nothing in it is read without a size limit, and
what does not parse is ConfigInvalid: the operator chose the directory and can choose another.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

from node.errors import ConfigInvalid

__all__ = [
    "MODEL_JSON_BYTES_MAX",
    "TEMPLATE_BYTES_MAX",
    "eos_token_ids",
    "read_bounded",
    "read_chat_template",
    "read_json",
    "special_tokens",
]

MODEL_JSON_BYTES_MAX = 16 * 2**20
"""config.json and its neighbours: the largest known tokenizer_config.json is about 2 MiB."""

TEMPLATE_BYTES_MAX = 512 * 1024
"""A chat template: published ones are under 32 KiB."""

_SPECIAL_NAMES = (
    "bos_token",
    "eos_token",
    "unk_token",
    "sep_token",
    "pad_token",
    "cls_token",
    "mask_token",
)


def read_bounded(path: Path, bytes_max: int) -> str | None:
    """A file's text, or None when there is no such file; ConfigInvalid past `bytes_max`."""
    try:
        with path.open("rb") as file:
            data = file.read(bytes_max + 1)
        if len(data) > bytes_max:
            raise ConfigInvalid(f"{path.name} of the model is larger than {bytes_max} bytes.")
        return data.decode("utf-8")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigInvalid(f"{path.name} of the model cannot be read: {error}.") from error


def read_json(path: Path) -> dict[str, object]:
    """A JSON object, empty when the file is missing; ConfigInvalid when it is anything else."""
    text = read_bounded(path, MODEL_JSON_BYTES_MAX)
    if text is None:
        return {}
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConfigInvalid(f"{path.name} of the model is not JSON.") from error
    if not isinstance(value, dict):
        raise ConfigInvalid(f"{path.name} of the model is not a JSON object.")
    return value


def read_chat_template(directory: Path) -> str | None:
    """The default chat template's source: chat_template.jinja, else tokenizer_config.json's.

    A list of named templates gives the one named `default`; None when the model has no template.
    """
    source = read_bounded(directory / "chat_template.jinja", TEMPLATE_BYTES_MAX)
    if source is not None:
        return source
    named = read_json(directory / "tokenizer_config.json").get("chat_template")
    if isinstance(named, list):
        named = next(
            (
                entry.get("template")
                for entry in named
                if isinstance(entry, dict) and entry.get("name") == "default"
            ),
            None,
        )
    if not isinstance(named, str):
        return None
    if len(named.encode("utf-8", "surrogatepass")) > TEMPLATE_BYTES_MAX:
        raise ConfigInvalid(f"The model's chat template is larger than {TEMPLATE_BYTES_MAX} bytes.")
    return named


def special_tokens(directory: Path) -> dict[str, str]:
    """The named special tokens (`bos_token`, …) as text: chat templates write them out."""
    settings: Mapping[str, object] = {
        **read_json(directory / "special_tokens_map.json"),
        **read_json(directory / "tokenizer_config.json"),
    }
    texts = {name: _token_text(settings.get(name)) for name in _SPECIAL_NAMES}
    return {name: text for name, text in texts.items() if text is not None}


def eos_token_ids(directory: Path) -> frozenset[int]:
    """Every id that any of generation_config.json and config.json names as an end, int or list."""
    found: set[int] = set()
    for name in ("generation_config.json", "config.json"):
        declared = read_json(directory / name).get("eos_token_id")
        candidates: Iterable[object] = declared if isinstance(declared, list) else (declared,)
        found.update(
            token for token in candidates if isinstance(token, int) and not isinstance(token, bool)
        )
    return frozenset(found)


def _token_text(token: object) -> str | None:
    """A special token is written as its text, or as an object with its text in `content`."""
    if isinstance(token, Mapping):
        token = token.get("content")
    return token if isinstance(token, str) else None
