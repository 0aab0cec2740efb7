"""What a user's code returns, as it travels: images and bytes as Blobs, the rest as JSON can say it or as it is.

No encoding to JSON: that is a wire format's business.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from io import BytesIO
from typing import Any

from hansang.tasks.tabular import Blob

_PLAIN = frozenset((bool, int, float, str, type(None)))
_SIGNATURES = (
    (b"\x89PNG\r\n\x1a\n", 0, "image/png"),
    (b"\xff\xd8\xff", 0, "image/jpeg"),
    (b"GIF8", 0, "image/gif"),
    (b"WEBP", 8, "image/webp"),
    (b"WAVE", 8, "audio/wav"),
    (b"ID3", 0, "audio/mpeg"),
    (b"OggS", 0, "audio/ogg"),
    (b"%PDF-", 0, "application/pdf"),
)
"""How files of a type begin: the bytes, where they stand, the type."""


def outgoing(value: Any) -> Any:
    """A returned value, ready to travel."""
    if type(value) in _PLAIN:
        return value
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _blob(bytes(value))
    if isinstance(value, (list, tuple)):
        return _sequence(value)
    if isinstance(value, Mapping):
        return {key: outgoing(item) for key, item in value.items()}
    if is_dataclass(value) and not isinstance(value, (type, Blob)):
        return {item.name: outgoing(getattr(value, item.name)) for item in fields(value)}
    if "PIL.Image" in sys.modules and isinstance(value, sys.modules["PIL.Image"].Image):
        return _png(value)
    return value


def _sequence(value: list[Any] | tuple[Any, ...]) -> Any:
    if isinstance(value, tuple) and hasattr(value, "_asdict"):
        return {key: outgoing(item) for key, item in value._asdict().items()}
    # A long list of numbers is passed on, not copied.
    return value if all(type(item) in _PLAIN for item in value) else [outgoing(item) for item in value]


def _blob(data: bytes) -> Blob:
    for mark, start, content_type in _SIGNATURES:
        if data.startswith(mark, start):
            return Blob(data, content_type)
    return Blob(data)


def _png(image: Any) -> Blob:
    written = BytesIO()
    try:
        image.save(written, "PNG")
    except OSError:  # a mode that PNG does not have, such as CMYK
        written = BytesIO()
        image.convert("RGBA" if "A" in image.getbands() else "RGB").save(written, "PNG")
    return Blob(written.getvalue(), "image/png")
