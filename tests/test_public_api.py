"""The names that `import hansang` gives, and what they cost."""

from __future__ import annotations

import subprocess
import sys

import pytest

import hansang


def test_the_public_names_are_these() -> None:
    assert sorted(hansang.__all__) == ["Client", "HansangError", "Model", "Server", "__version__", "load", "serve"]
    assert set(hansang.__all__) <= set(dir(hansang))
    for name in hansang.__all__:
        assert getattr(hansang, name) is not None


def test_an_unknown_name_is_told_the_known_ones() -> None:
    with pytest.raises(AttributeError, match="'sevre'; it has Client"):
        hansang.sevre  # noqa: B018


def test_importing_hansang_imports_nothing_heavy() -> None:
    code = "import hansang, sys; print([m for m in sys.modules if m.startswith('hansang.')])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"
