"""A notebook's function is served; of the notebook, only what the function needs is run."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Running
from hansang.core.errors import LoadFailed
from hansang.core.source import parse
from hansang.runtimes.notebook import read
from hansang.runtimes.python_files import load_object


def notebook(path: Path, *cells: str, **metadata: Any) -> Path:
    """A notebook as Jupyter saves it: sources as lists of lines, a text between the code."""
    made = [
        {"cell_type": "code", "execution_count": None, "metadata": {}, "outputs": [], "source": cell.splitlines(True)}
        for cell in cells
    ]
    text = {"cell_type": "markdown", "metadata": {}, "source": "# 수업\n1 / 0"}
    saved = {"cells": [text, *made], "metadata": metadata, "nbformat": 4, "nbformat_minor": 5}
    path.write_text(json.dumps(saved), encoding="utf-8")
    return path


def opened(text: str) -> Any:
    return load_object(parse(text)[1])


def failing(text: str) -> LoadFailed:
    with pytest.raises(LoadFailed) as caught:
        opened(text)
    return caught.value


LESSON = (
    "!pip install torch\n%matplotlib inline\nimport matplotlib.pyplot as plt\nimport nowhere_to_be_found",
    "import math",
    "%%bash\nrm -rf everything",
    "scale = 2\nraise RuntimeError('not needed')",
    "for broken in:\n    pass",
    "plt.plot([1, 2])\nplt.show()",
    "scale = 3",
    'def predict(x: float) -> float:\n    """Scaled."""\n    return scale * math.sqrt(x)',
    "predict(4)\nopen('written', 'w')",
)


def test_only_what_the_function_needs_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No shell line, no magic, no plot, no cell that is broken, raises or imports what is not there."""
    monkeypatch.chdir(tmp_path)
    assert opened(f"{notebook(tmp_path / 'lesson.ipynb', *LESSON)}:predict")(4) == 6
    assert not (tmp_path / "written").exists()


def test_it_is_served(tmp_path: Path, serve: Callable[..., Running]) -> None:
    server = serve(f"{notebook(tmp_path / '수업.ipynb', *LESSON)}:predict")
    assert server.predict("predict", 4, 9) == {"predictions": [6, 9]}
    assert "predictions" not in server.predict("predict", "four")


@pytest.mark.parametrize(
    "cell",
    [
        "!pip install x\nf = lambda: 1",
        "%pip install x\nf = lambda: 1",
        "pip install x\nf = lambda: 1",
        "f = lambda: 1\n%timeit f()",
        "%time f = lambda: 1",
        "%%time\nf = lambda: 1",
        "\n%%capture out\nf = lambda: 1",
        "if True:\n    !ls (\nf = lambda: 1",
        "!wget a \\\n   --quiet \\\n   -O b\nf = lambda: 1",
        "!echo \"it's\nf = lambda: 1",
        "f = lambda: 1\nf?\n?f\nf??",
        "files = !ls\nf = lambda: 1",
        'text = """\n%d items\n!loud\n"""\n!ls\nf = lambda: 1 if text == "\\n%d items\\n!loud\\n" else 2',
        "total = (7\n% 3)\nf = lambda: total",
    ],
)
def test_shell_lines_and_magics_are_left_out(tmp_path: Path, cell: str) -> None:
    assert opened(f"{notebook(tmp_path / 'x.ipynb', cell)}:f")() == 1


def test_an_unneeded_cell_may_be_broken_and_a_needed_one_may_not(tmp_path: Path) -> None:
    path = notebook(tmp_path / "x.ipynb", "def helper(:", "def f(): return 1", "def g(): return helper()")
    assert opened(f"{path}:f")() == 1
    error = failing(f"{path}:g")
    assert "g needs helper" in error.message
    assert "x.ipynb, code cell 1, line 1" in error.message


def test_what_a_shell_line_gives_is_not_there(tmp_path: Path) -> None:
    error = failing(f"{notebook(tmp_path / 'x.ipynb', 'import os', 'files = !ls', 'def f(): return files')}:f")
    assert "f needs what a shell line or magic gives (x.ipynb, code cell 2, line 1: files = !ls)" in error.message


def test_an_exception_names_cell_line_and_what(tmp_path: Path) -> None:
    path = notebook(tmp_path / "x.ipynb", "a = 1", "# here\nb = a / 0", "def f(): return b")
    error = failing(f"{path}:f")
    assert error.message == "x.ipynb, code cell 2, line 2: ZeroDivisionError: division by zero"
    assert error.hint == "The line is: b = a / 0"


