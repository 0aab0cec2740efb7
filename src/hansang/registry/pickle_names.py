"""What the names that a pickle imports can do: harmless, dangerous, or unknown.

It judges names, not files. A name is harmless only if it stands here; what the standard library has besides is
dangerous, whatever it is called.
"""

from __future__ import annotations

import re
import sys
from _compat_pickle import IMPORT_MAPPING, NAME_MAPPING
from typing import Literal, TypeAlias

Danger: TypeAlias = Literal["harmless", "unknown", "dangerous"]

_DATA = re.compile(
    r"_codecs\.encode|copyreg\._reconstructor|decimal\.Decimal|fractions\.Fraction|uuid\.UUID|pathlib\.Pure\w+Path"
    r"|builtins\.(bool|bytearray|bytes|complex|dict|float|frozenset|int|list|object|range|set|slice|str|tuple)"
    r"|collections\.(Counter|OrderedDict|defaultdict|deque)"
    r"|datetime\.(date|datetime|time|timedelta|timezone)"
    r"|numpy\.(_core|core)\.(multiarray\.(_reconstruct|scalar)|numeric\._frombuffer)"
    r"|numpy\.(dtype|ndarray|matrix|bool_?|u?int(8|16|32|64)|float(16|32|64)|complex(64|128)|str_|bytes_|void"
    r"|datetime64|timedelta64)"
    r"|joblib\.numpy_pickle\.NumpyArrayWrapper"
)
"""What only builds data."""

WEIGHTS = re.compile(
    r"collections\.(OrderedDict|Counter)|_codecs\.encode|builtins\.(bytearray|set|complex)"
    r"|torch\.(storage\.)?(Untyped|Typed|Float|Double|Half|BFloat16|Byte|Char|Short|Int|Long|Bool|ComplexFloat"
    r"|ComplexDouble|QInt8|QInt32|QUInt8|QUInt4x2|QUInt2x4)Storage"
    r"|torch\._utils\._rebuild_(tensor(_v2|_v3)?|parameter(_with_state)?|(sparse|meta|nested|sparse_csr)_tensor"
    r"|meta_tensor_no_storage|qtensor|device_tensor_from_(numpy|cpu_tensor))"
    r"|torch\.(Size|Tensor|device|nn\.parameter\.Parameter|serialization\._get_layout)"
    r"|torch\.(u?int\d{1,2}|float\d{1,2}(_e\dm\d\w{0,5})?|bfloat16|half|double|bool|complex(32|64|128)"
    r"|q?u?int\d{1,2}(x\d)?|per_(tensor|channel)_\w{6,26})"
)
"""Names that PyTorch's own reader of weights takes (`weights_only=True`): they only rebuild tensors."""

_TOOLS = re.compile(
    r"IPython|aiohttp|boto3|botocore|cffi|click|cloudpickle|dask|dill|django|docker|fabric|flask|fsspec|gevent|git"
    r"|hansang|httpx2?|invoke|jinja2|jsonpickle|numba|paramiko|pexpect|pip|pkg_resources|plumbum|psutil|pytest|ray"
    r"|requests|setuptools|sh|tornado|twisted|urllib3|uvicorn|yaml"
)
"""Packages that can run programs, open files or reach the network, and have no place in a model."""
_DANGEROUS = re.compile(
    r"(joblib|numpy|pandas|torch|skops)(\..*)?\.(loads?|read_pickle|to_pickle|memmap|open_memmap|_load_from_bytes"
    r"|fromfile|tofile|genfromtxt|savez?|dump|runstring)"
    r"|numpy\.(f2py|testing|distutils|lib\.npyio|ctypeslib)\..*|pandas\.(eval|io\..*|core\.computation\..*)"
    r"|torch\.(hub|package|jit|ops|classes|distributed|multiprocessing|utils|_inductor|_dynamo|fx|export|onnx"
    r"|serialization|storage|testing)\..*"
)
_TELLTALE = re.compile(
    r"__\w+__|eval|exec|execfile|compile|getattr|setattr|system|popen|Popen|open|builtins|import_module|attrgetter"
    r"|methodcaller|partial|FunctionType|CodeType|runpy|subprocess|os|sys|posix|socket|importlib|ctypes|shutil"
)
"""Words in a dotted name that lead out of a harmless module (`numpy.core.os.system`), or stand for running code."""


def danger(module: str, name: str) -> Danger:
    """How bad it is that a pickle has this name imported."""
    words = f"{module}.{name}".split(".")
    module, name = today(module, name)
    full = f"{module}.{name}"
    if _DATA.fullmatch(full) or (module.startswith("torch") and WEIGHTS.fullmatch(full)):
        return "harmless"
    first = module.partition(".")[0]
    if first in sys.stdlib_module_names or _TOOLS.fullmatch(first) or _DANGEROUS.fullmatch(full):
        return "dangerous"
    if any(map(_TELLTALE.fullmatch, words[words[0] == "__main__" :])) or module.startswith("<"):
        return "dangerous"
    return "unknown"


def today(module: str, name: str) -> tuple[str, str]:
    """The name as Python 3 has it: pickles of the protocols 0 to 2 may use Python 2's."""
    if (module, name) in NAME_MAPPING:
        module, name = NAME_MAPPING[module, name]
    return IMPORT_MAPPING.get(module, module), name


def looks_imported(module: str, name: str) -> bool:
    """Whether an import of it could succeed: what is followed may be a text that only looks like a pickle."""
    return all(re.fullmatch(r"[^\s,;:(){}\[\]'\"=]{1,200}", word) is not None for word in (module, name))
