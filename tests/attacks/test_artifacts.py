"""Attacks with files: each is built here, shown to work on a careless program, and refused unopened.

No file here comes from anywhere else, and the most that one would do is to touch a canary in the test's own folder.
"""

from __future__ import annotations

import bz2
import copyreg
import gzip
import io
import json
import lzma
import pickle
import re
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

import joblib
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

import malice
from hansang.core.errors import UnsafeArtifact
from hansang.registry.pickle_machine import Limits
from hansang.registry.safety import check_artifact, file_hash, inspect_file

SUFFIXES = (".pkl", ".onnx", ".json", ".skops", ".safetensors", ".npz", ".npy", ".pt", ".pt2", ".joblib", "")
EXTENSION = ("posix", "system", 0xF0)


@pytest.fixture
def canary(tmp_path: Path) -> Path:
    return tmp_path / "canary"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "model.bin"


@pytest.fixture
def extension() -> Iterator[None]:
    """A program that opens pickles may have given numbers to names."""
    copyreg.add_extension(*EXTENSION)
    yield
    copyreg.remove_extension(*EXTENSION)


def refused(path: Path, *told: str) -> UnsafeArtifact:
    """Its refusal, which says all that is asked for."""
    with pytest.raises(UnsafeArtifact) as refusal:
        check_artifact(path)
    assert (refusal.value.status, refusal.value.code) == (400, "unsafe_artifact")
    assert refusal.value.message.startswith(path.name)
    for words in told:
        assert words in refusal.value.message
    return refusal.value


def written(path: Path, data: bytes) -> Path:
    path.write_bytes(data)
    return path


def zipped(members: dict[str, bytes], method: int = ZIP_DEFLATED) -> bytes:
    file = io.BytesIO()
    with ZipFile(file, "w", method) as archive:
        for name, data in members.items():
            archive.writestr(name, data)
    return file.getvalue()


def tarred(members: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return file.getvalue()


def saved(write: Callable[[io.BytesIO], Any]) -> bytes:
    file = io.BytesIO()
    write(file)
    return file.getvalue()


# Pickles


@pytest.mark.parametrize("name", malice.NAMES)
def test_every_way_of_a_pickle_into_code_is_one_and_is_refused(
    name: str, tmp_path: Path, canary: Path, extension: None
) -> None:
    data = malice.pickles(canary)[name]
    malice.open_carelessly(data)
    assert canary.exists(), "this is no attack"
    canary.unlink()
    message = refused(written(tmp_path / "model.pkl", data), "Nothing of it was run").message
    assert "dangerous" in message or "programs read it differently" in message
    assert not canary.exists()


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_no_name_hides_a_pickle(suffix: str, tmp_path: Path, canary: Path) -> None:
    path = written(tmp_path / f"model{suffix}", pickle.dumps(malice.Runs(canary)))
    refusal = refused(path, "is a pickle", "import  posix.system  (dangerous)", "posix.system('touch /")
    assert f"hansang models convert {path.name}." in str(refusal.hint)
    assert f"--trust sha256:{file_hash(path)}" in str(refusal.hint)
    assert not canary.exists()


COATS: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "bzip2": bz2.compress,
    "xz": lzma.compress,
    "lzma": lambda data: lzma.compress(data, lzma.FORMAT_ALONE),
    "zlib": zlib.compress,
    "zlib unpacked": lambda data: zlib.compress(data, 0),
    "gzip in gzip": lambda data: gzip.compress(gzip.compress(data)),
    "gzip in two parts": lambda data: gzip.compress(data[:5]) + gzip.compress(data[5:]),
    "gzip padded": lambda data: gzip.compress(data) + bytes(100),
    "old joblib's zlib": lambda data: b"ZF" + hex(len(data)).encode().ljust(19) + zlib.compress(data),
    "a byte order mark": lambda data: b"\xef\xbb\xbf" + data,
    "blanks": lambda data: b" \t\r\n\n" + data,
    "a ZIP archive": lambda data: zipped({"weights.bin": data}),
    "a ZIP archive, stored": lambda data: zipped({"a": b"x", "b/weights": data}, 0),
    "ZIP in ZIP": lambda data: zipped({"inner": zipped({"inner": zipped({"x": data})})}),
    "ZIP in ZIP, stored": lambda data: zipped({"inner": zipped({"x": data}, 0)}, 0),
    "ZIP in gzip": lambda data: gzip.compress(zipped({"x": data})),
    "gzip in ZIP": lambda data: zipped({"x": gzip.compress(data)}),
    "tar": lambda data: tarred({"readme": b"hello", "pickle": data}),
    "tar in gzip": lambda data: gzip.compress(tarred({"pickle": data})),
    "before a ZIP archive": lambda data: data + zipped({"x": b"y"}),
    "torch.save": lambda data: zipped({"net/data.pkl": data, "net/version": b"3\n", "net/data/0": bytes(8)}, 0),
    "torch.save, other letters": lambda data: zipped({"net/DATA.PKL": data, "net/version": b"3\n"}, 0),
    "beside torch.save's own": lambda data: zipped({"net/data.pkl": b"\x80\x02}.", "net/extra.pkl": data}, 0),
    "TorchScript": lambda data: zipped(
        {"net/data.pkl": data, "net/constants.pkl": b"\x80\x02).", "net/code/a.py": b""}
    ),
    "torch.export": lambda data: zipped({"net/archive_format": b"pt2", "net/data/weights/weight_0": data}),
    "torch.export's inputs": lambda data: zipped(
        {"net/archive_format": b"pt2", "net/data/sample_inputs/model.pt": zipped({"a/data.pkl": data}, 0)}
    ),
    "skops": lambda data: zipped({"schema.json": b"{}", "140.npy": data}),
    "another pickle": lambda data: pickle.dumps(1) + pickle.dumps([2]) + data,
    "PyTorch before 1.6": lambda data: b"".join(
        [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2), data]
    ),
}


