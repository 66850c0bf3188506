"""The API key of a request: read here, judged by the head or its marketplace."""

from collections.abc import Callable

from fastapi import Request

from node.api.errors import ApiError, invalid_key

__all__ = ["key_reader"]

KEY_CHARS_MAX = 512
"""Of an API key; ours have 66 characters, and other people's under 200."""


def key_reader(*, require_key: bool) -> Callable[[Request], str]:
    """A dependency that gives the bearer token of a request, or '' where none is required."""

    def read_key(request: Request) -> str:
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        key = key.strip()
        if scheme.lower() != "bearer" or not key:
            if require_key:
                raise ApiError(invalid_key("No API key: send 'Authorization: Bearer <key>'."))
            return ""
        if len(key) > KEY_CHARS_MAX or not key.isascii() or not key.isprintable():
            raise ApiError(invalid_key("The API key is malformed."))
        return key

    return read_key
