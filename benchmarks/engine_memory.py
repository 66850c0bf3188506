"""What a shard takes: memory of its worker process with the KV budget full, and bytes read to load.

Memory is the resident set of a real worker process, less that of a worker with a shard of next to
nothing (Python, torch, transformers), over the weights as held and the KV budget. The budget is
full: every sequence's capacity is reserved and every row of it written by steps.

Bytes read are counted in the page cache: the weight files are put out of it, a worker loads a
shard, and what lies there then was read, by whatever call or page fault, read-ahead included.
Linux only. `python -m benchmarks.engine_memory` prints the rows.
"""

import asyncio
import ctypes
import mmap
import os
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import torch

from benchmarks.row import Row
from node.engine.base import ComputeDtype, EngineInfo, Output, ShardSpec, StepItem, StepResult
from node.engine.worker import EngineWorker
from protocol.route import Span
from protocol.tensor import WireDtype
from tools.tiny_checkpoints import make_checkpoint

__all__ = ["rows"]

LAYERS = 9
"""Of the shape of llama-0.5b, so that filling the budget takes a minute."""
WHOLE_LAYERS, THIRD = 28, Span(9, 18)
"""Loading is measured on the whole of it: a disk reads ahead by MiB at a range's edges."""
KV_TOKENS = 16_384
CAPACITIES = {"32 sequences of 512": [512] * 32, "97 of 7 to 333": list(range(7, 334, 3))[:97]}
"""One that fits pages exactly, and one that never does."""
CHUNK_ROWS = 256
MODEL = f"{LAYERS} layers of llama-0.5b bf16"


def rows() -> list[Row]:
    """All rows; about two minutes."""
    with tempfile.TemporaryDirectory(prefix="piecework-bench-") as folder:
        directory = make_checkpoint(Path(folder) / "model", "llama-0.5b", layers=LAYERS)
        tiny = make_checkpoint(Path(folder) / "tiny", "llama", layers=1)
        found = list(_of_memory(directory, _resident_bytes(_spec(tiny, Span(0, 1)), [])[0]))
        whole = make_checkpoint(Path(folder) / "whole", "llama-0.5b", layers=WHOLE_LAYERS)
        return found + list(_of_loading(whole))


def _of_memory(directory: Path, bare_bytes: int) -> Iterable[Row]:
    for name, capacities in CAPACITIES.items():
        spec = _spec(directory, Span(0, LAYERS), kv_tokens=sum(capacities))
        taken, info = _resident_bytes(spec, capacities)
        promised = info.weight_bytes + spec.kv_tokens * info.kv_bytes_per_token
        workload = f"{MODEL}, {spec.kv_tokens:,} KV tokens, full: {name}"
        figure = "memory of a shard / (weights + KV budget)"
        yield Row(figure, workload, round((taken - bare_bytes) / promised, 3), "x", "<= 1.15 x")
        runtime = f"Python, torch and transformers apart: {bare_bytes / 2**20:.0f} MiB"
        yield Row("memory of a shard", workload, round(taken / 2**20), "MiB", spread=runtime)


def _of_loading(directory: Path) -> Iterable[Row]:
    files = sorted(directory.glob("*.safetensors"))
    whole = sum(file.stat().st_size for file in files)
    for file in files:
        _put_out_of_cache(file)
    left = sum(map(_cached_bytes, files))
    if left > whole // 100:
        raise OSError(f"{left} bytes of the weight files cannot be put out of the page cache.")
    _, info = _resident_bytes(_spec(directory, THIRD), [])
    read = sum(map(_cached_bytes, files)) - left
    workload = f"llama-0.5b bf16, {len(THIRD)} of {WHOLE_LAYERS} layers, read-ahead included"
    figure = "bytes read to load a third / bytes of all weights"
    share = f"held {info.weight_bytes / whole:.3f}"
    yield Row(figure, workload, round(read / whole, 3), "x", "<= 0.35 x", share)


def _spec(directory: Path, span: Span, kv_tokens: int = KV_TOKENS) -> ShardSpec:
    return ShardSpec(
        directory,
        span,
        embeds=span.start == 0,
        has_head=span.end == LAYERS,
        compute_dtype=ComputeDtype.BF16,
        kv_tokens=kv_tokens,
        device="cpu",
    )


def _resident_bytes(spec: ShardSpec, capacities: list[int]) -> tuple[int, EngineInfo]:
    """The worker's resident set once sequences of these capacities are full, and what it loaded."""

    async def measure() -> tuple[int, EngineInfo]:
        worker = await EngineWorker.start(spec, backend="torch")
        try:
            for sequence_id, capacity in enumerate(capacities):
                await worker.open(sequence_id, capacity_tokens=capacity, sampling=None)
                await _fill(worker, sequence_id, capacity)
            statistics = await worker.statistics()
            assert statistics.kv_tokens_reserved == sum(capacities)
            return _resident_set(worker.pid), worker.info
        finally:
            await worker.stop()

    return asyncio.run(measure())


def _resident_set(pid: int) -> int:
    pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    return int(pages) * mmap.PAGESIZE


async def _fill(worker: EngineWorker, sequence_id: int, capacity: int) -> None:
    random = np.random.default_rng(sequence_id)
    for start in range(0, capacity, CHUNK_ROWS):
        tokens = random.integers(5, 2_000, min(CHUNK_ROWS, capacity - start), dtype=np.int32)
        item = StepItem(
            sequence_id, start, len(tokens), 1, Output.HIDDEN, WireDtype.BF16, tokens=tokens
        )
        (result,) = await worker.step([item])
        assert isinstance(result, StepResult), result


def _put_out_of_cache(file: Path) -> None:
    descriptor = os.open(file, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # dirty pages would stay
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)


def _cached_bytes(file: Path) -> int:
    """How much of the file lies in the page cache (mincore(2))."""
    size = file.stat().st_size
    pages = -(-size // mmap.PAGESIZE)
    resident = (ctypes.c_ubyte * pages)()
    with _mapped(file) as address:
        mincore = ctypes.CDLL(None, use_errno=True).mincore
        if mincore(ctypes.c_void_p(address), ctypes.c_size_t(size), resident) != 0:
            raise OSError(ctypes.get_errno(), "mincore")
    return sum(flag & 1 for flag in resident) * mmap.PAGESIZE


@contextmanager
def _mapped(file: Path) -> Iterator[int]:
    """The file's address in memory; mapping it reads nothing."""
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, mmap.MAP_PRIVATE) as mapping:
        yield torch.frombuffer(mapping, dtype=torch.uint8).data_ptr()


if __name__ == "__main__":
    for row in rows():
        print(f"{row.figure} [{row.workload}]: {row.value} {row.unit} ({row.spread}) {row.mark}")