@pytest.mark.parametrize("coat", COATS)
def test_no_coat_hides_a_pickle(coat: str, file: Path, canary: Path) -> None:
    for protocol in (0, 2, 5):
        data = COATS[coat](pickle.dumps(malice.Runs(canary), protocol))
        refused(written(file, data), "import  posix.system  (dangerous)")
    assert not canary.exists()


def test_arrays_of_objects_are_pickles(tmp_path: Path, canary: Path) -> None:
    array = np.array([malice.Runs(canary)], dtype=object)
    np.save(tmp_path / "a.npy", array, allow_pickle=True)
    np.savez(tmp_path / "b.npz", fine=np.ones(3), bad=array)
    np.savez_compressed(tmp_path / "c.npz", fine=np.ones(3), bad=array)
    fields = np.array([(1, malice.Runs(canary))], dtype=[("a", "i4"), ("b", "O")])
    np.save(tmp_path / "d.npy", fields, allow_pickle=True)
    for name in ("a.npy", "b.npz", "c.npz", "d.npy"):
        np.load(tmp_path / name, allow_pickle=True)
        if name.endswith(".npy"):
            assert canary.exists(), "this is no attack"
            canary.unlink()
        refused(tmp_path / name, "posix.system")
        assert not canary.exists()


@pytest.mark.parametrize("packing", [0, 3, ("gzip", 3), ("bz2", 9), ("xz", 3), ("lzma", 3)], ids=str)
def test_joblib_hides_nothing_between_its_arrays(packing: Any, tmp_path: Path, canary: Path) -> None:
    things = {
        "weights": np.ones((20, 30)),
        "objects": np.array([malice.Runs(canary), "a"], dtype=object),
        "order": np.asfortranarray(np.ones((3, 4))),
        "texts": np.array(["a", "bcd"]),
        "records": np.array([(1, 2.0)], dtype=[("a", "i4"), ("b", "f8")]),
        "after": [malice.Runs(canary)],
        "last": np.zeros((0, 4), dtype="M8[s]"),
    }
    path = tmp_path / "model.joblib"
    joblib.dump(things, path, compress=packing)
    joblib.load(path)
    assert canary.exists(), "this is no attack"
    canary.unlink()
    refused(path, "joblib", "import  posix.system  (dangerous)")
    report = inspect_file(path)
    assert {pickle.error for pickle in report.pickles} == {None}
    assert not canary.exists()