def test_a_traceback_shows_the_cells_lines(tmp_path: Path) -> None:
    path = notebook(tmp_path / "x.ipynb", "def f(x):\n    return 1 / x")
    function = opened(f"{path}:f")
    with pytest.raises(ZeroDivisionError) as caught:
        function(0)
    shown = "".join(traceback.format_exception(caught.value))
    assert "x.ipynb, code cell 1" in shown
    assert "return 1 / x" in shown


def test_files_and_modules_beside_it_are_found(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_text("yes")
    (tmp_path / "beside_it.py").write_text("NAME = 'beside'")
    path = notebook(
        tmp_path / "x.ipynb", "import beside_it", "labels = open('labels.txt').read()", "f = [labels, beside_it.NAME]"
    )
    with pytest.warns(ResourceWarning, match="unclosed"):
        assert opened(f"{path}:f") == ["yes", "beside"]


def test_future_annotations_hold_for_the_cells_below(tmp_path: Path) -> None:
    path = notebook(tmp_path / "x.ipynb", "from __future__ import annotations", "def f(x: Unknown): return x")
    assert opened(f"{path}:f")(1) == 1


def test_each_name_is_run_once(tmp_path: Path) -> None:
    path = notebook(tmp_path / "x.ipynb", "import sys\nsys.path.append('.')\nf = object()", "def g(): return f")
    assert opened(f"{path}:f") is opened(f"{path}:f")


def test_without_a_name_it_lists_the_commands(tmp_path: Path) -> None:
    path = notebook(tmp_path / "x.ipynb", "1 / 0", "!ls\ndef f(): ...", "class G: ...")
    assert failing(str(path)).hint == f"hansang serve {path}:f\nhansang serve {path}:G"


def test_a_missing_name_tells_near_ones_and_runs_nothing(tmp_path: Path) -> None:
    path = notebook(tmp_path / "x.ipynb", "import os\nos.environ['HANSANG_RAN'] = '1'", "def predict(): ...", "def g(:")
    error = failing(f"{path}:predcit")
    assert "has no predcit" in error.message
    assert f"Did you mean {path}:predict" in (error.hint or "")
    assert "code cell 3, line 1" in (error.hint or "")


KEYS = ["cells", "cell_type", "source", "metadata", "language_info", "name", "nbformat", "worksheets"]
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.sampled_from(["code", "python", "x = 1", "\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=5),
    max_leaves=15,
)


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(ANY_JSON)
def test_any_json_is_a_notebook_or_refused(tmp_path: Path, content: Any) -> None:
    path = tmp_path / "x.ipynb"
    path.write_text(json.dumps(content))
    with suppress(LoadFailed):
        read(path)


PIECES = ["!ls", "%time x = 1", "%%bash", "%%time", "x = !ls", "if a:", "    ", "f(", ")", "[", "'''", '"', "?", "%"]
ODDITIES = ["\\", "\n", "\t", "\r", "\x0c", "\x00", "é", "def f():", "async "]


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.sampled_from(PIECES + ODDITIES), max_size=12))
def test_any_cell_is_read_or_has_a_problem(tmp_path: Path, pieces: list[str]) -> None:
    (cell,) = read(notebook(tmp_path / "x.ipynb", "".join(pieces)))
    assert not (cell.problem and cell.statements)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "it is empty"),
        (b"\x80\x04pickle", "is not JSON"),
        (b"{", "is not JSON"),
        (b"[" * 100_000, "is not JSON"),
        (b"[]", "it holds a list, expected an object"),
        (b"{}", "it has no list of cells"),
        (b'{"worksheets": [], "nbformat": 3}', "it has format 3"),
        (b'{"cells": [1]}', "cell 1 has no source text"),
        (b'{"cells": [{"cell_type": "code", "source": [1]}]}', "cell 1 has no source text"),
        (b'{"cells": [], "metadata": {"language_info": {"name": "R"}}}', "is a notebook in R"),
        (b'{"cells": [], "metadata": {"kernelspec": {"language": "julia"}}}', "is a notebook in julia"),
    ],
)
def test_a_malformed_notebook_is_refused(tmp_path: Path, content: bytes, said: str) -> None:
    path = tmp_path / "x.ipynb"
    path.write_bytes(content)
    error = failing(f"{path}:f")
    assert said in error.message
    assert str(path) in error.message
    assert error.hint
