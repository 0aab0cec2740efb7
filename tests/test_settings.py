"""Settings: which source wins, and what a wrong one is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from hansang import settings
from hansang.core.errors import SettingsError
from hansang.settings import Settings

SECRET = "sk-very-secret-0123456789-0123456789"


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder to start from."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def wrong(**flags: Any) -> tuple[str, str]:
    """The message and the hint of the error that loading raises."""
    with pytest.raises(SettingsError) as caught:
        settings.load(flags)
    return caught.value.message, str(caught.value.hint)


def test_nothing_set_gives_the_defaults() -> None:
    assert settings.load() == Settings()


def test_a_flag_beats_the_environment_beats_dotenv_beats_the_file(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "hansang.toml").write_text("port = 1\ntimeout = 1\nthreads = 1\nqueue_calls = 1\n")
    (here / ".env").write_text("HANSANG_PORT=2\nHANSANG_TIMEOUT=2\nHANSANG_THREADS=2\nOPENAI_API_KEY=unrelated\n")
    monkeypatch.setenv("HANSANG_PORT", "3")
    monkeypatch.setenv("HANSANG_TIMEOUT", "3")
    loaded = settings.load({"port": 4, "demo": None})
    assert (loaded.port, loaded.timeout, loaded.threads, loaded.queue_calls) == (4, 3.0, 2, 1)


def test_lists_are_written_with_commas_outside_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSANG_ALLOWED_HOSTS", "a.example, b.example")
    assert settings.load().allowed_hosts == ["a.example", "b.example"]


@pytest.mark.parametrize("how", ["argument", "environment", "dotenv"])
def test_the_file_may_lie_elsewhere_and_its_paths_are_relative_to_it(
    here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    file = tmp_path / "conf" / "table.toml"
    file.parent.mkdir()
    file.write_text(
        'home = "data"\n[models.a]\nsource = "gates.py:and_gate"\n[models.b]\nsource = "echo:"\n'
        '[models.c]\nsource = "/abs/x.onnx"\n'
    )
    if how == "environment":
        monkeypatch.setenv("HANSANG_CONFIG", str(file))
    elif how == "dotenv":
        (here / ".env").write_text(f"HANSANG_CONFIG={file}\n")
    loaded = settings.load(config=file if how == "argument" else None)
    assert loaded.home == file.parent / "data"
    assert [model.source for model in loaded.models.values()] == [
        f"{file.parent}/gates.py:and_gate",
        "echo:",
        "/abs/x.onnx",
    ]


def test_a_tilde_is_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSANG_HOME", "~/table")
    assert settings.load().home == Path.home() / "table"


def test_an_unknown_key_names_itself_its_value_its_place_and_the_nearest(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert wrong(prot=9) == ("--prot = 9 is not a setting.", "Did you mean --port?")
    monkeypatch.setenv("HANSANG_LOG_FROMAT", "json")
    assert wrong() == (
        "HANSANG_LOG_FROMAT = 'json' in the environment is not a setting.",
        "Did you mean HANSANG_LOG_FORMAT?",
    )
    monkeypatch.delenv("HANSANG_LOG_FROMAT")
    (here / "hansang.toml").write_text("tiemout = 5\n")
    assert wrong() == ("tiemout = 5 in hansang.toml is not a setting.", "Did you mean timeout?")


def test_a_wrong_value_names_the_nearest_right_one(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    message, hint = wrong(port=70000)
    assert message == "--port = 70000: input should be less than or equal to 65535."
    assert hint.startswith("The nearest right value is 65535. port: port to listen on")
    monkeypatch.setenv("HANSANG_LOG_FORMAT", "jsn")
    message, hint = wrong()
    assert message == "HANSANG_LOG_FORMAT = 'jsn' in the environment: input should be 'text' or 'json'."
    assert hint == "Did you mean json? log_format: log lines for people or for programs, by default text."
    monkeypatch.delenv("HANSANG_LOG_FORMAT")
    (here / ".env").write_text("HANSANG_TIMEOUT=soon\n")
    assert wrong()[0].startswith("HANSANG_TIMEOUT = 'soon' in .env: input should be a valid number")


def test_a_wrong_line_of_a_model_is_told_as_precisely(here: Path) -> None:
    file = here / "hansang.toml"
    file.write_text('[models.iris]\nsource = "iris.onnx"\nplacment = "inline"\n')
    assert wrong() == (
        "models.iris.placment = 'inline' in hansang.toml is not a setting.",
        "Did you mean placement?",
    )
    file.write_text('[models.iris]\nsource = "iris.onnx"\nplacement = "inlin"\n')
    message, hint = wrong()
    assert (
        message == "models.iris.placement = 'inlin' in hansang.toml: input should be 'inline', 'thread' or 'process'."
    )
    assert hint.startswith("Did you mean inline?")
    file.write_text("[models.iris]\n")
    assert wrong()[0] == "models.iris.source in hansang.toml is missing."
    file.write_text("[models]\niris = 3\n")
    assert wrong()[0].startswith("models.iris = 3 in hansang.toml: ")


def test_models_are_named_in_the_file_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSANG_MODELS", "iris.onnx")
    assert "models are named in hansang.toml" in wrong()[0]


def test_a_file_that_is_not_toml_or_not_there_is_an_error(here: Path) -> None:
    (here / "hansang.toml").write_text("port 8000\n")
    assert wrong()[0].startswith("hansang.toml is not TOML: Expected '='")
    with pytest.raises(SettingsError, match=r"There is no configuration file missing\.toml"):
        settings.load(config=Path("missing.toml"))
    (here / "hansang.toml").unlink()
    (here / ".env").write_bytes("HANSANG_HOST=한국".encode("cp949"))
    assert wrong()[0].startswith(".env is not UTF-8")


@pytest.mark.parametrize(
    ("file", "text"),
    [
        (".env", f"HANSANG_API_KEY={SECRET}\n"),
        ("hansang.toml", f'api_key = "{SECRET}"\n'),
        ("hansang.toml", f'HANSANG_API_KEY = "{SECRET}"\n'),
    ],
)
def test_the_servers_key_in_a_file_is_refused_and_not_shown(here: Path, file: str, text: str) -> None:
    (here / file).write_text(text)
    message, hint = wrong()
    assert f"stands in {file}; the server's key is read from the environment alone" in message
    assert "export HANSANG_API_KEY=" in hint
    assert SECRET not in message + hint


def test_what_may_be_a_secret_is_never_shown(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HANSANG_APIKEY", SECRET)
    message, hint = wrong()
    assert message == "HANSANG_APIKEY = (not shown) in the environment is not a setting."
    assert hint == "The server's key is HANSANG_API_KEY, in the environment."
    monkeypatch.delenv("HANSANG_APIKEY")
    (here / "hansang.toml").write_text(f'[models.gpt]\nsource = "echo:"\napi_token = "{SECRET}"\n')
    assert SECRET not in "".join(wrong())
