"""Every error hansang raises, as one tree.

HansangError
├── BadRequest                 400  the request itself is wrong
│   ├── InvalidJSON            400  not JSON, at this offset
│   ├── InvalidInput           400  JSON, but not what the model takes
│   └── UnsafeArtifact         400  a model's file would run code, or is not what it says
├── Unauthorized               401  no key, or not a right one
├── Forbidden                  403  this caller, host or page may not do that
├── NotFound                   404  nothing of that name here
│   └── ModelNotFound          404  no model of that name
├── MethodNotAllowed           405  the route answers other methods
├── Conflict                   409  not in the state this needs
├── TooLarge                   413  body over its limit
├── ModelFailed                500  the model raised, or answered nonsense
├── Unavailable                503  not now: loading, draining
│   └── QueueFull              503  too many callers wait for this model
├── DeadlineExceeded           504  not ready when the caller's time was up
├── ClientGone                 499  the caller hung up; nobody reads the answer
├── LoadFailed                 500  an artifact could not be opened (start-up, command line)
└── SettingsError              500  a setting is wrong (start-up, command line)

An error says what happened and what was expected (`message`), and what to do next (`hint`). It knows its HTTP
status, but no wire format: `http.errors` writes it in the shape of the protocol that was spoken.
"""

from __future__ import annotations

from collections.abc import Mapping


class HansangError(Exception):
    """The root. `type` and `code` are those of the OpenAI error table where it has a row, else ours."""

    status = 500
    type = "server_error"
    code: str | None = None

    def __init__(
        self,
        message: str,
        *,
        hint: str | None = None,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        if hint:
            self.add_note(f"hint: {hint}")  # a traceback shows it too
        self.param = param
        self.code = code or self.code
        self.headers = dict(headers or {})


class BadRequest(HansangError):
    status, type = 400, "invalid_request_error"


class InvalidJSON(BadRequest):
    code = "invalid_json"


class InvalidInput(BadRequest):
    code = "invalid_input"


class UnsafeArtifact(BadRequest):
    code = "unsafe_artifact"


class Unauthorized(HansangError):
    status, type = 401, "invalid_request_error"


class Forbidden(HansangError):
    status, type = 403, "invalid_request_error"


class NotFound(HansangError):
    status, type = 404, "invalid_request_error"


class ModelNotFound(NotFound):
    code = "model_not_found"


class MethodNotAllowed(HansangError):
    status, type, code = 405, "invalid_request_error", "method_not_allowed"


class Conflict(HansangError):
    status, type = 409, "invalid_request_error"


class TooLarge(HansangError):
    status, type, code = 413, "invalid_request_error", "body_too_large"


class ModelFailed(HansangError):
    """What user code raised stays in the log, under the request id; callers never see it."""

    code = "model_failed"


class Unavailable(HansangError):
    status, type = 503, "overloaded"


class QueueFull(Unavailable):
    code = "queue_full"


class DeadlineExceeded(HansangError):
    status, code = 504, "deadline_exceeded"


class ClientGone(HansangError):
    status, code = 499, "client_gone"


class LoadFailed(HansangError):
    code = "load_failed"


class SettingsError(HansangError):
    code = "invalid_setting"
