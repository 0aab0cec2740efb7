"""What in PyTorch's archives is a program: TorchScript's code, and the graph of a `torch.export` file (.pt2).

Neither is a pickle, and both can do harm. TorchScript can write and read files (`torch.save`, `torch.from_file`).
Opening a .pt2 evaluates its symbolic sizes as Python, and names functions and arguments in text that becomes Python.
So only what PyTorch's own exporters write is let through. It opens nothing with PyTorch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, BinaryIO, Literal

_MOST_TEXT = 2**25
_DATA_PICKLE = re.compile(r"([^/]+/)?data\.pkl", re.IGNORECASE)
_STORAGE = re.compile(r"[^/]+/(data|constants|tensors)/\d+", re.IGNORECASE)
_SCRIPT_SIGN = re.compile(r"([^/]+/)?(code/.*|constants\.pkl)", re.IGNORECASE | re.DOTALL)
_SCRIPT_PICKLE = re.compile(r"[^/]+/(\w+\.pkl|code/.*\.debug_pkl)", re.IGNORECASE | re.DOTALL)
_SCRIPT = re.compile(r"([^/]+/)?code/.*\.py", re.IGNORECASE | re.DOTALL)
_EXPORT_SIGN = re.compile(r"([^/]+/)?(models/.*|archive_format|serialized_\w+\.(json|pt))", re.IGNORECASE | re.DOTALL)
_GRAPH = re.compile(r".*\.json", re.IGNORECASE | re.DOTALL)
_GRAPH_DATA = re.compile(r"[^/]+/data/(weights|constants)/\w+_config\.json", re.IGNORECASE)
_COMPILED = re.compile(r".*\.(so|dll|dylib|pyd|o|a|exe|cubin|hsaco)(\.\d+)*", re.IGNORECASE | re.DOTALL)

_FILES = re.compile(rb"\b(save|from_file|load_tensor|PythonOp|IgnoredPythonOp)\b")
_LIBRARIES = re.compile(rb"\bops\s*\.\s*(\w+)")
_KNOWN_LIBRARIES = {b"aten", b"prim", b"prims", b"quantized", b"torchvision"}

_TARGET = re.compile(
    r"torch\.ops\.(aten|prims|prim|quantized|torchvision)\.\w+(\.\w+)?|torch\.ops\.higher_order\.\w+"
    r"|_operator\.[a-z]+_?|math\.\w+|torch\.sym_\w+|torch\._sym_\w+"
)
_FILE_TARGET = re.compile(r"torch\.ops\.\w+\.(save|from_file|load_tensor)(\..*)?")
_EXPRESSION = re.compile(r"[\w\s+*/%<>=!&|,().'-]{0,20000}")
_CALLED = re.compile(r"([\w.]+)\s*\(|(__\w*)|\.\s*([A-Za-z_]\w*)")
_MATHEMATICS = re.compile(
    r"Symbol|Integer|Float|Rational|Add|Mul|Pow|Max|Min|Mod|Abs|And|Or|Not|Eq|Ne|Lt|Le|Gt|Ge|Equality|Unequality"
    r"|StrictLessThan|StrictGreaterThan|LessThan|GreaterThan|Piecewise|ExprCondPair|FloorDiv|ModularIndexing|Where"
    r"|PythonMod|CleanDiv|CeilToInt|FloorToInt|CeilDiv|IntTrueDiv|FloatTrueDiv|FloatPow|PowByNatural|LShift|RShift"
    r"|RoundToInt|RoundDecimal|ToFloat|TruncToInt|TruncToFloat|Identity|IsNonOverlappingAndDenseIndicator"
    r"|OpaqueUnaryFn_\w+|BitwiseFn_\w+|floor|ceiling|sqrt"
)
_POWER = re.compile(r"Pow|LShift")
_GUARD = re.compile(
    r"(L\['\w+'\]|\['\w+'\]|\[\d{1,6}\]|\.(size|stride|storage_offset)\(\)|\b(and|or|not|Eq|Ne|Mod|Max|Min)\b"
    r"|\d{1,19}(\.\d{1,19})?|[-+%/<>=!(), ]|\*(?!\*))*"
)
_NAME = re.compile(r"[\w.:/-]{0,500}")
_WORDS = {"name", "as_name", "forward_arg_names"}
_WORD = re.compile(r"\w{0,300}")
_FREE_TEXT = {"stack_trace", "nn_module_stack", "torch_fn", "as_string", "as_strings", "from_node", "source_fn_stack",
              "custom", "torch_version", "seq_nr", "tags", "user_annotation", "example_inputs"}  # fmt: skip
_SPECIFICATION = {"in_spec", "out_spec"}


@dataclass(frozen=True, slots=True)
class TorchArchive:
    """Which of PyTorch's archives one is, told by the names of its members, whatever their case: PyTorch ignores it.

    One may be made to be several at once.
    """

    weights: bool = False
    script: bool = False
    export: bool = False

    def is_storage(self, name: str) -> bool:
        """Whether a member is a tensor's bytes and nothing else, to every reader."""
        return self.weights and not self.export and bool(_STORAGE.fullmatch(name))

    def reader(self, name: str) -> Literal["python", "weights", "torchscript"]:
        """What would open a member if it is a pickle."""
        if self.script and _SCRIPT_PICKLE.fullmatch(name):
            return "torchscript"
        return "weights" if _DATA_PICKLE.fullmatch(name) else "python"

    def judge(self, name: str, file: BinaryIO) -> Iterator[str]:
        """What a member does that no program should: sentences about "it"."""
        script = self.script and _SCRIPT.fullmatch(name)
        graph = self.export and _GRAPH.fullmatch(name) and not _GRAPH_DATA.fullmatch(name)
        if not script and not graph:
            return
        text = file.read(_MOST_TEXT + 1)
        if len(text) > _MOST_TEXT:
            yield f"it is a program of more than {_MOST_TEXT:,} bytes"
        elif script:
            yield from _judge_script(text)
        else:
            yield from _judge_export(text)


