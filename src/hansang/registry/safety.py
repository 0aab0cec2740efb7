"""temporary"""

import hashlib
from pathlib import Path


def check_artifact(path: Path) -> None:
    """Nothing."""


def sha256_of(path: Path) -> str:
    """`sha256:...` of a file."""
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()
