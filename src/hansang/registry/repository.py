"""The model repository: versions of artifacts on disk.

    models/<name>/<version>/manifest.json, and the artifact beside it
    models/<name>/current                  the version that answers to the bare name, if not the newest
    models/.incoming/<random>/             uploads and trainings that are not finished

An artifact is written in `.incoming`, moved whole to its place, tried there, and published by the rename of its
manifest: a version is there, or it is not, whatever kills the process when. A version never changes. Every call
blocks.
"""

from __future__ import annotations

import errno
import hashlib
import json
import logging
import os
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from uuid import uuid4

from hansang.core.errors import BadRequest, HansangError, LoadFailed, NotFound
from hansang.core.source import NAME

log = logging.getLogger("hansang.models")

MANIFEST = "manifest.json"
INCOMING = ".incoming"
CURRENT = "current"
_NUMBER = re.compile("[1-9][0-9]{0,8}")
_STALE = 24 * 3600.0
"""Seconds after which an unfinished upload is nobody's any more."""


class NoSpace(HansangError):
    """507: the disk is full."""

    status, code = 507, "disk_full"


@dataclass(frozen=True, slots=True)
class Manifest:
    """What is known of one version. `created` is in seconds since the epoch, `size` in bytes."""

    name: str
    version: int
    file: str
    sha256: str
    size: int
    format: str
    task: str
    created: float = field(default_factory=time.time)
    signature: str | None = None
    display_name: str | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    """How to open it, where the file alone does not say: set from the command line only."""


class Incoming:
    """A version in the making: a folder of its own, and one file that is hashed as it is written."""

    def __init__(self, folder: Path, filename: str) -> None:
        self.folder = folder
        self.path = folder / filename
        self.size = 0
        self._hash = hashlib.sha256()
        self._file = self.path.open("xb")

    @property
    def sha256(self) -> str:
        return self._hash.hexdigest()

    def write(self, data: bytes | bytearray) -> None:
        """Append. Raises NoSpace."""
        try:
            self._file.write(data)
        except OSError as exc:
            raise no_space(exc) from exc
        self._hash.update(data)
        self.size += len(data)

    def finish(self) -> None:
        """All is written: make it last."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as exc:
            raise no_space(exc) from exc
        finally:
            self._file.close()

    def close(self) -> None:
        self._file.close()


@dataclass(frozen=True, slots=True)
class Placed:
    """An artifact in its place, not published yet."""

    name: str
    version: int
    path: Path
    sha256: str
    size: int


class Repository:
    """The folder `models` of a server's home."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @contextmanager
    def incoming(self, filename: str) -> Iterator[Incoming]:
        """A place to write an artifact; what was not published when the block ends is removed."""
        name = safe_filename(filename)
        folder = self.root / INCOMING / uuid4().hex
        try:
            folder.mkdir(parents=True)
            incoming = Incoming(folder, name)
        except OSError as exc:
            raise no_space(exc) from exc
        try:
            yield incoming
        finally:
            incoming.close()
            shutil.rmtree(folder, ignore_errors=True)

    @contextmanager
    def workshop(self) -> Iterator[Path]:
        """An empty folder to make files in; it is gone when the block ends."""
        folder = self.root / INCOMING / uuid4().hex
        folder.mkdir(parents=True)
        try:
            yield folder
        except OSError as exc:
            raise no_space(exc) from exc
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def place(self, incoming: Incoming, name: str) -> Placed:
        """Move `incoming` to where the next version of `name` belongs. Nobody sees it before `publish`."""
        check_name(name)
        home = self.root / name
        try:
            while True:
                home.mkdir(parents=True, exist_ok=True)
                try:
                    version = max(_numbered(home), default=0) + 1
                    incoming.folder.rename(home / str(version))
                except OSError as exc:
                    if exc.errno in (errno.ENOTEMPTY, errno.EEXIST):
                        continue  # another upload took this number
                    if exc.errno == errno.ENOENT and incoming.folder.exists():
                        continue  # the folder went with the last version in it
                    raise
                _sync(home)
                return Placed(name, version, home / str(version) / incoming.path.name, incoming.sha256, incoming.size)
        except OSError as exc:
            raise no_space(exc) from exc

    def publish(self, placed: Placed, **facts: Any) -> Manifest:
        """Make a version visible. `facts` are the rest of its manifest."""
        manifest = Manifest(
            name=placed.name,
            version=placed.version,
            file=placed.path.name,
            sha256=placed.sha256,
            size=placed.size,
            **facts,
        )
        try:
            _write(placed.path.parent / MANIFEST, json.dumps(asdict(manifest), indent=1, ensure_ascii=False))
            _sync(placed.path.parent)
        except OSError as exc:
            raise no_space(exc) from exc
        return manifest

    def discard(self, placed: Placed) -> None:
        """It is not what it should be: as if it had never come."""
        shutil.rmtree(placed.path.parent, ignore_errors=True)
        with suppress(OSError):
            placed.path.parent.parent.rmdir()

    def names(self) -> list[str]:
        """Models that have a version."""
        if not self.root.is_dir():
            return []
        return sorted(
            folder.name for folder in self.root.iterdir() if NAME.fullmatch(folder.name) and self._numbers(folder.name)
        )

    def versions(self, name: str) -> list[Manifest]:
        """The newest first; empty if there is no such model. One whose manifest is damaged is left out."""
        found = []
        for number in sorted(self._numbers(name), reverse=True):
            try:
                found.append(self._read(name, number))
            except HansangError as exc:
                log.warning("%s", exc.message)
        return found

    def get(self, name: str, version: int | None = None) -> Manifest:
        """One version's manifest, by default the current one's. Raises NotFound."""
        numbers = self._numbers(name)
        number = version if version is not None else self.current(name)
        if number is None or number not in numbers:
            there = ", ".join(map(str, sorted(numbers))) or "none"
            wanted = f"{name}@{version}" if version is not None else name
            raise NotFound(
                f"The repository has no {wanted}.", hint=f"Versions of {name}: {there}.", code="version_not_found"
            )
        return self._read(name, number)

    def current(self, name: str) -> int | None:
        """The version that answers to the bare name: the one it was rolled back to, else the newest."""
        numbers = self._numbers(name)
        try:
            pinned = int((self.root / name / CURRENT).read_text())
        except (OSError, ValueError):
            pinned = 0
        return pinned if pinned in numbers else max(numbers, default=None)

    def set_current(self, name: str, version: int | None) -> None:
        """Roll back (or forward) to a version; None: the newest, always."""
        pointer = self.root / name / CURRENT
        try:
            if version is None:
                pointer.unlink(missing_ok=True)
                return
            self.get(name, version)
            _write(pointer, str(version))
        except OSError as exc:
            raise no_space(exc) from exc

    def path(self, manifest: Manifest) -> Path:
        """The artifact's file."""
        return self.root / manifest.name / str(manifest.version) / manifest.file

    def delete(self, name: str, version: int | None = None) -> None:
        """Remove one version, or the whole model. Raises NotFound."""
        self.get(name, version)
        doomed = self.root / name if version is None else self.root / name / str(version)
        trash = self.root / INCOMING / uuid4().hex
        trash.parent.mkdir(parents=True, exist_ok=True)
        doomed.rename(trash)
        shutil.rmtree(trash, ignore_errors=True)

    def clean(self) -> None:
        """Remove what a killed process left unfinished, if it is too old to be somebody's work."""
        if not self.root.is_dir():
            return
        unpublished = [
            folder / str(number)
            for folder in self.root.iterdir()
            if NAME.fullmatch(folder.name)
            for number in _numbered(folder) - self._numbers(folder.name)
        ]
        incoming = self.root / INCOMING
        for left in [*unpublished, *(incoming.iterdir() if incoming.is_dir() else ())]:
            with suppress(FileNotFoundError):  # another server cleans too
                if time.time() - left.stat().st_mtime > _STALE:
                    shutil.rmtree(left, ignore_errors=True)

    def _numbers(self, name: str) -> set[int]:
        folder = self.root / name
        if not NAME.fullmatch(name) or not folder.is_dir():
            return set()
        return {number for number in _numbered(folder) if (folder / str(number) / MANIFEST).is_file()}

    def _read(self, name: str, version: int) -> Manifest:
        path = self.root / name / str(version) / MANIFEST
        known = Manifest.__dataclass_fields__
        try:
            saved = json.loads(path.read_text(encoding="utf-8"))
            return Manifest(**{key: value for key, value in saved.items() if key in known})
        except FileNotFoundError:
            raise NotFound(f"The repository has no {name}@{version} any more.", code="version_not_found") from None
        except (OSError, ValueError, TypeError, AttributeError) as exc:
            raise LoadFailed(
                f"{path} is not the manifest of a version: {exc}.",
                hint=f"Restore it from a backup, or remove the folder {path.parent}.",
            ) from None


