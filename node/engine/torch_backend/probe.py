"""How fast torch multiplies on its fastest device here; run in a process of its own."""

import time

import torch

from node.engine.base import ComputeDtype
from node.engine.torch_backend.device import AUTO, resolve_device

__all__ = ["probe"]


def probe(size: int, duration_s: float) -> dict[str, object]:
    """Multiply square matrices for so long: name, device, dtype and gigaflops per second."""
    device = resolve_device(AUTO, ComputeDtype.BF16)
    dtype = torch.float32 if device.type == "cpu" else torch.bfloat16
    factor = torch.ones(size, size, dtype=dtype, device=device)
    _wait(factor @ factor)  # kernels are chosen, and clocks raised, the first time
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < duration_s:
        _wait(factor @ factor)
        count += 1
    elapsed_s = time.perf_counter() - began
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return {
        "name": f"torch {torch.__version__}",
        "device": name,
        "dtype": str(dtype).removeprefix("torch."),
        "gflop_per_s": 2 * size**3 * count / elapsed_s / 1e9,
    }


def _wait(product: torch.Tensor) -> None:
    """Until it is computed: reading one element waits on every device."""
    float(product[0, 0])
