"""What a shard leaves out: layers of other spans from the class, their tensors from the files.

The family's own class is subclassed so that layers outside the span become Identity while the
model is still on the meta device, and `from_pretrained` then reads a private view of the
directory: links to the needed weight files and an index that names only the needed tensors.
"""

import contextlib
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from torch import nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING

from node.engine.base import ShardSpec
from node.engine.errors import ShardMismatch
from node.engine.weights import INDEX_NAME, SINGLE_NAME, layer_of, read_weight_map
from protocol.model import ENDS

__all__ = ["cut_class", "weights_view"]


def cut_class(spec: ShardSpec, config: Any) -> Any:
    """The family's class, whose instances hold only what the spec asks for."""
    family_class = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]
    span = spec.span
    keeps_embedding = spec.embeds or (spec.has_head and config.tie_word_embeddings)

    def cut(self: Any, config: Any, *args: Any, **kwargs: Any) -> None:
        family_class.__init__(self, config, *args, **kwargs)
        base = self.base_model
        for index in range(len(base.layers)):
            if not span.start <= index < span.end:
                base.layers[index] = nn.Identity()
        if not spec.has_head:
            base.norm = nn.Identity()
            self.lm_head = nn.Identity()
        if not keeps_embedding:
            base.embed_tokens = nn.Identity()
        if not (spec.has_head and config.tie_word_embeddings):
            self._tied_weights_keys = {}
            self.all_tied_weights_keys = {}

    return type(
        family_class.__name__,
        (family_class,),
        {
            "__init__": cut,
            "__module__": family_class.__module__,
            "__qualname__": family_class.__qualname__,
            "_keys_to_ignore_on_load_unexpected": [".*"],
        },
    )


@contextlib.contextmanager
def weights_view(spec: ShardSpec, *, tied: bool) -> Iterator[Path]:
    """A temporary directory that shows from_pretrained only the tensors of this shard."""
    directory = spec.directory.resolve()
    with tempfile.TemporaryDirectory(prefix="piecework-shard-") as name:
        view = Path(name)
        (view / "config.json").symlink_to(directory / "config.json")
        weight_map = read_weight_map(directory)
        if weight_map is None:
            files = {SINGLE_NAME}
        else:
            needed = {
                key: file for key, file in weight_map.items() if _is_needed(key, spec, tied=tied)
            }
            files = set(needed.values())
            content = {"metadata": {}, "weight_map": needed}
            (view / INDEX_NAME).write_text(json.dumps(content))
        for file in files:
            if not (directory / file).is_file():
                raise ShardMismatch(f"The weight file '{file}' is missing in '{directory}'.")
            (view / file).symlink_to(directory / file)
        yield view


def _is_needed(key: str, spec: ShardSpec, *, tied: bool) -> bool:
    layer = layer_of(key)
    if layer != ENDS:
        return spec.span.start <= layer < spec.span.end
    if "embed_tokens" in key:
        return spec.embeds or (spec.has_head and tied)
    return spec.has_head
