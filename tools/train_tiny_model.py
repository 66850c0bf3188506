"""Make the small chat model of the demos and tests: `python tools/train_tiny_model.py --out DIR`.

It trains a byte-level BPE tokenizer and a Llama model of about 3.6 million parameters from nothing,
on one processor core, in minutes, and writes the directory as transformers' `save_pretrained` does.
It is not a model to rely on: it gives readable text and logits that carry meaning.

Text and licences: chats built from sentences written for this recipe (Apache-2.0, like the
project), and the Python language reference, docstrings and library source of the running Python
(Python Software Foundation License). See tiny_corpus.py. Nothing is downloaded.

The number of steps comes from `--minutes` and a short measurement; it is printed, and `--steps`
with the same seed, threads and machine repeats a run exactly.
"""

import argparse
import itertools
import random
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tiny_corpus
import tiny_rows
import torch
from tiny_rows import Row, train_tokenizer
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SIZE_BYTES_MAX = 8 * 2**20
VOCABULARY = 2048
BATCH_TOKENS = 2048
HELD_OUT_BATCHES = 3
HELD_OUT_PASSAGES = 20
CALIBRATION_STEPS = 12
WARM_UP_STEPS = 40
CHAT_COUNT = 22_000
MUON_RATE, ADAM_RATE, LAST_RATE_SHARE = 4e-3, 3e-3, 0.02
SAMPLE_QUESTIONS = (
    "Explain what a span is and why a model runs in pieces.",
    "Tell me a short story about a lighthouse.",
    "Hello!",
    "What is 7 plus 5?",
    "What is a receipt?",
    "List three fruits.",
    "Write a Python function that reverses a string.",
    "What is the difference between a span and a shard?",
)
README = """---
license: apache-2.0
language: en
library_name: transformers
pipeline_tag: text-generation
---
# piecework-tiny

A Llama model of {parameters:,} parameters (8 layers, hidden 192, vocabulary {vocabulary}, bf16),
made by `tools/train_tiny_model.py` in {minutes:.0f} minutes on {threads} processor thread(s):
{steps} steps (`--steps`), {tokens:,} tokens, seed {seed}.
Held-out loss: chat {chat_loss:.3f} (answers only), reference prose {reference_loss:.3f}.

**For**: demos and tests of a model that runs in pieces. It knows the words of Piecework, small
talk, fourteen little stories, short lists and a few Python functions, in English, in the way its
own corpus asks for them, and it often says so when it does not know.
Greedy decoding suits it best.

**Not for**: real questions. It has learned its sentences nearly by heart; a question that is put
differently can get the answer to another one. It gets many sums of small numbers wrong and cannot
repeat a list of words. It was never aligned or tested for safety, and conversations past
{row_tokens} tokens are longer than anything it has seen.

**Text**: chats built by `tools/tiny_corpus.py` from sentences written for it (Apache-2.0, like the
project), and the Python language reference, standard library docstrings and source of Python
{python} (PSF License 2.0). Nothing else.
"""


@dataclass(frozen=True, slots=True)
class Optimizers:
    """Muon for the matrices of the layers, AdamW for the rest, under one schedule."""

    muon: torch.optim.Optimizer
    adam: torch.optim.Optimizer

    def step(self, rate_share: float) -> None:
        """Apply the gradients at `rate_share` of the full learning rates, then clear them."""
        for optimizer, rate in ((self.muon, MUON_RATE), (self.adam, ADAM_RATE)):
            for group in optimizer.param_groups:
                group["lr"] = rate * rate_share
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)


