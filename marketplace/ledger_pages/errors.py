"""What `ledger_pages` refuses."""

from marketplace.errors import MarketError

__all__ = ["CosignaturesFull", "NotInLog", "NotYetSigned"]


class NotInLog(MarketError):
    """The log has no such tile, entry, checkpoint, receipt or balance."""

    status_code, code = 404, "not_in_log"


class NotYetSigned(MarketError):
    """The entry is in the log, and no checkpoint covers it yet."""

    status_code, code = 404, "not_yet_signed"

    def __init__(self, index: int, every_s: int) -> None:
        super().__init__(
            f"Entry {index} is in the log, but no signed checkpoint covers it yet.",
            hint=f"A checkpoint is signed every {every_s} s; try again then.",
        )
        self.headers["Retry-After"] = str(every_s)


class CosignaturesFull(MarketError):
    """As many witnesses have signed under that checkpoint as its note has room for."""

    status_code, code = 409, "cosignatures_full"
