"""A model's chat template: messages in, the prompt out, byte for byte as transformers has it.

Templates are Jinja from a model's directory, never from an API's caller. They are foreign code all
the same, so they run in Jinja's immutable sandbox with bounds: size of the source, of the messages,
of the output, and the number of times round their loops. What is not bounded is the memory of a
single expression (`x ~ x` forty times over): a directory one does not trust at all wants a process
of its own.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from datetime import datetime
from typing import Any, NoReturn

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.sandbox import ImmutableSandboxedEnvironment

from node.errors import ConfigInvalid, PromptInvalid
from node.head.model_files import TEMPLATE_BYTES_MAX

__all__ = ["ChatTemplate"]

MESSAGES_CHARS_MAX = 8 * 2**20
"""All text of a conversation: twice what a context of a million tokens takes."""

PROMPT_CHARS_MAX = 16 * 2**20
"""The rendered prompt; a template adds a few dozen characters to each message."""

LOOP_ROUNDS_MAX = 250_000
"""Rounds of all loops and macros of one rendering, about a second: a hundred for each of the most
messages an API takes. Published templates need a few for each."""

DEPTH_MAX = 32
"""Nesting of a message: tool calls with JSON schemas reach about ten."""

REASON_CHARS_MAX = 500
"""Of a template's own complaint, passed on to the caller."""

_rounds_left: ContextVar[int] = ContextVar("rounds_left")


