"""What a report says, and to whom. Attacks stand in tests/attacks/test_artifacts.py."""

from __future__ import annotations

import pickle
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from hansang.core.errors import LoadFailed, UnsafeArtifact
from hansang.registry.safetensors_file import read_header
from hansang.registry.safety import Imported, check_artifact, inspect_file


class Gate:
    """A class of nobody's."""

    def __init__(self) -> None:
        self.weights = np.array([0.5, 0.5])


def saved(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def test_a_report_lists_imports_worst_first_and_calls(tmp_path: Path) -> None:
    path = saved(tmp_path / "gate.pkl", pickle.dumps([Gate(), print], 4))
    report = inspect_file(path)
    assert report.format == "a pickle"
    assert report.runs_code
    assert not report.data_only
    assert report.imports[:2] == (Imported("builtins.print", "dangerous"), Imported(f"{__name__}.Gate", "unknown"))
    assert {imported.danger for imported in report.imports[2:]} == {"harmless"}
    (found,) = report.pickles
    assert (found.where, found.protocol, found.error) == ("", 4, None)
    assert {"NEWOBJ", "REDUCE", "BUILD"} == {call.opcode for call in found.calls}


def test_its_text_is_for_people(tmp_path: Path) -> None:
    path = saved(tmp_path / "gate.pkl", pickle.dumps(Gate(), 4))
    assert inspect_file(path).text().splitlines() == [
        "gate.pkl is a pickle.",
        "Opening it would",
        f"  import  {__name__}.Gate  (unknown)",
        "  import  numpy._core.multiarray._reconstruct  (harmless)",
        "  import  numpy.ndarray  (harmless)",
        "  import  numpy.dtype  (harmless)",
        f"  call    {__name__}.Gate()  (NEWOBJ)",
        f"  set the state of {__name__}.Gate  (BUILD)",
        "Nothing of it was run.",
    ]


def test_long_reports_are_cut(tmp_path: Path) -> None:
    body = b"".join(b"cmodel\nPart%d\n)R0" % number for number in range(500))
    lines = inspect_file(saved(tmp_path / "m.pkl", body + b"N.")).text().splitlines()
    assert len(lines) < 50
    assert "  import  480 more names" in lines
    assert "  make 480 more calls like these" in lines


def test_data_alone_is_safe_and_said_to_be(tmp_path: Path) -> None:
    report = check_artifact(saved(tmp_path / "data.pkl", pickle.dumps({"a": [1.5, "x"]})))
    assert report.data_only
    assert "imports nothing" in report.text()


def test_the_hash_is_taken_as_given_or_made(tmp_path: Path) -> None:
    path = saved(tmp_path / "gate.pkl", pickle.dumps(Gate()))
    for given, expected in (("ab" * 32, "ab" * 32), (None, "")):
        with pytest.raises(UnsafeArtifact) as refusal:
            check_artifact(path, given)
        assert f"--trust sha256:{expected}" in str(refusal.value.hint)
        assert "hansang models convert gate.pkl" in str(refusal.value.hint)


def test_what_is_only_broken_is_not_to_be_trusted_but_made_again(tmp_path: Path) -> None:
    path = saved(tmp_path / "w.safetensors", struct.pack("<Q", 99) + b"{}")
    with pytest.raises(UnsafeArtifact) as refusal:
        check_artifact(path)
    assert "--trust" not in str(refusal.value.hint)
    assert "w.safetensors" in refusal.value.message


@pytest.mark.parametrize(
    ("name", "data", "told"),
    [
        ("a.onnx", b"", "no bytes at all"),
        ("a.onnx", b"\x08\x09\x3a\xff\x01", "not an ONNX model"),
        ("a.pkl", pickle.dumps({"a": 1})[:-1], "damaged pickle"),
        ("a.npz", b"PK\x03\x04 and then nothing", "ZIP archive|directory"),
        ("a.gz", b"\x1f\x8b\x08\x00" + bytes(6) + b"\xff\xff", "gzip data is damaged"),
        ("a.pkl.xz", b"\xfd7zXZ\x00" + bytes(20), "xz data is damaged"),
    ],
)
def test_broken_files_are_told_by_format(name: str, data: bytes, told: str, tmp_path: Path) -> None:
    with pytest.raises(UnsafeArtifact, match=told) as refusal:
        check_artifact(saved(tmp_path / name, data))
    assert refusal.value.message.startswith(name)


def test_a_file_that_is_not_there_is_no_fault_of_its_content(tmp_path: Path) -> None:
    with pytest.raises(LoadFailed, match="cannot be read"):
        check_artifact(tmp_path / "nowhere.pkl")


def test_every_cut_of_a_file_is_reported_and_none_raises(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", a=np.ones(2))
    wholes: list[Any] = [pickle.dumps(Gate(), protocol) for protocol in (0, 4)]
    wholes += [(tmp_path / "a.npz").read_bytes()]
    for whole in wholes:
        for end in range(1, len(whole), 7):
            assert inspect_file(saved(tmp_path / "cut", whole[:end])).text()
        assert not inspect_file(saved(tmp_path / "cut", whole[:-1])).is_safe


def test_a_safetensors_header_is_read(tmp_path: Path) -> None:
    header = b'{"__metadata__":{"format":"pt"},"b":{"dtype":"I8","shape":[],"data_offsets":[8,9]},' + (
        b'"a":{"dtype":"F32","shape":[1,2],"data_offsets":[0,8]}}   '
    )
    tensors, metadata = read_header(saved(tmp_path / "w", struct.pack("<Q", len(header)) + header + bytes(9)))
    assert [tensor[:3] for tensor in tensors] == [("a", "F32", (1, 2)), ("b", "I8", ())]
    assert metadata == {"format": "pt"}
