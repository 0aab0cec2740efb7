"""Every example does what its README says, in both languages."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from walkthrough import Walkthrough, consoles, copied

EXAMPLES = Path(__file__).parent.parent.parent / "examples"
NAMES = sorted(path.parent.name for path in EXAMPLES.glob("*/README.md"))

pytestmark = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


@pytest.mark.parametrize("name", NAMES)
def test_the_example_does_what_its_readme_says(name: str, tmp_path: Path) -> None:
    if name == "iris":
        pytest.importorskip("sklearn")
    text = (EXAMPLES / name / "README.md").read_text(encoding="utf-8")
    assert Walkthrough(copied(EXAMPLES / name, tmp_path / "examples" / name)).walk(text) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_both_languages_show_the_same(name: str) -> None:
    english, korean = (
        consoles((EXAMPLES / name / page).read_text(encoding="utf-8")) for page in ("README.md", "README.ko.md")
    )
    assert english == korean


def test_every_example_is_told_of_in_both_languages() -> None:
    folders = {path.name for path in EXAMPLES.iterdir() if path.is_dir() and any(path.glob("*.*"))}
    assert folders == set(NAMES)
    for page in ("README.md", "README.ko.md"):
        assert all((EXAMPLES / name / page).exists() for name in folders)
        table = (EXAMPLES / page).read_text(encoding="utf-8")
        assert {name for name in folders if f"({name}/{page})" not in table} == set()
