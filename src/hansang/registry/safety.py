"""temporary"""

from pathlib import Path


def check_artifact(path: Path) -> None: ...
