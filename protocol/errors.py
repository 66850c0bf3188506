"""The error tree every package grows its own branch on.

    PieceworkError                    message says what and why; hint says what to do next
    ├─ ProtocolError
    │  ├─ LocalProtocolError          we broke the rules: a bug of ours
    │  └─ RemoteProtocolError         they broke the rules: the stream is reset
    ├─ VerificationError              a record cannot be trusted
    │  ├─ SignatureInvalid
    │  ├─ RecordExpired
    │  ├─ WrongSigner
    │  └─ LimitExceeded
    ├─ RouteInvalid                   spans do not tile the model
    ├─ SessionError(code)             a session cannot start or go on
    │  ├─ HopFailed(hop_index)        one hop said so, or went silent
    │  ├─ NeighbourGone(peer)         a hop lost the hop before or behind it
    │  └─ NoRoute(model)              nobody serves what is missing
    ├─ EngineError                    node/engine
    ├─ TransportError                 transport/errors.py
    ├─ LedgerError                    ledger/errors.py
    └─ MarketError(status_code)       marketplace/errors.py

On the wire an error is an `ErrorCode` and a sentence: never a traceback, never an object.
"""

from enum import IntEnum

__all__ = [
    "EngineError",
    "ErrorCode",
    "HopFailed",
    "LimitExceeded",
    "LocalProtocolError",
    "NeighbourGone",
    "NoRoute",
    "PieceworkError",
    "ProtocolError",
    "RecordExpired",
    "RemoteProtocolError",
    "RouteInvalid",
    "SessionError",
    "SignatureInvalid",
    "VerificationError",
    "WrongSigner",
]


class ErrorCode(IntEnum):
    """Why a session was refused or ended, as one byte on the wire."""

    INTERNAL = 1
    MALFORMED = 2
    """A frame or record did not parse, or did not fit the state of the session."""
    NOT_ADMITTED = 3
    """The lease is missing, expired, foreign, or not signed by our marketplace."""
    NO_CAPACITY = 4
    """KV budget or session count is used up; another hop may have room."""
    WRONG_SPAN = 5
    """The hop does not hold the span or the model that was asked for."""
    UNPAID = 6
    """A window of work was not covered by a receipt in time."""
    ENGINE_FAILED = 7
    PEER_GONE = 8
    """The neighbour's stream closed or fell silent."""
    TIMED_OUT = 9
    CANCELLED = 10
    SHUTTING_DOWN = 11
    CONTEXT_TOO_LONG = 12
    UNKNOWN_SESSION = 13


class PieceworkError(Exception):
    """Root of everything we raise on purpose."""

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint

    def __str__(self) -> str:
        return f"{self.message} {self.hint}".rstrip()


class ProtocolError(PieceworkError):
    """The rules of a protocol were broken."""


class LocalProtocolError(ProtocolError):
    """We are about to break the rules: a bug on this side."""


class RemoteProtocolError(ProtocolError):
    """The peer broke the rules; its stream is reset and nothing it sent is used."""


class VerificationError(PieceworkError):
    """A signed record cannot be trusted."""


class SignatureInvalid(VerificationError):
    """The signature does not cover these bytes under this key."""


class RecordExpired(VerificationError):
    """The record's time is over, or has not begun."""


class WrongSigner(VerificationError):
    """The signature is good but the signer is not the one who may say this."""


class LimitExceeded(VerificationError):
    """The record claims more than its issuer allowed."""


class RouteInvalid(PieceworkError):
    """The hops' spans do not tile the model's layers exactly."""


class EngineError(PieceworkError):
    """The engine could not load or run; see node/engine/errors.py for the kinds."""


class SessionError(PieceworkError):
    """A session cannot start or go on."""

    def __init__(
        self, message: str, *, code: ErrorCode = ErrorCode.INTERNAL, hint: str = ""
    ) -> None:
        super().__init__(message, hint=hint)
        self.code = code


class HopFailed(SessionError):
    """One hop of the route refused, failed, or fell silent."""

    def __init__(self, hop_index: int, peer: str, code: ErrorCode, reason: str) -> None:
        super().__init__(f"hop {hop_index} ({peer}) failed: {reason}", code=code)
        self.hop_index = hop_index
        self.peer = peer
        self.reason = reason


class NeighbourGone(SessionError):
    """A hop lost one of its two links; `public_key` is the peer's at the other end."""

    def __init__(
        self, message: str, public_key: bytes, *, code: ErrorCode = ErrorCode.PEER_GONE
    ) -> None:
        super().__init__(message, code=code)
        self.public_key = public_key


class NoRoute(SessionError):
    """Nobody serves some of the model's layers now."""

    def __init__(self, model: str, reason: str) -> None:
        super().__init__(
            f"no route for model '{model}': {reason}",
            code=ErrorCode.NO_CAPACITY,
            hint="Try again when a provider of the missing layers has joined.",
        )
        self.model = model
