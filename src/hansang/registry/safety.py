"""Is it safe to open this file? Judged by its bytes, whatever it is called; nothing of it is run.

A file is refused if opening it in the usual way would run what it brings along: a pickle that imports anything, in
any coat, unless PyTorch's reader of weights takes every name; a TorchScript or `torch.export` program that does more
than compute; ONNX weights outside the model's folder; an archive, an array or a header that lies about itself.

It does not open models, and it does not grant trust: who trusts a file by its hash runs it elsewhere.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from hansang.core import onnx_file
from hansang.core.artifact import first_bytes, looks_like
from hansang.core.errors import HansangError, LoadFailed, UnsafeArtifact
from hansang.registry import safetensors_file
from hansang.registry.byte_stream import Broken
from hansang.registry.coats import Contents, Found, Reader, look_into
from hansang.registry.pickle_names import WEIGHTS, Danger, danger, today
from hansang.registry.pickle_values import printable
from hansang.registry.torch_archive import recognise

_SHOWN = 20
_WORST: tuple[Danger, ...] = ("dangerous", "unknown", "harmless")
_SCRIPT = re.compile(
    r"__torch__\..*|torch\.jit\._pickle\.(build_(int|bool|double|tensor)list|build_tensor_from_id|restore_type_tag)|"
    + WEIGHTS.pattern,
    re.DOTALL,
)
_ALLOWED = {"weights": WEIGHTS, "torchscript": _SCRIPT}
"""What readers take that are not Python itself."""


@dataclass(frozen=True, slots=True)
class Imported:
    """A name that opening the file would import."""

    name: str
    danger: Danger


@dataclass(frozen=True, slots=True)
class Called:
    """A call that opening the file would make: by which opcode, of what, and with what."""

    opcode: str
    name: str
    arguments: str
    danger: Danger


@dataclass(frozen=True, slots=True)
class PickleReport:
    """One pickle, the worst of it first. `where` is empty for the file itself; `error` says where it breaks."""

    where: str
    protocol: int
    imports: tuple[Imported, ...]
    calls: tuple[Called, ...]
    runs_code: bool
    """Opening it would run more than its reader lets through."""
    error: str | None = None
    evasive: bool = False
    """What it would do cannot be told to its end."""

    @property
    def data_only(self) -> bool:
        """It imports nothing, so nothing can run."""
        return not self.imports and not self.evasive


@dataclass(frozen=True, slots=True)
class Report:
    """What a file is, and what opening it would do."""

    path: Path
    format: str
    pickles: tuple[PickleReport, ...] = ()
    problems: tuple[str, ...] = ()
    """What else is wrong with it: sentences about "it"."""

    @property
    def imports(self) -> tuple[Imported, ...]:
        """Of all its pickles that would run code, the worst first."""
        found = {name for pickle in self.pickles if pickle.runs_code for name in pickle.imports}
        return tuple(sorted(found, key=lambda imported: (_WORST.index(imported.danger), imported.name)))

    @property
    def data_only(self) -> bool:
        """No pickle in it imports anything."""
        return all(pickle.data_only for pickle in self.pickles)

    @property
    def runs_code(self) -> bool:
        return any(pickle.runs_code for pickle in self.pickles)

    @property
    def is_safe(self) -> bool:
        return not self.runs_code and not self.problems

    def text(self) -> str:
        """For people."""
        return "\n".join(self._lines())

    def _lines(self) -> Iterator[str]:
        yield f"{self.path.name} is {self.format}."
        for problem in self.problems:
            yield problem[:1].upper() + problem[1:] + "."
        for pickle in self.pickles:
            if pickle.runs_code:
                yield from _pickle_lines(pickle)
        if self.runs_code:
            yield "Nothing of it was run."
        elif self.pickles and self.data_only:
            yield "It holds a pickle of plain data, which imports nothing."


def _pickle_lines(pickle: PickleReport) -> Iterator[str]:
    yield f"Opening {f'the pickle in {printable(pickle.where)}' if pickle.where else 'it'} would"
    for imported in pickle.imports[:_SHOWN]:
        yield f"  import  {imported.name}  ({imported.danger})"
    if len(pickle.imports) > _SHOWN:
        yield f"  import  {len(pickle.imports) - _SHOWN} more names"
    calls = [call for call in pickle.calls if call.danger != "harmless"]
    for call in calls[:_SHOWN]:
        what = f"set the state of {call.name}" if call.opcode == "BUILD" else f"call    {call.name}{call.arguments}"
        yield f"  {what}  ({call.opcode})"
    if len(calls) > _SHOWN:
        yield f"  make {len(calls) - _SHOWN} more calls like these"
    if pickle.error:
        yield f"  {'and then what cannot be told' if pickle.evasive else 'and then fail'}: {pickle.error}"


def inspect_file(path: Path) -> Report:
    """Tell what a file is and what opening it would do. Raises LoadFailed only if it cannot be read at all."""
    try:
        contents = look_into(path)
        head = first_bytes(path)
        problems = [*contents.problems, *_problems_of_format(path, head, contents)]
    except OSError as exc:
        raise LoadFailed(
            f"{path} cannot be read: {exc.strerror}.", hint="Check the path and its permissions."
        ) from None
    pickles = tuple(map(_report, contents.pickles))
    problems += [
        f"it is a damaged pickle: {pickle.error}" for pickle in pickles if pickle.error and not pickle.runs_code
    ]
    return Report(path, _format(contents, head), pickles, tuple(problems))


def check_artifact(path: Path, sha256: str | None = None) -> Report:
    """Raise UnsafeArtifact, with the report and the ways on, unless the file is safe to open. `sha256`: if known."""
    report = inspect_file(path)
    if report.is_safe:
        return report
    raise UnsafeArtifact(report.text(), hint=_ways_on(path, report, sha256))


def file_hash(path: Path) -> str:
    """A file's SHA-256, as `--trust` takes it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_Judged = TypeVar("_Judged", Imported, Called)


