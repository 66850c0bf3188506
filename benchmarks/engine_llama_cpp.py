"""The torch engine beside llama.cpp on one thread: int8 and q8_0, int4 and q4_k_m.

llama.cpp runs in a process of its own (llama_cpp_child.py), because it may not be installed here
and because it has crashed on batches. PIECEWORK_LLAMA_CPP_PYTHON names a Python that has the
package llama-cpp-python; without it, or without the package `gguf` here, this benchmark says that
it was skipped and yields nothing. Both sides have the same random weights of llama-0.5b, written
once as F16 GGUF and quantized by llama.cpp itself.
`python -m benchmarks.engine_llama_cpp` prints the rows.
"""

import importlib.util
import itertools
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, TextIO

from benchmarks.row import Row
from node.engine.base import ComputeDtype

__all__ = ["PYTHON_VARIABLE", "rows", "write_gguf"]

PYTHON_VARIABLE = "PIECEWORK_LLAMA_CPP_PYTHON"
REPEATS = 3
BATCHES = (1, 8, 32)
PAIRS = ((ComputeDtype.INT8, "q8_0"), (ComputeDtype.INT4, "q4_k_m"), (ComputeDtype.BF16, "q8_0"))
"""Ours and theirs; bf16 is what a node with memory to spare serves."""
ANSWER_BYTES_MAX = 4096

LAYER_NAMES = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}
END_NAMES = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def rows(repeats: int = REPEATS) -> list[Row]:
    """All rows, some four minutes; none, with a word on stderr, where llama.cpp is not."""
    if reason := _missing():
        print(f"skipped: {reason}", file=sys.stderr)
        return []
    import torch

    from benchmarks.engine_steps import load_shards
    from tools.tiny_checkpoints import make_checkpoint

    with tempfile.TemporaryDirectory(prefix="piecework-bench-") as name:
        folder = Path(name)
        directory = make_checkpoint(folder / "model", "llama-0.5b")
        source = write_gguf(folder / "f16.gguf", directory)
        torch.set_num_threads(1)
        engines = {dtype: load_shards(directory, dtype) for dtype, _ in PAIRS}
        child = _start(source, folder)
        with child:
            try:
                json.loads(_answer(child.stdout))
                return list(_compare(engines, child, repeats))
            finally:
                child.kill()


def write_gguf(path: Path, directory: Path) -> Path:
    """A Llama checkpoint as F16 GGUF, without a tokenizer and without rope scaling.

    Query and key rows are not reordered as llama.cpp's rotation has them: it computes as much.
    """
    import torch
    from gguf import GGUFWriter
    from safetensors import safe_open

    config = json.loads((directory / "config.json").read_text())
    writer = GGUFWriter(path, "llama")
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("no_vocab")
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, "pt") as tensors:
            for name in tensors.keys():  # noqa: SIM118 (not a mapping)
                tensor = tensors.get_tensor(name)
                dtype = torch.float32 if tensor.ndim == 1 else torch.float16
                writer.add_tensor(_gguf_name(name), tensor.to(dtype).numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _missing() -> str | None:
    python = os.environ.get(PYTHON_VARIABLE)
    if not python:
        return f"{PYTHON_VARIABLE} names no Python that has llama-cpp-python"
    if importlib.util.find_spec("gguf") is None:
        return "the package gguf is not installed here"
    tried = subprocess.run(
        [python, "-c", "import llama_cpp"], capture_output=True, timeout=60, check=False
    )
    return None if tried.returncode == 0 else f"{python} cannot import llama_cpp"


def _start(source: Path, folder: Path) -> "subprocess.Popen[str]":
    script = Path(__file__).with_name("llama_cpp_child.py")
    return subprocess.Popen(
        [os.environ[PYTHON_VARIABLE], str(script), str(source), str(folder)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


def _answer(stream: TextIO | None) -> str:
    assert stream is not None
    line = stream.readline(ANSWER_BYTES_MAX)
    if not line:
        raise RuntimeError("llama.cpp's process ended; what it said stands above")
    return line


def _compare(
    engines: dict[ComputeDtype, Sequence[Any]], child: "subprocess.Popen[str]", repeats: int
) -> Iterable[Row]:
    from benchmarks.engine_steps import (
        PREFILL_ROWS,
        PROMPT_TOKENS,
        STEPS,
        decode_step_s,
        prefill_s,
        ratio,
    )

    for (dtype, kind), batch in itertools.product(PAIRS, BATCHES):
        decodes, prefills = [], []
        for _ in range(repeats):
            theirs_s = _ask(child, kind, "decode", batch, PROMPT_TOKENS, STEPS)
            decodes.append((theirs_s, *decode_step_s(batch, engines[dtype])))
            theirs_s = _ask(child, kind, "prefill", batch, PREFILL_ROWS // batch, 0)
            prefills.append((theirs_s, *prefill_s(batch, engines[dtype])))
        workload = f"llama-0.5b {dtype} against {kind}, 1 thread, batch {batch}"
        yield ratio("decode against llama.cpp", workload, decodes)
        yield ratio("prefill against llama.cpp", f"{workload}, {PREFILL_ROWS} rows", prefills)


def _ask(child: "subprocess.Popen[str]", kind: str, what: str, *numbers: int) -> float:
    assert child.stdin is not None
    child.stdin.write(" ".join([kind, what, *map(str, numbers)]) + "\n")
    child.stdin.flush()
    return float(json.loads(_answer(child.stdout)))


def _gguf_name(name: str) -> str:
    base, _, kind = name.rpartition(".")
    if base in END_NAMES:
        return f"{END_NAMES[base]}.{kind}"
    _, _, layer, rest = base.split(".", 3)
    return f"blk.{layer}.{LAYER_NAMES[rest]}.{kind}"


if __name__ == "__main__":
    for row in rows():
        print(f"{row.figure} [{row.workload}]: {row.value} {row.unit} ({row.spread})")
