"""A model as a head holds it: tokenizer, template, manifest, and on sealed routes the ends."""

from dataclasses import dataclass, field
from pathlib import Path

from node.engine.runner import EngineRunner
from node.head.drafting.kit import DraftingKit
from node.head.template import ChatTemplate
from node.head.tokenizer import Tokenizer
from protocol.model import ModelManifest

__all__ = ["HeadModel"]


@dataclass(frozen=True, slots=True)
class HeadModel:
    """One model that this head answers for. `ends` None: only open routes can be driven."""

    manifest: ModelManifest
    tokenizer: Tokenizer
    template: ChatTemplate
    ends: EngineRunner | None
    loaded_at_s: int
    drafting: DraftingKit = field(default_factory=DraftingKit)

    @classmethod
    def load(
        cls,
        directory: Path,
        manifest: ModelManifest,
        ends: EngineRunner | None,
        *,
        now_s: int,
        drafting: DraftingKit | None = None,
    ) -> "HeadModel":
        """Read the text side of a model directory. Raises ConfigInvalid."""
        tokenizer = Tokenizer.from_directory(directory)
        template = ChatTemplate(tokenizer.chat_template or _PLAIN, tokenizer.special_tokens)
        # a kit that drafts nothing is false, and still what was asked for
        kit = DraftingKit() if drafting is None else drafting
        return cls(manifest, tokenizer, template, ends, now_s, kit)


# For base models that come without a template: the turns, one under another.
_PLAIN = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant: {% endif %}"
)
