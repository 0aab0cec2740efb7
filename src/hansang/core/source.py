"""What stands for a model on the command line, taken apart: `[name=]source`.

A source is a file (`iris.onnx`), something in a Python file or notebook (`gates.py:and_gate`), or a scheme and the
rest (`echo:`). This module only reads the words; runtimes open what they mean.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from hansang.core.errors import LoadFailed

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,127}")
PYTHON = (".py", ".ipynb")
TRUSTED = "trusted"
"""The option whose value is the sha256 of a file that may run code when it is opened, in a process of its own."""
HOSTED = "hosted"
"""The option that says: this is that process."""
CLASS = "class"
"""The option whose value is the `FILE.py:Class` that a file of weights belongs to."""
_NAMED = re.compile(r"(?P<name>[^=/\\:]+)=(?P<source>.+)", re.DOTALL)
_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9+-]*):(?P<rest>.*)", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Source:
    """Exactly one of `path` and `scheme` is set; `attribute` only with a Python file or notebook."""

    text: str
    path: Path | None = None
    scheme: str | None = None
    rest: str = ""
    attribute: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    """How to open it, where the file alone does not say. From the command line and the configuration only."""

    @property
    def suffix(self) -> str:
        return self.path.suffix.lower() if self.path else ""

    @property
    def is_python(self) -> bool:
        return self.suffix in PYTHON

    @property
    def default_name(self) -> str:
        """The attribute of `file:attribute`, the stem of a file or of `file:app`, a scheme's rest or the scheme."""
        if self.path is not None:
            return self.attribute if self.attribute not in (None, "app") else self.path.stem
        return self.rest or str(self.scheme)

    def file(self) -> Path:
        """The path, checked to be a readable file."""
        if self.path is None:
            raise LoadFailed(f"{self.text} is not a file.")
        if not _exists(self.path):
            near = sorted(p.name for p in self.path.parent.glob("*") if p.suffix == self.path.suffix)[:5]
            hint = f"Files there with that ending: {', '.join(near)}." if near else "Check the path and its spelling."
            raise LoadFailed(f"There is no file {self.path}.", hint=hint)
        if not self.path.is_file():
            raise LoadFailed(f"{self.path} is not a file.", hint="Name the model's file, not its folder.")
        try:
            self.path.open("rb").close()
        except OSError as exc:
            raise LoadFailed(f"{self.path} cannot be read: {exc.strerror}.", hint="Check its permissions.") from None
        return self.path


def parse(text: str) -> tuple[str, Source]:
    """Take `[name=]source` apart: the name (given or default) and the source. Raises LoadFailed on a bad name."""
    named = _NAMED.fullmatch(text)
    given, rest = (named["name"], named["source"]) if named else (None, text)
    source = _source(rest)
    name = given or source.default_name
    if not NAME.fullmatch(name):
        raise LoadFailed(
            f"{name!r} cannot be a model's name: letters A-Z a-z, digits, '_', '.' and '-', at most 128, "
            "beginning with a letter or digit.",
            hint=f"Give it one: my-model={rest}",
        )
    return name, source


def _source(text: str) -> Source:
    file, colon, attribute = text.rpartition(":")
    if colon and file.lower().endswith(PYTHON):
        return Source(text, path=_path(file), attribute=attribute or None)
    scheme = _SCHEME.fullmatch(text)
    if scheme and not _exists(Path(text)):
        return Source(text, scheme=scheme["scheme"], rest=scheme["rest"])
    return Source(text, path=_path(text))


def _path(text: str) -> Path:
    try:
        return Path(text).expanduser()
    except RuntimeError:  # ~ and a name that is nobody's
        return Path(text)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long to be a file's
        return False
