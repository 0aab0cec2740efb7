"""Reads a Jupyter notebook and runs the part of it that one name needs.

Shell lines (`!pip install x`), magics (`%matplotlib inline`, `%%bash`) and help (`x?`) are never run; which of the
other statements are needed is decided by `notebook_slice`. No Jupyter here: a notebook is JSON, a cell is Python.
"""

from __future__ import annotations

import ast
import json
import linecache
import re
import warnings
from collections.abc import Sequence
from contextlib import chdir
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hansang.core.errors import LoadFailed
from hansang.runtimes.notebook_slice import needed

_PYTHON_MAGIC = re.compile(r"%%(time|capture)\b.*")
"""Cell magics that run their cell as it is."""
_MAGIC_LINE = re.compile(r"\s*([!%?]|(pip|conda|mamba|ls|cd) )|.*\?\s*$")
_TIMED_LINE = re.compile(r"(\s*)%time\s+(.+)")
_ASSIGNED = re.compile(r"(\s*[\w\s,.\[\]\"']+?=)\s*[!%]")
_NOT_RUN = "__not_run__"


@dataclass(slots=True)
class Cell:
    """The `number`-th code cell. `problem` says why it has no statements, where it cannot be read."""

    label: str
    source: str
    statements: list[ast.stmt] = field(default_factory=list)
    problem: str | None = None


def read(path: Path) -> list[Cell]:
    """The code cells. A cell that is not Python is kept with its problem: it may not be needed."""
    sources = _sources(_parsed(path), path)
    return [_cell(f"{path.name}, code cell {number}", source) for number, source in enumerate(sources, start=1)]


def run(path: Path, cells: Sequence[Cell], wanted: str, namespace: dict[str, Any]) -> None:
    """Run what `wanted` needs, in the notebook's folder, as Jupyter does. Raises what the code raises.

    If no statement binds it, nothing is run.
    """
    statements = [(cell, statement) for cell in cells for statement in cell.statements]
    part = needed([statement for _, statement in statements], wanted)
    chosen = [statements[index] for index in part.indexes]
    if wanted in part.unbound:
        return
    _check(wanted, cells, chosen, part.unbound)
    flags = 0
    with chdir(path.resolve().parent):
        for cell in cells:
            body = [statement for owner, statement in chosen if owner is cell]
            if not body:
                continue
            # So that a traceback shows the lines.
            lines = cell.source.splitlines(keepends=True)
            linecache.cache[cell.label] = (len(cell.source), None, lines, cell.label)
            code = compile(ast.Module(body, []), cell.label, "exec", flags, dont_inherit=True)
            flags |= code.co_flags & annotations.compiler_flag
            exec(code, namespace)  # noqa: S102 - running it is what a notebook is named for


def _check(
    wanted: str, cells: Sequence[Cell], chosen: Sequence[tuple[Cell, ast.stmt]], unbound: frozenset[str]
) -> None:
    if _NOT_RUN in unbound:
        for cell, statement in chosen:
            if any(isinstance(node, ast.Name) and node.id == _NOT_RUN for node in ast.walk(statement)):
                line = cell.source.splitlines()[statement.lineno - 1].strip()
                raise LoadFailed(
                    f"{wanted} needs what a shell line or magic gives ({cell.label}, line {statement.lineno}: {line}).",
                    hint="Shell lines and magics are not run. Give the value in Python, or put it into a file.",
                )
    for name in sorted(unbound - {_NOT_RUN}):
        for cell in cells:
            if cell.problem and re.search(rf"\b{name}\b", cell.source):
                raise LoadFailed(
                    f"{wanted} needs {name}, which only a cell that cannot be read has: {cell.problem}.",
                    hint="Mend the cell in Jupyter, and run the notebook from the top.",
                )


def _parsed(path: Path) -> Any:
    try:
        notebook = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as exc:
        what = "is empty" if path.stat().st_size == 0 else f"is not JSON ({exc})"
        raise LoadFailed(
            f"{path} is not a notebook: it {what}.", hint="Open it in Jupyter and save it again as .ipynb."
        ) from None
    language = "python"
    if isinstance(notebook, dict) and isinstance(notebook.get("metadata"), dict):
        info = notebook["metadata"].get("language_info") or notebook["metadata"].get("kernelspec")
        if isinstance(info, dict):
            language = str(info.get("language") or info.get("name") or language)
    if not language.lower().startswith(("python", "ipython", "conda", "pyodide")):
        raise LoadFailed(f"{path} is a notebook in {language}.", hint="Only Python notebooks can be served.")
    return notebook


def _sources(notebook: Any, path: Path) -> list[str]:
    def wrong(what: str) -> LoadFailed:
        return LoadFailed(
            f"{path} is not a notebook: {what}.",
            hint="Expected Jupyter's format 4. Convert an older one: jupyter nbconvert --to notebook FILE",
        )

    if not isinstance(notebook, dict):
        raise wrong(f"it holds a {type(notebook).__name__}, expected an object")
    if "worksheets" in notebook:
        raise wrong(f"it has format {notebook.get('nbformat')}")
    cells = notebook.get("cells")
    if not isinstance(cells, list):
        raise wrong("it has no list of cells")
    sources = []
    for number, cell in enumerate(cells, start=1):
        source = cell.get("source", "") if isinstance(cell, dict) else None
        if isinstance(source, list) and all(isinstance(line, str) for line in source):
            source = "".join(source)
        if not isinstance(cell, dict) or not isinstance(source, str):
            raise wrong(f"cell {number} has no source text")
        if cell.get("cell_type") == "code":
            sources.append(source)
    return sources


def _cell(label: str, source: str) -> Cell:
    cell = Cell(label, source)
    first = next((line for line in source.splitlines() if line.strip()), "")
    if first.startswith("%%"):
        if not _PYTHON_MAGIC.fullmatch(first):
            cell.problem = f"{label} is a {first.split()[0]} cell"
            return cell
        source = source.replace(first, "", 1)
    try:
        cell.statements = _parse(source)
    except (SyntaxError, ValueError) as exc:
        where = f", line {exc.lineno}" if isinstance(exc, SyntaxError) else ""
        cell.problem = f"{label}{where}: {getattr(exc, 'msg', exc)}"
    return cell


def _parse(source: str) -> list[ast.stmt]:
    """The statements, without shell lines and magics: a line that is no Python is looked at, and left out if magic.

    Going by what the parser stumbles over leaves alone a `%` or `!` that stands in a string.
    """
    lines = source.split("\n")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for _ in range(len(lines) + 1):
            try:
                return ast.parse("\n".join(lines)).body
            except SyntaxError as exc:
                index = (exc.lineno or 0) - 1
                if not 0 <= index < len(lines) or not _leave_out(lines, index):
                    raise
    raise SyntaxError("invalid syntax")


def _leave_out(lines: list[str], index: int) -> bool:
    """Put Python in the place of the magic in this line, and of the lines that continue it. False if it has none."""
    line = lines[index]
    timed, assigned = _TIMED_LINE.fullmatch(line), _ASSIGNED.match(line)
    if timed:
        lines[index] = timed[1] + timed[2]
        return True
    if assigned:
        replacement = f"{assigned[1]} {_NOT_RUN}"
    elif _MAGIC_LINE.match(line):
        replacement = line[: len(line) - len(line.lstrip())] + "pass"
    else:
        return False
    lines[index] = replacement
    while line.rstrip().endswith("\\") and index + 1 < len(lines):
        index += 1
        line, lines[index] = lines[index], ""
    return True
