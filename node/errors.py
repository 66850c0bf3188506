"""The node's branch of the error tree: why a request for an answer was refused.

    NodeError
    ├─ ModelUnknown(model)              nobody here or in the pool has that model
    ├─ PromptTooLong                    prompt and answer pass the model's context
    ├─ PromptInvalid                    messages the model's chat template refuses
    ├─ MarketRefused(status, code)      the marketplace said no
    │  ├─ KeyRefused                    401: wrong, revoked or missing API key
    │  └─ PaymentRequired               402: the balance or the key does not cover it; see `code`
    ├─ MarketUnreachable                no answer from the marketplace, or nonsense
    ├─ ConfigInvalid                    a setting or a key file of this node
    └─ ModelFetchFailed                 weights could not be fetched (node/models/errors.py)

Sessions raise SessionError, HopFailed and NoRoute (protocol/errors.py); engines EngineError.
"""

from protocol.errors import PieceworkError

__all__ = [
    "ConfigInvalid",
    "KeyRefused",
    "MarketRefused",
    "MarketUnreachable",
    "ModelUnknown",
    "NodeError",
    "PaymentRequired",
    "PromptInvalid",
    "PromptTooLong",
]


class NodeError(PieceworkError):
    """Root of the node's own errors."""


class ModelUnknown(NodeError):
    """The model's name is known to nobody."""

    def __init__(self, model: str, *, hint: str = "") -> None:
        super().__init__(f"The model '{model}' does not exist.", hint=hint)
        self.model = model


class PromptTooLong(NodeError):
    """Prompt and answer together pass the model's context."""

    def __init__(self, prompt_tokens: int, max_tokens: int, context_tokens: int) -> None:
        super().__init__(
            f"This model's context is {context_tokens} tokens, but the prompt has {prompt_tokens} "
            f"and {max_tokens} were asked for.",
            hint="Shorten the prompt or lower max_tokens.",
        )
        self.context_tokens = context_tokens


class PromptInvalid(NodeError):
    """The messages cannot be made into a prompt for this model."""


_TOO_MANY, _SERVER_ERROR = 429, 500


class MarketRefused(NodeError):
    """The marketplace answered with an error of its own."""

    def __init__(self, status: int, code: str, message: str, *, hint: str = "") -> None:
        super().__init__(message, hint=hint)
        self.status = status
        self.code = code

    @property
    def may_pass(self) -> bool:
        """Whether it says nothing of what was asked: too much to do, or its database is away."""
        return self.status == _TOO_MANY or self.status >= _SERVER_ERROR


class KeyRefused(MarketRefused):
    """The API key is missing, wrong or revoked."""


class PaymentRequired(MarketRefused):
    """The buyer's balance does not cover the request."""


class MarketUnreachable(NodeError):
    """The marketplace gave no answer, or none that can be used."""

    may_pass = True
    """As MarketRefused's."""


class ConfigInvalid(NodeError):
    """A setting or a file of this node cannot be used."""
