"""Signing in from a browser: a small page of its own that asks for a key, and the session's cookie.

Pictures in a page are asked for without headers of its own, so a cookie must carry the session. It
cannot be read by scripts (HttpOnly) and no other site's requests carry it (SameSite=Strict).
"""

from __future__ import annotations

import base64
import hashlib
import html
from collections.abc import Callable
from http import HTTPStatus
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import Response

from mmsearch.errors import MmsearchError
from mmsearch.serve.forwarded import prefix_of, to_root
from mmsearch.serve.problems import documented, keys_unreadable

if TYPE_CHECKING:
    from mmsearch.serve.access import Gate

LOGIN_PATH = "/v1/login"
_MAX_KEY = 200
_MAX_NEXT = 8000

#: In the page's own colours and letters (page/style.css), which need a key to be fetched.
_STYLE = """
:root { color-scheme: light dark; font: 16px/1.5 system-ui, sans-serif;
  --paper: #f7f5f0; --raised: #fffdf8; --ink: #1d1b18; --line: #8c857a; --mark: #b5381c; }
@media (prefers-color-scheme: dark) { :root {
  --paper: #151412; --raised: #1e1c19; --ink: #ece8e0; --line: #7d766b; --mark: #ff8a6b; } }
body { margin: 0; min-height: 100vh; display: grid; place-items: center;
  background: var(--paper); color: var(--ink); }
main { width: min(23rem, 88vw); padding-bottom: 12vh; }
h1 { font: italic 2.4rem/1.2 Palatino, Georgia, "Noto Serif", serif; margin: 0 0 1.6rem; }
label { display: block; margin-bottom: .5rem; }
input, button { font: inherit; color: inherit; padding: .6rem .8rem; border-radius: 0; }
input { width: 100%; box-sizing: border-box; background: var(--raised);
  border: 1px solid var(--line); }
button { margin-top: 1rem; padding-inline: 1.4rem; cursor: pointer; border: 0;
  background: var(--ink); color: var(--paper); }
button:hover { background: var(--mark); }
:focus-visible { outline: 3px solid var(--mark); outline-offset: 2px; }
[role=alert] { color: var(--mark); }
"""
_STYLE_HASH = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
_POLICY = (
    f"default-src 'none'; style-src 'sha256-{_STYLE_HASH}'; form-action 'self'; base-uri 'none'; "
    "frame-ancestors 'none'"
)
_PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Sign in – mmsearch</title>
<style>{style}</style>
</head>
<body>
<main>
<h1>mmsearch</h1>
<form method="post" action="{action}">
{alert}<label for="key">This library asks for a key.</label>
<input id="key" name="key" type="password" autocomplete="current-password" required autofocus
 maxlength="{max_key}">
<input type="hidden" name="next" value="{next}">
<button>Sign in</button>
</form>
</main>
</body>
</html>
"""


def asks_for_page(method: str, headers: Headers) -> bool:
    """Whether a person asks with a browser, and not a script or a program."""
    mode = headers.get("sec-fetch-mode")
    wants_page = "text/html" in headers.get("accept", "")
    return method in ("GET", "HEAD") and wants_page and mode in (None, "navigate")


def login_page(
    root: str,
    next_: str,
    alert: str = "",
    status: int = HTTPStatus.UNAUTHORIZED,
    wait: str | None = None,
) -> Response:
    """The page that asks for a key. root: the relative address of the service's "/" from where it
    is shown; next_: where to go then; alert: what was wrong before."""
    page = _PAGE.format(
        style=_STYLE,
        action=root + LOGIN_PATH.removeprefix("/"),
        max_key=_MAX_KEY,
        next=html.escape(safe_path(next_)),
        alert=f'<p role="alert">{html.escape(alert)}</p>\n' if alert else "",
    )
    headers = {
        "Content-Security-Policy": _POLICY,
        # Where nothing is told at all, browsers send "Origin: null" with a form, which is refused.
        "Referrer-Policy": "same-origin",
        "Cache-Control": "no-store",
    }
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = 'Bearer realm="mmsearch"'
    if wait is not None:
        headers["Retry-After"] = wait
    return HTMLResponse(page, status, headers=headers)


def safe_path(path: str) -> str:
    """`path` where it leads to this service and nowhere else; "/" otherwise."""
    plain = path.isascii() and path.isprintable() and "\\" not in path
    fits = path.startswith("/") and not path.startswith("//") and len(path) <= _MAX_NEXT
    # Below a path, ".." leads to what else is at the same host.
    steps = path.partition("?")[0].partition("#")[0].lower().replace("%2e", ".").split("/")
    return path if plain and fits and not {".", ".."} & set(steps) else "/"


def add_routes(
    routes: APIRouter, gate: Gate, cookie_name: Callable[[Request], str], max_age_s: int
) -> None:
    """Adds the routes that begin and end a browser's session."""

    @routes.post(
        LOGIN_PATH,
        tags=["keys"],
        summary="Show a key once, and get a cookie for it",
        response_class=RedirectResponse,
        status_code=HTTPStatus.SEE_OTHER,
        responses=documented(
            HTTPStatus.BAD_REQUEST,
            HTTPStatus.UNAUTHORIZED,
            HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
            HTTPStatus.UNPROCESSABLE_ENTITY,
            HTTPStatus.TOO_MANY_REQUESTS,
            HTTPStatus.SERVICE_UNAVAILABLE,
        ),
    )
    async def login(
        request: Request,
        key: Annotated[str, Form(min_length=1, max_length=_MAX_KEY)],
        next: Annotated[str, Form(max_length=_MAX_NEXT, description="where to go then")] = "/",
    ) -> Response:
        address = request.client.host if request.client else ""
        try:
            found = gate.check(key.strip(), address)
        except MmsearchError as exc:
            return keys_unreadable(exc, LOGIN_PATH)
        except HTTPException as exc:
            if "text/html" not in request.headers.get("accept", ""):
                raise
            wait = (exc.headers or {}).get("Retry-After")
            alert = f"Too many wrong keys: wait {wait} s." if wait else "This key is not known."
            return login_page(to_root(request.scope), next, alert, exc.status_code, wait)
        # Relative: what a proxy may have taken off the path is before it still.
        where = to_root(request.scope) + safe_path(next).removeprefix("/")
        response = RedirectResponse(where, HTTPStatus.SEE_OTHER)
        _set(response, request, cookie_name(request), gate.session(found), max_age_s)
        return response

    @routes.post(
        "/v1/logout",
        tags=["keys"],
        summary="End the browser's session",
        response_class=RedirectResponse,
        status_code=HTTPStatus.SEE_OTHER,
    )
    async def logout(request: Request) -> Response:
        response = RedirectResponse(to_root(request.scope), HTTPStatus.SEE_OTHER)
        _set(response, request, cookie_name(request), "", 0)
        return response


def _set(response: Response, request: Request, name: str, value: str, max_age_s: int) -> None:
    response.set_cookie(
        name,
        value,
        max_age=max_age_s,
        path=prefix_of(request.scope) or "/",
        httponly=True,
        samesite="strict",
        # A proxy in front may speak TLS with the browser, and say so; the page's own origin tells,
        # too.
        secure=request.url.scheme == "https"
        or request.headers.get("origin", "").startswith("https://"),
    )
