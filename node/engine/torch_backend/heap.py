"""What the process holds beside weights and KV, kept small: file mappings and freed memory."""

import ctypes
import sys
from bisect import bisect_right
from collections.abc import Callable, Sequence

import torch
from torch import nn

__all__ = ["addresses_of", "give_back_freed", "own_weights"]


def addresses_of(model: nn.Module) -> list[tuple[int, int]]:
    """Address and size in bytes of all its tensors on the CPU, rising."""
    tensors = (*model.parameters(), *model.buffers())
    return sorted((one.data_ptr(), one.nbytes) for one in tensors if one.device.type == "cpu")


def own_weights(parts: nn.Module, loaded: Sequence[tuple[int, int]]) -> None:
    """Copy out of the weight files what `parts` still holds of what was `loaded` (addresses_of).

    Loaded tensors are views of mapped files: one of them keeps its whole file in memory, and a
    file that is changed or cut short would change the weights or end the process.
    """
    copies: dict[tuple[int, torch.Size], torch.Tensor] = {}

    def own(tensor: torch.Tensor) -> torch.Tensor | None:
        if tensor.device.type != "cpu" or tensor.layout is not torch.strided:
            return None
        address = tensor.data_ptr()
        before = bisect_right(loaded, address, key=lambda place: place[0]) - 1
        if before < 0 or address >= sum(loaded[before]):
            return None
        key = (address, tensor.shape)  # tied weights are several tensors of one address
        if key not in copies:
            copies[key] = tensor.detach().clone()
        return copies[key]

    for module in parts.modules():
        for parameter in module.parameters(recurse=False):
            if (copy := own(parameter)) is not None:
                parameter.data = copy
        # A loaded buffer is a view and would hold on to its base: another takes its place.
        for name, buffer in list(module.named_buffers(recurse=False)):
            if (copy := own(buffer)) is not None:
                setattr(module, name, copy)


def _find_trim() -> Callable[[int], int] | None:
    """glibc's malloc_trim(3); other allocators give back by themselves."""
    if sys.platform != "linux":
        return None
    trim: Callable[[int], int] | None = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return trim


_trim = _find_trim()


def give_back_freed() -> None:
    """Return freed memory to the system: 0.1 to 3 ms, and the next large step takes it anew.

    Rows of a prefill are of ever other counts, so what the allocator keeps of them grows: 50 MiB
    were measured after 28 prompts of a shard of 400 MiB.
    """
    if _trim is not None:
        _trim(0)
