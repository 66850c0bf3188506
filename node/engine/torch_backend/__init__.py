"""The engine on torch: transformers' own model classes, cut to a span before loading.

Importing this package imports neither torch nor transformers; `load` does.
"""

from node.engine.base import Engine, ShardSpec

__all__ = ["load"]


def load(spec: ShardSpec) -> Engine:
    """Load one shard; takes seconds and the process's torch thread count is set to the spec's.

    Raises ModelNotFound, ModelUnsupported and ShardMismatch.
    """
    from node.engine.torch_backend.backend import TorchEngine
    from node.engine.torch_backend.shard import load_shard

    return TorchEngine(spec, load_shard(spec))
