"""Where a shard computes: `ShardSpec.device`, as MLX knows it."""

import mlx.core as mx

from node.engine.errors import BackendMissing

__all__ = ["choose_device"]


def choose_device(name: str) -> mx.Device:
    """The device of that name: `auto` is MLX's own choice (the GPU where there is one).

    Raises BackendMissing for any other name, and for a device that this machine lacks.
    """
    if name == "auto":
        return mx.default_device()
    devices = {"cpu": mx.Device(mx.cpu), "gpu": mx.Device(mx.gpu)}
    device = devices.get(name)
    if device is None:
        raise BackendMissing(
            f"The MLX backend knows no device '{name[:32]}'.", hint="Choose auto, cpu or gpu."
        )
    if not mx.is_available(device):
        raise BackendMissing(
            f"MLX has no {name} on this machine.",
            hint="Apple silicon has one; elsewhere choose auto or cpu.",
        )
    return device
