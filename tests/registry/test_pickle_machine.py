"""The machine that follows pickles: it hears of every name that either of Python's unpicklers would import."""

from __future__ import annotations

import collections
import datetime
import decimal
import io
import os
import pickle
import pickletools
import resource
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import malice
from hansang.registry.byte_stream import ByteStream
from hansang.registry.pickle_machine import Limits, Walk, walk
from hansang.registry.pickle_names import danger


def followed(data: bytes, limits: Limits | None = None) -> Walk:
    return walk(ByteStream(io.BytesIO(data), len(data)), limits or Limits())


class Plain:
    """What a pickle of anyone's class looks like."""

    def __init__(self) -> None:
        self.things = [1, 2.5, "x", b"y", None, True, 10**30, -5, (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {1, 2}]
        self.more = {"k": self, "frozen": frozenset([3]), "bytes": bytearray(b"z"), "long": "é" * 300}


class Slotted:
    __slots__ = ("x",)


class Listed(list[int]):
    pass


class Keyworded:
    def __new__(cls, *args: Any, **options: Any) -> Keyworded:
        return object.__new__(cls)

    def __getnewargs_ex__(self) -> Any:
        return (1,), {"k": 2}


class Anything:
    """What our two judges take every name for: it can be called, filled and set, and does nothing."""

    def __new__(cls, *args: Any, **options: Any) -> Anything:
        return object.__new__(cls)

    def __init__(self, *args: Any, **options: Any) -> None:
        pass

    def __call__(self, *args: Any, **options: Any) -> Anything:
        return Anything()

    def __setstate__(self, state: Any) -> None:
        pass

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, item: Any) -> None:
        pass

    extend = add = append


def slotted() -> Slotted:
    made = Slotted()
    made.x = 1
    return made


OBJECTS = [Plain(), slotted(), Listed([1, 2]), Keyworded(), [Plain()] * 3, decimal.Decimal("1.5"), print, os.path.join,
           datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC), collections.OrderedDict(a=Listed()),
           collections.defaultdict(list, a=[1]), {i: str(i) for i in range(40)}, "é" * 300, b"\xff" * 300]  # fmt: skip
PICKLES = [pickle.dumps(thing, protocol) for thing in OBJECTS for protocol in range(2, 6)]
PICKLES += [pickle.dumps(thing, protocol) for thing in OBJECTS for protocol in (0, 1) if not isinstance(thing, Slotted)]
PICKLES += malice.pickles(Path("/nowhere/canary")).values()
OPCODES = [opcode.code.encode("latin-1") for opcode in pickletools.opcodes]


def judges(heard: list[tuple[str, str]]) -> list[Callable[[io.BytesIO], Any]]:
    """Python's unpicklers, of C and of Python, which say what they would import and import nothing."""

    def of(base: Any) -> Callable[[Any], Any]:
        class Judge(base):  # type: ignore[misc]
            def find_class(self, module: str, name: str) -> Any:
                heard.append((module, name))
                return Anything

            def persistent_load(self, identity: Any) -> Any:
                return Anything()

        return lambda file: Judge(file, encoding="latin-1").load()

    c, python = of(pickle.Unpickler), of(pickle._Unpickler)  # type: ignore[attr-defined]
    return [c, python, lambda file: c(io.BufferedReader(file))]  # type: ignore[arg-type]


@st.composite
def mutated(draw: st.DrawFn) -> bytes:
    """A pickle with bytes changed, opcodes put in, or a piece of another spliced in."""
    data = bytearray(draw(st.sampled_from(PICKLES)))
    for _ in range(draw(st.integers(0, 4))):
        place = draw(st.integers(0, len(data)))
        end = min(len(data), place + draw(st.integers(0, 3)))
        other = draw(st.sampled_from(PICKLES))
        start = draw(st.integers(0, len(other) - 1))
        piece = other[start : start + draw(st.integers(1, 60))]
        data[place:end] = draw(st.one_of(st.sampled_from(OPCODES), st.binary(max_size=3), st.just(piece)))
    return bytes(data)


@pytest.fixture(scope="module")
def little_memory() -> Iterator[None]:
    """Python's own unpicklers take what a pickle asks for."""
    before = resource.getrlimit(resource.RLIMIT_AS)
    now = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (now + 2**30, before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, before)


@given(data=mutated().filter(lambda data: b"\x96" not in data))  # its failures upset CPython itself
@settings(max_examples=500, deadline=None)
def test_no_unpickler_imports_a_name_that_it_did_not_hear_of(little_memory: None, data: bytes) -> None:
    found = followed(data)
    assert found.stopped or found.error
    heard: list[tuple[str, str]] = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for judge in judges(heard):
            with suppress(Exception):
                judge(io.BytesIO(data))
    assert found.evasive or set(heard) <= set(found.imports)


