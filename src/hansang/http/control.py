"""The control plane's FastAPI app: health, metrics, the documents, and the routers that protocols bring.

It stands behind the front door, which has checked who asks; its errors go through the same mapping. What the OpenAPI
document says is put together in `openapi`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import orjson
from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route
from typing_extensions import TypedDict

from hansang import __version__
from hansang.core.errors import BadRequest, HansangError, InvalidInput
from hansang.core.wire import CONTEXT, ProtocolAdapter
from hansang.http.docs import add_docs
from hansang.http.errors import internal, render, unknown_path, wrong_method
from hansang.http.openapi import PUBLIC, openapi_document

__all__ = ["Status", "control_plane", "openapi_document"]

Responses: TypeAlias = dict[int | str, dict[str, Any]]
_GREETING = "hello world"
_SHOWN = 60


@dataclass(slots=True)
class Status:
    """What `/readyz` tells: started, not draining, and which models are not there."""

    started: bool = False
    draining: bool = False
    failed: Callable[[], dict[str, str]] = dict

    @property
    def ready(self) -> bool:
        return self.started and not self.draining


class Greeting(TypedDict):
    """What a program is told at `/`."""

    message: str
    Hello: str
    name: str
    version: str
    links: dict[str, str]


class Health(TypedDict):
    """The process lives."""

    status: Literal["ok"]


class Readiness(TypedDict):
    """Whether requests are answered; `failed` names the models that are not there, and why."""

    status: Literal["ready", "loading", "draining"]
    failed: dict[str, str]


class ControlPlane(FastAPI):
    """FastAPI, and HEAD wherever GET is answered: the server below leaves the body out."""

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "http" and scope["method"] == "HEAD":
            inner = {**scope, "method": "GET"}
            await super().__call__(inner, receive, send)
            scope["route"] = inner.get("route")
        else:
            await super().__call__(scope, receive, send)


def control_plane(
    adapters: Sequence[ProtocolAdapter], status: Status, metrics: Callable[[], bytes], secured: bool
) -> FastAPI:
    """The app. `secured`: a key is required, and the document says so."""
    app = ControlPlane(title="hansang", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    app.state.routes = tuple(route for adapter in adapters for route in adapter.routes())
    _add_system_routes(app, status, metrics)
    add_docs(app, secured=secured)
    # Not include_router, which hides the routes from the errors below. A path that takes slashes comes last.
    routes = [route for adapter in adapters for route in getattr(getattr(adapter, "router", None), "routes", ())]
    app.router.routes.extend(sorted(routes, key=lambda route: ":path}" in getattr(route, "path", "")))
    _map_errors(app)

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi(request: Request) -> Response:
        document = openapi_document(app, adapters, secured, _root_path(request))
        return Response(orjson.dumps(document), media_type="application/json")

    return app


def _add_system_routes(app: FastAPI, status: Status, metrics: Callable[[], bytes]) -> None:
    @app.get(
        "/",
        tags=["server"],
        operation_id="root",
        summary="Who answers here",
        response_model=Greeting,
        responses={307: {"description": "A browser is sent to /docs."}},
        **PUBLIC,
    )
    async def root(request: Request) -> Any:
        """Who answers here. A browser is sent to the documentation."""
        prefix = _root_path(request)
        if "text/html" in request.headers.get("accept", ""):
            return RedirectResponse(f"{prefix}/docs")
        links = {"docs": "/docs", "openapi": "/openapi.json", "models": "/v1/models", "ready": "/readyz"}
        return {
            "message": _GREETING,
            "Hello": "World",
            "name": "hansang",
            "version": __version__,
            "links": {name: prefix + path for name, path in links.items()},
        }

    @app.get("/healthz", tags=["server"], operation_id="healthz", summary="Alive", **PUBLIC)
    async def healthz() -> Health:
        """The process lives."""
        return {"status": "ok"}

    loading: Responses = {503: {"model": Readiness, "description": "Loading, or draining."}}

    @app.get("/readyz", tags=["server"], operation_id="readyz", summary="Ready", responses=loading, **PUBLIC)
    async def readyz(response: Response) -> Readiness:
        """Requests are answered. 503 while models load, and from SIGTERM on."""
        if not status.ready:
            response.status_code = 503
        state: Any = "draining" if status.draining else "ready" if status.started else "loading"
        return {"status": state, "failed": status.failed()}

    text: Responses = {200: {"content": {"text/plain": {"schema": {"type": "string"}}}}}

    @app.get(
        "/metrics", tags=["server"], operation_id="metrics", summary="Metrics", response_class=Response, responses=text
    )
    async def metrics_page() -> Response:
        """Prometheus metrics."""
        return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _map_errors(app: FastAPI) -> None:
    @app.exception_handler(HansangError)
    async def ours(request: Request, exc: HansangError) -> Response:
        return _reply(request, exc)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, exc: RequestValidationError) -> Response:
        fault: Mapping[str, Any] = exc.errors()[0]
        where = ".".join(str(part) for part in fault["loc"][1:]) or str(fault["loc"][0])
        given = repr(fault.get("input"))
        given = given if len(given) <= _SHOWN else given[:_SHOWN] + "..."
        message = f"{where}: {fault['msg']}, got {given}."
        return _reply(request, InvalidInput(message, hint="GET /docs shows what this route takes.", param=where))

    @app.exception_handler(HTTPException)
    async def starlette(request: Request, exc: HTTPException) -> Response:
        path, method = _path(request), request.method
        if exc.status_code == 404 and exc.detail == "Not Found":
            paths = [route.path_format for route in app.routes if isinstance(route, Route)]
            return _reply(request, unknown_path(method, path, [*paths, *(r.template for r in app.state.routes)]))
        if exc.status_code == 405:
            base = str(request.base_url).rstrip("/")
            return _reply(request, wrong_method(method, path, _allowed(app, request), base))
        kind = BadRequest if exc.status_code < 500 else HansangError
        error = kind(str(exc.detail), headers=exc.headers)
        error.status = exc.status_code
        return _reply(request, error)

    @app.exception_handler(Exception)
    async def ours_to_mend(request: Request, exc: Exception) -> Response:
        # It is raised again behind this answer, and logged by the front door.
        return _reply(request, internal(request.scope[CONTEXT].request_id))


def _reply(request: Request, error: HansangError) -> Response:
    written = render(error, _path(request))
    headers = {name.decode(): value.decode() for name, value in written.headers}
    return Response(written.body, written.status, headers, media_type=written.content_type.decode())


def _allowed(app: FastAPI, request: Request) -> list[str]:
    methods: set[str] = set()
    for route in app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return sorted(methods - {"HEAD"}) or ["GET"]


def _root_path(request: Request) -> str:
    """Where the server is mounted; empty for none."""
    return str(request.scope.get("root_path", ""))


def _path(request: Request) -> str:
    return str(request.scope["path"]).removeprefix(_root_path(request))
