"""How fast MLX multiplies on its default device here; run in a process of its own."""

import time

import mlx.core as mx

from node.engine.mlx_backend.device import choose_device

__all__ = ["probe"]


def probe(size: int, duration_s: float) -> dict[str, object]:
    """Multiply square matrices for so long: name, device, dtype and gigaflops per second."""
    device = choose_device("auto")
    is_cpu = device == mx.Device(mx.cpu)
    dtype = mx.float32 if is_cpu else mx.bfloat16
    factor = mx.ones((size, size), dtype=dtype)
    mx.eval(factor @ factor)  # compiled the first time
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < duration_s:
        mx.eval(factor @ factor)
        count += 1
    elapsed_s = time.perf_counter() - began
    return {
        "name": f"mlx {mx.__version__}",
        "device": "cpu" if is_cpu else "gpu",
        "dtype": str(dtype).removeprefix("mlx.core."),
        "gflop_per_s": 2 * size**3 * count / elapsed_s / 1e9,
    }