def joblib_array(body: bytes, size: int = 8) -> bytes:
    """What announces an array in joblib's file, and then `body`."""
    dtype = b"cnumpy\ndtype\nU\x02u1\x89\x88\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    said = b"}(U\x08subclasscnumpy\nndarray\nU\x05shapeJ" + struct.pack("<i", size) + b"\x85U\x05orderU\x01C"
    said += b"U\x05dtype" + dtype + b"U\x0aallow_mmap\x89u"
    return b"\x80\x02cjoblib.numpy_pickle\nNumpyArrayWrapper\n)\x81" + said + b"b" + body


def test_joblib_and_python_may_read_a_file_differently_and_both_are_heard(file: Path, canary: Path) -> None:
    call = b"cos\nsystem\n" + malice.text(f"touch {canary}") + b"\x85R"
    for_python = joblib_array(call + b"..", len(call) + 1)
    skipping = b"B" + struct.pack("<I", len(call)) + b"xyz"
    for_joblib = joblib_array(skipping + call + b".", len(skipping))
    for data, opener in ((for_python, pickle.load), (for_joblib, joblib.load)):
        with suppress(Exception):
            opener(io.BytesIO(data))
        assert canary.exists(), "this is no attack"
        canary.unlink()
        refused(written(file, data), "os.system", "dangerous")
    assert not canary.exists()


def test_an_array_of_joblib_inside_a_frame_is_not_believed(file: Path) -> None:
    inside = b"\x80\x04" + malice.frame(joblib_array(bytes(8))[2:] + b".")
    refused(written(file, inside), "inside a frame")


def test_packings_that_cannot_be_looked_into_are_refused(file: Path) -> None:
    refused(written(file, b"\x04\x22\x4d\x18" + bytes(40)), "lz4")
    refused(written(file, b"\x28\xb5\x2f\xfd" + bytes(40)), "Zstandard")


def test_a_pickle_without_end_is_not_taken_for_harmless(
    file: Path, canary: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hansang.registry.coats.SCAN", Limits(operations=1000, stack=1000, memo=1000))
    call = b"cos\nsystem\n" + malice.text(f"touch {canary}") + b"\x85R."
    for before in (b"N0" * 600, b"N" * 1100, b"(" * 1100, b"Nr\xff\xff\xff\x00"):
        for coat in (bytes, gzip.compress, COATS["a ZIP archive, stored"]):
            refused(written(file, coat(before + call)), "cannot be told")
    assert not canary.exists()


def test_a_report_says_nothing_that_a_terminal_obeys(file: Path) -> None:
    message = refused(written(file, b"c\x1b[31mos\nsystem\x07\xe2\x80\xae\n)R.")).message
    assert all(character.isprintable() or character == "\n" for character in message)


# Programs that are no pickles


def script(code: str) -> bytes:
    members = {"data.pkl": b"\x80\x02c__torch__\nN\n)\x81}b.", "constants.pkl": b"\x80\x02).", "version": b"3\n"}
    return zipped({**{f"n/{name}": data for name, data in members.items()}, "n/code/__torch__.py": code.encode()})


@pytest.mark.parametrize(
    ("call", "named"),
    [
        ('torch.save(x, "/etc/cron.d/x")', "save"),
        ('torch . from_file("/etc/passwd", False, 4)', "from_file"),
        ('ops.aten.save(x, "/x")', "save"),
        ("ops.image.write_file(x)", "image"),
    ],
)
def test_torchscript_that_touches_files_is_refused(call: str, named: str, file: Path) -> None:
    body = "class N(Module):\n  def forward(self, x: Tensor) -> Tensor:\n    y = {}\n    return x\n"
    assert inspect_file(written(file, script(body.format("torch.tanh(x)")))).is_safe
    refused(written(file, script(body.format(call))), repr(named))


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_really_writes_files_and_is_refused(tmp_path: Path, canary: Path) -> None:
    torch = pytest.importorskip("torch")
    path, other = tmp_path / "net.pt", tmp_path / "other.pt"
    code = f"def forward(self, x: Tensor) -> None:\n    torch.save(x, {str(canary)!r})\n"
    module = torch.jit.ScriptModule()
    module.define(code)
    module.save(str(path))
    torch.jit.load(path)(torch.zeros(1))
    assert canary.exists(), "this is no attack"
    canary.unlink()
    refused(path, "save")
    with ZipFile(path) as archive, ZipFile(other, "w") as shouted:
        for name in archive.namelist():
            folder, _, rest = name.partition("/")
            shouted.writestr(f"{folder}/{rest.upper()}", archive.read(name))
    refused(other, "save")
    assert not canary.exists()


def export(**changes: Any) -> bytes:
    """The graph of a torch.export file, in short."""
    size = {"as_expr": {"expr_str": "Mul(Integer(2), Symbol('s77', positive=True, integer=True))", "hint": None}}
    node = {"target": "torch.ops.aten.tanh.default", "inputs": [{"name": "self", "arg": {"as_tensor": {"name": "x"}}}]}
    graph = {
        "inputs": [{"as_tensor": {"name": "x"}}],
        "nodes": [node, {"target": "_operator.mul", "inputs": []}],
        "tensor_values": {"x": {"dtype": 7, "sizes": [size, {"as_int": 2}], "device": {"type": "cpu"}}},
        "in_spec": '[1, {"type": "builtins.tuple", "context": "null", "children_spec": []}]',
        "guards_code": ["L['x'].size()[1] == 8", "Eq(L['x'].size()[0] % 2, 0) and L['x'].size()[0] <= 100"],
        "stack_trace": 'File "a.py", line 1, in forward\n  return x',
        **changes,
    }
    program = json.dumps(
        {"graph_module": {"graph": graph}, "opset_version": {"aten": 10}, "torch_version": "2.13.0+cpu"}
    )
    return zipped({"n/models/model.json": program.encode(), "n/data/weights/weight_0": bytes(16)})


EXPRESSION = {"x": {"sizes": [{"as_expr": {"expr_str": "__import__('os').system('id')"}}]}}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"tensor_values": EXPRESSION}, "size that is Python code"),
        ({"tensor_values": {"x": {"expr_str": "Symbol('s').__class__"}}}, "size that is Python code"),
        ({"tensor_values": {"x": {"expr_str": "eval('1')"}}}, "size that is Python code"),
        ({"tensor_values": {"x": {"expr_str": "Integer(9)**Integer(9)**Integer(9)"}}}, "size that is Python code"),
        ({"tensor_values": {"x": {"expr_str": "Pow(Integer(9), Integer(999999999))"}}}, "size that is Python code"),
        ({"nodes": [{"target": "torch.serialization.os.system"}]}, "torch.serialization.os.system"),
        ({"nodes": [{"target": "torch.ops.aten.from_file.default"}]}, "from_file"),
        ({"nodes": [{"target": "torch.hub.load"}]}, "torch.hub.load"),
        ({"inputs": [{"as_tensor": {"name": "x = __import__('os').system('id')"}}]}, "a name that is none"),
        ({"inputs": [{"as_tensor": {"name": "x:os.system"}}]}, "a name that is none"),
        ({"tensor_values": {"x):\n  import os": {}}}, "a name that is none"),
        ({"in_spec": '[1, {"type": "builtins.dict", "context": "[{\\"__enum__\\": true}]"}]'}, "imports what it names"),
        ({"in_spec": '[1, {"type": "builtins.dict", "context": "\\u005f_enum__"}]'}, "imports what it names"),
        ({"out_spec": '[1, {"type": "collections.defaultdict", "context": {}}]'}, "imports what it names"),
        ({"guards_code": ["__import__('os').system('id') == 0"]}, "condition that is Python code"),
    ],
)
def test_a_torch_export_graph_that_is_python_is_refused(changes: dict[str, Any], named: str, file: Path) -> None:
    assert inspect_file(written(file, export())).is_safe
    refused(written(file, export(**changes)), named)
    nested = zipped({"n/extra/x.pt2": export(**changes)})
    refused(written(file, nested), named)


