"""What bf16, int8 and int4 cost in quality: the packaged trained model, each against fp32.

The text is documentation of the Python installation that the model was not trained on, so its
absolute loss is high; what counts is the difference. Every position is asked with the true tokens
before it (teacher forcing), in windows. `python -m benchmarks.engine_quality` prints the rows.
"""

import importlib
import inspect
import itertools
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer

from benchmarks.row import Row
from node.engine.base import ComputeDtype, Output, ShardSpec, StepItem, StepResult
from node.engine.store import TINY_MODEL, resolve_model
from node.engine.torch_backend.backend import TorchEngine
from node.engine.torch_backend.shard import load_shard
from protocol.route import Span
from protocol.sampling import SamplingParameters
from protocol.tensor import WireDtype

__all__ = ["Quality", "measure", "rows"]

MODULES = ("asyncio", "decimal", "doctest", "email.message", "ipaddress", "optparse", "tarfile",
           "turtle", "xml.etree.ElementTree", "zipfile")  # fmt: skip
"""None of them stands in tools/tiny_corpus.py."""
WINDOW_TOKENS = 256
WINDOWS = 32
LAYERS = 8
GREEDY = SamplingParameters(temperature_millionths=0)


@dataclass(frozen=True, slots=True)
class Quality:
    """Over all scored tokens: mean loss in nats, and the likeliest token after each prefix."""

    loss: float
    likeliest: torch.Tensor


def rows() -> Iterable[Row]:
    """Takes about half a minute."""
    windows = _windows()
    workload = f"piecework-tiny, {windows.numel()} tokens of unseen documentation"
    exact = measure(ComputeDtype.FP32, windows)
    yield Row("fp32: loss", workload, round(exact.loss, 4), "nats a token")
    for dtype in (ComputeDtype.BF16, ComputeDtype.INT8, ComputeDtype.INT4):
        found = measure(dtype, windows)
        perplexity = float(np.exp(found.loss - exact.loss))
        agreement = (found.likeliest == exact.likeliest).float().mean()
        yield Row(f"{dtype}: perplexity against fp32", workload, round(perplexity, 4), "x")
        figure = f"{dtype}: greedy agreement with fp32, teacher-forced"
        yield Row(figure, workload, round(100 * float(agreement), 2), "%")


def measure(dtype: ComputeDtype, windows: torch.Tensor) -> Quality:
    """Of the engine in that dtype. `windows`: (windows, tokens) ids."""
    spec = ShardSpec(
        resolve_model(TINY_MODEL, models_directory=None),
        Span(0, LAYERS),
        embeds=True,
        has_head=True,
        compute_dtype=dtype,
        device="cpu",
    )
    shard = load_shard(spec)
    engine = TorchEngine(spec, shard)
    losses, likeliest = [], []
    for index, window in enumerate(windows):
        engine.open(index, capacity_tokens=len(window), sampling=GREEDY)
        (result,) = engine.step([_whole(index, window)])
        engine.close(index)
        assert isinstance(result, StepResult), result
        with torch.inference_mode():
            hidden = torch.from_numpy(result.hidden).to(shard.dtype)
            logits = torch.from_numpy(shard.logits(hidden))[:-1]
        losses.append(torch.nn.functional.cross_entropy(logits, window[1:]))
        likeliest.append(logits.argmax(-1))
    return Quality(float(torch.stack(losses).mean()), torch.cat(likeliest))


def _whole(sequence_id: int, window: torch.Tensor) -> StepItem:
    count = len(window)
    return StepItem(
        sequence_id, 0, count=count, wanted=count, output=Output.HIDDEN,
        wire_dtype=WireDtype.FP32, tokens=window.numpy().astype(np.int32),
    )  # fmt: skip


def _windows() -> torch.Tensor:
    """(WINDOWS, WINDOW_TOKENS) ids of consecutive documentation."""
    directory = resolve_model(TINY_MODEL, models_directory=None)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    needed = WINDOWS * WINDOW_TOKENS
    ids = itertools.chain.from_iterable(
        tokenizer.encode(text, add_special_tokens=False).ids for text in _texts()
    )
    taken = list(itertools.islice(ids, needed))
    assert len(taken) == needed, "the modules hold too little documentation"
    return torch.tensor(taken).view(WINDOWS, WINDOW_TOKENS)


def _texts() -> Iterable[str]:
    for name in MODULES:
        module = importlib.import_module(name)
        own = [value for key, value in sorted(vars(module).items()) if not key.startswith("_")]
        for value in (module, *own):
            if inspect.isclass(value) or inspect.isfunction(value) or value is module:
                yield f"{inspect.getdoc(value) or ''}\n\n"


if __name__ == "__main__":
    for row in rows():
        print(f"{row.figure} [{row.workload}]: {row.value} {row.unit}")
