"""PyTorch models: TorchScript, `torch.export` programs, and weights with the class they belong to.

    net.pt            TorchScript, our trainer's network, or a state dict (then --class FILE.py:Class)
    net.pt2           a program saved with torch.export.save
    net.safetensors   weights (then --class FILE.py:Class)

Nothing is unpickled but tensors and plain values (`weights_only=True`); what could do more never comes here.
The shape of a row is the exported program's, else that of the first layer's weights, else the sample's.
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hansang.core.artifact import card_beside
from hansang.core.errors import HansangError, InvalidInput, LoadFailed, ModelFailed
from hansang.core.model import Call, LoadContext, Model
from hansang.core.signature import Field, Signature
from hansang.core.source import Source, parse
from hansang.runtimes import torch_files
from hansang.runtimes.python_files import load_object
from hansang.runtimes.records import from_record, with_tensors
from hansang.tasks.tabular import TABULAR, Table, cut, merge

_CLASS = (
    'Name the class they belong to: hansang serve FILE --class nets.py:Net, or class = "nets.py:Net" in hansang.toml'
)
_FORWARD = "forward must answer one batch with tensors whose first dimension is the batch: one, a tuple, or a dict."
_MORE_THAN_DATA = re.compile("GLOBAL|unrecognized function|unsupported class|Can only build")
"""What PyTorch's reader of weights says of a pickle that would import or call; of garbage it says other things."""
_INPUT, _OUTPUT = "inputs", "outputs"


class TorchRuntime:
    """Claims `*.pt`, `*.pth`, `*.pt2`, and safetensors files that are not our trainer's."""

    name = "torch"
    sources = "a PyTorch model (*.pt, *.pth, *.pt2, *.safetensors)"

    def claims(self, source: Source) -> bool:
        return source.suffix in (".pt", ".pth", ".pt2", ".safetensors")

    def open(self, source: Source) -> Model:
        path = source.file()
        if source.suffix != ".safetensors" and torch_files.kind_of(path) == "saved" and not source.options.get("class"):
            saved = load_weights(path)
            if isinstance(saved, Mapping) and isinstance(saved.get("hansang"), str):
                return _ours(saved, path)
        return TorchModel(source, path)


def _ours(saved: Mapping[str, Any], path: Path) -> Model:
    """A network that our trainer saved."""
    record = record_of(saved, path)
    return from_record(lambda: record, record.get("format") == "hansang.mlp", path, "torch")


