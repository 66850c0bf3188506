"""The engine on MLX: mlx_lm's model classes, cut to a span. For Apple silicon; on Linux, for tests.

Importing this package imports neither mlx nor mlx_lm; `load` does.
"""

from node.engine.base import Engine, ShardSpec

__all__ = ["load"]


def load(spec: ShardSpec) -> Engine:
    """Load one shard; takes seconds. MLX ties its streams to a thread: use it from this one.

    Raises ModelNotFound, ModelUnsupported and ShardMismatch.
    """
    from node.engine.mlx_backend.backend import MLXEngine
    from node.engine.mlx_backend.shard import load_shard

    return MLXEngine(spec, load_shard(spec))
