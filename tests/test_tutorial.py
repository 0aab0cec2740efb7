"""What docs/tutorial-gates.md shows is what happens, in both languages."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from walkthrough import Walkthrough

DOCS = Path(__file__).parent.parent / "docs"
PAGES = ["tutorial-gates.md", "tutorial-gates.ko.md"]


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_what_the_tutorial_shows_is_what_happens(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    folder = tmp_path / "tutorial"
    folder.mkdir()
    assert Walkthrough(folder).walk((DOCS / PAGES[0]).read_text(encoding="utf-8")) >= 20


def test_both_languages_show_the_same() -> None:
    english, korean = (
        re.findall(r"^```.*?^```$", (DOCS / name).read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
        for name in PAGES
    )
    assert english == korean


@pytest.mark.parametrize("name", PAGES)
def test_every_link_of_the_tutorial_leads_somewhere(name: str) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", (DOCS / name).read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (DOCS / link).exists()] == []
