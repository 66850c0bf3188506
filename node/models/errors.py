"""Why a model could not be fetched.

    NodeError (node/errors.py)
    └─ ModelFetchFailed              nothing that was asked could give what is missing
       ├─ SourcesFailed(reasons)     every source failed; the message has each one's reason
       ├─ ModelDenied                the hub wants a token, or a licence to be accepted
       ├─ NothingVouches             a span alone, and no manifest to check it with
       ├─ DiskFull(needed, free)     the weights do not fit; what is verified is kept
       └─ ModelBusy                  another process is fetching the same model

Inside a fetch, of one source:

    SourceFailed                     it did not answer, broke off or stalled: tried again later
    ├─ NotHeld                       it does not have this: another is asked
    └─ SourceLied                    it sent other bytes than the manifest names: dropped for good
"""

from collections.abc import Mapping

from node.errors import NodeError

__all__ = [
    "DiskFull",
    "ModelBusy",
    "ModelDenied",
    "ModelFetchFailed",
    "NotHeld",
    "NothingVouches",
    "SourceFailed",
    "SourceLied",
    "SourcesFailed",
]


class ModelFetchFailed(NodeError):
    """A model, or the part that was asked for, is not here and could not be fetched."""


class SourcesFailed(ModelFetchFailed):
    """No source is left. `reasons`: the last reason of each, by the source's name."""

    def __init__(self, what: str, reasons: Mapping[str, str]) -> None:
        told = "; ".join(f"{source}: {reason.rstrip('.')}" for source, reason in reasons.items())
        super().__init__(
            f"{what} could not be fetched ({told or 'there is no source'}).",
            hint="What was verified is kept: try again, or name another source with --from.",
        )
        self.reasons = dict(reasons)


class ModelDenied(ModelFetchFailed):
    """The hub refused: private, or behind a licence that has to be accepted."""


class NothingVouches(ModelFetchFailed):
    """There is no manifest, so a span by itself could be anything."""


class DiskFull(ModelFetchFailed):
    """The disk has not enough room; both in bytes."""

    def __init__(self, directory: str, needed_bytes: int, free_bytes: int) -> None:
        needed = f"{needed_bytes / 2**20:,.1f} MiB are still to be fetched and " * bool(
            needed_bytes
        )
        super().__init__(
            f"The disk of {directory} is too full: {needed}{free_bytes / 2**20:,.1f} MiB are free.",
            hint="What was verified is kept: make room, or move --home, and pull again.",
        )
        self.needed_bytes = needed_bytes
        self.free_bytes = free_bytes


class ModelBusy(ModelFetchFailed):
    """Another process holds the model's lock."""


class SourceFailed(NodeError):
    """One source did not answer, broke off, or stalled."""


class NotHeld(SourceFailed):
    """One source does not have what was asked for."""


class SourceLied(SourceFailed):
    """One source sent bytes that are not the manifest's; nothing of it is asked any more."""