def _numbered(folder: Path) -> set[int]:
    """Version numbers that are taken, published or not."""
    return {int(entry.name) for entry in folder.iterdir() if _NUMBER.fullmatch(entry.name)}


def check_name(name: str) -> None:
    """Raises BadRequest for what cannot be a model's name."""
    if not NAME.fullmatch(name):
        raise BadRequest(
            f"{name!r} cannot be a model's name: letters A-Z a-z, digits, '_', '.' and '-', at most 128, "
            "beginning with a letter or digit.",
            hint="Choose another name; `display_name` may be in any script.",
            param="name",
            code="invalid_name",
        )


def safe_filename(filename: str) -> str:
    """A file name that stays where it is put. Raises BadRequest for paths, hidden files and control characters."""
    plain = filename.strip()
    bad = not plain.isprintable() or plain.startswith(".") or "/" in plain or "\\" in plain
    if bad or not plain or len(plain.encode()) > 200 or plain in (MANIFEST, CURRENT):
        raise BadRequest(
            f"{filename!r} cannot be an artifact's file name.",
            hint="Send a plain name with its ending, for example ?filename=clf.skops",
            param="filename",
            code="invalid_filename",
        )
    return plain


def _write(path: Path, text: str) -> None:
    """Whole or not at all."""
    draft = path.with_name(f".{path.name}.{uuid4().hex}")
    with draft.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    draft.replace(path)


def _sync(folder: Path) -> None:
    """Make a rename in this folder last."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def no_space(exc: OSError) -> HansangError:
    """What a caller is told of a write that failed: the disk is full, or it may not be written."""
    if exc.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return NoSpace("The server's disk is full; nothing was kept.", hint="Make room in the server's home folder.")
    return HansangError(
        f"The repository could not be written: {exc.strerror}.", hint="Check the home folder's permissions."
    )
