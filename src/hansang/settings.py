"""Every setting, in one flat table; flags, `hansang init` and the page in docs/ are made from it.

From strongest to weakest: a flag (`--port 9000`), the environment (`HANSANG_PORT`), a `.env` file beside you, then
`hansang.toml`. The server's key is not here: it is read from the environment alone, by `access`.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from hansang.access.server_key import ENVIRONMENT as KEY
from hansang.core.errors import HansangError, SettingsError
from hansang.core.source import parse

PREFIX = "HANSANG_"
CONFIG_FILE = "hansang.toml"
DOTENV_FILE = ".env"
CONFIG = PREFIX + "CONFIG"
_KEY_NAMES = {"api_key", KEY.lower()}
_SECRET = re.compile(r"key|secret|token|passw", re.IGNORECASE)


def _listed(value: Any) -> Any:
    """`a,b` from a flag or the environment; a list from the file."""
    return [part.strip() for part in value.split(",") if part.strip()] if isinstance(value, str) else value


def _expanded(value: Any) -> Any:
    """`~` is the home folder, wherever the path was written."""
    return Path(value).expanduser() if isinstance(value, str) else value


Names = Annotated[list[str], BeforeValidator(_listed)]
Folder = Annotated[Path, BeforeValidator(_expanded)]


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
    placement: Literal["inline", "thread", "process"] | None = Field(
        None, description="run on the event loop, on a thread, or in a process of its own"
    )
    max_batch_size: int | None = Field(None, ge=1, description="rows that may share one call of the model")
    concurrency: int | None = Field(None, ge=1, le=1024, description="batches and streams in flight")
    gather: float | None = Field(None, ge=0, le=1, description="seconds a batch may wait to fill up under load")
    sample: Any = Field(None, description="a row to learn the types of an untyped model from")
    display_name: str | None = Field(None, description="a name for people, in any script")
    class_: str | None = Field(
        None, alias="class", description="FILE.py:Class whose weights the file holds (PyTorch state dicts)"
    )


class Settings(BaseModel):
    """The table. A test holds that each row is documented."""

    model_config = ConfigDict(extra="forbid")

    host: str = Field("127.0.0.1", description="address to listen on; beyond loopback a key is required")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on; 0 picks a free one")
    home: Folder = Field(default_factory=default_home, description="where the server keeps what it keeps")
    demo: bool | None = Field(None, description="serve the demo table; by default only when no model is named")
    timeout: float = Field(60.0, gt=0, description="seconds from arrival to answer")
    long_timeout: float = Field(600.0, gt=0, description="the same for chat and other long answers")
    header_timeout: float = Field(10.0, gt=0, description="seconds for a request's head, and for a pause in its body")
    drain_delay: float = Field(
        0.0, ge=0, description="seconds from SIGTERM (/readyz turns 503) until the server stops listening"
    )
    drain_timeout: float = Field(30.0, ge=1, description="seconds that requests in flight get when the server stops")
    body_limit: int = Field(64 * 2**20, ge=1024, description="bytes of a JSON body")
    queue_calls: int = Field(1024, ge=1, description="calls that may wait for one model")
    queue_bytes: int = Field(256 * 2**20, ge=1024, description="bytes of the calls that wait for one model")
    threads: int = Field(default_factory=lambda: min(4, available_cores()), ge=1, description="threads per model")
    allowed_hosts: Names = Field([], description="names the server answers to, besides localhost; * for any")
    cors_origins: Names = Field([], description="web pages of others that may use the server")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="how much is logged")
    log_format: Literal["text", "json"] = Field("text", description="log lines for people or for programs")
    access_log: bool = Field(False, description="log a line for every request")
    upload_limit: int = Field(10 * 2**30, ge=1024, description="bytes of an uploaded artifact or table")
    trust: Names = Field(
        [], description="sha256:... of files that may run code when they are opened, in a process apart"
    )
    idle_timeout: float = Field(0.0, ge=0, description="seconds without a call after which a model unloads; 0: never")
    keep_jobs: float = Field(7 * 86400.0, ge=0, description="seconds that ended jobs are remembered")
    models: dict[str, ModelSettings] = Field({}, description="models to serve, each in a [models.NAME] table")


OF_THE_PROCESS = frozenset({"host", "port", "demo", "log_level", "log_format"}) | {
    name for name in Settings.model_fields if name.startswith(("header_", "drain_"))
}
"""Settings of whoever listens; an app in another's server has no use for them."""


