"""Passwords: Argon2id (RFC 9106), checked in the same time whether there is such a person or not.

Parameters: OWASP's set with the most memory, 46 MiB, one pass, one lane. Memory is what makes
guessing on graphics cards dear, and one pass over it takes a core of ours about 40 ms. Who raises
them gets every password hashed anew as its owner signs in.
"""

import contextlib
import functools
import threading
import unicodedata
from collections.abc import Iterator

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError
from argon2.low_level import Type

from marketplace.users.errors import Busy, PasswordWeak

__all__ = ["Passwords", "require_strong"]

MEMORY_KIB = 47_104
PASSES = 1
LANES = 1
HASHES_AT_ONCE = 4
"""46 MiB each: a crowd at the door must not take the machine's memory."""
WAIT_S = 5.0
"""For one of them; longer than a queue of a hundred."""
CHARACTERS_MIN = 10
CHARACTERS_MAX = 256


def require_strong(password: str, email: str) -> None:
    """Raise PasswordWeak for one that is soon guessed. Length is what counts (NIST SP 800-63B)."""
    if not CHARACTERS_MIN <= len(password) <= CHARACTERS_MAX:
        raise PasswordWeak(
            f"A password has {CHARACTERS_MIN} to {CHARACTERS_MAX} characters.",
            hint="A few words in a row are good and easy to remember.",
        )
    if len(set(password)) < 5 or password.lower() in (email, email.partition("@")[0]):
        raise PasswordWeak("This password is soon guessed.", hint="Choose another.")


class Passwords:
    """Hashes and checks passwords, a few at once. Shared by all threads."""

    def __init__(self, *, memory_kib: int = MEMORY_KIB, passes: int = PASSES) -> None:
        self._hasher = PasswordHasher(
            time_cost=passes, memory_cost=memory_kib, parallelism=LANES, type=Type.ID
        )
        self._turns = threading.BoundedSemaphore(HASHES_AT_ONCE)

    def hash(self, password: str) -> str:
        """In PHC form, with a salt of its own. Raises Busy."""
        with self._turn():
            return self._hasher.hash(_prepared(password))

    def verify(self, stored: str | None, password: str) -> bool:
        """Whether it fits; None (nobody) takes as long as somebody. Raises Busy."""
        with self._turn():
            try:
                fits = self._hasher.verify(stored or self._nobody, _prepared(password))
            except (VerificationError, InvalidHashError):
                return False
        return fits and stored is not None

    def is_outdated(self, stored: str) -> bool:
        """Whether it was hashed with other parameters than ours now."""
        return self._hasher.check_needs_rehash(stored)

    @functools.cached_property
    def _nobody(self) -> str:
        """What is checked where there is nobody; no password fits it but by 2^-256."""
        return self._hasher.hash(_NOBODY)

    @contextlib.contextmanager
    def _turn(self) -> Iterator[None]:
        if not self._turns.acquire(timeout=WAIT_S):
            raise Busy
        try:
            yield
        finally:
            self._turns.release()


_NOBODY = "nobody"
"""A password that fits it opens nothing: `verify` says no where there is no stored hash."""


def _prepared(password: str) -> bytes:
    """The same bytes however a keyboard writes the same characters."""
    return unicodedata.normalize("NFKC", password).encode()
