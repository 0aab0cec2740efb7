"""MLServer: writes the settings files it wants, and becomes `mlserver start`.

`parallel_workers` 0, its cheapest form: the model lives in the server's own process.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

import work

HERE = Path(__file__).parent
WORK = work.asked()


def main() -> None:
    folder = work.MLP.parent / "mlserver" / WORK
    folder.mkdir(parents=True, exist_ok=True)
    settings = {
        "host": "127.0.0.1",
        "http_port": int(os.environ["PORT"]),
        "grpc_port": int(os.environ["PORT_2"]),
        "metrics_port": int(os.environ["PORT_3"]),
        "debug": False,
        "parallel_workers": 0,
    }
    model: dict[str, Any] = {"name": "m", "implementation": "mlserver_model.Bench"}
    if WORK in work.MAX_BATCH:
        model |= {"max_batch_size": work.MAX_BATCH[WORK], "max_batch_time": work.GATHER[WORK]}
    (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
    (folder / "model-settings.json").write_text(json.dumps(model), encoding="utf-8")
    os.environ["PYTHONPATH"] = str(HERE)
    program = str(Path(sys.executable).parent / "mlserver")
    os.execv(program, [program, "start", str(folder)])


if __name__ == "__main__":
    main()