def flag_of(name: str) -> str:
    """`log_format` as a flag: `--log-format`."""
    return "--" + name.replace("_", "-")


def variable_of(name: str) -> str:
    """`log_format` as an environment variable: `HANSANG_LOG_FORMAT`."""
    return PREFIX + name.upper()


@dataclass(frozen=True, slots=True)
class _Layer:
    """Settings from one place. `spell` writes a setting's name as it stands there."""

    where: str
    spell: Callable[[str], str]
    values: Mapping[str, Any]


def load(flags: Mapping[str, Any] | None = None, config: Path | None = None) -> Settings:
    """Read all sources. Raises SettingsError naming the key, its value, where it stands and the nearest right one."""
    dotenv = _dotenv(Path(DOTENV_FILE))
    named = config or os.environ.get(CONFIG) or dotenv.get(CONFIG)
    layers = [
        _Layer("", str, {}) if (file := _toml(named)) is None else file,
        _Layer(f" in {DOTENV_FILE}", variable_of, _prefixed(dotenv)),
        _Layer(" in the environment", variable_of, _prefixed(os.environ)),
        _Layer("", flag_of, {name: value for name, value in (flags or {}).items() if value is not None}),
    ]
    merged: dict[str, Any] = {}
    origin: dict[str, _Layer] = {}
    for layer in layers:
        for key, value in layer.values.items():
            if key not in Settings.model_fields:
                raise _unknown(key, value, layer)
            merged[key] = value
            origin[key] = layer
    try:
        return Settings.model_validate(merged)
    except ValidationError as exc:
        raise _wrong(exc, origin) from None


def _toml(named: str | Path | None) -> _Layer | None:
    path = Path(named or CONFIG_FILE)
    if not path.is_file():
        if named is not None:
            raise SettingsError(f"There is no configuration file {path}.", hint="Make one: hansang init")
        return None
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise SettingsError(f"{path} is not TOML: {exc}.", hint="Compare it with a fresh one: hansang init") from None
    for name in values:
        if name.lower().replace("-", "_") in _KEY_NAMES:
            raise _key_in_file(name, str(path))
    _make_sources_absolute(values, path.parent)
    return _Layer(f" in {path}", str, values)


def keys_of(table: type[BaseModel]) -> dict[str, FieldInfo]:
    """A table's rows, by the names that people write."""
    return {field.alias or name: field for name, field in table.model_fields.items()}


def _make_sources_absolute(values: dict[str, Any], folder: Path) -> None:
    """Paths in a configuration file are relative to the file, not to where the command was typed."""
    home = values.get("home")
    if isinstance(home, str) and not home.startswith("~"):
        values["home"] = str(folder / home)
    models = values.get("models")
    for model in models.values() if isinstance(models, dict) else ():
        for key in ("source", "class") if isinstance(model, dict) else ():
            text = model.get(key)
            if isinstance(text, str) and _is_relative(text):
                model[key] = str(folder / text)


def _is_relative(text: str) -> bool:
    try:
        path = parse(f"model={text}")[1].path
    except HansangError:
        return False
    return path is not None and not path.is_absolute()


def _dotenv(path: Path) -> Mapping[str, str | None]:
    if not path.is_file():
        return {}
    from dotenv import dotenv_values

    try:
        values = dotenv_values(path, encoding="utf-8")
    except UnicodeDecodeError as exc:
        raise SettingsError(
            f"{path} is not UTF-8: byte {exc.start} cannot be read.", hint="Save it again as UTF-8."
        ) from None
    if KEY in values:
        raise _key_in_file(KEY, str(path))
    return values


