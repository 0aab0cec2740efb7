"""What the server tells about itself: structured log lines, for people (`text`) or for programs (`json`).

Nothing is set up by importing; the command line calls `configure`, and a server inside somebody else's program
leaves logging to that program. Lines carry what their caller put into `extra`: above all `request_id`.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

from hansang.core.wire import Request

_requests = logging.getLogger("hansang.requests")
_OWN = set(vars(logging.makeLogRecord({}))) | {"message", "asctime", "color_message", "taskName"}


def configure(level: str, form: str) -> None:
    """Log to stderr: ours from `level` on, everybody else's from warnings on."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JSONFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    logging.getLogger("hansang").setLevel(level.upper())
    logging.getLogger("uvicorn").setLevel(logging.DEBUG if level == "debug" else logging.WARNING)


def request_line(request: Request, status: int, seconds: float) -> None:
    """The access log's line. The query is left out: people put keys there."""
    _requests.info(
        "%s %s %d in %.1f ms",
        request.method,
        "".join(c if c.isprintable() else f"\\x{ord(c):02x}" for c in request.path),
        status,
        seconds * 1000,
        extra={"request_id": request.context.request_id, "principal": request.context.principal},
    )


def _extra(record: logging.LogRecord) -> dict[str, Any]:
    return {name: value for name, value in vars(record).items() if name not in _OWN}


def _time(record: logging.LogRecord) -> str:
    whole = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
    return f"{whole}.{int(record.msecs):03d}Z"


class TextFormatter(logging.Formatter):
    """`2026-11-20T09:00:00.000Z INFO hansang.model: text request_id=...`, then a traceback if there is one."""

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        extra = "".join(f" {name}={value}" for name, value in _extra(record).items())
        return f"{_time(record)} {record.levelname} {record.name}: {record.message}{extra}"


class JSONFormatter(logging.Formatter):
    """One JSON object a line."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extra(record),
        }
        if record.exc_info:
            line["traceback"] = self.formatException(record.exc_info)
        return json.dumps(line, ensure_ascii=False, default=str)