def test_compiled_code_in_an_archive_is_refused(file: Path) -> None:
    refused(written(file, zipped({"n/data/aotinductor/model/a.so": b"x"})), "compiled code")
    refused(written(file, zipped({"n/weights": b"\x7fELF" + bytes(60)})), "compiled code")


# Archives


def named(name: str, mode: int = 0o644) -> bytes:
    """A ZIP archive with a member of that very name."""
    file = io.BytesIO()
    with ZipFile(file, "w") as archive:
        info = ZipInfo("x" * len(name))
        info.external_attr = mode << 16
        archive.writestr(info, b"data")
    return file.getvalue().replace(b"x" * len(name), name.encode())


@pytest.mark.parametrize(
    "name",
    ["../evil", "a/../../evil", "/etc/passwd", "\\evil", "..\\evil", "C:\\evil", "c:evil", "~/evil", "a/..", "//x"],
)
def test_a_member_that_would_leave_its_folder_is_refused(name: str, file: Path) -> None:
    refused(written(file, named(name)), "leads out of its folder")
    refused(written(file, tarred({name: b"data"})), "leads out of its folder")


def test_links_in_archives_are_refused(file: Path) -> None:
    refused(written(file, named("link", 0o120777)), "that is a link")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE):
        info = tarfile.TarInfo("link")
        info.type, info.linkname = kind, "/etc/passwd"
        refused(written(file, info.tobuf() + bytes(1024)), "a link or a device")


