"""GET / and the files of its page, which hold no data and so need no key.

They are read once, when the gateway starts. Nothing is looked up in the file system by what a
client asks for.
"""

from __future__ import annotations

from importlib.resources import files

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse

from edgeserve.gateway.edge.openapi import HTML, STRING, documented

MEDIA_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
# All that the page needs is its own origin. What workers and models say is shown on it, so a slip
# of our scripts must not become a script of theirs: the browser, too, refuses markup from strings.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; "
    "img-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; "
    "require-trusted-types-for 'script'; trusted-types 'none'"
)
HEADERS = {
    "Content-Security-Policy": CONTENT_SECURITY_POLICY,
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",  # the page and the gateway are of one version
}


def _media_types() -> dict[str, str]:
    """By the names of the files."""
    names = sorted(each.name for each in files(__package__).iterdir())
    kinds = {name: MEDIA_TYPES.get(name[name.rfind(".") :]) for name in names}
    return {name: kind for name, kind in kinds.items() if kind is not None}


FILES = {f"/dashboard/{name}": kind for name, kind in _media_types().items()}
ICONS = {"/favicon.ico": "icon.svg"}
"""Where browsers look on other pages than this one."""
PAGES = {"/": "index.html", "/docs": "docs.html"}
OPEN_PATHS = frozenset({*PAGES, *ICONS, *FILES})
"""Reachable without a key: the page asks for it."""


def dashboard_routes() -> APIRouter:
    router = APIRouter(tags=["dashboard"])
    for path, media_type in FILES.items():
        _add(router, path, path.rpartition("/")[2], media_type)
    for path, name in ICONS.items():
        _add(router, path, name, FILES[f"/dashboard/{name}"])
    for path, name in PAGES.items():
        _add(router, path, name, MEDIA_TYPES[".html"])
    return router


def _add(router: APIRouter, path: str, name: str, media_type: str) -> None:
    body = files(__package__).joinpath(name).read_bytes()

    async def dashboard(_request: Request) -> Response:
        """A page for people: the dashboard, or at /docs the routes that there are."""
        return Response(body, media_type=media_type, headers=HEADERS)

    if path not in PAGES:
        router.add_route(path, dashboard, include_in_schema=False)
        return
    router.add_api_route(
        path,
        dashboard,
        response_class=HTMLResponse,
        responses=documented(path, (), {HTML: STRING}),
    )
