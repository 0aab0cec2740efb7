"""The pages that show `/openapi.json` to people: Swagger UI at `/docs`, Redoc at `/redoc`, and the files they need.

All files lie in `static/`, those of others under `static/vendor/` as published, with their hashes in `vendor.json`.
The pages fetch nothing from anywhere else, and their Content-Security-Policy holds them to that. What the document
says is not here, but in `control`.
"""

from __future__ import annotations

from pathlib import Path
from secrets import token_urlsafe

from fastapi import FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from starlette.staticfiles import StaticFiles

STATIC = Path(__file__).parent / "static"
SWAGGER = "static/vendor/swagger-ui-dist-5.35.0"
REDOC = "static/vendor/redoc-2.5.4"

# Addresses are relative to the page, so that it works wherever the server is mounted.
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>hansang: API</title>
<link rel="icon" href="static/icon.svg">
{head}
</head>
<body data-secured="{secured}">
<div id="ui"></div>
</body>
</html>
"""
_SWAGGER_HEAD = f"""<link rel="stylesheet" href="{SWAGGER}/swagger-ui.css">
<link rel="stylesheet" href="static/docs/docs.css">
<script defer src="{SWAGGER}/swagger-ui-bundle.js"></script>
<script type="module" src="static/docs/swagger.js"></script>"""
_REDOC_HEAD = f"""<link rel="stylesheet" href="static/docs/docs.css">
<script nonce="{{nonce}}" defer src="static/docs/before-redoc.js"></script>
<script defer src="{REDOC}/redoc.standalone.js"></script>
<script type="module" src="static/docs/redoc.js"></script>"""

_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'{styles}; connect-src 'self'; font-src 'self'; "
    "img-src 'self' data: blob:; media-src blob:;{workers} base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".json": "application/json",
    ".svg": "image/svg+xml",
}
_FOREVER = "public, max-age=31536000, immutable"


def add_docs(app: FastAPI, *, secured: bool) -> None:
    """Give `app` the pages. `secured`: they ask for the key before they fetch the document."""
    swagger = _PAGE.format(head=_SWAGGER_HEAD, secured=str(secured).lower())
    redoc = _PAGE.format(head=_REDOC_HEAD, secured=str(secured).lower())
    files = StaticFiles(directory=STATIC)

    @app.get("/docs", include_in_schema=False)
    async def docs() -> Response:
        return _page(swagger, _POLICY.format(styles="", workers=""))

    @app.get("/redoc", include_in_schema=False)
    async def redoc_page() -> Response:
        # Redoc writes its own styles, and searches in a worker made of a blob.
        nonce = token_urlsafe(16)
        policy = _POLICY.format(styles=f" 'nonce-{nonce}'", workers=" worker-src blob:;")
        return _page(redoc.replace("{nonce}", nonce), policy)

    @app.get("/static/{path:path}", include_in_schema=False)
    async def static(request: Request, path: str) -> Response:
        response = await files.get_response(path, request.scope)
        response.headers["cache-control"] = _FOREVER if _is_versioned(path) else "no-cache"
        response.headers["x-content-type-options"] = "nosniff"
        if response.status_code == 200:
            response.headers["content-type"] = _TYPES.get(Path(path).suffix, "text/plain; charset=utf-8")
        return response


def _page(html: str, policy: str) -> Response:
    headers = {
        "cache-control": "no-store" if "nonce-" in policy else "no-cache",
        "content-security-policy": policy,
        "referrer-policy": "no-referrer",
        "x-content-type-options": "nosniff",
    }
    return HTMLResponse(html, headers=headers)


def _is_versioned(path: str) -> bool:
    """Whether the file's folder names its version, so that it never changes."""
    parts = path.split("/")
    return len(parts) == 3 and parts[0] == "vendor"
