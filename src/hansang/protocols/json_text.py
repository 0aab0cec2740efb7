"""JSON in and out, for every adapter: exact numbers, nothing that JSON cannot say, and errors that name the place.

In: NaN and Infinity are refused, integers of any size stay whole, and nesting is bounded (200 deep). Of a repeated key
the last one counts, as in every JSON parser in wide use. What a body must hold is not checked here.
"""

from __future__ import annotations

import json
import math
import re
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from typing import Any

import orjson
from pydantic_core import from_json

from hansang.core.errors import HansangError, InvalidJSON, ModelFailed
from hansang.tasks.tabular import Blob

BOM = b"\xef\xbb\xbf"
_KINDS = bytes(ord("0" if chr(n).isdigit() else "e" if n in b"eE" else "+" if n == 43 else " ") for n in range(256))
"""Each byte's kind, so that an exponent of three digits is a word to look for: faster than a pattern."""
_DIGITS = 309
"""From this many digits on, a number may be larger than a float."""
_SHOWN = 20
_HINTS = {
    "NaN": "JSON has no NaN and no Infinity; send finite numbers, or null where the model takes it.",
    "'": 'JSON strings stand in double quotes. On Windows: curl -d "{\\"instances\\": [...]}".',
    "True": "JSON writes true, false and null in lower case.",
}
_HINTS |= {"Infinity": _HINTS["NaN"], "-Infinity": _HINTS["NaN"], "inf": _HINTS["NaN"], "nan": _HINTS["NaN"]}
_HINTS |= {"False": _HINTS["True"], "None": _HINTS["True"]}


def loads(body: bytes) -> Any:
    """The value, or InvalidJSON with the offset."""
    value = parse(body)
    if may_overflow(body) and not_finite(value):
        raise InvalidJSON(
            "The body is not JSON that can be read: a number in it is too large.",
            hint="Numbers with a fraction or an exponent must lie within +-1.8e308.",
        )
    return value


def parse(body: bytes) -> Any:
    """As `loads`, but a number may have been too large for a float, and so be Infinity."""
    try:
        return from_json(body.removeprefix(BOM), allow_inf_nan=False)
    except ValueError as exc:
        raise _invalid(body, str(exc)) from None


def may_overflow(body: bytes) -> bool:
    """Whether a number in `body` could be read as Infinity. Cheap; may say yes of text."""
    last = max(body.rfind(b"e"), body.rfind(b"E"))
    if last > 0:
        kinds = body[: last + 5].translate(_KINDS)
        if b"0e000" in kinds or b"0e+000" in kinds:
            return True
    if len(body) < _DIGITS:
        return False
    # So many digits in a row fill one of these pieces, wherever they begin.
    piece = _DIGITS // 2
    return any(body[start : start + piece].isdigit() for start in range(0, len(body), piece))


def _invalid(body: bytes, said: str) -> InvalidJSON:
    what, hint = _fault(body, said)
    return InvalidJSON(f"The body is not JSON: {what}.", hint=hint)


def _fault(body: bytes, said: str) -> tuple[str, str]:
    """What is wrong and where, and what to do. `said`: the parser's own words."""
    if not body.strip():
        return "it is empty", "Send a JSON object, for example with curl -d '{...}'."
    if body.startswith((b"\xff\xfe", b"\xfe\xff")) or body[1:2] == b"\0":
        return "it looks like UTF-16", "Save it as UTF-8; in PowerShell: Out-File -Encoding utf8."
    if body.startswith(b"\x1f\x8b"):
        return "it is compressed (gzip)", "Send it as it is; a compressed body is not taken."
    try:
        text = body.decode()
    except UnicodeDecodeError as exc:
        return f"byte {exc.start} ({body[exc.start]:#04x}) is not UTF-8", "Save or send it as UTF-8."
    try:
        orjson.loads(body)
    except orjson.JSONDecodeError as exc:
        here = text[exc.pos :]
        word = re.match(r"-?\w+|'", here)
        hint = _HINTS.get(word.group() if word else "", "Send a JSON object, in UTF-8.")
        near = f" ({here[:_SHOWN]!r})" if here else ""
        return f"{exc.msg.partition(': line')[0]} at character {exc.pos}{near}", hint
    if "recursion" in said:
        return "it is nested more than 200 deep", "Send it flatter."
    return said, "Send numbers of at most 4300 digits."


_OPTIONS = orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_NON_STR_KEYS | orjson.OPT_PASSTHROUGH_DATACLASS
"""A Blob is a dataclass; orjson would write its fields."""


def dumps(value: Any, model: str) -> bytes:
    """An answer of `model` as JSON. Raises ModelFailed for what JSON cannot say (NaN, Infinity, an unknown type)."""
    try:
        body = orjson.dumps(value, default=_jsonable, option=_OPTIONS)
    except TypeError as exc:
        if "64-bit" not in str(exc):
            raise _unspeakable(model, str(exc.__cause__ or exc)) from None
        return _dumps_exactly(value, model)
    if b"null" in body and not_finite(value):
        raise _unspeakable(model, "the answer holds NaN or Infinity")
    return body


def _dumps_exactly(value: Any, model: str) -> bytes:
    """For integers that orjson does not write."""
    try:
        return json.dumps(value, default=_plainer, allow_nan=False, ensure_ascii=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as exc:
        raise _unspeakable(model, str(exc)) from None


def not_finite(value: Any) -> bool:
    """Whether there is a NaN or an Infinity in it."""
    if isinstance(value, float):
        return not math.isfinite(value)
    if isinstance(value, str | int | bytes | None):
        return False
    if isinstance(value, Mapping):
        return any(map(not_finite, value.values()))
    if isinstance(value, list | tuple | set | frozenset):
        return any(map(not_finite, value))
    if is_dataclass(value):
        return any(not_finite(getattr(value, field.name)) for field in fields(value))
    return any(hasattr(value, method) and not_finite(getattr(value, method)()) for method in ("model_dump", "tolist"))


def _jsonable(value: Any) -> Any:
    if isinstance(value, Blob):
        return {"b64": b64encode(value.data).decode(), "content_type": value.content_type}
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in fields(value)}
    for method in ("model_dump", "tolist"):
        if hasattr(value, method):
            return getattr(value, method)()
    if isinstance(value, bytes | bytearray | memoryview):
        return {"b64": b64encode(value).decode(), "content_type": "application/octet-stream"}
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple | set | frozenset):
        return list(value)
    raise TypeError(f"it holds a {type(value).__name__}, which JSON has no form for")


def _plainer(value: Any) -> Any:
    """As `_jsonable`, with what orjson knows by itself."""
    try:
        return _jsonable(value)
    except TypeError:
        return orjson.loads(orjson.dumps(value))


def _unspeakable(model: str, why: str) -> HansangError:
    return ModelFailed(
        f"The answer of {model} cannot be sent as JSON: {why}.",
        hint="Have the model return finite numbers, strings, lists, dicts, dataclasses, arrays, images or bytes.",
    )
