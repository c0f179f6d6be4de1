"""Who may come in: this machine, or who knows the token; no other site's pages, and no site by another name."""

import secrets
from http.cookies import CookieError, SimpleCookie
from ipaddress import ip_address
from urllib.parse import parse_qsl, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "unity-token"
# where long bodies may go, which bounds them itself, and the bytes of any other
UPLOADS, _MOST_BODY = "/api/inputs", 1 << 20
# nothing from elsewhere, nothing inside other pages, nothing that a result's bytes could be taken for
HEADERS = {
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
        "media-src 'self' blob:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=(), display-capture=()",
}


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class Guard:
    """Around the whole application."""

    def __init__(self, app: ASGIApp, token: str | None):
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self.app(scope, receive, send)
        elif scope["type"] == "http":
            answer = self._answer(scope)
            await (answer or self.app)(scope, receive, _with_headers(send))

    def _answer(self, scope: Scope) -> Response | None:
        """What is said in place of the application, if anything."""
        headers = Headers(scope=scope)
        if refused := _refusal(scope["method"], headers, named=self.token is None):
            return JSONResponse({"detail": refused}, 403)
        if scope["path"] != UPLOADS and _is_long(headers):
            return JSONResponse({"detail": f"a request has up to {_MOST_BODY:,} bytes, and says how many"}, 413)
        if self.token is None:
            return None
        query = dict(parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True))
        if scope["method"] == "GET" and self._fits(query.pop("token", "")):
            address = scope["path"] + (f"?{urlencode(query)}" if query else "")
            # a path of two slashes would name another host
            answer = RedirectResponse("/" + address.lstrip("/"), 303)
            answer.set_cookie(COOKIE, self.token, httponly=True, samesite="lax", max_age=30 * 86400)
            return answer
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._fits(bearer) or self._fits(_cookie(headers)):
            return None
        return JSONResponse({"detail": "open the address that the program printed: it carries the token"}, 401)

    def _fits(self, token: str) -> bool:
        return self.token is not None and secrets.compare_digest(token.encode(), self.token.encode())


def _refusal(method: str, headers: Headers, named: bool) -> str | None:
    """Why a request is another site's, or comes by a name that is not this machine's; else None."""
    host = headers.get("host", "")
    # a name that somebody points at this machine would make their page ours
    if named and not is_loopback(urlsplit(f"//{host}").hostname or ""):
        return "this page is served to this machine alone; open it as localhost, or start it with --host"
    origin = headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != host:
        return "another site's page asks for this"
    site, mode = headers.get("sec-fetch-site", "none"), headers.get("sec-fetch-mode")
    opens = method in ("GET", "HEAD") and mode == "navigate" and headers.get("sec-fetch-dest") == "document"
    if site not in ("none", "same-origin") and not opens:
        return "another site's page asks for this"
    return None


def _is_long(headers: Headers) -> bool:
    length = headers.get("content-length", "0")
    return "transfer-encoding" in headers or not length.isdecimal() or int(length) > _MOST_BODY


def _cookie(headers: Headers) -> str:
    try:
        found = SimpleCookie(headers.get("cookie", "")).get(COOKIE)
    except CookieError:
        return ""
    return found.value if found else ""


def _with_headers(send: Send) -> Send:
    async def sending(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            for name, value in HEADERS.items():
                headers[name] = value
        await send(message)

    return sending
