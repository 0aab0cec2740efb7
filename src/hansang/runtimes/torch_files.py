"""What a PyTorch file holds, and whether opening or running it could do more than arithmetic. PyTorch is not needed.

Three of its formats are programs or archives of pickles, and PyTorch trusts them more than their names say:

TorchScript      may call operators that write and map files (`aten::save`, `aten::from_file`).
torch.export     unpickles tensors marked `use_pickle` and odd sample inputs with `weights_only=False`, evaluates the
                 text of symbolic sizes (sympy's `sympify`), and may name any function of the module torch.
torch.save       is a pickle; `weights_only=True` opens those that hold nothing but tensors and plain values.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal
from zipfile import BadZipFile, ZipFile

from hansang.core.artifact import first_bytes, looks_like
from hansang.core.errors import LoadFailed

Kind = Literal["script", "export", "saved"]

_LARGEST_TEXT = 64 * 2**20
_FILE_OPERATORS = re.compile(r"\b(save|from_file|load|_save_|mmap)\s*\(|\baten::(save|from_file|load)\b")
_OPERATOR = re.compile(
    r"torch\.ops\.(aten|prim|higher_order\.(cond|while_loop|wrap_with_set_grad_enabled))\.[\w.]+|math\.\w+"
)
_OPERATORS = """
getitem add sub mul truediv floordiv mod pow neg eq ne lt le gt ge and_ or_ not_ pos abs
"""
_PLAIN_OPERATORS = frozenset("_operator." + name for name in _OPERATORS.split())
_FORBIDDEN = re.compile(r"\b(from_file|save|load)\b")
_TOKEN = re.compile(r"[A-Za-z_]\w*|[^\sA-Za-z_]")
_SYMBOL = re.compile(r"(z?uf|[su])\d+")
_WRITTEN_SYMBOL = re.compile(
    r"Symbol\('(?:z?uf|[su])\d+'(?:, (?:positive|integer|nonnegative|real|finite|extended_real)=(?:True|False))*\)"
)
_NAMES = """
Add Mul Rational
Mod PythonMod FloorDiv CeilDiv CleanDiv Max Min Eq Ne Lt Le Gt Ge And Or Not Pow PowByNatural Integer True False
IntTrueDiv FloatTrueDiv ModularIndexing TruncToInt oo int_oo
"""
_FUNCTIONS = frozenset(_NAMES.split())
_SIGNS = frozenset("0123456789+-*/(),<>=&|~")


def kind_of(path: Path) -> Kind:
    """Which of the three a file is. Raises LoadFailed if none."""
    try:
        with ZipFile(path) as archive:
            names = archive.namelist()
    except (BadZipFile, OSError) as exc:
        head = first_bytes(path)
        if head[:1] == b"\x80":
            return "saved"
        what, hint = looks_like(head)
        raise LoadFailed(f"{path} is no PyTorch file but {what} ({exc}).", hint=hint) from None
    parts = {name.partition("/")[2] for name in names}
    if any(part.startswith("code/") for part in parts):
        return "script"
    if any(
        part.startswith("models/") or part in ("archive_format", "serialized_exported_program.json") for part in parts
    ):
        return "export"
    if "data.pkl" in parts:
        return "saved"
    raise LoadFailed(
        f"{path} is a ZIP archive, but no PyTorch file.",
        hint="Save a state dict with torch.save(model.state_dict(), FILE), or export it: torch.export.save.",
    )


def check_script(path: Path) -> None:
    """Refuse TorchScript that names operators for files."""
    with ZipFile(path) as archive:
        for name in archive.namelist():
            if "/code/" in name and not name.endswith("_pkl"):
                found = _FILE_OPERATORS.search(_text(archive, name, path))
                if found is not None:
                    raise _refused(path, f"its code calls {found.group(0).strip('( ')}, which reaches for files")


def check_export(path: Path) -> None:
    """Refuse an exported program whose opening or running could do more than arithmetic."""
    with ZipFile(path) as archive:
        for name in archive.namelist():
            inner = name.partition("/")[2]
            if inner == "serialized_exported_program.json":
                raise _refused(path, "it is in the old form of torch.export, which holds pickles")
            if inner.startswith("data/aotinductor"):
                raise _refused(path, "it holds compiled code")
            if inner.endswith(".json"):
                document = json.loads(_text(archive, name, path))
                _check_document(document, path)
            elif inner.startswith("data/constants/") and not inner.startswith("data/constants/tensor_"):
                raise _refused(path, "it holds objects that only a pickle can make")


def sample_inputs(path: Path) -> list[bytes]:
    """The pickled sample inputs of an exported program; each must open with `weights_only=True`."""
    with ZipFile(path) as archive:
        names = [name for name in archive.namelist() if "/data/sample_inputs/" in name and name.endswith(".pt")]
        if any(archive.getinfo(name).file_size > _LARGEST_TEXT for name in names):
            raise _refused(path, "its sample inputs are larger than 64 MiB")
        return [archive.read(name) for name in names]


def _check_document(document: Any, path: Path) -> None:
    for key, value in _pairs(document):
        if key == "use_pickle" and value is not False:
            raise _refused(path, "it holds tensors as pickles (use_pickle)")
        if key == "target" and isinstance(value, str) and not _known_operator(value):
            raise _refused(path, f"it calls {value[:80]!r}, which is no plain tensor operator")
        if "expr" in key and isinstance(value, str) and not _is_arithmetic(value):
            raise _refused(path, f"it holds the expression {value[:80]!r}, which is more than arithmetic on sizes")


def _pairs(document: Any) -> Iterator[tuple[str, Any]]:
    """Every key and value, at any depth."""
    waiting = [document]
    while waiting:
        found = waiting.pop()
        if isinstance(found, dict):
            yield from found.items()
            waiting.extend(found.values())
        elif isinstance(found, list):
            waiting.extend(found)


def _known_operator(target: str) -> bool:
    if _FORBIDDEN.search(target):
        return False
    return target in _PLAIN_OPERATORS or _OPERATOR.fullmatch(target) is not None


def _is_arithmetic(text: str) -> bool:
    bare = _WRITTEN_SYMBOL.sub("0", text)
    return all(
        token in _SIGNS or token in _FUNCTIONS or _SYMBOL.fullmatch(token) is not None for token in _TOKEN.findall(bare)
    )


def _text(archive: ZipFile, name: str, path: Path) -> str:
    if archive.getinfo(name).file_size > _LARGEST_TEXT:
        raise _refused(path, f"{name} in it is larger than 64 MiB")
    return archive.read(name).decode("utf-8", "replace")


def _refused(path: Path, why: str) -> LoadFailed:
    return LoadFailed(
        f"{path} is refused: {why}.",
        hint="Save the weights alone (safetensors, or torch.save(model.state_dict(), FILE)) and name the class, or "
        "export to ONNX; if you made this file yourself: --trust sha256:HASH",
    )
