"""Which servers of one home are alive.

Each holds a lock on a file of its own; the system lets go of it when the process ends, however it ends. A server
whose lock can be taken is dead, and what it was doing is nobody's any more.
"""

from __future__ import annotations

import os
from pathlib import Path
from uuid import uuid4

try:
    import fcntl
except ImportError:  # Windows: one server per home
    fcntl = None  # type: ignore[assignment]


class Presence:
    """This server's life. `folder` None: nothing is shared, there is no other."""

    def __init__(self, folder: Path | None) -> None:
        self.id = uuid4().hex
        self._folder = folder
        self._held: int | None = None
        """A bare descriptor: a server that is never told to stop holds it until its process ends."""
        if folder is not None and fcntl is not None:
            folder.mkdir(parents=True, exist_ok=True)
            draft = folder / f"{self.id}.new"
            self._held = os.open(draft, os.O_WRONLY | os.O_CREAT, 0o600)
            fcntl.flock(self._held, fcntl.LOCK_EX)
            draft.rename(folder / f"{self.id}.lock")  # locked before anybody can see it
            for other in folder.glob("*.lock"):
                self.alive(other.stem)  # those of the dead are removed

    def alive(self, other: str) -> bool:
        """Whether the server `other` lives."""
        if other == self.id:
            return True
        if self._folder is None or fcntl is None:
            return False
        path = self._folder / f"{other}.lock"
        try:
            with path.open("r+") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                path.unlink(missing_ok=True)
        except FileNotFoundError:
            return False
        except BlockingIOError:
            return True
        return False

    def end(self) -> None:
        """Let go."""
        if self._held is not None and self._folder is not None:
            (self._folder / f"{self.id}.lock").unlink(missing_ok=True)
            os.close(self._held)
            self._held = None
