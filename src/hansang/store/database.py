"""`control.db`: one SQLite file for what the server must remember across a restart.

WAL mode, one connection, one writer at a time. Every call blocks: from the event loop, use `asyncio.to_thread`. Each
room owns its tables and brings their schema; nothing here knows what they mean.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hansang.core.errors import LoadFailed

Row = sqlite3.Row


class Database:
    """Thread-safe. `path` None keeps it in memory, for a server without a home."""

    def __init__(self, path: Path | None) -> None:
        self._lock = threading.RLock()
        try:
            if path is not None:
                path.parent.mkdir(parents=True, exist_ok=True)
            self._connection = sqlite3.connect(path or ":memory:", check_same_thread=False, isolation_level=None)
            self._connection.row_factory = sqlite3.Row
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON", "busy_timeout = 5000"):
                self._connection.execute(f"PRAGMA {pragma}")
            self._connection.execute("CREATE TABLE IF NOT EXISTS schema (room TEXT PRIMARY KEY, version INTEGER)")
        except (sqlite3.Error, OSError) as exc:
            raise LoadFailed(
                f"The server's database {path} cannot be opened: {exc}.",
                hint="Check the permissions and the space of the `home` folder, or give another one with --home.",
            ) from exc

    def migrate(self, room: str, steps: Sequence[str]) -> None:
        """Bring a room's tables to the newest schema; `steps[n]` leads from version n to n + 1."""
        with self.transaction():
            rows = self.query("SELECT version FROM schema WHERE room = ?", room)
            done = rows[0]["version"] if rows else 0
            if done > len(steps):
                raise LoadFailed(
                    f"The server's database was last used by a newer hansang ({room}: version {done}).",
                    hint="Use that hansang, or give another home with --home.",
                )
            for step in steps[done:]:
                self._connection.execute(step)
            self.execute("INSERT OR REPLACE INTO schema VALUES (?, ?)", room, len(steps))

    def query(self, sql: str, *values: Any) -> list[Row]:
        """All rows of a SELECT."""
        with self._lock:
            return self._connection.execute(sql, values).fetchall()

    def execute(self, sql: str, *values: Any) -> int:
        """Run one statement; how many rows it touched."""
        with self._lock:
            return self._connection.execute(sql, values).rowcount

    def execute_many(self, sql: str, rows: Iterable[Sequence[Any]]) -> None:
        """Run one statement for every row, in one transaction."""
        with self.transaction():
            self._connection.executemany(sql, rows)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing."""
        with self._lock:
            if self._connection.in_transaction:
                yield
                return
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            self._connection.close()
