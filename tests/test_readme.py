"""What README.md and README.ko.md show is what happens."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Running
from hansang import demo
from walkthrough import Walkthrough, consoles, copied, fits

ROOT = Path(__file__).parent.parent
PAGES = ["README.md", "README.ko.md"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_what_the_readme_shows_is_what_happens(tmp_path: Path) -> None:
    page = (ROOT / "README.md").read_text(encoding="utf-8").replace("$ make run", "$ hansang serve")
    folder = tmp_path / "hansang"
    copied(ROOT / "examples", folder / "examples")
    assert Walkthrough(folder).walk(page) >= 6


def test_both_readmes_show_the_same() -> None:
    english, korean = (consoles((ROOT / name).read_text(encoding="utf-8")) for name in PAGES)
    assert english == korean


@pytest.mark.parametrize("name", PAGES)
def test_the_python_of_the_readme_runs(
    name: str, serve: Callable[..., Running], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(demo.MODELS / "iris.onnx", tmp_path)
    monkeypatch.chdir(tmp_path)
    server = serve(f"xor={demo.MODELS / 'xor.onnx'}")
    page = (ROOT / name).read_text(encoding="utf-8").replace("http://127.0.0.1:8000", server.url)
    (program,) = re.findall(r"^```python\n(import hansang\n.*?)^```$", page, re.DOTALL | re.MULTILINE)
    names: dict[str, object] = {}
    exec(program, names)
    assert callable(names["app"])


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_the_readme_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (ROOT / name).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_a_page_is_compared_with_what_was_printed() -> None:
    assert fits("a\nb", "a\nb\n")
    assert fits("a ... c", "a b c")
    assert fits("a\n...\nz", "a\nb\nc\nz")
    assert fits("a\n...", "a\nb\nc")
    assert not fits("a\n...\nz", "a\nb\nc")
    assert not fits("a", "b")
    assert not fits("a", "a\nb")