def main() -> None:
    """Train, save, check the size and show a few answers of what was saved."""
    arguments = _arguments()
    torch.set_num_threads(arguments.threads)
    torch.manual_seed(arguments.seed)
    chats = list(itertools.islice(tiny_corpus.chats(arguments.seed), CHAT_COUNT))
    passages = tiny_corpus.reference_texts()
    random.Random(arguments.seed).shuffle(passages)
    held_out, learned = passages[:HELD_OUT_PASSAGES], passages[HELD_OUT_PASSAGES:]
    tokenizer = train_tokenizer(chats, learned, VOCABULARY)
    batches = tiny_rows.batches(tokenizer, chats, learned, BATCH_TOKENS, arguments.seed)
    _say(f"{len(batches)} batches of {BATCH_TOKENS} tokens from {len(chats)} chats")
    started = time.monotonic()
    steps = arguments.steps or _steps_in(arguments.minutes * 60, batches)
    torch.manual_seed(arguments.seed)
    model = build_model()
    train(model, batches, steps)
    minutes = (time.monotonic() - started) / 60
    losses = held_out_losses(model, tokenizer, held_out, arguments.seed + 1)
    _say(f"held-out loss: chat {losses[0]:.4f}, reference {losses[1]:.4f}; {minutes:.1f} minutes")
    save(model, tokenizer, arguments.out)
    card = README.format(
        parameters=model.num_parameters(), vocabulary=VOCABULARY, minutes=minutes, steps=steps,
        threads=arguments.threads, tokens=steps * BATCH_TOKENS,
        seed=arguments.seed, chat_loss=losses[0], reference_loss=losses[1],
        row_tokens=tiny_rows.LONG_ROW_TOKENS,
        python=".".join(str(part) for part in sys.version_info[:3]),
    )  # fmt: skip
    (arguments.out / "README.md").write_text(card, encoding="utf-8")
    check_size(arguments.out)
    show_answers(arguments.out)


def build_model() -> LlamaForCausalLM:
    """The untrained model, fp32; small enough for 8 MiB and deep enough for five spans."""
    config = LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=192, intermediate_size=512, num_hidden_layers=8,
        num_attention_heads=6, num_key_value_heads=2, head_dim=32, max_position_embeddings=2048,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=[4, 1], pad_token_id=1,
        rope_parameters={"rope_type": "default", "rope_theta": 50000.0},
    )  # fmt: skip
    return LlamaForCausalLM(config)


