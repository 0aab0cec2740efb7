"""Follows a pickle without running it: what it would import, and what it would call with what.

Every opcode of the protocols 0 to 5 is followed on a stack and a memo of stand-ins, so that a name is known wherever
it comes from: nothing is imported, and no object is made. Where Python's two unpicklers differ, this goes on where
either does: what one of them would import is never missed. joblib's files, which have the bytes of arrays between the
opcodes, are followed over them on request.

It does not judge (`pickle_names` does), nor does it know in which coat a pickle came (`coats` does).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

from hansang.registry.byte_stream import Broken, ByteStream, Evasive
from hansang.registry.pickle_opcodes import STEPS
from hansang.registry.pickle_values import (
    Array,
    Box,
    Import,
    Made,
    Unknown,
    Value,
    array_of,
    describe,
    name_of,
    root_of,
)

_NESTED_PICKLES = 16
_MOST_NAMES = 2000


@dataclass(frozen=True, slots=True)
class Limits:
    """How far a pickle is followed, and what is kept of it. Past `operations`, `stack` or `memo` it is given up.

    A pickle that was given up is not taken for harmless, whatever it did until then.
    """

    operations: int = 10_000_000
    stack: int = 2_000_000
    memo: int = 2_000_000
    bytes_kept: int = 1024
    """Longer texts and bytes are passed over."""
    items_kept: int = 64
    """Of longer lists and the like only the first are kept."""


SCAN = Limits()


class Call(NamedTuple):
    """The first call of its kind: its arguments in words, and the import that it all comes from, if it is known."""

    arguments: str
    function: tuple[str, str] | None


@dataclass(slots=True)
class Walk:
    """What a pickle would do, in the order it would do it. `calls` are by opcode and name."""

    protocol: int = 0
    imports: dict[tuple[str, str], None] = field(default_factory=dict)
    calls: dict[tuple[str, str], Call] = field(default_factory=dict)
    arrays: int = 0
    """How many of joblib's arrays lie between the opcodes."""
    operations: int = 0
    stopped: bool = False
    error: str | None = None
    evasive: bool = False
    """It is written so that what it would do cannot be told."""
    value: Value = None
    """The object, or a stand-in, if it came to its end."""


def walk(stream: ByteStream, limits: Limits = SCAN, *, arrays: bool = False) -> Walk:
    """Follow one pickle from where `stream` stands to its STOP, or as far as it goes. `arrays`: as joblib reads it."""
    found = Walk()
    try:
        Machine(stream, limits, found, arrays=arrays).run()
    except Broken as exc:
        found.error, found.evasive = str(exc), found.evasive or isinstance(exc, Evasive)
    return found


class Machine:
    """One unpickler's stack and memo, of stand-ins."""

    def __init__(self, stream: ByteStream, limits: Limits, found: Walk, *, arrays: bool, depth: int = 0) -> None:
        self.stream = stream
        self.limits = limits
        self.found = found
        self.arrays = arrays
        self.depth = depth
        self.stack: list[Value] = []
        self.under: list[list[Value]] = []
        self.memo: dict[int, Value] = {}
        self.running = True

    def run(self) -> Value:
        """Follow to STOP. Raises Broken."""
        found, read, steps, most = self.found, self.stream.opcode, STEPS, self.limits.operations
        while self.running:
            opcode = read()
            step = steps.get(opcode)
            if step is None:
                raise Broken(f"{opcode!r} at byte {self.stream.position - 1} is no opcode")
            found.operations += 1
            if found.operations > most:
                raise Evasive(f"it has more than {most:,} opcodes, which is as far as this reads")
            step(self)
        value = self.pop()
        if not self.depth:
            found.stopped, found.value = True, value
        return value

    def push(self, value: Value) -> None:
        self.stack.append(value)
        if len(self.stack) > self.limits.stack:
            raise Evasive(f"it piles up more than {self.limits.stack:,} objects")

    def pop(self) -> Value:
        if not self.stack:
            raise Broken(f"byte {self.stream.position} takes from an empty stack")
        return self.stack.pop()

    @property
    def top(self) -> Value:
        if not self.stack:
            raise Broken(f"byte {self.stream.position} uses an empty stack")
        return self.stack[-1]

    def pop_mark(self) -> list[Value]:
        if not self.under:
            raise Broken(f"byte {self.stream.position} wants a mark, and there is none")
        items, self.stack = self.stack, self.under.pop()
        return items

    def box(self, kind: str, items: list[Value]) -> Box:
        box = Box(kind)
        box.add(items, self.limits.items_kept)
        return box

    def pack(self, items: list[Value]) -> Value:
        """A tuple, or what stands for one that is too long to keep."""
        kept = len(items) <= self.limits.items_kept
        return tuple(items) if kept else Unknown(f"a tuple of {len(items)}")

    def bring(self, module: Value, name: Value) -> Import:
        """Import a name. One that is not written out is computed, and nobody can say what it will be."""
        if not isinstance(module, str) or not isinstance(name, str):
            module, name = f"<{describe(module)}>", f"<{describe(name)}>"
            self.found.evasive = True
        if len(self.found.imports) > _MOST_NAMES:
            raise Evasive(f"it imports more than {_MOST_NAMES:,} names")
        self.found.imports[module, name] = None
        return Import(module, name)

    def call(self, opcode: str, function: Value, arguments: Value, keywords: Value = None) -> Made:
        self.note(opcode, function, arguments)
        return Made(opcode, function, arguments, keywords)

    def note(self, opcode: str, target: Value, arguments: Value) -> None:
        key = opcode, name_of(target)
        if key not in self.found.calls and len(self.found.calls) <= _MOST_NAMES:
            root = root_of(target)
            self.found.calls[key] = Call(describe(arguments), (root.module, root.name) if root else None)

    def change(self, opcode: str, items: list[Value]) -> None:
        """Add to the container on top. Anything that is not one has a method called."""
        target = self.top
        if isinstance(target, Box):
            target.add(items, self.limits.items_kept)
            return
        self.note(opcode, target, tuple(items[:4]))
        if isinstance(target, Made):
            target.items = target.items or Box(opcode)
            target.items.add(items, self.limits.items_kept)

    def array(self, wrapper: Made) -> Value:
        """joblib: the array whose bytes follow here, instead of the object that announces it."""
        self.found.arrays += 1
        if self.stream.frame_end > self.stream.position:
            raise Evasive("it announces an array inside a frame, which no writer does; what follows cannot be told")
        announced = array_of(wrapper)
        if announced.dtype.has_objects:
            if self.depth >= _NESTED_PICKLES:
                raise Evasive(f"it has pickles in pickles, more than {_NESTED_PICKLES} deep")
            return Machine(self.stream, self.limits, self.found, arrays=False, depth=self.depth + 1).run()
        if announced.aligned:
            self.stream.skip(self.stream.read(1)[0])
        size = announced.size
        if size > self.limits.bytes_kept:
            self.stream.skip(size)
            return Unknown("an array")
        return Array(announced.dtype, announced.shape, announced.order, self.stream.read(size))
