"""Whether this node takes new requests: set by whoever runs the node, read by the API."""

from enum import StrEnum

__all__ = ["Readiness", "ReadyState"]


class ReadyState(StrEnum):
    STARTING = "starting"
    """Not yet joined, or no engine: a balancer should not send here, but an answer may work."""
    READY = "ready"
    DRAINING = "draining"
    """Running answers go on, new ones are refused."""


class Readiness:
    """Shared between the node and its API; both run in one event loop."""

    def __init__(self, state: ReadyState = ReadyState.STARTING) -> None:
        self.state = state

    @property
    def is_draining(self) -> bool:
        return self.state is ReadyState.DRAINING