def _ways_on(path: Path, report: Report, sha256: str | None) -> str:
    if not report.runs_code:
        return "Make the file again with the program that wrote it, or ask whoever sent it for another format."
    return (
        f"Two ways on. Without running it: hansang models convert {path.name}. Or, if you trust whoever made it with "
        f"everything this server may do: --trust sha256:{sha256 or file_hash(path)}, on the command line or in the "
        "configuration; it then runs in a process of its own."
    )


def _report(found: Found) -> PickleReport:
    names = [today(*name) for name in found.walk.imports]
    allowed = _ALLOWED.get(found.reader)
    runs_code = found.walk.evasive or any(
        allowed is None or not allowed.fullmatch(f"{module}.{name}") for module, name in names
    )
    imports = [
        Imported(printable(f"{module}.{name}"), _danger((module, name), found.reader))
        for module, name in found.walk.imports
    ]
    calls = [
        Called(opcode, name, call.arguments, _danger(call.function, found.reader))
        for (opcode, name), call in found.walk.calls.items()
    ]
    walked = found.walk
    return PickleReport(
        found.where, walked.protocol, _sorted(imports), _sorted(calls), runs_code, walked.error, walked.evasive
    )


def _sorted(found: list[_Judged]) -> tuple[_Judged, ...]:
    return tuple(sorted(found, key=lambda each: _WORST.index(each.danger)))


def _danger(name: tuple[str, str] | None, reader: Reader) -> Danger:
    if name is None:
        return "dangerous"
    return "harmless" if reader == "torchscript" and _SCRIPT.fullmatch(".".join(name)) else danger(*name)


def _problems_of_format(path: Path, head: bytes, contents: Contents) -> Iterator[str]:
    """What the formats that are no pickles say that they should not."""
    if not head:
        yield "it has no bytes at all; was it copied or downloaded to its end?"
        return
    if contents.coats:
        return
    if path.suffix.lower() == ".safetensors" or safetensors_file.is_safetensors(head):
        try:
            safetensors_file.read_header(path)
        except Broken as exc:
            yield f"as a safetensors file it is damaged: {exc}"
    elif path.suffix.lower() == ".onnx":
        try:
            onnx_file.check_external(path, onnx_file.read(path))
        except HansangError as exc:
            yield exc.message.rstrip(".")


def _format(contents: Contents, head: bytes) -> str:
    """In words: `a pickle in gzip`, `a ZIP archive of NumPy arrays`."""
    coats = [coat for coat in contents.coats if coat != "pickle" or "joblib" not in contents.coats]
    words: list[str] = []
    for coat in reversed(coats):
        if coat == "ZIP archive":
            words.append(_archive(contents.names))
        elif coat == "pickle" and "PyTorch, before 1.6" in coats:
            words.append("PyTorch's old format")
        elif coat in ("pickle", "joblib", "tar archive", "NumPy array"):
            words.append(f"a {coat}" if coat != "joblib" else "a joblib pickle")
        elif coat != "PyTorch, before 1.6":
            words.append(coat)
    if not words:
        return "a safetensors file" if safetensors_file.is_safetensors(head) else looks_like(head)[0]
    return " in ".join(words)


def _archive(names: set[str]) -> str:
    archive = recognise(names)
    if archive.export:
        return "a torch.export archive"
    if archive.script:
        return "a TorchScript archive"
    if archive.weights:
        return "a PyTorch archive (torch.save)"
    if "schema.json" in names:
        return "a skops archive"
    arrays = bool(names) and all(name.endswith(".npy") for name in names)
    return "a ZIP archive of NumPy arrays (.npz)" if arrays else "a ZIP archive"
