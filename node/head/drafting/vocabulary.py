"""Whether a draft model speaks the large model's tokens: else its drafts mean something else."""

from pathlib import Path

from node.errors import ConfigInvalid
from node.head.tokenizer import Tokenizer

__all__ = ["check_same_tokenizer"]


def check_same_tokenizer(draft_directory: Path, target: Tokenizer) -> None:
    """Compare the tokenizers token by token; about half a second for the largest vocabularies.

    Models of one family often have files that differ and tokens that do not, so the files' hashes
    say too little. Raises ConfigInvalid with the first difference, or where the draft model's
    directory has no tokenizer.
    """
    draft = Tokenizer.from_directory(draft_directory)
    for token in range(max(draft.vocabulary_size, target.vocabulary_size)):
        theirs, ours = draft.token_text(token), target.token_text(token)
        if theirs != ours:
            raise ConfigInvalid(
                f"The draft model '{draft_directory.name}' has another tokenizer than the model it "
                f"drafts for: token {token} is {_shown(theirs)} there and {_shown(ours)} here.",
                hint="Choose a smaller model of the same family, or none.",
            )


def _shown(text: str | None) -> str:
    return "missing" if text is None else repr(text[:40])
