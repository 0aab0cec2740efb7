"""PyTorch models: TorchScript, `torch.export` programs, and weights with the class they belong to.

    net.pt            TorchScript, our trainer's network, or a state dict (then --class FILE.py:Class)
    net.pt2           a program saved with torch.export.save
    net.safetensors   weights (then --class FILE.py:Class)

Nothing is unpickled but tensors and plain values (`weights_only=True`); what could do more never comes here.
The shape of a row is the exported program's, else that of the first layer's weights, else the sample's.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hansang.core.artifact import card_beside
from hansang.core.errors import HansangError, InvalidInput, LoadFailed
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
    import json

    try:
        values = {name: tensor.tolist() for name, tensor in saved["state_dict"].items()}
        record = with_tensors(json.loads(saved["hansang"]), values)
    except (KeyError, ValueError, AttributeError) as exc:
        raise LoadFailed(f"{path} is not a whole file of our trainer: {exc}.", hint="Train it again.") from None
    return from_record(lambda: record, record.get("format") == "hansang.mlp", path, "torch")


class TorchModel(Model):
    """A module that maps a batch to a tensor, or to several."""

    task = TABULAR
    max_batch_size = 64

    def __init__(self, source: Source, path: Path) -> None:
        self.source = source
        self.path = path

    def load(self, context: LoadContext) -> None:
        torch = need_torch()
        torch.set_num_threads(context.threads)
        module, described, shape = self._open(torch)
        self._torch, self._module = torch, module
        tensors = [*module.parameters(), *module.buffers()]
        counts: dict[str, int] = {}
        for tensor in tensors:
            dtype = str(tensor.dtype).removeprefix("torch.")
            counts[dtype] = counts.get(dtype, 0) + tensor.numel()
        self.info = {
            "format": described,
            "parameters": counts,
            "bytes": sum(tensor.numel() * tensor.element_size() for tensor in tensors),
            "file": str(self.path),
            **card_beside(self.path),
        }
        if context.sample is not None:
            shape = tuple(torch.as_tensor(context.sample).shape)
        if shape is None:
            shape = _first_layer(tensors)
        self._dtype = torch.float32
        if context.sample is not None and not torch.as_tensor(context.sample).is_floating_point():
            self._dtype = torch.int64
        if shape is not None:
            dtype = str(self._dtype).removeprefix("torch.")
            self.signature = Signature((Field(_INPUT, dtype, shape),), (Field(_OUTPUT, "json"),))

    def _open(self, torch: Any) -> tuple[Any, str, tuple[int | None, ...] | None]:
        """The module, how it was saved, and the shape of a row if the file tells."""
        kind = "weights" if self.path.suffix.lower() == ".safetensors" else torch_files.kind_of(self.path)
        try:
            if kind == "script":
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DeprecationWarning)
                    return torch.jit.load(str(self.path), map_location="cpu").eval(), "TorchScript", None
            if kind == "export":
                return self._exported(torch)
        except HansangError:
            raise
        except Exception as exc:
            raise LoadFailed(
                f"{self.path} cannot be opened as a PyTorch file: {_first_line(exc)}", hint="Was it copied to its end?"
            ) from None
        return self._with_class(), "state dict", None

    def _exported(self, torch: Any) -> tuple[Any, str, tuple[int | None, ...] | None]:
        program = torch.export.load(self.path)
        wanted = set(program.graph_signature.user_inputs)
        shapes = [node.meta["val"].shape for node in program.graph.nodes if node.name in wanted and "val" in node.meta]
        if len(shapes) != 1:
            raise LoadFailed(
                f"{self.path} takes {len(shapes)} tensors; one is expected.",
                hint="Wrap the module in one whose forward takes one batch, and export that.",
            )
        row = tuple(size if isinstance(size, int) else None for size in shapes[0][1:])
        self._fixed_batch = shapes[0][0] if isinstance(shapes[0][0], int) else None
        return program.module(), "torch.export", row

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
                f"{self.path} does not fit {named}: {_first_line(exc)}", hint="Is it the right class?"
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
        torch = self._torch
        try:
            batch = torch.tensor(rows, dtype=self._dtype) if isinstance(rows, list) else torch.as_tensor(rows)
            with torch.inference_mode():
                if self._fixed_batch is None:
                    out = self._module(batch)
                else:
                    step = self._fixed_batch
                    out = torch.cat([self._module(batch[n : n + step]) for n in range(0, len(batch), step)])
        except (ValueError, TypeError, RuntimeError) as exc:
            raise InvalidInput(f"The model refuses this input: {_first_line(exc)}") from None
        answer = Table(_columns(out, torch), table.rows)
        results, start = [], 0
        for call in calls:
            results.append(cut(answer, start, start + call.request.rows))
            start += call.request.rows
        return results

    def unload(self) -> None:
        self._module = None


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


def _columns(out: Any, torch: Any) -> dict[str, Any]:
    if isinstance(out, torch.Tensor):
        return {_OUTPUT: out.tolist()}
    if isinstance(out, Mapping):
        return {str(name): value.tolist() for name, value in out.items()}
    return {f"{_OUTPUT}_{number}": value.tolist() for number, value in enumerate(out)}


def _first_line(exc: Exception) -> str:
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]
