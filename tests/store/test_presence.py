"""Which servers live: held by the system, so that no kill can leave a wrong answer."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from hansang.store.presence import Presence

OTHER = """
import sys
from pathlib import Path
from hansang.store.presence import Presence
presence = Presence(Path(sys.argv[1]))
print(presence.id, flush=True)
sys.stdin.read()
"""


def other(folder: Path) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-c", OTHER, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, process.stdout.readline().strip()


def end(process: subprocess.Popen[str]) -> None:
    process.send_signal(signal.SIGKILL)
    process.communicate()


def test_another_process_lives_until_it_is_killed(tmp_path: Path) -> None:
    process, name = other(tmp_path)
    ours = Presence(tmp_path)
    assert ours.alive(name)
    assert ours.alive(name)
    end(process)
    assert not ours.alive(name)
    assert ours.alive(ours.id)
    ours.end()
    assert list(tmp_path.iterdir()) == []


def test_the_files_of_the_dead_are_removed_by_the_next(tmp_path: Path) -> None:
    process, name = other(tmp_path)
    end(process)
    assert [path.stem for path in tmp_path.iterdir()] == [name]
    ours = Presence(tmp_path)
    assert [path.stem for path in tmp_path.iterdir()] == [ours.id]
    ours.end()


def test_two_in_one_process_know_each_other(tmp_path: Path) -> None:
    one, two = Presence(tmp_path), Presence(tmp_path)
    assert one.alive(two.id)
    assert two.alive(one.id)
    two.end()
    assert not one.alive(two.id)
    one.end()


def test_a_stranger_is_dead_and_without_a_folder_there_is_nobody_else(tmp_path: Path) -> None:
    ours = Presence(tmp_path)
    assert not ours.alive("0" * 32)
    ours.end()
    alone = Presence(None)
    assert alone.alive(alone.id)
    assert not alone.alive("0" * 32)
    alone.end()
