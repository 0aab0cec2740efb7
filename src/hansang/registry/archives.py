"""What lies in ZIP and tar archives, and whether an archive is honest: it is listed, never extracted.

A ZIP archive must be laid out as writers lay it out (members, directory, end, nothing else), so that every program
that opens it sees the same members as this one. It knows no format of models.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, NamedTuple
from zipfile import ZIP_DEFLATED, ZIP_STORED, BadZipFile, ZipFile, ZipInfo

from hansang.registry.byte_stream import Broken, ByteStream, Slice

MOST_MEMBERS = 100_000
_MOST_DIRECTORY = 2**24
_MOST_RATIO = 100
_FREE = 2**26
"""Bytes that any archive may unpack to; a larger one only so many times its own size."""
_END = struct.Struct("<4s4H2LH")
_END_64 = struct.Struct("<4sQ2H2L4Q")
_LOCATOR_SIZE = 20
_LOCAL = struct.Struct("<4s5H3L2H")
_TAR_BLOCK = 512
_TAR_FILE = (b"0", b"\0", b"7")
_TAR_NAME = 4096


class Member(NamedTuple):
    """A file in an archive, by the place of its bytes. `size`: of what it unpacks to."""

    name: str
    start: int
    packed: int
    size: int
    deflated: bool = False


@dataclass(slots=True)
class Listing:
    """What is in an archive, and what is wrong with it: sentences about "it"."""

    members: list[Member] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def allowed(size: int) -> int:
    """How many bytes a file of this size may unpack to."""
    return max(_FREE, _MOST_RATIO * size)


def escapes(name: str) -> bool:
    """Whether a member's name leads out of the folder that the archive would be unpacked in."""
    parts = re.split(r"[/\\]", name)
    return ".." in parts or name.startswith(("/", "\\", "~")) or bool(re.match("[A-Za-z]:", name)) or "\0" in name


def is_zip(file: BinaryIO, size: int) -> bool:
    """Whether it begins as a ZIP archive does, or has one at its end."""
    file.seek(0)
    if file.read(4) in (b"PK\x03\x04", b"PK\x05\x06"):
        return True
    try:
        place = _directory(file, size)
    except Broken:
        return False
    file.seek(place.at - place.size)
    return file.read(4) == b"PK\x01\x02"


class _Directory(NamedTuple):
    """Of a ZIP archive. It lies before `at`, and should `start` there; `end` is where the archive ends."""

    at: int
    start: int
    size: int
    members: int
    end: int


def _tail(file: BinaryIO, size: int) -> tuple[bytes, int]:
    start = max(0, size - _END.size - 0xFFFF)
    file.seek(start)
    return file.read(size - start), start


def _directory(file: BinaryIO, size: int) -> _Directory:
    """Where the directory is. Raises Broken if there is none."""
    tail, offset = _tail(file, size)
    found = tail.rfind(b"PK\x05\x06")
    if found < 0 or len(tail) - found < _END.size:
        raise Broken("it has no directory at its end: it is cut off, or something follows it")
    *_, count, length, start, comment = _END.unpack_from(tail, found)
    at = offset + found
    end = at + _END.size + comment
    large = at - _LOCATOR_SIZE - _END_64.size
    if large >= 0:
        file.seek(large)
        record = file.read(_END_64.size + 4)
        if record.startswith(b"PK\x06\x06") and record.endswith(b"PK\x06\x07"):
            *_, count, length, start = _END_64.unpack_from(record)
            at = large
    if at - length < 0:
        raise Broken("it has no directory where it says that one is")
    return _Directory(at, start, length, count, end)


def list_zip(file: BinaryIO, size: int) -> Listing:
    """The members of a ZIP archive that is `size` bytes long. Raises Broken if it cannot be listed."""
    place = _directory(file, size)
    if place.size > _MOST_DIRECTORY or place.members > MOST_MEMBERS:
        raise Broken(f"it lists {place.members:,} members; {MOST_MEMBERS:,} is the most")
    listing = Listing()
    if place.start + place.size != place.at:
        listing.problems.append("it has other bytes before it or in it, so that programs may see different members")
    if place.end != size:
        listing.problems.append("it has other bytes after its end")
    file.seek(0)
    try:
        with ZipFile(io.BufferedReader(Slice(file, 0, size))) as archive:
            infos = archive.infolist()
    except (BadZipFile, NotImplementedError, ValueError, OSError, struct.error, UnicodeError) as exc:
        raise Broken(f"it is a ZIP archive that cannot be read ({exc})") from None
    if len(infos) != place.members:
        listing.problems.append(f"it says that it has {place.members} members, and lists {len(infos)}")
    listing.problems += _judge(infos, size)
    for info in infos:
        if not info.is_dir() and not info.flag_bits & 1 and info.compress_type in (ZIP_STORED, ZIP_DEFLATED):
            listing.members.append(_member(file, size, info))
    listing.problems += _overlaps(listing.members)
    return listing