def record_of(saved: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """The record in a file of our trainer."""
    import json

    try:
        values = {name: tensor.tolist() for name, tensor in saved["state_dict"].items()}
        return with_tensors(json.loads(saved["hansang"]), values)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as exc:
        raise LoadFailed(f"{path} is not a whole file of our trainer: {exc}.", hint="Train it again.") from None


class TorchModel(Model):
    """A module that maps a batch to a tensor, or to several."""

    task = TABULAR
    max_batch_size = 64

    def __init__(self, source: Source, path: Path, module: Any = None) -> None:
        """`module`: what was made of the file, where it was opened already."""
        self._given = module
        self.source = source
        self.path = path

    def load(self, context: LoadContext) -> None:
        torch = need_torch()
        torch.set_num_threads(context.threads)
        opened = self._open(torch)
        module = opened.module
        self._torch, self._module = torch, module
        tensors = [*module.parameters(), *module.buffers()]
        counts: dict[str, int] = {}
        for tensor in tensors:
            dtype = str(tensor.dtype).removeprefix("torch.")
            counts[dtype] = counts.get(dtype, 0) + tensor.numel()
        self.info = {
            "format": opened.described,
            "parameters": counts,
            "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            "file": str(self.path),
            **card_beside(self.path),
        }
        self._dtype = next((one.dtype for one in tensors if one.is_floating_point()), torch.float32)
        self._sign(context.sample, opened, tensors)

    def _sign(self, sample: Any, opened: _Opened, tensors: Sequence[Any]) -> None:
        """Learn what a row is, and what is answered: from the sample, the file, or else the first layer's weights."""
        torch, shape, dtypes = self._torch, opened.row, [self._dtype]
        if opened.whole:
            dtypes = [torch.int64]
        tried: Any = None
        if sample is not None:
            tried = _tensor(torch, sample)[None]
            shape = tuple(tried.shape[1:])
            if not tried.is_floating_point() and not opened.whole:
                dtypes = [torch.int64, self._dtype]  # ids, or a float's row that was written without points
        elif shape is None:
            shape = _first_layer(tensors)
        if shape is None:
            return
        if tried is None and None not in shape:
            tried = torch.zeros((1, *shape))
        names = self._try(tried, dtypes, must=sample is not None)
        dtype = "int64" if self._dtype == torch.int64 else "float32"
        self.signature = Signature((Field(_INPUT, dtype, shape),), tuple(Field(name) for name in names))

    def _try(self, row: Any, dtypes: Sequence[Any], *, must: bool) -> tuple[str, ...]:
        """The names of the outputs, and in `self._dtype` the first type of input that the module takes."""
        self._dtype = dtypes[0]
        fault: Exception | None = None
        for dtype in dtypes if row is not None else ():
            try:
                names = tuple(self._answer(row.to(dtype)))
            except Exception as exc:
                fault = exc
            else:
                self._dtype = dtype
                return names
        if must and fault is not None:
            told = fault.message if isinstance(fault, HansangError) else _first_line(fault)
            raise LoadFailed(f"{self.path} does not take the sample: {told}", hint="Give a row that it takes.")
        return (_OUTPUT,)  # the shape was a guess, or 0 is no input: callers will see

    @property
    def module(self) -> Any:
        """The `torch.nn.Module`, once it is loaded."""
        return self._module

    def _open(self, torch: Any) -> _Opened:
        if self._given is not None:
            return _Opened(self._given.eval(), "pickle")
        kind = "weights" if self.path.suffix.lower() == ".safetensors" else torch_files.kind_of(self.path)
        try:
            if kind == "script":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    return _Opened(torch.jit.load(str(self.path), map_location="cpu").eval(), "TorchScript")
            if kind == "export":
                return self._exported(torch)
        except HansangError:
            raise
        except Exception as exc:
            raise LoadFailed(
                f"{self.path} cannot be opened as a PyTorch file: {_first_line(exc)}", hint="Was it copied to its end?"
            ) from None
        return _Opened(self._with_class(), "state dict")

    def _exported(self, torch: Any) -> _Opened:
        program = torch.export.load(self.path)
        wanted = set(program.graph_signature.user_inputs)
        inputs = [node.meta["val"] for node in program.graph.nodes if node.name in wanted and "val" in node.meta]
        if len(inputs) != 1:
            raise LoadFailed(
                f"{self.path} takes {len(inputs)} tensors; one is expected.",
                hint="Wrap the module in one whose forward takes one batch, and export that.",
            )
        batch, *row = (size if isinstance(size, int) else None for size in inputs[0].shape)
        self._fixed_batch = batch
        return _Opened(program.module(), "torch.export", tuple(row), not inputs[0].is_floating_point())

    _fixed_batch: int | None = None

    def _with_class(self) -> Any:
        """Weights, put into a fresh instance of the named class."""
        state = _state_dict(self.path)
        named = self.source.options.get("class")
        if named is None:
            raise LoadFailed(f"{self.path} holds weights ({len(state)} tensors) without the network.", hint=_CLASS)
        _, source = parse(f"class={named}")
        made = load_object(source)
        try:
            module = made() if isinstance(made, type) else made
            missing, unexpected = module.load_state_dict(state, strict=False)
        except Exception as exc:
            raise LoadFailed(
                f"{self.path} does not fit {named}: {_mismatch(exc)}", hint="Is it the right class?"
            ) from None
        if missing or unexpected:
            raise LoadFailed(
                f"{self.path} does not fit {named}: missing {', '.join(missing) or 'nothing'}; "
                f"unexpected {', '.join(unexpected) or 'nothing'}.",
                hint="The names of the class's layers must be those it was saved with.",
            )
        return module.eval()

    def predict(self, calls: Sequence[Call]) -> Sequence[Table]:
        table = merge([call.request for call in calls])
        rows = next(iter(table.columns.values()))
        try:
            columns = self._answer(_tensor(self._torch, rows).to(self._dtype))
        except (ValueError, TypeError, RuntimeError, IndexError) as exc:
            raise InvalidInput(
                f"The model refuses this input: {_first_line(exc)}",
                hint="Show hansang a row that fits: hansang serve MODEL --sample '[1, 2]' (whole numbers for ids).",
            ) from None
        answer = Table(columns, table.rows)
        results, start = [], 0
        for call in calls:
            results.append(cut(answer, start, start + call.request.rows))
            start += call.request.rows
        return results

    def _answer(self, batch: Any) -> dict[str, Any]:
        """The module's outputs, by name; each has a value for every row."""
        torch, rows, step = self._torch, len(batch), self._fixed_batch
        with torch.inference_mode():
            if step is None:
                return _columns(self._module(batch), rows, torch)
            columns: dict[str, Any] = {}
            for start in range(0, rows, step):
                part = batch[start : start + step]
                short = step - len(part)
                filled = torch.cat([part, part[-1:].expand(short, *part.shape[1:])]) if short else part
                for name, values in _columns(self._module(filled), step, torch).items():
                    columns.setdefault(name, []).extend(values[: len(part)])
            return columns

    def unload(self) -> None:
        self._module = None


@dataclass(frozen=True, slots=True)
class _Opened:
    """A module, how it was saved, and what the file tells of a row: its shape, and whether it is whole numbers."""

    module: Any
    described: str
    row: tuple[int | None, ...] | None = None
    whole: bool = False


def need_torch() -> Any:
    """PyTorch, or LoadFailed with the command that installs it."""
    try:
        import torch
    except ImportError:
        raise LoadFailed("PyTorch is not installed.", hint='pip install "hansang[torch]"') from None
    return torch


def load_weights(path: Path) -> Any:
    """What a torch.save file holds, if that is nothing but tensors and plain values. Raises LoadFailed."""
    torch = need_torch()
    try:
        return torch.load(path, weights_only=True, map_location="cpu")
    except Exception as exc:
        if not _MORE_THAN_DATA.search(str(exc)):
            raise LoadFailed(
                f"{path} is not a whole PyTorch file: {_first_line(exc)}", hint="Was it copied to its end?"
            ) from None
        raise LoadFailed(
            f"{path} holds more than tensors and plain values, so opening it would run code: {_first_line(exc)}",
            hint="Save torch.save(model.state_dict(), FILE) instead; if you made it yourself: --trust sha256:HASH",
        ) from None


def _state_dict(path: Path) -> Mapping[str, Any]:
    if path.suffix.lower() == ".safetensors":
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        need_torch()
        try:
            return load_file(path)
        except (SafetensorError, OSError) as exc:
            raise LoadFailed(f"{path} is not a whole safetensors file: {exc}.", hint="Save it again.") from None
    state = load_weights(path)
    if isinstance(state, Mapping) and isinstance(state.get("state_dict"), Mapping):
        state = state["state_dict"]
    if not isinstance(state, Mapping) or not all(hasattr(value, "shape") for value in state.values()):
        raise LoadFailed(
            f"{path} holds a {type(state).__name__}, not a state dict.", hint="torch.save(model.state_dict(), FILE)"
        )
    return state


def _first_layer(tensors: Sequence[Any]) -> tuple[int | None, ...] | None:
    """The shape of a row, told by the first weights: a linear layer's, or a convolution's."""
    for tensor in tensors:
        if tensor.ndim == 2:
            return (tensor.shape[1],)
        if tensor.ndim in (3, 4, 5):
            return (tensor.shape[1], *[None] * (tensor.ndim - 2))
    return None


def _columns(out: Any, rows: int, torch: Any) -> dict[str, Any]:
    if isinstance(out, torch.Tensor):
        named = {_OUTPUT: out}
    elif isinstance(out, Mapping):
        named = {str(name): value for name, value in out.items()}
    elif isinstance(out, tuple | list):
        named = {f"{_OUTPUT}_{number}": value for number, value in enumerate(out)}
    else:
        named = {_OUTPUT: out}
    for name, value in named.items():
        if not isinstance(value, torch.Tensor):
            raise ModelFailed(f"The model's {name} is a {type(value).__name__}, not a tensor.", hint=_FORWARD)
        if value.ndim == 0 or len(value) != rows:
            raise ModelFailed(f"The model's {name} is {tuple(value.shape)} for {rows} rows.", hint=_FORWARD)
    return {name: value.tolist() for name, value in named.items()}


def _tensor(torch: Any, rows: Any) -> Any:
    """Rows as they came: lists, an array, or arrays of several callers."""
    if isinstance(rows, list) and rows and hasattr(rows[0], "shape"):
        import numpy as np

        rows = np.stack(rows)
    try:
        return torch.as_tensor(rows)
    except (ValueError, TypeError, RuntimeError) as exc:
        raise InvalidInput(f"A row must be numbers in lists of equal length: {_first_line(exc)}") from None


def _mismatch(exc: Exception) -> str:
    """What PyTorch says of weights that do not fit: its list, without its heading."""
    lines = [line.strip() for line in str(exc).splitlines()]
    return " ".join(lines[1:21])[:1000] if len(lines) > 1 else _first_line(exc)


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
