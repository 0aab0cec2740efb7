"""`hansang init`."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from hansang import settings
from hansang.settings import ModelSettings, Settings
from terminal import typed


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_writes_a_file_that_changes_nothing(here: Path) -> None:
    answer = typed("init")
    assert (answer.status, answer.out) == (0, "Wrote hansang.toml. Change what you like in it, then: hansang serve\n")
    assert tomllib.loads((here / "hansang.toml").read_text(encoding="utf-8")) == {}
    assert settings.load() == Settings()


def test_every_setting_is_in_it_with_its_default_and_what_it_is(here: Path) -> None:
    typed("init")
    text = (here / "hansang.toml").read_text(encoding="utf-8")
    (here / "hansang.toml").write_text(re.sub(r"^# (\w+ = |\[)", r"\1", text, flags=re.MULTILINE), encoding="utf-8")
    written = settings.load()
    assert written.model_copy(update={"models": {}, "demo": None}) == Settings()
    assert written.models["my-model"].model_fields_set == set(ModelSettings.model_fields)
    for name, field in Settings.model_fields.items():
        if name != "models":
            assert f"# {field.description}\n# {name} = " in text


def test_it_does_not_write_over_a_file_unless_told_to(here: Path) -> None:
    (here / "hansang.toml").write_text("port = 1\n")
    answer = typed("init")
    assert answer.status == 1
    assert answer.err == "error: hansang.toml is there already.\nhint: To write over it: hansang init --force\n"
    assert (here / "hansang.toml").read_text() == "port = 1\n"
    assert typed("init", "--force").status == 0
    assert (here / "hansang.toml").read_text() != "port = 1\n"


def test_it_writes_into_another_folder(here: Path) -> None:
    assert typed("init", "conf").status == 0
    assert (here / "conf" / "hansang.toml").exists()
