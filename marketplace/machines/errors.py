"""Why a machine cannot be bound, or a device's question has no answer yet.

MarketError
├─ MachineUnbound 403        the machine belongs to no account
├─ MachineUnknown 404        no machine of this account has that PeerId
├─ UserCodeUnknown 404       no device waits under this code
├─ TooManyMachines 409
└─ as RFC 8628 names them, all 400: AuthorizationPending, SlowDown, AccessDenied, ExpiredToken
"""

from marketplace.errors import MarketError

__all__ = [
    "AccessDenied",
    "AuthorizationPending",
    "ExpiredToken",
    "MachineUnbound",
    "MachineUnknown",
    "SlowDown",
    "TooManyMachines",
    "UserCodeUnknown",
]


class MachineUnbound(MarketError):
    """The node is known by its key, but nobody has said whose it is."""

    status_code, code = 403, "machine_unbound"

    def __init__(self, peer_id: str) -> None:
        super().__init__(
            f"The machine {peer_id} belongs to no account.",
            hint="Run 'piecework join' at a terminal, and approve the code it shows.",
            details={"peer_id": peer_id},
        )


class MachineUnknown(MarketError):
    """No machine of this account has that PeerId."""

    status_code, code = 404, "machine_unknown"

    def __init__(self) -> None:
        super().__init__(
            "This account has no such machine.", hint="GET /v1/machines lists those it has."
        )


class TooManyMachines(MarketError):
    """The account has as many machines as one may."""

    status_code, code = 409, "too_many_machines"

    def __init__(self, machines_max: int) -> None:
        super().__init__(
            f"An account has at most {machines_max} machines.", hint="Unbind those that are gone."
        )


class UserCodeUnknown(MarketError):
    """No device waits under this code, or no longer."""

    status_code, code = 404, "user_code_unknown"

    def __init__(self) -> None:
        super().__init__(
            "No device waits under this code.",
            hint="Look at the device again: a code is good for ten minutes.",
        )


class AuthorizationPending(MarketError):
    """Nobody has answered yet."""

    status_code, code = 400, "authorization_pending"

    def __init__(self, interval_s: int) -> None:
        super().__init__(
            "Nobody has approved this device yet.",
            hint=f"Ask again in {interval_s} s.",
            details={"interval_s": interval_s},
        )


class SlowDown(MarketError):
    """Asked too soon; from now on the interval is longer."""

    status_code, code = 400, "slow_down"

    def __init__(self, interval_s: int) -> None:
        super().__init__(
            "This was asked too soon.",
            hint=f"Ask every {interval_s} s from now on.",
            details={"interval_s": interval_s},
        )


class AccessDenied(MarketError):
    """Somebody looked at this device and said no."""

    status_code, code = 400, "access_denied"

    def __init__(self) -> None:
        super().__init__("This device was refused.", hint="Start again if that was a mistake.")


class ExpiredToken(MarketError):
    """The code is too old, was used, or is another device's."""

    status_code, code = 400, "expired_token"

    def __init__(self) -> None:
        super().__init__("This code is over.", hint="Start again for a new one.")
