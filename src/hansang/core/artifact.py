"""An artifact as a file: what its first bytes say it is, and the card that lies beside it.

It reads a few bytes and one small JSON file; it opens no model.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from hansang.core.errors import LoadFailed

CARD = ".card.json"
_CARD_LIMIT = 2**20
_SEEN = 64
_FORMATS: tuple[tuple[bytes, str, str], ...] = (
    (b"PK\x03\x04", "a ZIP archive", "PyTorch (.pt), NumPy (.npz) and skops files look like this; check its ending."),
    (
        b"version https://git-lfs",
        "a Git LFS pointer, not the file it stands for",
        "Fetch the file itself: git lfs pull",
    ),
    (b"\x89HDF", "an HDF5 file", "Keras saves such files (.h5); export the model as ONNX."),
    (b"\x1f\x8b", "gzip", "Unpack it first: gunzip FILE"),
    (b"\x93NUMPY", "a NumPy array", "Name the model's file, not an array."),
    (b"\x89PNG", "a PNG picture", "Name the model's file, not a picture."),
    (b"\xff\xd8\xff", "a JPEG picture", "Name the model's file, not a picture."),
    (b"%PDF", "a PDF document", "Name the model's file, not a document."),
)
_PICKLE = "A pickle runs code when it is opened, so it is never opened here; save with skops or export as ONNX."


def first_bytes(path: Path) -> bytes:
    """Enough of a file to tell what it is."""
    with path.open("rb") as file:
        return file.read(_SEEN)


def looks_like(head: bytes) -> tuple[str, str]:
    """What a file that begins so is, in words, and what to do if something else was expected."""
    for start, what, hint in _FORMATS:
        if head.startswith(start):
            return what, hint
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if not head:
        return "empty", "Was it copied or downloaded to its end?"
    if head[0] == 0x80 and head[1:2] in (b"\x02", b"\x03", b"\x04", b"\x05"):
        return "a pickle", _PICKLE
    if text[:9].lower() == b"<!doctype" or text[:5].lower() == b"<html":
        return "an HTML page", "A download gave a page instead of the file; download the file itself."
    if head[8:10] == b'{"':
        return "a safetensors file", "It holds weights without the network; export the model as ONNX."
    if head[4:8] == b"ORTM":
        return "a model in ONNX Runtime's own format", "Give the .onnx file that it was made from."
    if text[:1] in (b"{", b"["):
        return "JSON", "Name the model's file; a perceptron's ends in .json."
    if all(byte >= 32 or byte in b"\t\r\n" for byte in head):
        return "text", "Name the model's file."
    return "no format known here", "Was it copied or downloaded to its end?"


def card_beside(path: Path) -> dict[str, Any]:
    """What `Model.info` gains from `<stem>.card.json` beside an artifact: `card`, and `title` if the card has one.

    Without a card: nothing. A title may be a text, or one text for each language; `title` is then the English one.
    """
    beside = path.with_name(path.stem + CARD)
    if not beside.is_file() or beside == path:
        return {}
    try:
        if beside.stat().st_size > _CARD_LIMIT:
            raise ValueError(f"it is larger than {_CARD_LIMIT} bytes")
        card = json.loads(beside.read_text(encoding="utf-8"))
        if not isinstance(card, dict):
            raise ValueError(f"it holds a {type(card).__name__}, expected an object")
    except (OSError, ValueError, RecursionError) as exc:
        raise LoadFailed(f"{beside} is not a model card: {exc}.", hint="Mend it, or move it away.") from None
    title = card.get("title")
    if isinstance(title, dict):
        title = title.get("en") or next(iter(title.values()), None)
    return {"card": card, **({"title": title} if isinstance(title, str) and title else {})}
