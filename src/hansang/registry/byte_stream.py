"""Bytes that are read forward, and compressed bytes that are unpacked as they are read, within bounds.

A length that a file states is checked against what is there before anything is read, so that no file can ask for more
memory than it has bytes. It knows no format of models.
"""

from __future__ import annotations

import bz2
import io
import lzma
import zlib
from collections.abc import Callable
from typing import BinaryIO, Protocol

_CHUNK = 2**16
_LZMA_MEMORY = 2**28
"""Bytes that unpacking may need: the largest preset's dictionary is 64 MiB."""


class Broken(Exception):
    """Not what it says it is. The text is a sentence about "it"; whoever reads a format makes an error of it."""


class Evasive(Broken):
    """What it would do cannot be told: programs read it differently, or it has no end. It is not to be trusted."""


class ByteStream:
    """Reads forward from where `file` stands. `size`, where it is known, lets long stretches be jumped over.

    `frame_end` is for pickles: nothing may be read across it. Python's C unpickler, reading a file, then forgets what
    it had of the frame, so that a name which seems to be `safe_os` becomes `os`.
    """

    def __init__(self, file: BinaryIO, size: int | None = None) -> None:
        self._file = file
        self._size = size
        self.position = 0
        self.frame_end = 0

    def read(self, count: int) -> bytes:
        """Exactly so many bytes. Raises Broken if there are fewer."""
        if self._size is not None and count > self._size - self.position:
            raise self._short()
        self._check_frame(self.position + count)
        data = self._file.read(count)
        self.position += len(data)
        if len(data) < count:
            raise self._short()
        return data

    def opcode(self) -> bytes:
        """One byte."""
        data = self._file.read(1)
        if not data:
            raise self._short()
        self.position += 1
        return data

    def skip(self, count: int) -> None:
        if self._size is not None:
            if count > self._size - self.position:
                raise self._short()
            self._check_frame(self.position + count)
            self._file.seek(count, io.SEEK_CUR)
            self.position += count
            return
        while count:
            count -= len(self.read(min(count, _CHUNK)))

    def line(self, keep: int) -> tuple[bytes, bool]:
        """A line without its end, and whether it is whole: of a longer one only the first `keep` bytes are kept.

        Of a last line that has no end the last byte is taken off instead, as Python's own unpickler does.
        """
        start = self.position
        line = piece = self._file.readline(keep + 1)
        self.position += len(piece)
        while piece and not piece.endswith(b"\n"):
            piece = self._file.readline(_CHUNK)
            self.position += len(piece)
        if start < self.frame_end < self.position:
            raise _across()
        return line[:-1], len(line) <= keep or line.endswith(b"\n")

    def _check_frame(self, end: int) -> None:
        if self.position < self.frame_end < end:
            raise _across()

    def _short(self) -> Broken:
        return Broken(f"it is cut off (at byte {self.position})")


def _across() -> Evasive:
    return Evasive("its frames cut through what they hold, which makes programs read it differently")


class Budget:
    """How many bytes one stream may unpack to, and, since each is read a few times, all of them together."""

    _READINGS = 8

    def __init__(self, allowed: int) -> None:
        self.allowed = allowed
        self.used = 0

    def spend(self, count: int, unpacked: int) -> None:
        """Of a stream that has `unpacked` so much by now. Raises Broken when it is spent."""
        self.used += count
        if unpacked > self.allowed or self.used > self.allowed * self._READINGS:
            raise Broken(f"it unpacks to more than {self.allowed:,} bytes, far more than a file of its size should")


class _Readable(Protocol):
    """A source of packed bytes."""

    def read(self, count: int, /) -> bytes: ...
    def close(self) -> None: ...


class _Unpacker(Protocol):
    """What the decompressors of bz2 and lzma share; zlib's is made to."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int = -1) -> bytes: ...


class _Zlib:
    """zlib's decompressor with the manners of the other two."""

    def __init__(self, window: int) -> None:
        self._inner = zlib.decompressobj(window)

    @property
    def eof(self) -> bool:
        return self._inner.eof

    @property
    def needs_input(self) -> bool:
        return not self._inner.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._inner.unused_data

    def decompress(self, data: bytes, max_length: int = -1) -> bytes:
        return self._inner.decompress(self._inner.unconsumed_tail + data, max_length)


COMPRESSIONS: dict[str, Callable[[], _Unpacker]] = {
    "gzip": lambda: _Zlib(31),
    "zlib": lambda: _Zlib(15),
    "deflate": lambda: _Zlib(-15),
    "bzip2": bz2.BZ2Decompressor,
    "xz": lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=_LZMA_MEMORY),
    "lzma": lambda: lzma.LZMADecompressor(lzma.FORMAT_ALONE, memlimit=_LZMA_MEMORY),
}
_MAY_REPEAT = ("gzip", "bzip2", "xz")
"""Formats in which one packed stream may follow another."""


class Unpacked(io.RawIOBase):
    """The bytes in a compressed stream. Wrap it in a `BufferedReader`."""

    def __init__(self, packed: _Readable, compression: str, budget: Budget) -> None:
        self._packed = packed
        self._compression = compression
        self._budget = budget
        self._unpacker = COMPRESSIONS[compression]()
        self._unpacked = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        try:
            data = self._more(len(buffer))
        except (zlib.error, OSError, EOFError, lzma.LZMAError, ValueError) as exc:
            raise Broken(f"its {self._compression} data is damaged ({exc})") from None
        self._unpacked += len(data)
        self._budget.spend(len(data), self._unpacked)
        buffer[: len(data)] = data
        return len(data)

    def _more(self, wanted: int) -> bytes:
        while True:
            if self._unpacker.eof and not self._next():
                return b""
            hungry = self._unpacker.needs_input
            fed = self._packed.read(_CHUNK) if hungry else b""
            if data := self._unpacker.decompress(fed, wanted):
                return data
            if hungry and not fed and not self._unpacker.eof:
                raise EOFError("it is cut off")

    def _next(self) -> bool:
        """Go on to the stream that follows, if one does."""
        rest = (self._unpacker.unused_data or self._packed.read(_CHUNK)).lstrip(b"\0")
        if not rest or self._compression not in _MAY_REPEAT:
            return False
        self._packed = _Before(rest, self._packed.rest if isinstance(self._packed, _Before) else self._packed)
        self._unpacker = COMPRESSIONS[self._compression]()
        return True

    def close(self) -> None:
        self._packed.close()
        super().close()


class _Before:
    """Bytes that were read too early, and then the file they came from."""

    def __init__(self, first: bytes, rest: _Readable) -> None:
        self._first = first
        self.rest = rest

    def read(self, count: int, /) -> bytes:
        first, self._first = self._first, b""
        return first or self.rest.read(count)

    def close(self) -> None:
        self.rest.close()


class Slice(io.RawIOBase):
    """Some bytes of a file, as a file of its own."""

    def __init__(self, file: BinaryIO, start: int, size: int) -> None:
        self._file = file
        self._start = start
        self._size = size
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: bytearray | memoryview) -> int:  # type: ignore[override]
        wanted = min(len(buffer), self._size - self._position)
        if wanted <= 0:
            return 0
        self._file.seek(self._start + self._position)
        data = self._file.read(wanted)
        buffer[: len(data)] = data
        self._position += len(data)
        return len(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position
