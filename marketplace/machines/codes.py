"""Codes of the device flow (RFC 8628): one for the device, one for a person to type."""

import secrets

__all__ = ["USER_CODE_CHARACTERS", "in_two", "make_user_code", "parse_user_code"]

LETTERS = "BCDFGHJKLMNPQRSTVWXZ"
"""No vowels, so no words, and nothing that is read as something else (RFC 8628, 6.1)."""
USER_CODE_CHARACTERS = 8
"""20^8 are 2^34 codes, of which a few wait at a time, and an account may look up a few."""


def make_user_code() -> str:
    return "".join(secrets.choice(LETTERS) for _ in range(USER_CODE_CHARACTERS))


def in_two(code: str) -> str:
    """As people read it: BCDF-GHJK."""
    half = USER_CODE_CHARACTERS // 2
    return f"{code[:half]}-{code[half:]}"


def parse_user_code(text: str) -> str:
    """What somebody typed, as it is stored; what is no code stays none."""
    return "".join(letter for letter in text.upper() if letter.isalnum())[:USER_CODE_CHARACTERS]
