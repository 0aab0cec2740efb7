"""`control.db`: schemas, transactions, and what is wrong with it."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from hansang.core.errors import LoadFailed
from hansang.store.database import Database

NOTES = ("CREATE TABLE notes (text TEXT)", "ALTER TABLE notes ADD COLUMN author TEXT")


def test_what_is_written_is_there_after_a_restart(tmp_path: Path) -> None:
    database = Database(tmp_path / "home" / "control.db")
    database.migrate("notes", NOTES)
    database.execute("INSERT INTO notes VALUES (?, ?)", "한상", "me")
    database.close()
    again = Database(tmp_path / "home" / "control.db")
    again.migrate("notes", NOTES)
    assert [tuple(row) for row in again.query("SELECT * FROM notes")] == [("한상", "me")]
    again.close()


def test_a_schema_grows_step_by_step_and_keeps_what_is_there(tmp_path: Path) -> None:
    database = Database(tmp_path / "control.db")
    database.migrate("notes", NOTES[:1])
    database.execute("INSERT INTO notes VALUES ('old')")
    database.migrate("notes", NOTES)
    assert [tuple(row) for row in database.query("SELECT * FROM notes")] == [("old", None)]
    database.close()


def test_a_database_of_a_newer_hansang_is_left_alone(tmp_path: Path) -> None:
    database = Database(tmp_path / "control.db")
    database.migrate("notes", NOTES)
    with pytest.raises(LoadFailed, match="newer hansang"):
        database.migrate("notes", NOTES[:1])
    database.migrate("notes", NOTES)
    database.close()


def test_a_schema_that_fails_changes_nothing(tmp_path: Path) -> None:
    database = Database(tmp_path / "control.db")
    with pytest.raises(sqlite3.OperationalError):
        database.migrate("notes", (*NOTES, "nonsense"))
    database.migrate("notes", NOTES)
    database.close()


def test_a_transaction_is_all_or_nothing() -> None:
    database = Database(None)
    database.migrate("notes", NOTES)
    with suppress(ZeroDivisionError), database.transaction():
        database.execute("INSERT INTO notes (text) VALUES ('lost')")
        _ = 1 / 0
    database.execute_many("INSERT INTO notes (text) VALUES (?)", [("a",), ("b",)])
    assert [row["text"] for row in database.query("SELECT text FROM notes")] == ["a", "b"]
    database.close()


def test_many_threads_and_two_connections_write_at_once(tmp_path: Path) -> None:
    databases = [Database(tmp_path / "control.db") for _ in range(2)]
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda database: database.migrate("notes", NOTES), databases))
    with ThreadPoolExecutor(8) as pool:
        rows = range(200)
        list(pool.map(lambda n: databases[n % 2].execute("INSERT INTO notes (text) VALUES (?)", str(n)), rows))
    assert len(databases[0].query("SELECT * FROM notes")) == 200
    for database in databases:
        database.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("made", ["folder", "noise"])
def test_a_file_that_is_no_database_is_told_by_its_path(tmp_path: Path, made: str) -> None:
    path = tmp_path / "control.db"
    if made == "folder":
        path.mkdir()
    else:
        path.write_bytes(b"noise" * 1000)
    with pytest.raises(LoadFailed, match=r"control\.db") as told:
        Database(path)
    assert "--home" in (told.value.hint or "")