@pytest.mark.parametrize("data", PICKLES[: 4 * len(OBJECTS)], ids=range(4 * len(OBJECTS)))
def test_whole_pickles_are_followed_to_their_end(data: bytes) -> None:
    found = followed(data)
    assert (found.stopped, found.error, found.evasive) == (True, None, False)
    assert found.protocol == data[1]


def test_it_says_what_is_called_with_what() -> None:
    found = followed(pickle.dumps(malice.Runs(Path("/a/b"))))
    assert list(found.imports) == [("posix", "system")]
    assert {key: call.arguments for key, call in found.calls.items()} == {("REDUCE", "posix.system"): "('touch /a/b',)"}


def test_what_is_made_of_data_alone_is_no_call() -> None:
    found = followed(pickle.dumps({"a": [1, (2, 3)], "b": {4}}))
    assert not found.imports
    assert not found.calls


@pytest.mark.parametrize(
    ("data", "limits", "told"),
    [
        (b"N0" * 600 + b"N.", Limits(operations=1000), "opcodes"),
        (b"N" * 1100, Limits(stack=1000), "piles up"),
        (b"(" * 1100, Limits(stack=1000), "marks"),
        (b"\x80\x04N" + b"\x94" * 1100, Limits(memo=1000), "remembers"),
        (b"Nr\xff\xff\xff\x0f", Limits(), "by the number 268,435,455"),
        (b"Np99999999999999999999\n", Limits(), "remembers"),
        (b"".join(b"ca\nn%d\n0" % number for number in range(2500)), Limits(), "imports more than"),
        (b"\x8e" + b"\xff" * 8, Limits(), "cut off"),
        (b"\x8b\xff\xff\xff\x7f", Limits(), "cut off"),
        (b"T\xff\xff\xff\xff", Limits(), "of -1 bytes"),
        (b"j\xff\xff\xff\xff", Limits(), "never remembered"),
        (b"\xff", Limits(), "no opcode"),
        (b"", Limits(), "cut off"),
        (b"NN\x85R", Limits(), "cut off"),
        (b"R", Limits(), "empty stack"),
        (b"t", Limits(), "wants a mark"),
    ],
    ids=range(16),
)
def test_what_would_need_too_much_is_given_up(data: bytes, limits: Limits, told: str) -> None:
    found = followed(data, limits)
    assert not found.stopped
    assert told in str(found.error)


def test_endless_texts_and_nesting_are_not_kept() -> None:
    for data in (
        b"X" + (10**6).to_bytes(4, "little") + b"a" * 10**6 + b".",
        b"V" + b"a" * 10**6 + b"\n.",
        b"I" + b"9" * 10**6 + b"\n.",
        b"\x80\x04)" + b"\x85" * 10**5 + b".",
        b"](" + b"N" * 10**5 + b"e.",
    ):
        found = followed(data)
        assert found.stopped
        assert sys.getsizeof(found.value) < 2000


@pytest.mark.parametrize(
    ("module", "name", "expected"),
    [
        ("os", "system", "dangerous"),
        ("nt", "system", "dangerous"),
        ("__builtin__", "eval", "dangerous"),
        ("builtins", "getattr", "dangerous"),
        ("commands", "getoutput", "dangerous"),
        ("cPickle", "loads", "dangerous"),
        ("collections", "namedtuple", "dangerous"),
        ("numpy.core.os", "system", "dangerous"),
        ("numpy", "load", "dangerous"),
        ("numpy.testing._private.utils", "runstring", "dangerous"),
        ("torch", "load", "dangerous"),
        ("torch.storage", "_load_from_bytes", "dangerous"),
        ("joblib", "load", "dangerous"),
        ("pip", "main", "dangerous"),
        ("model", "GateModel", "unknown"),
        ("__main__", "GateModel", "unknown"),
        ("sklearn.linear_model._logistic", "LogisticRegression", "unknown"),
        ("numpy.core.multiarray", "_reconstruct", "harmless"),
        ("numpy", "dtype", "harmless"),
        ("copy_reg", "_reconstructor", "harmless"),
        ("__builtin__", "set", "harmless"),
        ("collections", "OrderedDict", "harmless"),
        ("torch._utils", "_rebuild_tensor_v2", "harmless"),
        ("torch", "FloatStorage", "harmless"),
    ],
)
def test_names_are_judged(module: str, name: str, expected: str) -> None:
    assert danger(module, name) == expected
