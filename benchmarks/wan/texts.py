"""What the packaged model is asked, by kind of text.

It is a very small model that has learned its sentences nearly by heart: what it writes is fluent,
short, and hardly ever new. `code`: it writes a function that stands further up in the conversation,
as when code is carried over or rewritten; its sentence before the code stands nowhere, that behind
it does. `summary`: it says in one sentence, nearly that of the text, what a longer text explained.
`chat`: it answers about Piecework; there is nothing to copy from.
"""

from collections.abc import Mapping
from typing import Final

__all__ = ["KINDS", "Conversation"]

Conversation = tuple[str, ...]
"""What user and assistant said, in turns; the user first and last."""


def _code(task: str, code: str, reason: str) -> Conversation:
    return (
        f"Explain this function:\n```python\n{code}\n```",
        f"This function {task}. {reason}",
        f"Write a Python function that {task}.",
    )


KINDS: Final[Mapping[str, tuple[Conversation, ...]]] = {
    "code": (
        _code(
            "computes Fibonacci numbers",
            "def fibonacci(n):\n    a, b = 0, 1\n    for _ in range(n):\n        a, b = b, a + b\n"
            "    return a",
            "Two variables hold the last two numbers, and each round moves them one place on.",
        ),
        _code(
            "finds the largest number in a list",
            "def largest(numbers):\n    best = numbers[0]\n    for number in numbers:\n"
            "        if number > best:\n            best = number\n    return best",
            "It remembers the best number so far and compares every other number with it.",
        ),
    ),
    "summary": (
        (
            "What is a receipt?",
            "A receipt is a signed record of what one hop has carried under one lease so far. "
            "Receipts are cumulative, so the largest one counts and a lost one does no harm. The "
            "payer signs it and the hop signs it too. Later the receipts are settled into money.",
            "What is a receipt, in one sentence?",
        ),
        (
            "What is a route?",
            "A route is an ordered list of hops whose spans cover all layers of the model exactly "
            "once. There may be no gap and no overlap, and this is checked when the route is made. "
            "The router looks for a route that is fast, cheap and reliable.",
            "What is a route, in one sentence?",
        ),
        (
            "What is a relay?",
            "A relay is a public node that introduces peers and lends them circuits. Many home "
            "machines sit behind a router and cannot be reached from outside. The relay helps them "
            "to find a direct path, and if there is none, it passes their bytes on. The bytes stay "
            "encrypted, so the relay cannot read them.",
            "What is a relay, in one sentence?",
        ),
    ),
    "chat": (("What is a receipt and why is it needed?",),),
}
