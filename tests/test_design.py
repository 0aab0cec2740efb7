"""What docs/design.md shows is run here."""

from __future__ import annotations

import importlib
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import Running
from hansang import plugins
from hansang.app import open_source
from hansang.core.errors import LoadFailed
from hansang.core.model import LoadContext, Model
from hansang.core.source import parse
from hansang.tasks.tabular import Table
from hansang.testing import check_runtime

PAGE = Path(__file__).parent.parent / "docs" / "design.md"


@pytest.fixture
def lookup_plugin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The page's runtime and its entry point, as a package that is installed."""
    page = PAGE.read_text(encoding="utf-8")
    program = re.search(r"<!-- the smallest runtime -->\n```python\n(.*?)```", page, re.DOTALL)
    entry_point = re.search(r'```toml\n\[project.entry-points."(hansang.runtimes)"\]\n(lookup = )"(.*)"\n```', page)
    assert program
    assert entry_point
    package = tmp_path / "installed"
    (package / "my_package").mkdir(parents=True)
    (package / "my_package" / "__init__.py").touch()
    (package / "my_package" / "lookup.py").write_text(program[1], encoding="utf-8")
    information = package / "my_package-1.0.dist-info"
    information.mkdir()
    (information / "METADATA").write_text("Metadata-Version: 2.1\nName: my-package\nVersion: 1.0\n")
    (information / "entry_points.txt").write_text(f"[{entry_point[1]}]\n{entry_point[2]}{entry_point[3]}\n")
    monkeypatch.syspath_prepend(package)
    plugins.load.cache_clear()
    yield
    plugins.load.cache_clear()
    for name in ("my_package", "my_package.lookup"):
        sys.modules.pop(name, None)


@pytest.mark.usefixtures("lookup_plugin")
def test_the_smallest_runtime_serves_its_file(serve: Callable[..., Running], tmp_path: Path) -> None:
    table = tmp_path / "words.csv"
    table.write_text("word,meaning\nhansang,a full table\nbap,rice\n", encoding="utf-8")
    server = serve(str(table))
    assert server.predict("words", "bap", "hansang") == {"predictions": ["rice", "a full table"]}
    wrong = server.predict("words", "pizza")["error"]
    assert (wrong["code"], wrong["message"]) == ("invalid_input", "'pizza' is not in the table.")
    operation = server.client.get("/openapi.json").json()["paths"]["/v1/models/words:predict"]["post"]
    assert operation["description"] == "(word: string) -> (meaning: string)"


@pytest.mark.usefixtures("lookup_plugin")
def test_the_smallest_runtime_refuses_what_is_no_table(tmp_path: Path) -> None:
    table = tmp_path / "words.csv"
    table.write_text("one,two,three\n", encoding="utf-8")
    model = open_source(parse(str(table))[1])
    assert isinstance(model, Model)
    with pytest.raises(LoadFailed, match="not a look-up table"):
        model.load(LoadContext())


@pytest.mark.usefixtures("lookup_plugin")
def test_the_test_that_the_page_shows_passes(tmp_path: Path) -> None:
    test = re.search(r"```python\n(def test_my_runtime.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert test
    runtime = importlib.import_module("my_package.lookup").LookupRuntime
    names: dict[str, Any] = {"LookupRuntime": runtime, "parse": parse, "check_runtime": check_runtime, "Table": Table}
    exec(test[1], names)
    names["test_my_runtime"](tmp_path)


def test_the_page_names_every_room() -> None:
    page = PAGE.read_text(encoding="utf-8")
    package = PAGE.parent.parent / "src" / "hansang"
    rooms = {path.parent.name for path in package.glob("*/__init__.py")}
    assert {room for room in rooms if f"| `{room}/` |" not in page} == set()
