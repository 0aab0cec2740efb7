"""Writes a model's card: the JSON beside it that says what it is, how it was made and how good it is.

Every recipe ends here. Not a recipe itself.
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path
from typing import Any

MODELS = Path(__file__).resolve().parent.parent / "src" / "hansang" / "demo" / "models"
LICENCE = "Apache-2.0, as hansang"


def folder(description: str | None) -> Path:
    """Where the recipe writes: the demo table, or `--out DIR`."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=MODELS, help="folder for the model and its card")
    out: Path = parser.parse_args().out
    out.mkdir(parents=True, exist_ok=True)
    return out


def write(model: Path, **facts: Any) -> None:
    """Write `<stem>.card.json` beside a finished model, with its size and fingerprint."""
    data = model.read_bytes()
    card = {
        "name": model.stem,
        "version": "1.0.0",
        **facts,
        "size_bytes": len(data),
        "sha256": hashlib.sha256(data).hexdigest(),
        "licence": facts.get("licence", LICENCE),
    }
    text = json.dumps(card, ensure_ascii=False, indent=2) + "\n"
    model.with_name(f"{model.stem}.card.json").write_text(text, encoding="utf-8")
    print(f"{model.name}: {len(data)} bytes, {card['metrics']}")
