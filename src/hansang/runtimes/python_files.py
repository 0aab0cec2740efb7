"""Imports Python files and notebooks by path, and hands out what is named in them.

The one place where a user's code is run at loading: once for each file (and, of a notebook, each name), however many
runtimes ask. Whatever goes wrong in it becomes a LoadFailed that names file, line and exception; the traceback is
logged at `debug`. What the object is good for is the runtimes' business.
"""

from __future__ import annotations

import ast
import difflib
import linecache
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterable, Sequence
from hashlib import sha256
from pathlib import Path
from types import ModuleType
from typing import Any

from hansang.core.errors import HansangError, LoadFailed
from hansang.core.source import Source
from hansang.runtimes import notebook

log = logging.getLogger("hansang.runtimes")

_PREFIX = "hansang_source_"
_STAMP = "__hansang_stamp__"
_PACKAGES = {
    "PIL": "pillow",
    "bs4": "beautifulsoup4",
    "cv2": "opencv-python",
    "dotenv": "python-dotenv",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
    "yaml": "pyyaml",
}
"""What to install for what is imported, where the names differ."""


def load_object(source: Source) -> Any:
    """What `file:attribute` names. Raises LoadFailed."""
    path = source.file()
    cells = notebook.read(path) if source.suffix == ".ipynb" else None
    statements = _parsed(path) if cells is None else [node for cell in cells for node in cell.statements]
    if source.attribute is None:
        raise _which(source, statements)
    first, *rest = source.attribute.split(".")
    module = _loaded(path, first, cells)
    found: Any = module
    for part in (first, *rest):
        try:
            found = getattr(found, part)
        except AttributeError:
            raise _missing(source, module, part, statements, cells or []) from None
    return found


def _loaded(path: Path, wanted: str, cells: Sequence[notebook.Cell] | None) -> ModuleType:
    """The module of a file as it is now: from `sys.modules`, or run."""
    path = path.resolve()
    identity = str(path) if cells is None else f"{path}:{wanted}"
    digest = sha256(identity.encode(errors="surrogateescape")).hexdigest()[:12]
    stem = re.sub(r"\W", "_", path.stem)
    name = f"{_PREFIX}{stem}_{digest}"
    stat = path.stat()
    stamp = (stat.st_mtime_ns, stat.st_size)
    module = sys.modules.get(name)
    if module is not None and getattr(module, _STAMP, None) == stamp:
        return module
    module = ModuleType(name)
    module.__file__ = str(path)
    setattr(module, _STAMP, stamp)
    if cells is None:
        _run(name, module, path, lambda: _execute(path, module))
    else:
        _run(name, module, path, lambda: notebook.run(path, cells, wanted, module.__dict__))
    return module


def _execute(path: Path, module: ModuleType) -> None:
    linecache.checkcache(str(path))
    exec(compile(path.read_bytes(), str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102 - see above


def _run(name: str, module: ModuleType, path: Path, code: Callable[[], None]) -> None:
    """Registered while it runs, so that dataclasses, type hints and pickles in it find their module."""
    _make_siblings_importable(path.parent)
    sys.modules[name] = module
    try:
        code()
    except (Exception, SystemExit) as exc:
        del sys.modules[name]
        if isinstance(exc, HansangError):
            raise
        log.debug("%s could not be imported", path, exc_info=exc)
        raise _failed(exc, path) from None


def _make_siblings_importable(folder: Path) -> None:
    """First on the path, as for `python file.py`.

    A `model.py` that a source in another folder imported is forgotten (its own importer keeps it), if here is one too.
    """
    if str(folder) in sys.path:
        sys.path.remove(str(folder))
    sys.path.insert(0, str(folder))
    others = {_folder(module) for name, module in list(sys.modules.items()) if name.startswith(_PREFIX)} - {folder}
    siblings = {path.stem for path in folder.glob("*.py")} | {path.parent.name for path in folder.glob("*/__init__.py")}
    for name, module in list(sys.modules.items()):
        top = sys.modules.get(name.partition(".")[0], module)
        if name.partition(".")[0] in siblings and {_folder(top), _folder(top).parent} & others:
            del sys.modules[name]


def _folder(module: ModuleType) -> Path:
    return Path(getattr(module, "__file__", None) or "/").parent


def _parsed(path: Path) -> list[ast.stmt]:
    try:
        return ast.parse(path.read_bytes(), str(path)).body
    except (SyntaxError, ValueError) as exc:
        log.debug("%s is not Python", path, exc_info=exc)
        raise _failed(exc, path) from None


def _failed(exc: BaseException, path: Path) -> LoadFailed:
    """Where (in the user's own files, as deep as known), what, and what to do."""
    where, line = str(path), ""
    if isinstance(exc, SyntaxError) and exc.lineno:
        where, line = f"{exc.filename}, line {exc.lineno}", exc.text or ""
    else:
        for frame in traceback.extract_tb(exc.__traceback__):
            ours = frame.filename.startswith(f"{path.name}, code cell") or _is_beside(Path(frame.filename), path)
            if ours:
                where, line = f"{frame.filename}, line {frame.lineno}", frame.line or ""
    if isinstance(exc, SystemExit):
        return LoadFailed(
            f"{where} ends the program ({line.strip()}).",
            hint='Put what only a program does under `if __name__ == "__main__":`.',
        )
    text = getattr(exc, "msg", None) or str(exc)
    message = f"{where}: {type(exc).__name__}{': ' if text else ''}{text}"
    if isinstance(exc, ModuleNotFoundError) and exc.name:
        package = exc.name.partition(".")[0]
        hint = f"Install it where hansang is installed: pip install {_PACKAGES.get(package, package)}"
    else:
        hint = f"The line is: {line.strip()}" if line.strip() else "Run the file by itself to see the whole error."
    return LoadFailed(message, hint=hint)


def _is_beside(file: Path, path: Path) -> bool:
    return file.is_relative_to(path.parent) and "site-packages" not in file.parts


def definitions(statements: Iterable[ast.stmt]) -> list[str]:
    """The public functions, classes and called-for values (`app = FastAPI()`) at top level, in the file's order."""
    found: dict[str, None] = {}
    for statement in statements:
        if isinstance(statement, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
            found[statement.name] = None
        elif isinstance(statement, ast.Assign) and isinstance(statement.value, (ast.Call, ast.Lambda)):
            found.update((target.id, None) for target in statement.targets if isinstance(target, ast.Name))
    return [name for name in found if not name.startswith("_")]


def _which(source: Source, statements: Iterable[ast.stmt]) -> LoadFailed:
    names = definitions(statements)
    message = f"{source.text} is a file; say what in it is to be served."
    if not names:
        return LoadFailed(message, hint="It defines no function, class or app.")
    return LoadFailed(message, hint="\n".join(f"hansang serve {source.path}:{name}" for name in names[:12]))


def _missing(
    source: Source, module: ModuleType, part: str, statements: Iterable[ast.stmt], cells: Sequence[notebook.Cell]
) -> LoadFailed:
    names = definitions(statements)
    known = dict.fromkeys([*names, *(name for name in vars(module) if not name.startswith("_"))])
    near = difflib.get_close_matches(part, known, n=3, cutoff=0.5)
    hints = [f"Did you mean {' or '.join(f'{source.path}:{name}' for name in near)}?"] if near else []
    hints.append(f"It defines {', '.join(names)}." if names else "It defines no function, class or app.")
    if problems := [cell.problem for cell in cells if cell.problem]:
        hints.append(f"Cells that cannot be read: {'; '.join(problems)}.")
    return LoadFailed(f"{source.path} has no {source.attribute}.", hint=" ".join(hints))
