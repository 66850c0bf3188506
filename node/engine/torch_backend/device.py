"""Which device a shard computes on. What is asked for and is not here is refused, never replaced.

The layers are the same code everywhere; only the CPU's packed and quantized linears are not, so
int8 and int4 are for the CPU.
"""

import re

import torch

from node.engine.base import ComputeDtype
from node.engine.errors import BackendMissing, ModelUnsupported

__all__ = ["AUTO", "resolve_device"]

AUTO = "auto"
CPU_ONLY = frozenset({ComputeDtype.INT8, ComputeDtype.INT4})
_NAME = re.compile(r"cpu|mps|cuda(:\d{1,2})?")


def resolve_device(name: str, compute_dtype: ComputeDtype) -> torch.device:
    """The device of that name, or for `auto` the fastest here that computes in this dtype.

    Raises BackendMissing for a device that is not here, and ModelUnsupported for a dtype that the
    device has no linears for.
    """
    if name == AUTO:
        return torch.device(_fastest() if compute_dtype not in CPU_ONLY else "cpu")
    if not _NAME.fullmatch(name):
        raise BackendMissing(
            f"There is no kind of device '{name[:32]}'.",
            hint="Choose auto, cpu, cuda, cuda:1 (by number) or mps.",
        )
    device = torch.device(name)
    if device.type != "cpu" and compute_dtype in CPU_ONLY:
        raise ModelUnsupported(
            f"{compute_dtype} runs on the CPU only, not on {name}.",
            hint=f"Choose bf16 for {name}, or the device cpu for {compute_dtype}.",
        )
    if device.type == "cuda" and int(name[5:] or 0) >= torch.cuda.device_count():
        raise BackendMissing(_missing(name), hint=_hint())
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise BackendMissing(_missing(name), hint=_hint())
    return device


def _fastest() -> str:
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def _missing(name: str) -> str:
    return f"This machine has no device '{name}' that torch {torch.__version__} can use."


def _hint() -> str:
    count = torch.cuda.device_count()
    found = ["cpu", *(f"cuda:{index}" for index in range(count))]
    if torch.backends.mps.is_available():
        found.append("mps")
    return f"Choose one of {', '.join(found)}, or auto."
