"""What is wrong with a request body, in one sentence and one parameter name.

Pydantic names every branch it tried; a client wants the field. The value itself is never repeated:
it may be part of a prompt.
"""

from collections.abc import Mapping, Sequence

from fastapi.exceptions import RequestValidationError

from node.api.errors import Problem

__all__ = ["validation_problem"]

_CODES = {"missing": "missing_required_parameter", "json_invalid": "invalid_json"}
_BRANCHES = frozenset(
    {"str", "int", "float", "bool", "none", "system", "developer", "user", "assistant", "tool"}
)
"""Names that pydantic gives to the branches of a union; no field of ours is called so."""


def validation_problem(error: RequestValidationError) -> Problem:
    """400 with the deepest of the errors: in a union, the branch that came furthest was meant."""
    details: Sequence[Mapping[str, object]] = error.errors()
    detail = max(details, key=_closeness, default={})
    kind = str(detail.get("type", ""))
    if kind == "json_invalid":
        return Problem(400, "invalid_json", "The body is not valid JSON.")
    path = _path(detail)
    message = str(detail.get("msg", "is not valid")).removeprefix("Value error, ")
    if kind.startswith("union_tag"):  # pydantic's own sentence repeats what it was given
        path, message = [*path, "role"], "Input should be a known role"
    param = _param(path)
    if param is None:
        return Problem(400, "invalid_body", "The body must be a JSON object, sent as such.")
    code = _CODES.get(kind, "invalid_type" if kind.endswith("_type") else "invalid_value")
    return Problem(400, code, f"Invalid '{param}': {message}.", param=param)


def _closeness(detail: Mapping[str, object]) -> tuple[int, bool]:
    """Deeper is closer to what was meant; at the same depth, the branch of the right type is."""
    return len(_path(detail)), not str(detail.get("type", "")).endswith("_type")


def _path(detail: Mapping[str, object]) -> list[str | int]:
    """Fields and indexes only, without `body` and the names of unions' branches."""
    location = detail.get("loc", ())
    if not isinstance(location, Sequence):
        return []
    return [
        part
        for part in location[1:]
        if isinstance(part, int) or (part.isidentifier() and part not in _BRANCHES)
    ]


def _param(path: Sequence[str | int]) -> str | None:
    """`messages[0].content`, as OpenAI writes it."""
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return text.removeprefix(".") or None
