"""From a model's name to a running shard: what every program of a node does first."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from node.config import Home
from node.engine.backends import choose_backend
from node.engine.base import ComputeDtype, ShardSpec
from node.engine.holdings import layer_bytes, verify_span
from node.engine.runner import EngineRunner
from node.engine.store import load_manifest, resolve_model
from node.engine.weights import read_config
from node.engine.worker import EngineWorker
from node.hardware import kv_bytes_per_token_layer
from protocol.model import ModelManifest

__all__ = ["LoadedModel", "load_model", "start_runner"]

_STORED_ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model on this machine: where it lies, and exactly what it is. Weights are not in memory."""

    directory: Path
    manifest: ModelManifest

    @property
    def layer_sizes(self) -> Sequence[int]:
        return layer_bytes(self.manifest)

    @property
    def stored_element_bytes(self) -> int:
        return _STORED_ELEMENT_BYTES[self.manifest.dtype]

    def kv_bytes_per_token_layer(self, dtype: ComputeDtype) -> int:
        return kv_bytes_per_token_layer(read_config(self.directory), dtype)


def load_model(reference: str, home: Home) -> LoadedModel:
    """Find a model and name its exact weights: by the manifest that lies with it, or else by
    hashing every file the first time, which blocks."""
    directory = resolve_model(reference, models_directory=home.models_path)
    name = reference if not Path(reference).exists() else Path(reference).resolve().name
    manifest = load_manifest(directory, name, cache_directory=home.manifests_path)
    return LoadedModel(directory, manifest)


async def start_runner(
    spec: ShardSpec, backend: str, manifest: ModelManifest
) -> tuple[EngineRunner, str]:
    """Verify the shard's weights, load them in a process of their own; the runner and backend."""
    chosen = choose_backend(backend)
    # it reads and hashes every byte, and the node has to stay awake for its peers
    ends = spec.embeds or spec.has_head
    await asyncio.to_thread(verify_span, manifest, spec.directory, spec.span, ends)
    worker = await EngineWorker.start(spec, backend=chosen)
    return EngineRunner(worker), chosen