def test_a_longer_name_of_tar_is_judged_too(file: Path) -> None:
    for form in (tarfile.GNU_FORMAT, tarfile.PAX_FORMAT):
        info = tarfile.TarInfo("../" * 60 + "evil")
        refused(written(file, info.tobuf(form) + bytes(1024)), "leads out of its folder")
    huge = tarfile.TarInfo("././@LongLink")
    huge.type, huge.size = tarfile.GNUTYPE_LONGNAME, 2**40
    refused(written(file, huge.tobuf(tarfile.GNU_FORMAT) + bytes(1024)), "a name of")
    sized = tarfile.TarInfo("a")
    sized.pax_headers = {"size": "512"}
    refused(written(file, sized.tobuf(tarfile.PAX_FORMAT) + bytes(1024)), "programs read differently")


def test_two_members_of_one_name_are_refused(file: Path) -> None:
    refused(written(file, zipped({"a": b"one", "b": b"two"}).replace(b"b", b"a")), "two members 'a'")
    refused(written(file, zipped({"n/data.pkl": b"\x80\x02}.", "n/DATA.pkl": b"\x80\x02}."})), "two members")


def changed(data: bytes, place: int, form: str, value: int) -> bytes:
    return data[:place] + struct.pack(form, value) + data[place + struct.calcsize(form) :]


def test_an_archive_that_programs_would_read_differently_is_refused(file: Path) -> None:
    data = zipped({"first": b"1" * 50, "other": b"2" * 50}, 0)
    directory = data.index(b"PK\x01\x02")
    second = data.index(b"PK\x01\x02", directory + 1)
    end = data.index(b"PK\x05\x06")
    for broken, told in (
        (b"prefix" + data, "other bytes before it"),
        (data + b"suffix", "other bytes after its end"),
        (data[:-30], "cut off"),
        (changed(data, end + 16, "<I", 0), "no member where it says"),
        (changed(data, end + 10, "<H", 9), "lists 2"),
        (changed(data, second + 42, "<I", 0), "two different things"),
        (data.replace(b"first", b"FIRST", 1), "two different things"),
        (changed(data, directory + 8, "<H", 1), "encrypted"),
        (changed(data, directory + 10, "<H", 12), "packed in a way"),
        (changed(data, directory + 24, "<I", 10), "two sizes"),
        (changed(data, directory + 20, "<I", 5000), "cut off in its member"),
    ):
        refused(written(file, broken), told)


def test_members_in_the_bytes_of_others_are_refused(file: Path) -> None:
    inner = zipped({"b": b"2" * 50}, 0)
    local = inner[: inner.index(b"PK\x01\x02")]
    data = zipped({"a": local, "b": b"2" * 50}, 0)
    second = data.index(b"PK\x01\x02", data.index(b"PK\x01\x02") + 1)
    assert ZipFile(io.BytesIO(data)).testzip() is None
    refused(written(file, changed(data, second + 42, "<I", 30 + 1)), "lies in the bytes of another")


