"""From chats and prose to training rows: the tokenizer, and rows of ids with loss weights.

What this is not: the text itself (tiny_corpus.py) or the training (train_tiny_model.py).
"""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass

from tiny_corpus import Message
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

__all__ = ["Row", "answers_only", "batches", "prose_rows", "train_tokenizer"]

PROMPT_WEIGHT, REFERENCE_WEIGHT = 0.15, 0.5
SHORT_ANSWER_WEIGHT, SHORT_ANSWER_TOKENS = 5.0, 50
REFERENCE_ROW_SHARE = 0.10
ROW_TOKENS, LONG_ROW_TOKENS = 256, 512
TOKENIZER_LINES = 8000
SPECIAL_TOKENS = (
    "<|begin_of_text|>",
    "<|end_of_text|>",
    "<|start_header_id|>",
    "<|end_header_id|>",
    "<|eot_id|>",
)
WORD_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,2}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CHAT_TEMPLATE = (
    "{{- bos_token }}\n"
    "{%- for message in messages %}\n"
    "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' }}\n"
    "    {{- message['content'] | trim + '<|eot_id|>' }}\n"
    "{%- endfor %}\n"
    "{%- if add_generation_prompt %}\n"
    "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n"
    "{%- endif %}\n"
)


@dataclass(frozen=True, slots=True)
class Row:
    """One training row: token ids and the loss weight of each, lists of equal length."""

    ids: list[int]
    weights: list[float]


def train_tokenizer(
    chats: list[list[Message]], passages: list[str], vocabulary: int
) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with Llama 3's special tokens and chat template."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
        pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
    ])  # fmt: skip
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    lines = [f"{message['role']}\n\n{message['content']}" for chat in chats for message in chat]
    tokenizer.train_from_iterator(itertools.chain(lines[:TOKENIZER_LINES], passages), trainer)
    begin = SPECIAL_TOKENS[0]
    tokenizer.post_processor = processors.Sequence([
        processors.ByteLevel(trim_offsets=False),
        processors.TemplateProcessing(
            single=f"{begin} $A",
            pair=f"{begin} $A {begin}:1 $B:1",
            special_tokens=[(begin, tokenizer.token_to_id(begin))],
        ),
    ])  # fmt: skip
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        bos_token=begin,
        eos_token="<|eot_id|>",
        pad_token="<|end_of_text|>",
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
        model_input_names=["input_ids", "attention_mask"],
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def batches(
    tokenizer: PreTrainedTokenizerFast,
    chats: list[list[Message]],
    passages: list[str],
    batch_tokens: int,
    seed: int,
) -> list[list[Row]]:
    """Shuffled batches; within one all rows are equally long, and long chats get long rows."""
    rng = random.Random(seed)
    prose = _prose_stream(tokenizer, passages)
    encoded = [_encode_chat(tokenizer, chat) for chat in chats]
    short = [chat for chat in encoded if len(chat.ids) <= ROW_TOKENS]
    long = [chat for chat in encoded if len(chat.ids) > ROW_TOKENS]
    found: list[list[Row]] = []
    for part, row_tokens in ((short, ROW_TOKENS), (long, LONG_ROW_TOKENS)):
        rows = _packed(part, prose, row_tokens)
        rows += [_filled(Row([], []), prose, row_tokens)
                 for _ in range(int(len(rows) * REFERENCE_ROW_SHARE))]  # fmt: skip
        rng.shuffle(rows)
        count = max(1, batch_tokens // row_tokens)
        found += [rows[at : at + count] for at in range(0, len(rows), count)]
    rng.shuffle(found)
    return found


def prose_rows(
    tokenizer: PreTrainedTokenizerFast, passages: list[str], row_count: int
) -> list[Row]:
    """Rows of reference prose alone."""
    prose = _prose_stream(tokenizer, passages)
    return [_filled(Row([], []), prose, ROW_TOKENS) for _ in range(row_count)]


def answers_only(row: Row) -> Row:
    """The same row, scored on the words of the assistant alone."""
    return Row(row.ids, [float(weight >= 1.0) for weight in row.weights])


def _encode_chat(tokenizer: PreTrainedTokenizerFast, chat: list[Message]) -> Row:
    """Ids of a whole chat, and weights that are 1 or more on answers, small on questions."""
    ids: list[int] = [0]
    weights: list[float] = [0.0]
    for message in chat:
        header = f"<|start_header_id|>{message['role']}<|end_header_id|>\n\n"
        head = tokenizer.encode(header, add_special_tokens=False)
        body = tokenizer.encode(message["content"] + "<|eot_id|>", add_special_tokens=False)
        weight = _answer_weight(len(body)) if message["role"] == "assistant" else PROMPT_WEIGHT
        ids += head + body
        weights += [PROMPT_WEIGHT] * len(head) + [weight] * len(body)
    return Row(ids, weights)


def _answer_weight(token_count: int) -> float:
    """More for a short answer, which hangs on one token: the sum, the name, the place to stop."""
    return min(SHORT_ANSWER_WEIGHT, max(1.0, SHORT_ANSWER_TOKENS / token_count))


def _packed(chats: list[Row], prose: Iterator[int], row_tokens: int) -> list[Row]:
    """Whole chats end to end, as many as fit into a row; the rest of each row is prose."""
    rows: list[Row] = []
    ids: list[int] = []
    weights: list[float] = []
    for chat in chats:
        if ids and len(ids) + len(chat.ids) > row_tokens:
            rows.append(_filled(Row(ids, weights), prose, row_tokens))
            ids, weights = [], []
        ids, weights = ids + chat.ids, weights + chat.weights
    return rows


def _filled(row: Row, prose: Iterator[int], row_tokens: int) -> Row:
    rest = list(itertools.islice(prose, max(0, row_tokens - len(row.ids))))
    weights = row.weights + [REFERENCE_WEIGHT] * len(rest)
    return Row((row.ids + rest)[:row_tokens], weights[:row_tokens])


def _prose_stream(tokenizer: PreTrainedTokenizerFast, passages: list[str]) -> Iterator[int]:
    encoded = [[0, *tokenizer.backend_tokenizer.encode(passage, add_special_tokens=False).ids, 1]
               for passage in passages]  # fmt: skip
    return itertools.cycle(itertools.chain.from_iterable(encoded))