def row_loss(model: LlamaForCausalLM, rows: list[Row]) -> torch.Tensor:
    """Weighted cross entropy of a batch of rows, in bf16 autocast; a scalar."""
    ids = torch.tensor([row.ids for row in rows])
    weights = torch.tensor([row.weights for row in rows])[:, 1:].reshape(-1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(input_ids=ids, use_cache=False).logits[:, :-1]
    losses = torch.nn.functional.cross_entropy(
        logits.float().reshape(-1, VOCABULARY), ids[:, 1:].reshape(-1), reduction="none"
    )
    return (losses * weights).sum() / weights.sum()


def train(model: LlamaForCausalLM, batches: list[list[Row]], steps: int) -> None:
    """Run all steps; the rate warms up, stays flat to 30 %, then falls in a straight line."""
    optimizers = _optimizers(model)
    started = time.monotonic()
    model.train()
    for step, batch in enumerate(itertools.islice(itertools.cycle(batches), steps)):
        loss = row_loss(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizers.step(_rate_share(step, steps))
        if step % 50 == 0 or step == steps - 1:
            elapsed_s = time.monotonic() - started
            _say(f"step {step}/{steps} loss {loss.item():.3f} {elapsed_s:.0f} s")


def _rate_share(step: int, steps: int) -> float:
    decay = min(1.0, (1 - step / steps) / 0.7)
    return min((step + 1) / WARM_UP_STEPS, LAST_RATE_SHARE + (1 - LAST_RATE_SHARE) * decay)


def _optimizers(model: LlamaForCausalLM) -> Optimizers:
    matrices = [value for value in model.model.layers.parameters() if value.ndim == 2]
    chosen = {id(value) for value in matrices}
    rest = [value for value in model.parameters() if id(value) not in chosen]
    muon = torch.optim.Muon(
        matrices, lr=MUON_RATE, momentum=0.95, weight_decay=0.05,
        adjust_lr_fn="match_rms_adamw",
    )  # fmt: skip
    adam = torch.optim.AdamW(rest, lr=ADAM_RATE, betas=(0.9, 0.95), weight_decay=0.0)
    return Optimizers(muon, adam)


def _steps_in(budget_s: float, batches: list[list[Row]]) -> int:
    """How many steps fit into the budget, measured on a model that is thrown away."""
    model = build_model()
    train(model, batches, 2)
    started = time.monotonic()
    train(model, batches, CALIBRATION_STEPS)
    step_s = (time.monotonic() - started) / CALIBRATION_STEPS
    return max(WARM_UP_STEPS, int((budget_s - CALIBRATION_STEPS * step_s) / step_s))


def held_out_losses(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    passages: list[str],
    seed: int,
) -> tuple[float, float]:
    """Mean losses on chats of another seed (answers only) and on prose that was kept back."""
    chats = list(itertools.islice(tiny_corpus.chats(seed), 200))
    batches = tiny_rows.batches(tokenizer, chats, passages, BATCH_TOKENS, seed)
    answers = [tiny_rows.answers_only(row) for rows in batches[:HELD_OUT_BATCHES] for row in rows]
    prose = tiny_rows.prose_rows(tokenizer, passages, len(answers))
    return evaluate(model, answers), evaluate(model, prose)


@torch.no_grad()
def evaluate(model: LlamaForCausalLM, rows: list[Row]) -> float:
    """Mean loss of rows, in nats per weighted token."""
    model.eval()
    scored = [row for row in rows if any(row.weights)]
    return sum(row_loss(model, [row]).item() for row in scored) / len(scored)


def save(model: LlamaForCausalLM, tokenizer: PreTrainedTokenizerFast, directory: Path) -> None:
    """Write config, bf16 weights in several files and tokenizer; old weight files are removed."""
    directory.mkdir(parents=True, exist_ok=True)
    for old in directory.glob("model*.safetensors*"):
        old.unlink()
    model.generation_config.update(
        bos_token_id=0, eos_token_id=[4, 1], pad_token_id=1, do_sample=False
    )
    half: Any = model.to(torch.bfloat16)
    half.save_pretrained(directory, max_shard_size="2MB")
    for weights in directory.glob("*.safetensors"):
        weights.chmod(0o644)  # the library leaves them readable by their owner alone
    tokenizer.save_pretrained(str(directory))


def check_size(directory: Path) -> None:
    """Exit with a message when the directory is larger than the repository allows."""
    size_bytes = sum(path.stat().st_size for path in directory.iterdir())
    _say(f"{size_bytes:,} bytes in {directory}")
    if size_bytes > SIZE_BYTES_MAX:
        sys.exit(f"{directory} holds {size_bytes} bytes, more than {SIZE_BYTES_MAX}")


def show_answers(directory: Path) -> None:
    """Print greedy answers of the saved model to the sample questions."""
    tokenizer: Any = PreTrainedTokenizerFast.from_pretrained(str(directory))
    model: Any = LlamaForCausalLM.from_pretrained(str(directory), dtype=torch.bfloat16)
    for question in SAMPLE_QUESTIONS:
        inputs = tokenizer.apply_chat_template(
            [{"role": "user", "content": question}],
            add_generation_prompt=True, return_dict=True, return_tensors="pt",
        )  # fmt: skip
        output = model.generate(**inputs, max_new_tokens=300, do_sample=False)
        answer = output[0, inputs["input_ids"].shape[1] :]
        text = tokenizer.decode(answer, skip_special_tokens=True)
        print(f"> {question}\n{text}\n[{len(answer)} tokens]\n")


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Train the tiny chat model of Piecework.")
    parser.add_argument("--out", type=Path, required=True, help="directory to write")
    parser.add_argument("--minutes", type=float, default=14.0, help="time for training")
    parser.add_argument("--steps", type=int, help="exact number of steps, instead of minutes")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    return parser.parse_args()


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