def test_bombs_are_refused_before_they_are_unpacked(file: Path) -> None:
    zeros = bytes(100 * 2**20)
    refused(written(file, zipped({"a": zeros})), "is a bomb", "104,857,600")
    bomb = pickle.dumps(zeros)
    for pack in (gzip.compress, bz2.compress):
        refused(written(file, pack(bomb)), "unpacks to more than")
    nested = bomb
    for _ in range(10):
        nested = gzip.compress(nested[:1000])
    refused(written(file, nested), "wrapped more than")


def test_a_zip_of_too_many_members_is_not_even_listed(file: Path) -> None:
    data = zipped({"a": b""})
    refused(written(file, changed(data, data.index(b"PK\x05\x06") + 10, "<H", 0xFFFF)), "lists")
    record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, 2**40, 2**40, 46 * 2**20, 0)
    locator = b"PK\x06\x07" + struct.pack("<IQI", 0, 46 * 2**20, 1)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    refused(written(file, b"PK\x03\x04" + bytes(47 * 2**20) + record + locator + end), "is the most")


# Arrays and headers


def npy(shape: str, descr: str = "'<f8'", body: bytes = bytes(16)) -> bytes:
    header = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}}}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(header)) + header + body


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (npy("(10**15,)"), "no NumPy header"),
        (npy("(1000000000000000,)"), "8,000,000,000,000,000 bytes"),
        (npy("(4294967296, 4294967296)"), "t says that it holds"),
        (npy("(-2,)"), "no NumPy header|impossible shape"),
        (npy("(9223372036854775808,)"), "impossible shape"),
        (npy(repr((1,) * 65), body=bytes(8)), "no NumPy header|impossible shape"),
        (npy("(2, True)"), "impossible shape"),
        (npy("(1,)", "'<f999999999'"), "t says that it holds"),
        (npy("(1,)", "'|V8,O'"), "type that is not known"),
        (npy("(1,)", "[('a', 'O', 3)]"), "damaged|it is cut off"),
        (npy("(1,)", "__import__('os')"), "no NumPy header"),
        (b"\x93NUMPY\x02\x00\xff\xff\xff\xff", "header of 4,294,967,295 bytes"),
        (b"\x93NUMPY\x09\x00", "version 9.0"),
        (npy("(" * 9000 + ")" * 9000), "no NumPy header"),
    ],
    ids=range(14),
)
def test_an_array_that_lies_about_itself_is_refused(data: bytes, told: str, file: Path) -> None:
    for body in (data, zipped({"a.npy": data}), zipped({"a.npy": data}, 0), gzip.compress(data)):
        message = refused(written(file, body)).message
        assert re.search(told, message) or "cut off" in message


def tensors(header: bytes, body: bytes = b"") -> bytes:
    return struct.pack("<Q", len(header)) + header + body


def header(**entries: Any) -> bytes:
    return json.dumps(entries).encode()


