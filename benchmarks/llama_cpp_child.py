"""The llama.cpp side of engine_llama_cpp.py; runs in a Python of its own that has llama_cpp.

Its arguments are the F16 file and a folder for quantized ones. Then comes one request a line on
stdin, `KIND WHAT BATCH TOKENS STEPS`, and goes one line of JSON on stdout: seconds of the thread
that computes. Imports nothing of ours, which that Python may not have.
"""

import ctypes
import json
import statistics
import sys
import time
from pathlib import Path

import llama_cpp
import numpy as np

CONTEXT_TOKENS = 8192
"""Of all sequences together."""
SEQUENCES_MAX = 32
KINDS = {"q8_0": llama_cpp.LLAMA_FTYPE_MOSTLY_Q8_0, "q4_k_m": llama_cpp.LLAMA_FTYPE_MOSTLY_Q4_K_M}


class Model:
    """One quantization, loaded, with a context for many sequences."""

    def __init__(self, path: Path) -> None:
        options = llama_cpp.llama_model_default_params()
        options.use_extra_bufts = False  # with AMX buffers it crashes on several rows
        self.model = llama_cpp.llama_model_load_from_file(str(path).encode(), options)
        self.vocabulary = llama_cpp.llama_vocab_n_tokens(
            llama_cpp.llama_model_get_vocab(self.model)
        )
        settings = llama_cpp.llama_context_default_params()
        settings.n_ctx, settings.n_batch, settings.n_ubatch = CONTEXT_TOKENS, 512, 512
        settings.n_seq_max = SEQUENCES_MAX
        settings.n_threads = settings.n_threads_batch = 1
        settings.no_perf = True
        self.context = llama_cpp.llama_init_from_model(self.model, settings)
        self.batch = llama_cpp.llama_batch_init(512, 0, 1)

    def decode(self, rows: list[tuple[int, int, int, bool]]) -> float:
        """Seconds for rows of (token, position, sequence, wanted) and their greedy choices."""
        batch = self.batch
        batch.n_tokens = len(rows)
        for index, (token, position, sequence, wanted) in enumerate(rows):
            batch.token[index], batch.pos[index] = token, position
            batch.n_seq_id[index], batch.seq_id[index][0] = 1, sequence
            batch.logits[index] = wanted
        started = time.thread_time()
        if llama_cpp.llama_decode(self.context, batch):
            raise RuntimeError("llama_decode failed")
        for index, row in enumerate(rows):
            if row[3]:
                logits = llama_cpp.llama_get_logits_ith(self.context, index)
                np.ctypeslib.as_array(logits, (self.vocabulary,)).argmax()
        return time.thread_time() - started

    def measure(self, what: str, batch: int, tokens: int, steps: int) -> float:
        """`prefill`: seconds of `tokens` prompt tokens of each; `decode`: of a step after them."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(self.context), True)
        drawn = np.random.default_rng(0).integers(5, 30_000, (batch, tokens)).tolist()
        prompts = [
            (token, position, sequence, position == tokens - 1)
            for sequence, row in enumerate(drawn)
            for position, token in enumerate(row)
        ]
        spent = sum(self.decode(prompts[i : i + 512]) for i in range(0, len(prompts), 512))
        if what == "prefill":
            return spent
        return statistics.median(
            self.decode([(7, tokens + step, sequence, True) for sequence in range(batch)])
            for step in range(steps)
        )


def main(source: Path, folder: Path) -> None:
    llama_cpp.llama_backend_init()
    quiet = llama_cpp.llama_log_callback(lambda *_: None)
    llama_cpp.llama_log_set(quiet, ctypes.c_void_p(0))
    models = {}
    for kind, code in KINDS.items():
        path = folder / f"{kind}.gguf"
        options = llama_cpp.llama_model_quantize_default_params()
        options.ftype, options.nthread = code, 1
        files = str(source).encode(), str(path).encode()
        if llama_cpp.llama_model_quantize(*files, ctypes.byref(options)):
            raise RuntimeError(f"quantizing to {kind} failed")
        models[kind] = Model(path)
    print(json.dumps({"version": llama_cpp.__version__}), flush=True)
    for line in sys.stdin:
        kind, what, batch, tokens, steps = line.split()
        print(
            json.dumps(models[kind].measure(what, int(batch), int(tokens), int(steps))), flush=True
        )


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
