"""Files told by their first bytes, and cards beside artifacts."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import zipfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from hansang.core.artifact import card_beside, first_bytes, looks_like
from hansang.core.errors import LoadFailed


def zipped() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("a", "b")
    return buffer.getvalue()


def array() -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, np.zeros(2))
    return buffer.getvalue()


def picture(kind: str) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (2, 2)).save(buffer, kind)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("data", "what"),
    [
        (b"", "empty"),
        (zipped(), "ZIP"),
        (array(), "NumPy array"),
        (picture("PNG"), "PNG"),
        (picture("JPEG"), "JPEG"),
        (gzip.compress(b"a", mtime=0), "gzip"),
        *((pickle.dumps({"a": 1}, protocol), "pickle") for protocol in (2, 3, 4, 5)),
        (b"\n <!DOCTYPE html>\n<html>", "HTML"),
        (b'{"a": 1}', "JSON"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0", "Git LFS pointer"),
        (b'\x10\x00\x00\x00\x00\x00\x00\x00{"w":{}}', "safetensors"),
        ("한글 text".encode(), "text"),
        (b"\x00\x01\x02\x03", "no format known"),
    ],
)
def test_a_file_is_told_by_its_first_bytes(tmp_path: Path, data: bytes, what: str) -> None:
    (tmp_path / "file").write_bytes(data)
    told, hint = looks_like(first_bytes(tmp_path / "file"))
    assert what in told
    assert hint


@given(st.binary(max_size=64))
def test_any_bytes_are_told_as_something(head: bytes) -> None:
    assert all(looks_like(head))


def test_without_a_card_nothing_is_shown(tmp_path: Path) -> None:
    assert card_beside(tmp_path / "model.onnx") == {}


def test_a_card_gives_its_title_in_english_first(tmp_path: Path) -> None:
    beside = tmp_path / "model.card.json"
    for title, shown in (({"ko": "가", "en": "A"}, "A"), ({"ko": "가"}, "가"), ("B", "B"), ({}, None), (3, None)):
        beside.write_text(json.dumps({"title": title}))
        found = card_beside(tmp_path / "model.onnx")
        assert found["card"] == {"title": title}
        assert found.get("title") == shown


@pytest.mark.parametrize("text", ["{", "[1]", "[" * 100_000, "\ud800"])
def test_a_broken_card_is_told(tmp_path: Path, text: str) -> None:
    (tmp_path / "model.card.json").write_bytes(text.encode("utf-8", "surrogatepass"))
    with pytest.raises(LoadFailed, match="is not a model card"):
        card_beside(tmp_path / "model.onnx")
