"""What holds for the project as a whole: what is installed, what is tracked, what is documented."""

from __future__ import annotations

import ast
import os
import pwd
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distributions, entry_points, version
from pathlib import Path

import pytest

from hansang import plugins
from hansang.app import Server
from hansang.http.control import control_plane, openapi_document
from hansang.plugins import PROTOCOLS, RUNTIMES
from hansang.settings import ModelSettings, Settings, keys_of

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
VENDORED = ROOT / "src" / "hansang" / "http" / "static" / "vendor"
KEPT_OUT = {"torchvision", "ultralytics", "litellm", "tiktoken"}
HEAVY = {"numpy", "onnxruntime", "PIL", "sklearn", "skops", "aiohttp", "torch"}
REGISTRIES = re.compile(r"pythonhosted\.org|pypi\.org/simple|registry\.npmjs\.org")


def tracked() -> list[Path]:
    """The files under version control."""
    if not (ROOT / ".git").exists() or shutil.which("git") is None:
        pytest.skip("not a git checkout")
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [path for name in listed.split("\0") if name and (path := ROOT / name).is_file()]


def machine_words() -> Iterator[str]:
    """What would tell on which machine a file was made."""
    yield str(ROOT if ROOT.parent in {Path("/"), Path(tempfile.gettempdir())} else ROOT.parent) + "/"
    home = pwd.getpwuid(os.getuid()).pw_dir
    yield f"{home}/"
    for name in ("PIP_FIND_LINKS", "UV_FIND_LINKS", "PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"):
        if value := os.environ.get(name):
            yield value


def test_no_tracked_file_names_a_machine_or_a_registry() -> None:
    words = [word for word in machine_words() if len(word) > len("/x/")]
    told = []
    for path in tracked():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        published_so = VENDORED in path.parents
        if path != Path(__file__) and not published_so and REGISTRIES.search(text):
            told.append(f"{path.name}: a registry")
        told += [f"{path.name}: {word}" for word in words if word in text]
    assert told == []


def test_no_lock_file_is_tracked() -> None:
    assert [path.name for path in tracked() if path.name in {"uv.lock", "poetry.lock", "package-lock.json"}] == []


def test_nothing_that_must_stay_out_is_installed() -> None:
    names = {(distribution.name or "").lower().replace("_", "-") for distribution in distributions()}
    assert names & KEPT_OUT == set()


def test_torch_is_the_pinned_one_if_it_is_there() -> None:
    try:
        found = version("torch")
    except PackageNotFoundError:
        pytest.skip("torch is not installed")
    assert found.split("+")[0] == "2.13.0"


def test_the_constraints_name_no_host_path_or_local_version() -> None:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if re.search(r"://|@ |\+[a-z]|^-|^/", line)] == []
    assert "torch==2.13.0" in lines


@pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")
def test_make_run_serves_on_the_port_that_is_asked_for() -> None:
    arguments = ["make", "--dry-run", "--always-make", "run", "PORT=9123", "EXTRAS=", "PYTHON=python3"]
    outside = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    steps = subprocess.run(arguments, cwd=ROOT, env=outside, capture_output=True, text=True, check=True).stdout
    assert "python3 -m venv .venv" in steps
    assert "scripts/install .venv/bin/python \n" in steps
    assert "hansang serve --port 9123" in steps


@pytest.mark.parametrize("group", [RUNTIMES, PROTOCOLS])
def test_every_entry_point_loads_a_class_of_its_room(group: str) -> None:
    points = entry_points(group=group)
    assert points
    for point in points:
        assert isinstance(point.load(), type), point


def test_each_runtime_and_protocol_of_ours_has_an_entry_point() -> None:
    for group in (RUNTIMES, PROTOCOLS):
        room = group.removeprefix("hansang.")
        entered = {point.module.rpartition(".")[2] for point in entry_points(group=group)}
        brought = {path.stem for path in (ROOT / "src" / "hansang" / room).glob("[a-z]*.py") if _brings_one(path)}
        assert brought <= entered, f"{brought - entered} of {room}/ has no entry point in pyproject.toml"


def _brings_one(path: Path) -> bool:
    """Whether a module has a runtime (`claims` and `open`) or a protocol (`routes` and `openapi`)."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef):
            methods = {child.name for child in node.body if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef))}
            if {"claims", "open"} <= methods or {"routes", "openapi"} <= methods:
                return True
    return False


def test_importing_every_module_imports_nothing_heavy_and_prints_nothing() -> None:
    package = ROOT / "src" / "hansang"
    modules = [
        ".".join(path.relative_to(package.parent).with_suffix("").parts).removesuffix(".__init__")
        for path in sorted(package.rglob("*.py"))
        if path.stem != "__main__"
    ]
    program = "import importlib, sys\n" + "".join(f"importlib.import_module({name!r})\n" for name in modules)
    program += f"print(sorted({HEAVY!r} & set(sys.modules)), end='')"
    ran = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (ran.stdout, ran.stderr) == ("[]", "")


def test_the_generated_pages_are_what_the_code_says() -> None:
    ran = subprocess.run(
        [sys.executable, str(ROOT / "scripts" / "docs"), "--check"], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout


def test_every_setting_is_documented() -> None:
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    for table in (Settings, ModelSettings):
        for name, field in keys_of(table).items():
            assert field.description, name
            assert name == "models" or f"| `{name}` |" in page


def error_codes() -> set[str]:
    """Every `code="..."` and `code = "..."` in the package."""
    codes = set()
    for path in (ROOT / "src" / "hansang").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            codes |= set(_codes_in(node))
    return codes


def _codes_in(node: ast.AST) -> Iterator[str]:
    """What a node sets `code` to, also in `message, code = ...`."""
    if isinstance(node, ast.keyword) and node.arg == "code":
        pairs = [(ast.Name("code"), node.value)]
    elif isinstance(node, ast.Assign):
        target = node.targets[0]
        both = isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple)
        pairs = list(zip(target.elts, node.value.elts, strict=True)) if both else [(target, node.value)]
    else:
        return
    for name, value in pairs:
        if ast.unparse(name) == "code" and isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield value.value


def test_every_error_code_is_documented() -> None:
    page = (DOCS / "errors.md").read_text(encoding="utf-8")
    codes = error_codes()
    assert {"unknown_url", "foreign_origin"} <= codes
    assert {code for code in codes if f"| `{code}` |" not in page} == set()


def routes() -> set[str]:
    """`METHOD /path` of both planes of a server with no model."""
    server = Server([], Settings(demo=False))
    adapters = [make(server.engine) for _, make in plugins.load(PROTOCOLS)]
    control = control_plane(adapters, server.status, server.metrics.exposition, secured=False)
    document = openapi_document(control, adapters, secured=False)
    control_routes = {
        f"{method.upper()} {path}" for path, operations in document["paths"].items() for method in operations
    }
    return control_routes | {f"{route.method} {route.template}" for adapter in adapters for route in adapter.routes()}


def test_every_route_is_documented_and_every_documented_route_exists() -> None:
    page = (DOCS / "routes.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"^\| `([A-Z]+ /[^`]*)` \|", page, flags=re.MULTILINE))
    hidden = {"GET /docs", "GET /redoc", "GET /openapi.json"}
    assert documented - hidden == routes() - hidden
