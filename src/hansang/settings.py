"""Every setting, in one flat table.

From strongest to weakest: a flag (`--port 9000`), the environment (`HANSANG_PORT`), a `.env` file beside you, then
`hansang.toml`. The server's key is not here: it is read from the environment alone, by `access`.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError

from hansang.core.errors import SettingsError

PREFIX = "HANSANG_"
CONFIG_FILE = "hansang.toml"
_NOT_SETTINGS = {"HANSANG_API_KEY", "HANSANG_CONFIG"}


def _listed(value: Any) -> Any:
    """`a,b` from a flag or the environment; a list from the file."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_listed)]


def default_home() -> Path:
    """The platform's data directory."""
    if os.name == "nt":
        return Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local")) / "hansang"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "hansang"


def available_cores() -> int:
    """The cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class ModelSettings(BaseModel):
    """One `[models.NAME]` table: a source, and what to serve it with. Unset: as the model itself says."""

    model_config = ConfigDict(extra="forbid")

    source: str = Field(description="what stands for the model on the command line")
    placement: Literal["inline", "thread"] | None = Field(None, description="run on the event loop, or on a thread")
    max_batch_size: int | None = Field(None, ge=1, description="rows that may share one call of the model")
    concurrency: int | None = Field(None, ge=1, le=1024, description="batches and streams in flight")
    gather: float | None = Field(None, ge=0, le=1, description="seconds a batch may wait to fill up under load")
    sample: Any = Field(None, description="a row to learn the types of an untyped model from")
    display_name: str | None = Field(None, description="a name for people, in any script")


class Settings(BaseModel):
    """The table. A test holds that each row is documented."""

    model_config = ConfigDict(extra="forbid")

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback a key is required")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    home: Path = Field(default_factory=default_home, description="where the server keeps what it keeps")
    demo: bool | None = Field(None, description="serve the demo table; by default only when no model is named")
    timeout: float = Field(60.0, gt=0, description="seconds from arrival to answer")
    long_timeout: float = Field(600.0, gt=0, description="the same for chat and other long answers")
    header_timeout: float = Field(10.0, gt=0, description="seconds for a request's head, and for a pause in its body")
    drain_timeout: float = Field(30.0, ge=1, description="seconds that requests in flight get when the server stops")
    body_limit: int = Field(64 * 2**20, ge=1024, description="bytes of a JSON body")
    queue_calls: int = Field(1024, ge=1, description="calls that may wait for one model")
    queue_bytes: int = Field(256 * 2**20, ge=1024, description="bytes of the calls that wait for one model")
    threads: int = Field(default_factory=lambda: min(4, available_cores()), ge=1, description="threads per model")
    allowed_hosts: Names = Field([], description="names the server answers to, besides localhost; * for any")
    cors_origins: Names = Field([], description="web pages of others that may use the server")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="how much is logged")
    log_format: Literal["text", "json"] = Field("text", description="log lines for people or for programs")
    models: dict[str, ModelSettings] = Field({}, description="models to serve, each in a [models.NAME] table")


def load(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> Settings:
    """Read all sources. Raises SettingsError naming the key, its value, where it stands and the nearest right one."""
    layers = [
        *_file_layer(config),
        (".env", _prefixed(_dotenv(Path(".env")))),
        ("the environment", _prefixed(os.environ)),
        ("the command line", {name: value for name, value in (flags or {}).items() if value is not None}),
    ]
    merged: dict[str, Any] = {}
    origin: dict[str, str] = {}
    for where, values in layers:
        for key, value in values.items():
            if key not in Settings.model_fields:
                raise _unknown(key, value, where, Settings)
            merged[key] = value
            origin[key] = where
    try:
        return Settings.model_validate(merged)
    except ValidationError as exc:
        raise _wrong(exc, origin) from None


def _file_layer(config: Path | None) -> list[tuple[str, Mapping[str, Any]]]:
    given = config or (Path(os.environ["HANSANG_CONFIG"]) if "HANSANG_CONFIG" in os.environ else None)
    path = given or Path(CONFIG_FILE)
    if not path.is_file():
        if given is not None:
            raise SettingsError(f"There is no configuration file {given}.", hint="Make one: hansang init")
        return []
    try:
        return [(str(path), tomllib.loads(path.read_text(encoding="utf-8")))]
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path} is not TOML: {exc}.", hint="Compare it with a fresh one: hansang init") from None


def _dotenv(path: Path) -> Mapping[str, str | None]:
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    return dotenv_values(path)


def _prefixed(environment: Mapping[str, str | None]) -> dict[str, Any]:
    return {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(PREFIX) and name not in _NOT_SETTINGS
    }


def _unknown(key: str, value: Any, where: str, table: type[BaseModel]) -> SettingsError:
    near = difflib.get_close_matches(key, table.model_fields, n=1, cutoff=0.5)
    hint = f"Did you mean {near[0]}?" if near else "hansang init writes a file with every setting."
    return SettingsError(f"{where} sets {key} = {value!r}, which is not a setting.", hint=hint, param=key)


def _wrong(exc: ValidationError, origin: Mapping[str, str]) -> SettingsError:
    fault = exc.errors(include_url=False)[0]
    location = [str(part) for part in fault["loc"]]
    where = origin.get(location[0], CONFIG_FILE)
    if fault["type"] == "extra_forbidden":
        return _unknown(".".join(location), fault["input"], where, ModelSettings)
    message = f"{where} sets {'.'.join(location)} = {fault['input']!r}: {fault['msg'].lower()}."
    field = Settings.model_fields.get(location[0])
    hint = f"{location[0]}: {field.description}." if field else None
    if field is not None and not field.is_required() and location[0] != "models":
        hint = f"{hint} The default is {field.get_default(call_default_factory=True)!r}."
    return SettingsError(message, hint=hint, param=location[0])