def _judge(infos: list[ZipInfo], size: int) -> Iterator[str]:
    """What the directory alone tells against an archive."""
    unpacked = sum(info.file_size for info in infos)
    if unpacked > allowed(size):
        yield f"it is a bomb: its {size:,} bytes unpack to {unpacked:,}"
    seen: set[str] = set()
    for info in infos:
        name = info.filename
        if escapes(name) or escapes(info.orig_filename):
            yield f"it has a member {name!r}, which leads out of its folder"
        if name.casefold() in seen:
            yield f"it has two members {name!r}"
        seen.add(name.casefold())
        if info.external_attr >> 16 & 0o170000 == 0o120000:
            yield f"it has a member {name!r} that is a link"
        if info.flag_bits & 1:
            yield f"it has a member {name!r} that is encrypted"
        if info.compress_type not in (ZIP_STORED, ZIP_DEFLATED):
            yield f"it has a member {name!r} packed in a way that no model's format uses (method {info.compress_type})"
        elif info.compress_type == ZIP_STORED and info.compress_size != info.file_size:
            yield f"it has a member {name!r} that states two sizes"


def _member(file: BinaryIO, size: int, info: ZipInfo) -> Member:
    """Where its bytes are. Raises Broken if they are not there."""
    file.seek(info.header_offset)
    local = file.read(_LOCAL.size)
    if len(local) < _LOCAL.size or not local.startswith(b"PK\x03\x04"):
        raise Broken(f"it has no member where it says that {info.filename!r} is")
    *_, name_size, extra_size = _LOCAL.unpack(local)
    method = _LOCAL.unpack(local)[3]
    name = file.read(name_size)
    start = info.header_offset + _LOCAL.size + name_size + extra_size
    if name != _raw_name(info) or method != info.compress_type:
        raise Broken(f"it says two different things of its member {info.filename!r}")
    if start + info.compress_size > size:
        raise Broken(f"it is cut off in its member {info.filename!r}")
    return Member(info.filename, start, info.compress_size, info.file_size, info.compress_type == ZIP_DEFLATED)


def _raw_name(info: ZipInfo) -> bytes:
    return info.orig_filename.encode("utf-8" if info.flag_bits & 0x800 else "cp437", "surrogateescape")


def _overlaps(members: list[Member]) -> Iterator[str]:
    end = 0
    for member in sorted(members, key=lambda member: member.start):
        if member.packed and member.start < end:
            yield f"it is a bomb: its member {member.name!r} lies in the bytes of another"
            return
        end = max(end, member.start + member.packed)


def is_tar(head: bytes) -> bool:
    """Whether a file that begins so is a tar archive: its first block sums up."""
    block = head[:_TAR_BLOCK]
    if len(block) < _TAR_BLOCK or not block.strip(b"\0"):
        return False
    try:
        stated = int(block[148:156].strip(b"\0 ") or b"x", 8)
    except ValueError:
        return False
    return stated == sum(block[:148]) + 8 * 32 + sum(block[156:])


def list_tar(file: BinaryIO, size: int) -> Listing:
    """The members of a tar archive. Raises Broken if it cannot be listed."""
    file.seek(0)
    stream, listing, longer = ByteStream(file, size), Listing(), ""
    while stream.position < size:
        block = stream.read(_TAR_BLOCK)
        if not block.strip(b"\0"):
            break
        if not is_tar(block):
            raise Broken(f"it has no member at byte {stream.position - _TAR_BLOCK}, where one should begin")
        length, kind = _tar_number(block[124:136]), block[156:157]
        padded = -(-length // _TAR_BLOCK) * _TAR_BLOCK
        if kind in b"LKxg":
            if padded > _TAR_NAME:
                raise Broken(f"it has a name of {length:,} bytes")
            longer = _tar_name(kind, stream.read(padded)[:length]) or longer
            continue
        name, longer = longer or _tar_text(block[:100], block[345:500]), ""
        if escapes(name):
            listing.problems.append(f"it has a member {name!r}, which leads out of its folder")
        if kind in _TAR_FILE:
            listing.members.append(Member(name, stream.position, length, length))
        elif kind != b"5":
            listing.problems.append(f"it has a member {name!r} that is a link or a device")
        if len(listing.members) > MOST_MEMBERS:
            raise Broken(f"it has more than {MOST_MEMBERS:,} members")
        stream.skip(min(padded, max(length, size - stream.position)))
    return listing


def _tar_number(field_: bytes) -> int:
    if field_[0] & 0x80:
        return int.from_bytes(field_[1:], "big")
    try:
        return int(field_.strip(b"\0 ") or b"0", 8)
    except ValueError:
        raise Broken(f"it has a member of {field_!r} bytes") from None


def _tar_text(*parts: bytes) -> str:
    """A name; of two parts the second is the folder."""
    texts = [part.partition(b"\0")[0].decode("utf-8", "backslashreplace") for part in parts[::-1]]
    return "/".join(text for text in texts if text)


def _tar_name(kind: bytes, data: bytes) -> str:
    """A longer name, as GNU's and POSIX's tar write it."""
    if kind == b"L":
        return _tar_text(data)
    if re.search(rb"(?:^|\n)\d+ (?:size|GNU\.sparse[^=]*)=", data):
        raise Broken("it states a member's size in a way that programs read differently")
    found = re.search(rb"(?:^|\n)\d+ path=([^\n]*)", data) if kind == b"x" else None
    return _tar_text(found[1]) if found else ""
