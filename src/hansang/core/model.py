"""The one abstraction: a Model answers calls; a Runtime opens a source as a Model.

This is the whole contract between the house and whatever computes. It knows no protocol, no queue, no event loop:
who calls `predict`, on which thread, and how many calls it is given at once is decided in `scheduling`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from hansang.core.errors import ClientGone, HansangError
from hansang.core.signature import Signature
from hansang.core.source import Source

Placement = Literal["inline", "thread", "process"]
"""Where the model's code runs: on the event loop (microseconds of work), on a thread of its own, or in a process."""


def _one_row(request: Any) -> int:
    return 1


def _no_shape(request: Any) -> Hashable:
    return None


@dataclass(frozen=True, slots=True)
class Task:
    """A kind of work: the types that travel, and how its requests are counted, cut and put together.

    `join` makes the whole answer from a stream's deltas, `split` the deltas of a whole answer. Where requests have
    rows, `rows` counts them, `shape` tells which requests may share a batch, `cut(request, start, stop)` takes some
    of them and `merge` puts results cut that way together again.
    """

    name: str
    request: type
    result: type
    delta: type | None = None
    join: Callable[[Iterable[Any]], Any] | None = None
    split: Callable[[Any], Iterable[Any]] | None = None
    rows: Callable[[Any], int] = _one_row
    shape: Callable[[Any], Hashable] = _no_shape
    cut: Callable[[Any, int, int], Any] | None = None
    merge: Callable[[Sequence[Any]], Any] | None = None


class CallContext:
    """Who asks, until when, and whether anybody still waits.

    `deadline` is on the clock of `time.monotonic`. A model that works in steps calls `check()` between them. `cancel`
    is called once, on the event loop's thread; `error` is then set for every other thread to see.
    """

    __slots__ = ("_watchers", "deadline", "error", "finished", "principal", "request_id", "started")

    def __init__(self, request_id: str, deadline: float, principal: str = "anonymous") -> None:
        self.request_id = request_id
        self.deadline = deadline
        self.principal = principal
        self.error: HansangError | None = None
        self.started = self.finished = 0.0
        """When the model's work on it began and ended; 0 before that."""
        self._watchers: tuple[Callable[[HansangError], None], ...] = ()

    def cancel(self, error: HansangError | None = None) -> None:
        """End this call: nobody waits (the default), or its time is up."""
        if self.error is None:
            self.error = error or ClientGone("The caller closed the connection.")
            for watcher in self._watchers:
                watcher(self.error)
            self._watchers = ()

    def on_end(self, watcher: Callable[[HansangError], None]) -> None:
        """Have `watcher` told when the call is cancelled: at once, if it was."""
        if self.error is not None:
            watcher(self.error)
        else:
            self._watchers = (*self._watchers, watcher)

    def forget(self) -> None:
        """The call is over: nobody is told of its end any more, and nobody is kept in memory by it."""
        self._watchers = ()

    def check(self) -> None:
        """Raise if nobody waits for the answer any more."""
        if self.error is not None:
            raise self.error


@dataclass(slots=True)
class Call:
    """One caller's request, as a model sees it."""

    request: Any
    context: CallContext


@dataclass(frozen=True, slots=True)
class LoadContext:
    """What a model may know when it loads. `threads` is how many the libraries below may use."""

    threads: int = 1
    sample: Any = None


class Model:
    """Something that answers requests of one task. `predict` or `stream` suffices; either may be `async def`.

    `max_batch_size` counts rows; `concurrency` counts batches (and streams) in flight. A model that cannot say what
    it takes leaves `signature` None: it is untyped, and any JSON reaches it.
    """

    task: Task
    signature: Signature | None = None
    placement: Placement = "thread"
    max_batch_size: int = 1
    concurrency: int = 1
    gather: float = 0.0
    """Seconds a batch may wait to fill up, only while callers come in numbers. A lone caller never waits."""
    info: Mapping[str, Any] = {}
    """What `inspect` shows: format, parameters, bytes, card. Filled by `load`."""

    def load(self, context: LoadContext) -> None:
        """Make ready to answer. Heavy libraries are imported here, not at the top of the module."""

    def predict(self, calls: Sequence[Call]) -> Sequence[Any] | Awaitable[Sequence[Any]]:
        """Answer each call, in order. A HansangError in a result's place fails that call alone."""
        raise NotImplementedError(f"{type(self).__name__} has no predict")

    def stream(self, call: Call) -> Iterator[Any] | AsyncIterator[Any]:
        """Answer one call piece by piece, in the task's deltas."""
        raise NotImplementedError(f"{type(self).__name__} has no stream")

    def unload(self) -> None:
        """Give back what `load` took."""

    @classmethod
    def overrides(cls, method: str) -> bool:
        """Whether this model brings its own `predict` or `stream`."""
        return getattr(cls, method) is not getattr(Model, method)


@dataclass(frozen=True, slots=True)
class Mount:
    """An existing ASGI app, served as it is under its own path. Not a Model: it answers HTTP, not calls."""

    app: Any
    title: str = ""
    routes: tuple[str, ...] = field(default=())
    state: dict[str, Any] = field(default_factory=dict, compare=False)
    """What the app's lifespan left for its requests to find."""


class Runtime(Protocol):
    """Opens one kind of source. Found through the entry point group `hansang.runtimes`.

    `wrap(obj) -> Model | Mount | None` (optional) does the same for what was made in code; None: not its kind.
    """

    name: ClassVar[str]
    sources: ClassVar[str]
    """What it opens, in the words of the command line: `a scikit-learn model (*.skops)`."""

    def claims(self, source: Source) -> bool:
        """Whether this runtime opens `source`. Cheap: looks at the name, or the first bytes; of what is in a Python
        file, it may look at the object.
        """
        ...

    def open(self, source: Source) -> Model | Mount:
        """The model, not loaded yet. Raises LoadFailed with the file, what is wrong and what to do."""
        ...
