"""The opcodes of pickle's protocols 0 to 5: what each does to the stack and memo of a `Machine`.

One table, one step for each. Lengths, indexes and texts are checked as Python's unpicklers check them.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeAlias

from hansang.registry.byte_stream import Broken, Evasive
from hansang.registry.pickle_values import Box, Import, Made, Unknown, Value, name_of

if TYPE_CHECKING:
    from hansang.registry.pickle_machine import Machine

_ESCAPE = re.compile(rb"\\(x[0-9a-fA-F]{2}|[0-7]{1,3}|.)", re.DOTALL)
_ESCAPED = {bytes([name]): bytes([code]) for name, code in zip(b"abfnrtv\\'\"", b"\a\b\f\n\r\t\v\\'\"", strict=True)}
_Step: TypeAlias = "Callable[[Machine], None]"


def _number(shape: str) -> _Step:
    form = struct.Struct(shape)

    def step(machine: Machine) -> None:
        machine.push(form.unpack(machine.stream.read(form.size))[0])

    return step


def _counted(shape: str, make: Callable[[bytes], Value], what: str) -> _Step:
    """An opcode with a length before its bytes."""
    form = struct.Struct(shape)

    def step(machine: Machine) -> None:
        (size,) = form.unpack(machine.stream.read(form.size))
        if size < 0:
            raise Broken(f"byte {machine.stream.position} begins {what} of {size} bytes")
        if size > machine.limits.bytes_kept:
            machine.stream.skip(size)
            machine.push(Unknown(f"{what} of {size} bytes"))
        else:
            machine.push(_made(make, machine.stream.read(size)))

    return step


def _written(make: Callable[[bytes], Value]) -> _Step:
    """An opcode with a line of text."""

    def step(machine: Machine) -> None:
        line, whole = machine.stream.line(machine.limits.bytes_kept)
        machine.push(_made(make, line) if whole else Unknown("a long text"))

    return step


def _numeral(make: Callable[[bytes], Value]) -> _Step:
    """An opcode with a number in text. C takes what Python does not (octals, nothing at all, what follows a zero)."""

    def step(machine: Machine) -> None:
        line, _ = machine.stream.line(machine.limits.bytes_kept)
        try:
            machine.push(make(line.partition(b"\0")[0]))
        except ValueError:
            machine.push(Unknown("a number"))

    return step


def _made(make: Callable[[bytes], Value], data: bytes) -> Value:
    try:
        return make(data)
    except (ValueError, OverflowError) as exc:
        raise Broken(f"{data[:40]!r} is not what its opcode says ({exc})") from None


def _text(data: bytes) -> str:
    return data.decode("utf-8", "surrogatepass")


def _long(data: bytes) -> int:
    return int.from_bytes(data, "little", signed=True)


def _long_line(line: bytes) -> int:
    return int(line[:-1] if line.endswith(b"L") else line, 0)


def _int_line(line: bytes) -> int | bool:
    return bool(int(line)) if line in (b"00", b"01") else int(line, 0)


def _string_line(line: bytes) -> str:
    line = line.strip()
    if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
        raise ValueError("it has no quotes")
    return _ESCAPE.sub(_unescaped, line[1:-1]).decode("latin-1")


def _unescaped(found: re.Match[bytes]) -> bytes:
    code = found[1]
    if code[:1] == b"x":
        return bytes([int(code[1:], 16)])
    return bytes([int(code, 8) & 255]) if code.isdigit() else _ESCAPED.get(code, found[0])


def _unicode_line(line: bytes) -> str:
    return line.decode("raw-unicode-escape")


def _index(line: bytes) -> int:
    index = int(line)
    if index < 0:
        raise ValueError("it is negative")
    return index


def _name_line(machine: Machine) -> str:
    """A name of GLOBAL or INST."""
    line, whole = machine.stream.line(machine.limits.bytes_kept)
    return line.decode("utf-8", "backslashreplace") + ("" if whole else "...")


def _constant(value: Value) -> _Step:
    return lambda machine: machine.push(value)


def _new(kind: str) -> _Step:
    return lambda machine: machine.push(Box(kind))


def _protocol(machine: Machine) -> None:
    machine.found.protocol = max(machine.found.protocol, machine.stream.read(1)[0])


def _frame(machine: Machine) -> None:
    stream = machine.stream
    (size,) = struct.unpack("<Q", stream.read(8))
    outer, end = stream.frame_end, stream.position + size
    if stream.position < outer < end:
        raise Evasive("its frames overlap, which makes programs read it differently")
    stream.frame_end = outer if stream.position < outer else end


def _mark(machine: Machine) -> None:
    machine.under.append(machine.stack)
    machine.stack = []
    if len(machine.under) > machine.limits.stack:
        raise Evasive(f"it has more than {machine.limits.stack:,} marks")


def _stop(machine: Machine) -> None:
    machine.running = False


def _pop(machine: Machine) -> None:
    if machine.stack:
        machine.stack.pop()
    else:
        machine.pop_mark()


def _pop_mark(machine: Machine) -> None:
    machine.pop_mark()


def _dup(machine: Machine) -> None:
    machine.push(machine.top)


def _nothing(_: Machine) -> None:
    """An opcode that changes nothing."""


def _tuple(size: int) -> _Step:
    def step(machine: Machine) -> None:
        items = [machine.pop() for _ in range(size)]
        machine.push(machine.pack(items[::-1]))

    return step


def _marked(kind: str) -> _Step:
    def step(machine: Machine) -> None:
        items = machine.pop_mark()
        machine.push(machine.pack(items) if kind == "tuple" else machine.box(kind, items))

    return step


def _append(machine: Machine) -> None:
    value = machine.pop()
    machine.change("APPEND", [value])


def _set_item(machine: Machine) -> None:
    value, key = machine.pop(), machine.pop()
    machine.change("SETITEM", [key, value])


def _change_many(opcode: str) -> _Step:
    def step(machine: Machine) -> None:
        items = machine.pop_mark()
        machine.change(opcode, items)

    return step


def _put(read: Callable[[Machine], int]) -> _Step:
    def step(machine: Machine) -> None:
        index, most = read(machine), machine.limits.memo
        if index >= most:  # Python's C unpickler makes room for all the numbers below
            raise Evasive(f"it remembers an object by the number {index:,}; {most:,} is the most")
        machine.memo[index] = machine.top

    return step


def _get(read: Callable[[Machine], int]) -> _Step:
    def step(machine: Machine) -> None:
        index = read(machine)
        if index not in machine.memo:
            raise Broken(f"byte {machine.stream.position} recalls object {index}, which was never remembered")
        machine.push(machine.memo[index])

    return step


def _index_of(shape: str) -> Callable[[Machine], int]:
    form = struct.Struct(shape)
    return lambda machine: int(form.unpack(machine.stream.read(form.size))[0])


def _index_line(machine: Machine) -> int:
    line, _ = machine.stream.line(64)
    value = _made(_index, line.partition(b"\0")[0])
    return value if isinstance(value, int) else 0


def _global(machine: Machine) -> None:
    module = _name_line(machine)
    machine.push(machine.bring(module, _name_line(machine)))


def _stack_global(machine: Machine) -> None:
    name, module = machine.pop(), machine.pop()
    machine.push(machine.bring(module, name))


def _extension(shape: str) -> _Step:
    """A name by number: only the program that opens the pickle knows which."""
    index = _index_of(shape)
    return lambda machine: machine.push(machine.bring("copyreg.extension", str(index(machine))))


def _inst(machine: Machine) -> None:
    module = _name_line(machine)
    function = machine.bring(module, _name_line(machine))
    machine.push(machine.call("INST", function, machine.pack(machine.pop_mark())))


def _obj(machine: Machine) -> None:
    items = machine.pop_mark()
    if not items:
        raise Broken(f"byte {machine.stream.position} calls nothing")
    machine.push(machine.call("OBJ", items[0], machine.pack(items[1:])))


def _reduce(opcode: str) -> _Step:
    def step(machine: Machine) -> None:
        arguments, function = machine.pop(), machine.pop()
        machine.push(machine.call(opcode, function, arguments))

    return step


def _new_object_ex(machine: Machine) -> None:
    keywords, arguments, function = machine.pop(), machine.pop(), machine.pop()
    machine.push(machine.call("NEWOBJ_EX", function, arguments, keywords))


def _build(machine: Machine) -> None:
    state, target = machine.pop(), machine.top
    if isinstance(target, (Made, Import)):
        machine.note("BUILD", target, state)
    if isinstance(target, Made):
        target.states.append(state)
        if machine.arrays and name_of(target).endswith("NumpyArrayWrapper"):
            machine.stack[-1] = machine.array(target)


def _kept_elsewhere(machine: Machine) -> None:
    machine.push(Made("BINPERSID", Unknown("what its reader keeps elsewhere"), machine.pop()))


def _kept_elsewhere_line(machine: Machine) -> None:
    line, _ = machine.stream.line(machine.limits.bytes_kept)
    machine.push(Made("PERSID", Unknown("what its reader keeps elsewhere"), line))


STEPS: dict[bytes, _Step] = {
    b"\x80": _protocol, b"\x95": _frame, b".": _stop,
    b"N": _constant(None), b"\x88": _constant(True), b"\x89": _constant(False), b")": _constant(()),
    b"J": _number("<i"), b"K": _number("<B"), b"M": _number("<H"), b"G": _number(">d"),
    b"I": _numeral(_int_line), b"L": _numeral(_long_line), b"F": _numeral(float), b"S": _written(_string_line),
    b"V": _written(_unicode_line),
    b"\x8a": _counted("<B", _long, "a number"), b"\x8b": _counted("<i", _long, "a number"),
    b"U": _counted("<B", partial(str, encoding="latin-1"), "text"),
    b"T": _counted("<i", partial(str, encoding="latin-1"), "text"),
    b"\x8c": _counted("<B", _text, "text"), b"X": _counted("<I", _text, "text"), b"\x8d": _counted("<Q", _text, "text"),
    b"C": _counted("<B", bytes, "bytes"), b"B": _counted("<I", bytes, "bytes"), b"\x8e": _counted("<Q", bytes, "bytes"),
    b"\x96": _counted("<Q", bytes, "bytes"), b"\x97": _constant(Unknown("a buffer")), b"\x98": _nothing,
    b"(": _mark, b"0": _pop, b"1": _pop_mark, b"2": _dup,
    b"]": _new("list"), b"}": _new("dict"), b"\x8f": _new("set"),
    b"t": _marked("tuple"), b"l": _marked("list"), b"d": _marked("dict"), b"\x91": _marked("frozenset"),
    b"\x85": _tuple(1), b"\x86": _tuple(2), b"\x87": _tuple(3),
    b"a": _append, b"s": _set_item, b"e": _change_many("APPENDS"), b"u": _change_many("SETITEMS"),
    b"\x90": _change_many("ADDITEMS"),
    b"p": _put(_index_line), b"q": _put(_index_of("<B")), b"r": _put(_index_of("<I")),
    b"\x94": _put(lambda machine: len(machine.memo)),
    b"g": _get(_index_line), b"h": _get(_index_of("<B")), b"j": _get(_index_of("<I")),
    b"c": _global, b"\x93": _stack_global, b"i": _inst, b"o": _obj, b"R": _reduce("REDUCE"), b"\x81": _reduce("NEWOBJ"),
    b"\x92": _new_object_ex, b"b": _build, b"P": _kept_elsewhere_line, b"Q": _kept_elsewhere,
    b"\x82": _extension("<B"), b"\x83": _extension("<H"), b"\x84": _extension("<i"),
}  # fmt: skip
