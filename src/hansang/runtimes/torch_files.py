"""Which of PyTorch's formats a file is, told without PyTorch. Whether it is safe to open, `registry.safety` says."""

from __future__ import annotations

from pathlib import Path
from typing import Literal
from zipfile import BadZipFile, ZipFile

from hansang.core.artifact import first_bytes, looks_like
from hansang.core.errors import LoadFailed

Kind = Literal["script", "export", "saved"]


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