class ChatTemplate:
    """One compiled template. Rendering has no state: use it from many threads."""

    def __init__(
        self,
        source: str,
        special_tokens: Mapping[str, str] | None = None,
        *,
        now: Callable[[], datetime] = lambda: datetime.now().astimezone(),
    ) -> None:
        """Compile; ConfigInvalid when `source` is too long or is not a template."""
        if len(source) > TEMPLATE_BYTES_MAX:
            raise ConfigInvalid(f"The chat template is larger than {TEMPLATE_BYTES_MAX} bytes.")
        environment = _Environment(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=[_Tags, "jinja2.ext.loopcontrols"],
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _raise_exception
        environment.globals["strftime_now"] = lambda form: now().strftime(form)
        try:
            self._template = environment.from_string(source)
        except (jinja2.TemplateError, RecursionError) as error:
            raise ConfigInvalid(f"The model's chat template does not compile: {error}.") from error
        self._special_tokens = dict(special_tokens or {})

    def render(
        self, messages: Sequence[Mapping[str, object]], *, add_generation_prompt: bool = True
    ) -> str:
        """The prompt; it holds its own BOS, so encode it without special tokens.

        CPU-bound: microseconds for a chat, at most about a second at the limits above.
        Raises PromptInvalid when the messages are too large, are not plain JSON values, or are
        refused by the template.
        """
        if not messages:
            raise PromptInvalid("The conversation has no message.")
        plain = _plain_messages(messages)
        token = _rounds_left.set(LOOP_ROUNDS_MAX)
        try:
            return self._rendered(plain, add_generation_prompt)
        except PromptInvalid:
            raise
        except Exception as error:  # foreign code: it can raise whatever its expressions can
            reason = str(error)[:REASON_CHARS_MAX] or type(error).__name__
            raise PromptInvalid(f"The model's chat template refused the messages: {reason}") from (
                error
            )
        finally:
            _rounds_left.reset(token)

    def _rendered(self, messages: list[dict[str, Any]], add_generation_prompt: bool) -> str:
        pieces: list[str] = []
        length = 0
        for piece in self._template.generate(
            **self._special_tokens,
            messages=messages,
            tools=None,
            documents=None,
            add_generation_prompt=add_generation_prompt,
        ):
            length += len(piece)
            if length > PROMPT_CHARS_MAX:
                raise PromptInvalid(f"The prompt is longer than {PROMPT_CHARS_MAX} characters.")
            pieces.append(piece)
        return "".join(pieces)


class _Tags(Extension):
    """`{% generation %} … {% endgeneration %}`, and the counter of rounds.

    The tag marks the assistant's text for training. It changes no prompt, so its body stands for
    itself; it is a scope of its own, as in transformers, where it is a call block too.
    """

    tags: set[str] = {"generation"}  # noqa: RUF012 - the base class wants a plain attribute

    def parse(self, parser: Parser) -> nodes.Node:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return nodes.CallBlock(self.call_method("body_text"), [], [], body).set_lineno(line)

    def body_text(self, caller: Callable[[], str]) -> str:
        return caller()

    def count_round(self) -> bool:
        left = _rounds_left.get() - 1
        if left < 0:
            raise PromptInvalid(f"The chat template loops more than {LOOP_ROUNDS_MAX} times.")
        _rounds_left.set(left)
        return True


class _Environment(ImmutableSandboxedEnvironment):
    """The sandbox, with a count at the head of every loop and macro."""

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        tree = super()._parse(source, name, filename)
        for loop in tree.find_all(nodes.For):
            if loop.test is None:
                loop.body.insert(0, nodes.ExprStmt(_round_call()))
            else:  # the loop's own `if` may turn every item away without running the body
                loop.test = nodes.And(_round_call(), loop.test)
        for macro in tree.find_all(nodes.Macro):
            macro.body.insert(0, nodes.ExprStmt(_round_call()))
        for block in tree.find_all(nodes.CallBlock):
            block.body.insert(0, nodes.ExprStmt(_round_call()))
        return tree


def _round_call() -> nodes.Expr:
    # reached through the extension and not by a name, which a template could set to its own
    counter = nodes.ExtensionAttribute(_Tags.identifier, "count_round")
    return nodes.Call(counter, [], [], None, None)


def _raise_exception(message: str) -> NoReturn:
    raise jinja2.TemplateError(message)


def _to_json(
    value: object,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Jinja's own `tojson` escapes for HTML; prompts want the characters themselves."""
    return json.dumps(
        value,
        ensure_ascii=ensure_ascii,
        indent=indent,
        separators=separators,
        sort_keys=sort_keys,
    )


def _plain_messages(messages: Sequence[Mapping[str, object]]) -> list[dict[str, Any]]:
    """Fresh plain JSON values: no object with methods reaches a template, no caller sees changes.

    Keys whose value is None are left out, as transformers does: templates ask whether they are
    there. Reasoning gets the two names under which templates look for it.
    """
    budget = _Budget(MESSAGES_CHARS_MAX)
    plain = []
    for message in messages:
        copied = {
            str(name): _plain(value, budget, DEPTH_MAX)
            for name, value in message.items()
            if value is not None
        }
        reasoning = next(
            (
                copied[name]
                for name in ("reasoning_content", "thinking", "reasoning")
                if name in copied
            ),
            None,
        )
        if reasoning is not None:
            copied = {"thinking": reasoning, **copied, "reasoning_content": reasoning}
        plain.append(copied)
    return plain


class _Budget:
    """Characters that may still be copied; every value costs at least one."""

    def __init__(self, chars: int) -> None:
        self._left = chars

    def spend(self, chars: int) -> None:
        self._left -= chars + 1
        if self._left < 0:
            raise PromptInvalid(f"The messages hold more than {MESSAGES_CHARS_MAX} characters.")


def _plain(value: object, budget: _Budget, depth_left: int) -> object:
    if depth_left == 0:
        raise PromptInvalid(f"A message is nested more than {DEPTH_MAX} deep.")
    match value:
        case None | bool() | int() | float():
            budget.spend(0)
            return value
        case str():
            budget.spend(len(value))
            return str.__str__(value)
        case Mapping():
            budget.spend(sum(len(str(key)) for key in value))
            return {str(key): _plain(item, budget, depth_left - 1) for key, item in value.items()}
        case list() | tuple():
            budget.spend(0)
            return [_plain(item, budget, depth_left - 1) for item in value]
        case _:
            raise PromptInvalid(f"A message holds a {type(value).__name__}, which is not JSON.")
