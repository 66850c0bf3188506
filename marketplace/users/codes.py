"""One-time codes: RFC 6238 (SHA-1, 30 s, six digits, what every authenticator speaks), and ten
recovery codes for whoever loses theirs. Each is taken once."""

import hashlib
import hmac
import secrets
from collections.abc import Sequence

import pyotp

__all__ = [
    "is_recovery_code",
    "make_recovery_codes",
    "provisioning_uri",
    "recovery_hash",
    "step_of",
]

STEP_S = 30
WINDOW_STEPS = 1
"""Of clocks that are off: the step before and the step after are taken too."""
RECOVERY_CODES = 10
RECOVERY_CHARACTERS = 16
"""Of 32 letters: 80 bits, so that a plain hash is enough."""
_LETTERS = "abcdefghjkmnpqrstuvwxyz23456789"
_DOMAIN = b"piecework/recovery-code/v1\0"


def provisioning_uri(seed: str, email: str, issuer: str) -> str:
    """otpauth://…, which authenticators read from a QR code."""
    return pyotp.TOTP(seed).provisioning_uri(name=email, issuer_name=issuer)


def step_of(seed: str, code: str, *, now_s: int) -> int | None:
    """The step whose code this is, near now; None where it is none. Whether it was used, the
    caller must see. The latest first, so that of two equal codes the newer is spent."""
    totp, now_step = pyotp.TOTP(seed), now_s // STEP_S
    found = None
    for step in range(now_step + WINDOW_STEPS, now_step - WINDOW_STEPS - 1, -1):
        # all are compared, so that the time taken does not say which fitted
        if hmac.compare_digest(totp.generate_otp(step), code) and found is None:
            found = step
    return found


def make_recovery_codes() -> Sequence[str]:
    """Ten codes, written in fours."""
    return [_in_fours(_random_letters()) for _ in range(RECOVERY_CODES)]


def is_recovery_code(text: str) -> bool:
    """Whether this is meant to be one, and not a code of six digits."""
    return len(_plain(text)) == RECOVERY_CHARACTERS


def recovery_hash(user_id: str, text: str) -> bytes:
    """What is kept of a recovery code."""
    return hashlib.sha256(_DOMAIN + user_id.encode() + b"\0" + _plain(text).encode()).digest()


def _random_letters() -> str:
    return "".join(secrets.choice(_LETTERS) for _ in range(RECOVERY_CHARACTERS))


def _in_fours(text: str) -> str:
    return "-".join(text[start : start + 4] for start in range(0, len(text), 4))


def _plain(text: str) -> str:
    return text.replace("-", "").replace(" ", "").lower()
