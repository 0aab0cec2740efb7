"""The demo table: small models, really trained, that come with hansang. `recipes/` rebuilds each; a card says how good
it is. Nothing is loaded here.
"""

from __future__ import annotations

from pathlib import Path

MODELS = Path(__file__).parent / "models"


def sources() -> dict[str, Path]:
    """Name and file of every demo model."""
    files = sorted(path for path in MODELS.iterdir() if not path.name.endswith(".card.json"))
    return {path.stem: path for path in files if path.suffix in (".json", ".onnx")}
