"""Finds every pickle in a file, whatever it is wrapped in: compressions, archives, arrays, other pickles.

A file is looked at by its content, whatever it is called. Nothing is extracted or run, and how much is unpacked, how
deep, and how many opcodes are followed is bounded: what is past a bound is a problem, not a pass. It lists; `safety`
judges.
"""

from __future__ import annotations

import io
import re
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO, Literal, TypeAlias

from hansang.registry import npy, torch_archive
from hansang.registry.archives import Listing, Member, allowed, is_tar, is_zip, list_tar, list_zip
from hansang.registry.byte_stream import Broken, Budget, ByteStream, Slice, Unpacked
from hansang.registry.pickle_machine import SCAN, Walk, walk
from hansang.registry.pickle_names import danger, looks_imported
from hansang.registry.safetensors_file import is_safetensors

Reader: TypeAlias = Literal["python", "weights", "torchscript"]
"""What would open a pickle: Python itself, or a part of PyTorch that takes only names that it knows."""

_HEAD = 512
_BUFFER = 2**16
_DEPTH = 8
_MOST_PROBLEMS = 20
_MOST_STACKED = 1000
_TORCH_MAGIC = 0x1950A86A20F9469CFC6C
_TORCH_PICKLES = 5
_COMPRESSED = (
    (re.compile(rb"\x1f\x8b"), "gzip", 0),
    (re.compile(rb"BZh[1-9](1AY&SY|\x17rE8P\x90)"), "bzip2", 0),
    (re.compile(rb"\xfd7zXZ\0"), "xz", 0),
    (re.compile(rb"\]\0\0"), "lzma", 0),
    (re.compile(rb"ZF0x"), "zlib", 21),  # joblib before 0.10
)
_CLOSED = ((b"\x04\x22\x4d\x18", "lz4"), (b"\x28\xb5\x2f\xfd", "Zstandard"), (b"7z\xbc\xaf\x27\x1c", "7-Zip"))


@dataclass(frozen=True, slots=True)
class Found:
    """A pickle, and where it is: the compressions and members that lead to it."""

    where: str
    reader: Reader
    walk: Walk


@dataclass(slots=True)
class Contents:
    """What is in a file. `coats` is what it is, from the outside in; `problems` are sentences about "it"."""

    coats: list[str] = field(default_factory=list)
    names: set[str] = field(default_factory=set)
    """Members of the outermost archive."""
    pickles: list[Found] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)

    def problem(self, where: str, text: str) -> None:
        if len(self.problems) < _MOST_PROBLEMS:
            self.problems.append(f"in {where}: {text}" if where else text)


@dataclass(frozen=True, slots=True)
class Layer:
    """Some bytes to look at. `file` and `start` say where they lie, if they lie in a file as they are."""

    where: str
    opener: Callable[[], io.RawIOBase]
    size: int | None = None
    stated: int | None = None
    """How many there should be."""
    file: BinaryIO | None = None
    start: int = 0
    depth: int = 0
    outer: bool = False
    """It is the file itself, perhaps unpacked."""

    def open(self, start: int = 0) -> tuple[io.BufferedReader[io.RawIOBase], ByteStream]:
        """From some byte on."""
        file = io.BufferedReader(self.opener(), _BUFFER)
        stream = ByteStream(file, self.size)
        stream.skip(start)
        return file, stream

    def head(self) -> bytes:
        file, _ = self.open()
        return file.read(_HEAD)


def stretch(where: str, file: BinaryIO, start: int, size: int, depth: int = 0, *, outer: bool = False) -> Layer:
    """Bytes that lie in a file as they are."""
    return Layer(where, lambda: Slice(file, start, size), size, size, file, start, depth, outer)