def f32(begin: int, end: int, shape: Any = (2,), dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": list(shape), "data_offsets": [begin, end]}


@pytest.mark.parametrize(
    ("data", "told"),
    [
        (struct.pack("<Q", 2**63) + b"{}", "header has 9,223,372,036,854,775,808 bytes"),
        (struct.pack("<Q", 100) + b"{}", "cut off"),
        (b"\x08\0\0", "cut off"),
        (struct.pack("<Q", 2**24 + 1) + b"{" + b" " * 2**24, "16,777,216 is the most"),
        (tensors(b"{" * 100_000), "cannot be read"),
        (tensors(b'{"a":' * 50_000 + b"1" + b"}" * 50_000), "cannot be read"),
        (tensors(b"[]"), "not an object"),
        (tensors(b"\xff\xfe{}"), "cannot be read"),
        (tensors(b'{"a": 1, "a": 2}'), "twice"),
        (tensors(header(a=f32(0, 8), b=f32(4, 12)), bytes(12)), "overlaps"),
        (tensors(header(a=f32(0, 8), b=f32(12, 20)), bytes(20)), "hole"),
        (tensors(header(a=f32(0, 8)), bytes(4)), "need 8 bytes"),
        (tensors(header(a=f32(0, 8)), bytes(80)), "there are 80"),
        (tensors(header(a=f32(0, 8, [2**40, 2**40])), bytes(8)), "and is given"),
        (tensors(header(a=f32(0, 8, [1] * 1000)), bytes(8)), "impossible shape"),
        (tensors(header(a=f32(0, 8, [-1, -2])), bytes(8)), "impossible shape"),
        (tensors(header(a=f32(0, 8, [2.0])), bytes(8)), "impossible shape"),
        (tensors(header(a=f32(8, 0)), bytes(8)), "impossible data_offsets"),
        (tensors(header(a=f32(0, 8, dtype="OBJECT")), bytes(8)), "does not exist"),
        (tensors(header(a={"dtype": "F32"})), "not described"),
        (tensors(header(__metadata__={"a": 1})), "__metadata__"),
        (tensors(b"{" + b'"a":1' + b"0" * 5000 + b"}"), "cannot be read"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_a_safetensors_header_that_lies_is_refused(data: bytes, told: str, tmp_path: Path) -> None:
    refused(written(tmp_path / "net.safetensors", data), "safetensors", told)


def test_a_pickle_that_is_safetensors_too_is_refused(tmp_path: Path, canary: Path) -> None:
    call = b"cos\nsystem\n" + malice.text(f"touch {canary}") + b"\x85R."
    data = b"V\x01" + bytes(6) + b'{"__metadata__":{"a":"' + b"b" * 255 + b'"}}'
    length = 0x156
    data = data[: 8 + length].ljust(8 + length) + b"\n" + call
    malice.open_carelessly(data)
    assert canary.exists(), "this is no attack"
    canary.unlink()
    refused(written(tmp_path / "net.safetensors", data), "os.system")


def outside(folder: Path, location: str) -> Path:
    """An ONNX model that keeps its weights in another file."""
    tensor = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value=location)
    port = helper.make_tensor_value_info
    ports = [port("x", TensorProto.FLOAT, ["N", 4])], [port("y", TensorProto.FLOAT, ["N", 4])]
    graph = helper.make_graph([helper.make_node("Add", ["x", "w"], ["y"])], "test", *ports, [tensor])
    return written(folder / "net.onnx", helper.make_model(graph, ir_version=9).SerializeToString())


@pytest.mark.parametrize("location", ["/etc/passwd", "../secret", "link", "folder/link", "a/../../secret"])
def test_onnx_weights_outside_the_models_folder_are_refused(location: str, tmp_path: Path) -> None:
    folder = tmp_path / "model"
    (folder / "folder").mkdir(parents=True)
    written(tmp_path / "secret", bytes(16))
    (folder / "link").symlink_to(tmp_path / "secret")
    (folder / "folder" / "link").symlink_to("/etc/passwd")
    refused(outside(folder, location), "outside its folder")


def test_onnx_weights_beside_the_model_are_fine_if_they_are_there(tmp_path: Path) -> None:
    refused(outside(tmp_path, "weights.bin"), "no such file")
    written(tmp_path / "weights.bin", bytes(16))
    assert check_artifact(outside(tmp_path, "weights.bin")).is_safe


# Files without harm


def harmless(folder: Path) -> Iterator[tuple[Path, str]]:
    """Files of every format that is served, and what each is called."""
    import skops.io
    from sklearn.ensemble import RandomForestClassifier

    forest = RandomForestClassifier(3, random_state=0).fit([[0.0], [1.0]], [0, 1])
    skops.io.dump(forest, folder / "forest.skops")
    yield folder / "forest.skops", "a skops archive"
    np.savez(folder / "arrays.npz", a=np.ones((3, 4)), b=np.array(["a"]), c=np.zeros((0, 2)))
    yield folder / "arrays.npz", "NumPy arrays"
    np.savez_compressed(folder / "zeros.npz", a=np.zeros(10**6))
    yield folder / "zeros.npz", "NumPy arrays"
    np.save(folder / "dates.npy", np.array([(1, "a", 2.0)], dtype=[("a", "M8[s]"), ("b", "U3"), ("c", "f8", (1,))]))
    yield folder / "dates.npy", "a NumPy array"
    weights = numpy_helper.from_array(np.ones(4, np.float32), "w")
    inside = outside(folder, "x")
    model = helper.make_model(
        helper.make_graph(
            [helper.make_node("Add", ["x", "w"], ["y"])],
            "g",
            [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
            [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
            [weights],
        )
    )
    yield written(inside, model.SerializeToString()), "no format known here"
    written(folder / "and.json", b'{"weights": [0.5, 0.5], "bias": -0.75}')
    yield folder / "and.json", "JSON"
    yield written(folder / "data.pkl", pickle.dumps({"a": [1, 2.5, "x"], 3: (None, b"y")})), "a pickle"
    yield written(folder / "data.pkl.gz", gzip.compress(pickle.dumps([1, 2]))), "a pickle in gzip"
    yield written(folder / "net.safetensors", tensors(header(a=f32(0, 8)), bytes(8))), "a safetensors file"
    yield written(folder / "x.safetensors", tensors(b"{}".ljust(0x280), b"")), "a safetensors file"
    yield written(folder / "notes.txt", b"class A:\n  import os\ncat\nimport os\nIt is text.\n"), "text"


def test_files_without_harm_pass_and_are_named_rightly(tmp_path: Path) -> None:
    for path, what in harmless(tmp_path):
        report = check_artifact(path)
        assert what in report.format, path
        assert report.imports == ()


@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_pytorchs_own_files_pass_and_a_whole_module_does_not(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    net = torch.nn.Sequential(torch.nn.Linear(2, 3), torch.nn.BatchNorm1d(3), torch.nn.Tanh())
    state = net.state_dict()
    odd = {
        "half": torch.ones(2).half(),
        "size": torch.Size([1]),
        "type": torch.bfloat16,
        "p": torch.nn.Parameter(torch.ones(1)),
    }
    for name, thing, options in (
        ("state.pt", state, {}),
        ("old.pt", state, {"_use_new_zipfile_serialization": False}),
        ("checkpoint.pt", {"model": state, "epoch": 3, **odd}, {}),
    ):
        torch.save(thing, tmp_path / name, **options)
        torch.load(tmp_path / name, weights_only=True)
        assert check_artifact(tmp_path / name).is_safe
    torch.jit.script(net).save(str(tmp_path / "script.pt"))
    assert check_artifact(tmp_path / "script.pt").format == "a TorchScript archive"
    for options in ({}, {"_use_new_zipfile_serialization": False}):
        torch.save(net, tmp_path / "whole.pt", **options)
        refused(tmp_path / "whole.pt", "torch.nn.modules.linear.Linear")


# Mutations

SEEDS = [
    *malice.pickles(Path("/nowhere/canary")).values(),
    pickle.dumps({"a": [1, 2.5, "x", b"y", (1,)], "b": {1, 2}}),
    pickle.dumps(np.ones(3)),
    saved(lambda file: joblib.dump({"a": np.ones(3), "b": np.array([{}], dtype=object)}, file)),
    saved(lambda file: np.savez(file, a=np.ones(2), b=np.array([{}], dtype=object))),
    saved(lambda file: np.save(file, np.ones((2, 3)))),
    gzip.compress(pickle.dumps([1])),
    lzma.compress(pickle.dumps([1])),
    tarred({"a": pickle.dumps([1]), "b": b"text"}),
    zipped({"n/data.pkl": pickle.dumps({}), "n/constants.pkl": b"\x80\x02).", "n/code/a.py": b"x"}),
    export(),
    tensors(header(a=f32(0, 8)), bytes(8)),
]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A file with bytes changed, cut out, put in, or spliced in from another."""
    data = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(1, 5))):
        place = draw(st.integers(0, len(data)))
        end = min(len(data), place + draw(st.integers(0, 6)))
        other = draw(st.sampled_from(SEEDS))
        start = draw(st.integers(0, len(other) - 1))
        data[place:end] = draw(st.one_of(st.binary(max_size=4), st.just(other[start : start + 20])))
    return bytes(data)


@given(data=mutated(), suffix=st.sampled_from((".bin", ".onnx", ".safetensors")))
@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_no_mutation_crashes_the_look_or_runs(tmp_path: Path, data: bytes, suffix: str) -> None:
    path = written(tmp_path / f"model{suffix}", data)
    report = inspect_file(path)
    assert report.text().startswith(path.name)
    if not report.is_safe:
        refused(path)
    assert not Path("/nowhere").exists()