def _key_in_file(name: str, file: str) -> SettingsError:
    return SettingsError(
        f"{name} stands in {file}; the server's key is read from the environment alone.",
        hint=f"Take it out of {file}, and make a new key if the file was ever committed or shared. Then: "
        f'export {KEY}="$(python3 -c "import secrets; print(secrets.token_urlsafe(32))")"',
        param=name,
    )


def _prefixed(environment: Mapping[str, str | None]) -> dict[str, Any]:
    return {
        name.removeprefix(PREFIX).lower(): value
        for name, value in environment.items()
        if name.startswith(PREFIX) and name not in (KEY, CONFIG)
    }


def _shown(name: str, value: Any) -> str:
    """A value as it was written; never one that may be a secret."""
    return "(not shown)" if _SECRET.search(name) else repr(value)


def _unknown(key: str, value: Any, layer: _Layer) -> SettingsError:
    spelled = layer.spell(key)
    if _SECRET.search(key) and difflib.SequenceMatcher(None, key, "api_key").ratio() > 0.6:
        hint = f"The server's key is {KEY}, in the environment."
    else:
        near = difflib.get_close_matches(key, Settings.model_fields, n=1, cutoff=0.5)
        hint = f"Did you mean {layer.spell(near[0])}?" if near else "hansang init writes a file with every setting."
    return SettingsError(f"{spelled} = {_shown(key, value)}{layer.where} is not a setting.", hint=hint, param=spelled)


def _wrong(exc: ValidationError, origin: Mapping[str, _Layer]) -> SettingsError:
    fault = exc.errors(include_url=False)[0]
    name, *rest = (str(part) for part in fault["loc"])
    layer = origin[name]
    table: type[BaseModel] = ModelSettings if len(rest) > 1 else Settings
    row = rest[1] if len(rest) > 1 else name
    spelled = ".".join([layer.spell(name), *rest])
    if fault["type"] == "missing":
        return SettingsError(f"{spelled}{layer.where} is missing.", hint=_about(table, row), param=spelled)
    if fault["type"] == "extra_forbidden":
        known = keys_of(ModelSettings)
        near = difflib.get_close_matches(row, known, n=1, cutoff=0.5)
        hint = f"Did you mean {near[0]}?" if near else f"A model has: {', '.join(known)}."
        return SettingsError(
            f"{spelled} = {_shown(row, fault['input'])}{layer.where} is not a setting.", hint=hint, param=spelled
        )
    if name == "models" and layer.spell is not str:
        return SettingsError(f"{spelled}{layer.where}: models are named in {CONFIG_FILE}.", hint=_about(table, row))
    return SettingsError(
        f"{spelled} = {_shown(row, fault['input'])}{layer.where}: {fault['msg'][:1].lower()}{fault['msg'][1:]}.",
        hint=" ".join(filter(None, (_nearest(fault, keys_of(table)[row].annotation), _about(table, row)))),
        param=spelled,
    )


def _nearest(fault: Mapping[str, Any], annotation: Any) -> str | None:
    """The right value nearest to a wrong one, where there is such a thing."""
    context = fault.get("ctx", {})
    if "expected" in context:
        options = [o for arg in (annotation, *get_args(annotation)) for o in get_args(arg) if isinstance(o, str)]
        near = difflib.get_close_matches(str(fault["input"]).lower(), options, n=1, cutoff=0.5)
        return f"Did you mean {near[0]}?" if near else None
    bounds = [context[bound] for bound in ("ge", "le") if bound in context]
    return f"The nearest right value is {bounds[0]}." if bounds else None


def _about(table: type[BaseModel], row: str) -> str:
    field = keys_of(table)[row]
    default = field.get_default(call_default_factory=True)
    ending = f", by default {default}" if table is Settings and default not in (None, [], {}) else ""
    return f"{row}: {field.description}{ending}."
