"""Every limit on what a stranger may send, by name and with its reason, in one place."""

__all__ = [
    "CONTROL_BYTES_MAX",
    "FRAME_BYTES_MAX",
    "HIDDEN_SIZE_MAX",
    "HOPS_MAX",
    "LAYERS_MAX",
    "MANIFEST_BYTES_MAX",
    "NAME_BYTES_MAX",
    "PREFIX_BLOCKS_MAX",
    "PREFIX_BLOCK_TOKENS",
    "PREFIX_HASH_BYTES",
    "RECORD_BYTES_MAX",
    "RECORD_CLOCK_SKEW_S",
    "RECORD_DEPTH_MAX",
    "STEP_TOKENS_MAX",
    "STOP_COUNT_MAX",
    "VOCABULARY_MAX",
]

FRAME_BYTES_MAX = 16 * 1024 * 1024
"""One frame with its payload: a prefill chunk of 512 tokens at hidden 8192 in fp32 is 16 MiB."""

CONTROL_BYTES_MAX = 64 * 1024
"""The CBOR body of any frame that is not a STEP or RESULT: an OPEN with a lease is about 2 KiB."""

RECORD_BYTES_MAX = 32 * 1024
"""A signed record. Leases, offers and receipts are under 1 KiB."""

MANIFEST_BYTES_MAX = 64 * 1024 * 1024
"""A model manifest lists every tensor; DeepSeek-V3 has about 90 000."""

RECORD_DEPTH_MAX = 8
"""Nesting of a record: ours need four levels, and deep nesting costs a parser its stack."""

RECORD_CLOCK_SKEW_S = 60
"""Home machines' clocks drift; a record may seem this much too early, never too late."""

NAME_BYTES_MAX = 256
"""A model name, a reason, an address."""

HOPS_MAX = 64
"""Hops of a route; beyond that the round trip alone is seconds."""

LAYERS_MAX = 1024
"""Layers of a model; the deepest published one has under 200."""

HIDDEN_SIZE_MAX = 65_536
VOCABULARY_MAX = 1_048_576

STEP_TOKENS_MAX = 512
"""Rows of one STEP: bounds what a hop must buffer and how long one step can hold the engine."""

PREFIX_BLOCK_TOKENS = 64
"""Rows that one hash of a prefix stands for: a short system prompt is a few."""

PREFIX_HASH_BYTES = 16
"""Nobody gains by finding two equal ones but within his own prefixes; 128 bits are plenty."""

PREFIX_BLOCKS_MAX = 1024
"""Blocks of a prefix: 65 536 rows, in 17 KiB of an OPEN that may have 64."""

STOP_COUNT_MAX = 16
"""Stop strings of a request (OpenAI allows 4; vLLM and others more)."""