def recognise(names: Collection[str]) -> TorchArchive:
    """Tell by the names of its members."""
    return TorchArchive(
        weights=any(map(_DATA_PICKLE.fullmatch, names)),
        script=any(map(_SCRIPT_SIGN.fullmatch, names)),
        export=any(map(_EXPORT_SIGN.fullmatch, names)),
    )


def is_compiled(name: str, head: bytes) -> bool:
    """Whether a member is a library or a program of the machine's."""
    return bool(_COMPILED.fullmatch(name)) or head.startswith((b"\x7fELF", b"\xcf\xfa\xed\xfe"))


def _judge_script(text: bytes) -> Iterator[str]:
    for word in sorted({found[1] for found in _FILES.finditer(text)}):
        yield f"it uses {word.decode()!r}, with which TorchScript reads and writes files of the server"
    for library in sorted({found[1] for found in _LIBRARIES.finditer(text)} - _KNOWN_LIBRARIES):
        yield f"it calls operators of {library.decode('ascii', 'replace')[:60]!r}, which are not known to be harmless"


def _judge_export(text: bytes) -> Iterator[str]:
    try:
        program = json.loads(text)
    except (ValueError, RecursionError) as exc:
        yield f"it is not JSON ({exc})"
        return
    told: set[str] = set()
    waiting: list[tuple[str, Any]] = [("", program)]
    while waiting and len(told) < 5:
        key, value = waiting.pop()
        if isinstance(value, dict):
            waiting += value.items()
            waiting += [("key", name) for name in value if key not in _FREE_TEXT]
        elif isinstance(value, list):
            waiting += [(key, item) for item in value]
        elif isinstance(value, str) and (wrong := _judge_text(key, value)) and wrong not in told:
            told.add(wrong)
            yield wrong


def _judge_text(key: str, text: str) -> str | None:
    shown = repr(text[:100])
    if key == "expr_str":
        return None if _is_expression(text) else f"it has a size that is Python code, {shown}"
    if key == "target":
        known = _TARGET.fullmatch(text) and not _FILE_TARGET.fullmatch(text)
        return None if known or (_NAME.fullmatch(text) and "." not in text) else f"it calls {shown}"
    if key in _SPECIFICATION:
        return f"its {key} imports what it names, {shown}" if _imports(text) else None
    if key == "guards_code":
        return None if _GUARD.fullmatch(text) else f"it has a condition that is Python code, {shown}"
    if key in _FREE_TEXT or (_WORD if key in _WORDS else _NAME).fullmatch(text):
        return None
    return f"it has a name that is none, {shown}"


def _is_expression(text: str) -> bool:
    """Whether it is arithmetic, as sympy writes it, and of numbers that are not endless."""
    if not _EXPRESSION.fullmatch(text) or "**" in text:
        return False
    for called, dunder, attribute in _CALLED.findall(text):
        if dunder or attribute or (called and not _MATHEMATICS.fullmatch(called)):
            return False
    powers = len(_POWER.findall(text))
    return powers <= 2 and not re.search(r"\d{4}" if powers else r"\d{20}", text)


def _imports(specification: str) -> bool:
    """Whether the shape of inputs or outputs names a module to be imported: of an enumeration, or of a default."""
    try:
        waiting = [json.loads(specification)]
    except (ValueError, RecursionError):
        return True
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, dict):
            waiting += part.values()
            if "__enum__" in part or part.get("type") == "collections.defaultdict":
                return True
        elif isinstance(part, str) and ("__enum__" in part or "\\" in part):  # a context is JSON in a text
            return True
    return False
