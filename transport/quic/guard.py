"""A stranger's datagram may find a bug, ours or aioquic's: it costs one connection, no other."""

import logging
from collections.abc import Callable
from typing import Concatenate, ParamSpec, Protocol, TypeVar

__all__ = ["guarded"]

log = logging.getLogger(__name__)


class _Abandonable(Protocol):
    def abandon(self, reason: str) -> None: ...


P = ParamSpec("P")
A = TypeVar("A", bound=_Abandonable)


def guarded(method: Callable[Concatenate[A, P], None]) -> Callable[Concatenate[A, P], None]:
    """`method`, after whose failure its object is abandoned, and the traceback is in the log."""

    def run(self: A, /, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            method(self, *args, **kwargs)
        except Exception:
            log.exception("a connection broke")
            self.abandon("internal error")

    return run
