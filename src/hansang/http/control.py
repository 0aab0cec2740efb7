"""The control plane's FastAPI app: health, metrics, the OpenAPI document, and the routers that protocols bring.

It stands behind the front door, which has checked who asks; its errors go through the same mapping.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.openapi.utils import get_openapi
from fastapi.responses import RedirectResponse
from starlette.exceptions import HTTPException
from starlette.routing import Match, Route

from hansang import __version__
from hansang.core.errors import HansangError, InvalidInput
from hansang.core.wire import ProtocolAdapter
from hansang.http.errors import render, unknown_path, wrong_method

_GREETING = "hello world"


@dataclass(slots=True)
class Status:
    """What `/readyz` tells: started, not draining, and which models are not there."""

    started: bool = False
    draining: bool = False
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def ready(self) -> bool:
        return self.started and not self.draining


def control_plane(
    adapters: Sequence[ProtocolAdapter], status: Status, metrics: Callable[[], bytes], secured: bool
) -> FastAPI:
    """The app. `secured`: a key is required, and the document says so."""
    app = FastAPI(title="hansang", version=__version__, docs_url=None, redoc_url=None, openapi_url=None)
    _add_system_routes(app, status, metrics)
    for adapter in adapters:
        if (router := getattr(adapter, "router", None)) is not None:
            app.include_router(router)
    _map_errors(app, [route.template for adapter in adapters for route in adapter.routes()])

    @app.get("/openapi.json", include_in_schema=False)
    async def openapi() -> Response:
        import orjson

        return Response(orjson.dumps(openapi_document(app, adapters, secured)), media_type="application/json")

    return app


def _add_system_routes(app: FastAPI, status: Status, metrics: Callable[[], bytes]) -> None:
    @app.get("/", tags=["server"])
    async def root(request: Request) -> Any:
        """Who answers here. A browser is sent to the documentation."""
        prefix = request.scope.get("root_path", "")
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

    @app.get("/healthz", tags=["server"])
    async def healthz() -> dict[str, str]:
        """The process lives."""
        return {"status": "ok"}

    @app.get("/readyz", tags=["server"], responses={503: {"description": "Loading, or draining."}})
    async def readyz(response: Response) -> dict[str, Any]:
        """Requests are answered. 503 while models load, and from SIGTERM on."""
        if not status.ready:
            response.status_code = 503
        state = "draining" if status.draining else "ready" if status.started else "loading"
        return {"status": state, "failed": status.failed}

    @app.get("/metrics", tags=["server"], response_class=Response)
    async def metrics_page() -> Response:
        """Prometheus metrics."""
        return Response(metrics(), media_type="text/plain; version=0.0.4; charset=utf-8")


def _map_errors(app: FastAPI, templates: Sequence[str]) -> None:
    def reply(request: Request, error: HansangError) -> Response:
        written = render(error, request.url.path)
        headers = {name.decode(): value.decode() for name, value in written.headers}
        return Response(written.body, written.status, headers, media_type=written.content_type.decode())

    @app.exception_handler(HansangError)
    async def ours(request: Request, exc: HansangError) -> Response:
        return reply(request, exc)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, exc: RequestValidationError) -> Response:
        fault = exc.errors()[0]
        where = ".".join(str(part) for part in fault["loc"][1:]) or str(fault["loc"][0])
        message = f"{where}: {fault['msg']}, got {fault.get('input')!r}."
        return reply(request, InvalidInput(message, hint="GET /docs shows what this route takes.", param=where))

    @app.exception_handler(HTTPException)
    async def starlette(request: Request, exc: HTTPException) -> Response:
        path, method = request.scope["path"], request.method
        path = path.removeprefix(request.scope.get("root_path", ""))
        if exc.status_code == 404 and exc.detail == "Not Found":
            paths = [route.path for route in app.routes if isinstance(route, Route)]
            return reply(request, unknown_path(method, path, [*paths, *templates]))
        if exc.status_code == 405:
            base = str(request.base_url).rstrip("/")
            return reply(request, wrong_method(method, path, _allowed(app, request), base))
        error = HansangError(str(exc.detail), headers=exc.headers)
        error.status = exc.status_code
        return reply(request, error)


def _allowed(app: FastAPI, request: Request) -> list[str]:
    methods: set[str] = set()
    for route in app.routes:
        if isinstance(route, Route) and route.matches(request.scope)[0] is not Match.NONE:
            methods |= route.methods or set()
    return sorted(methods - {"HEAD"})


def openapi_document(app: FastAPI, adapters: Sequence[ProtocolAdapter], secured: bool) -> dict[str, Any]:
    """One document for both planes, made for the models that are loaded now."""
    document = get_openapi(
        title="hansang",
        version=__version__,
        description="Every model on the table. Data-plane operations are typed by the models that are loaded.",
        routes=app.routes,
    )
    components: dict[str, Any] = document.setdefault("components", {})
    components.setdefault("schemas", {})["Error"] = _ERROR_SCHEMA
    components["responses"] = {
        "Error": {
            "description": "What happened, what was expected, and what to do next.",
            "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
        }
    }
    for adapter in adapters:
        part: Mapping[str, Any] = adapter.openapi()
        document["paths"].update(part.get("paths", {}))
        components["schemas"].update(part.get("components", {}).get("schemas", {}))
    if secured:
        components["securitySchemes"] = {"key": {"type": "http", "scheme": "bearer"}}
        document["security"] = [{"key": []}]
    return document


_ERROR_SCHEMA = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["message", "type", "param", "code", "hint"],
            "properties": {
                "message": {"type": "string"},
                "type": {"type": "string"},
                "param": {"type": ["string", "null"]},
                "code": {"type": ["string", "null"]},
                "hint": {"type": ["string", "null"], "description": "What to do next."},
            },
        }
    },
}