def unpacked(layer: Layer, head: bytes, budget: Budget) -> Layer | None:
    """What is in a compressed file that begins with `head`; None if it is not one."""
    for start, name, skip in _COMPRESSED:
        if start.match(head):
            return _unpacked(layer, name, skip, budget)
    if head[:1] == b"\x78" and int.from_bytes(head[:2], "big") % 31 == 0:
        inner = _unpacked(layer, "zlib", 0, budget)
        with suppress(Broken):  # a text may begin so
            inner.head()
            return inner
    return None


def _unpacked(layer: Layer, compression: str, skip: int, budget: Budget) -> Layer:
    def opener() -> io.RawIOBase:
        return Unpacked(layer.open(skip)[0], compression, budget)

    where = f"{layer.where} > {compression}" if layer.where else compression
    return Layer(where, opener, depth=layer.depth + 1, outer=layer.outer)


def look_into(path: Path) -> Contents:
    """List what a file holds."""
    with path.open("rb") as file, ExitStack() as spools:
        size = path.stat().st_size
        looker = _Looker(Budget(allowed(size)), spools)
        looker.look(stretch("", file, 0, size, outer=True))
        return looker.contents


class _Looker:
    """One look into one file."""

    def __init__(self, budget: Budget, spools: ExitStack) -> None:
        self.contents = Contents()
        self.budget = budget
        self.spools = spools
        self.operations = SCAN.operations

    def look(self, layer: Layer, reader: Reader = "python") -> None:
        if layer.depth > _DEPTH:
            self.contents.problem(layer.where, f"it is wrapped more than {_DEPTH} times")
            return
        try:
            head = layer.head()
            self.unpack(layer, head)
            is_archive = self.open_archive(layer, head)
            if head.startswith(npy.MAGIC):
                self.open_array(layer)
            elif not (is_archive and head.startswith(b"PK")):
                self.open_pickles(layer, head, reader)
        except Broken as exc:
            self.contents.problem(layer.where, str(exc))

    def coat(self, layer: Layer, name: str) -> None:
        if layer.outer:
            self.contents.coats.append(name)

    def unpack(self, layer: Layer, head: bytes) -> None:
        """If it is compressed, look at what is in it."""
        for start, name in _CLOSED:
            if head.startswith(start):
                self.coat(layer, name)
                raise Broken(f"it is packed with {name}, which is not unpacked here; pack it with gzip, or not at all")
        if inner := unpacked(layer, head, self.budget):
            self.coat(layer, inner.where.rpartition(" > ")[2])
            self.look(inner)

    def open_archive(self, layer: Layer, head: bytes) -> bool:
        """If it is an archive, look at its members."""
        zipped, tarred = head.startswith((b"PK\x03\x04", b"PK\x05\x06")), is_tar(head)
        if layer.file is None and (zipped or tarred):
            layer = self.spooled(layer)
        if layer.file is None or layer.size is None:
            return False
        file = io.BufferedReader(Slice(layer.file, layer.start, layer.size), _BUFFER)
        if is_zip(file, layer.size):
            self.coat(layer, "ZIP archive")
            self.open_members(layer, list_zip(file, layer.size))
        elif tarred:
            self.coat(layer, "tar archive")
            self.open_members(layer, list_tar(file, layer.size))
        else:
            return False
        return True

    def spooled(self, layer: Layer) -> Layer:
        """Unpacked into a temporary file, where it can be read in any order."""
        spool = self.spools.enter_context(tempfile.TemporaryFile())  # noqa: SIM115 - the stack closes it
        file, _ = layer.open()
        while chunk := file.read(_BUFFER):
            spool.write(chunk)
        return stretch(layer.where, spool, 0, spool.tell(), layer.depth, outer=layer.outer)

    def open_members(self, layer: Layer, listing: Listing) -> None:
        for problem in listing.problems:
            self.contents.problem(layer.where, problem)
        names = {member.name for member in listing.members}
        if layer.outer:
            self.contents.names = names
        archive = torch_archive.recognise(names)
        for member in listing.members:
            inner = self.member(layer, member)
            if archive.is_storage(member.name):
                continue
            self.look(inner, archive.reader(member.name))
            for problem in archive.judge(member.name, inner.open()[0]):
                self.contents.problem(inner.where, problem)
            if torch_archive.is_compiled(member.name, inner.head()):
                self.contents.problem(inner.where, "it is compiled code, which would run in the server")

    def member(self, layer: Layer, member: Member) -> Layer:
        assert layer.file is not None
        where = f"{layer.where} > {member.name}" if layer.where else member.name
        inner = stretch(where, layer.file, layer.start + member.start, member.packed, layer.depth + 1)
        if not member.deflated:
            return inner
        return replace(_unpacked(inner, "deflate", 0, self.budget), where=where, depth=inner.depth, stated=member.size)

    def open_array(self, layer: Layer) -> None:
        """A NumPy file: if it holds objects, they are a pickle."""
        self.coat(layer, "NumPy array")
        _, stream = layer.open()
        header = npy.read_header(stream)
        if header.has_objects:
            self.follow(layer, stream.position, "python", surely=True)
            return
        there = None if layer.stated is None else layer.stated - stream.position
        if there is None:
            stream.skip(header.size)
        elif header.size > there:
            raise Broken(
                f"it says that it holds an array of shape {header.shape} and type {header.dtype}, which is "
                f"{header.size:,} bytes, and it has {there:,}"
            )

    def open_pickles(self, layer: Layer, head: bytes, reader: Reader) -> None:
        """If it begins as a pickle does, follow it. Byte order marks and blanks before it do not hide it."""
        body = head.removeprefix(b"\xef\xbb\xbf").lstrip(b" \t\r\n\0")
        named = layer.outer and body[:1] == b"\x80" and b"\1" < body[1:2] < b"\6"
        if body:
            self.follow(layer, len(head) - len(body), reader, surely=named and not is_safetensors(head))

    def follow(self, layer: Layer, start: int, reader: Reader, *, surely: bool) -> None:
        """Follow the pickles from a byte on.

        Unless there is one `surely`, it must look like one: come to its end, or import a name.
        """
        walks = self.walks(layer, start, arrays=False)
        names = [name for found in walks for _, name in found.imports]
        if any("NumpyArrayWrapper" in name for name in names):
            walks = _both(walks, self.walks(layer, start, arrays=True))
            self.coat(layer, "joblib")
        if not (surely or walks[0].stopped or _does_something(walks[0])):
            return
        if _is_torch(walks):
            self.coat(layer, "PyTorch, before 1.6")
            reader = "weights"
        self.coat(layer, "pickle")
        for found in walks:
            self.contents.pickles.append(Found(layer.where, reader, found))

    def walks(self, layer: Layer, start: int, *, arrays: bool) -> list[Walk]:
        """The pickles that stand one after the other. What is not one ends them."""
        file, stream = layer.open(start)
        walks: list[Walk] = []
        while not walks or (walks[-1].stopped and file.peek(1)):
            found = walk(stream, replace(SCAN, operations=self.operations), arrays=arrays)
            self.operations -= found.operations
            if walks and not found.stopped and not _does_something(found):
                break
            walks.append(found)
            if len(walks) >= (_TORCH_PICKLES if _is_torch(walks) else _MOST_STACKED):
                break
        return walks


def _does_something(found: Walk) -> bool:
    return found.evasive or any(looks_imported(*name) for name in found.imports)


def _is_torch(walks: list[Walk]) -> bool:
    return bool(walks[0].value == _TORCH_MAGIC)


def _both(plain: list[Walk], joblib: list[Walk]) -> list[Walk]:
    """joblib's reading, with the harm that Python's own reading, which takes arrays for opcodes, would do besides."""
    for found in plain:
        joblib[0].imports.update({name: None for name in found.imports if danger(*name) == "dangerous"})
        for key, call in found.calls.items():
            if call.function is None or danger(*call.function) == "dangerous":
                joblib[0].calls.setdefault(key, call)
    return joblib
