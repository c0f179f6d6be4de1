"""What programs with a page share: files, pages, guard, errors in one sentence, and the server that runs them."""

import secrets
import socket
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import NamedTuple, TypeVar

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from unity.apps.guard import Guard, is_loopback
from unity.apps.listening import Listening
from unity.command import check_bounds, sentence

# style, page and script of all programs
SHARED = Path(__file__).parent / "static"
FRESH = {"cache-control": "no-cache"}

Options = TypeVar("Options", bound=Listening)


class Page(NamedTuple):
    """A page that its script fills: `script`.js, and the words until it has."""

    script: str
    title: str
    words: str


def dress(
    app: FastAPI, static: Path, pages: Mapping[str, Page], token: str | None, codes: Mapping[type[Exception], int]
) -> None:
    """Add to an API its pages by address, files (its own in `static`, and the shared ones), errors and guard.

    `codes`: HTTP's status for errors that are told in their own sentence; ValueError is 400, KeyError 404.
    """
    for address, page in pages.items():
        app.get(address, include_in_schema=False, response_class=HTMLResponse)(_page(page))
    files = StaticFiles(directory=static)
    files.all_directories.append(SHARED)
    app.mount("/static", files)
    _tell_errors(app, {**codes, ValueError: 400, KeyError: 404})
    app.add_middleware(Guard, token=token)


def serve(application: Callable[[Options], FastAPI], options: Options) -> None:
    """Serve until Ctrl-C; ValueError, before anything is served, for what cannot be."""
    check_bounds(options)
    if options.token is None and not is_loopback(options.host):
        options = replace(options, token=secrets.token_urlsafe(18))
    app, listening = application(options), listen(options)
    port = listening.getsockname()[1]
    name = options.host if options.host not in ("0.0.0.0", "::") else socket.gethostname()
    address = f"http://{f'[{name}]' if ':' in name else name}:{port}/"
    print(f"open {address}{f'?token={options.token}' if options.token else ''} (Ctrl-C ends)", flush=True)
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=2, server_header=False)
    uvicorn.Server(config).run([listening])


def listen(options: Listening) -> socket.socket:
    """A socket, which the client of port 0 is told."""
    try:
        family = socket.getaddrinfo(options.host, options.port, type=socket.SOCK_STREAM)[0]
        listening = socket.socket(family[0], socket.SOCK_STREAM)
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind(family[4])
        # whoever comes before the server has started waits
        listening.listen(1024)
    except OSError as error:
        raise ValueError(
            f"nothing can listen at {options.host}, port {options.port}: {error.strerror or error}; give another "
            f"--host or --port"
        ) from error
    return listening


def _page(page: Page):
    html = Template((SHARED / "page.html").read_text(encoding="utf-8")).substitute(page._asdict())

    async def answer() -> HTMLResponse:
        return HTMLResponse(html, headers=FRESH)

    return answer


def _tell_errors(app: FastAPI, codes: Mapping[type[Exception], int]) -> None:
    for kind, code in codes.items():
        app.add_exception_handler(kind, _teller(code))
    app.add_exception_handler(OSError, _teller(500))
    app.add_exception_handler(RequestValidationError, _invalid)


def _teller(code: int):
    async def tell(request: Request, error: Exception) -> JSONResponse:
        words = "there is no such thing here" if isinstance(error, KeyError) else sentence(error)
        return JSONResponse({"detail": words}, code)

    return tell


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"][1:])
    return JSONResponse({"detail": f"{where}: {first['msg']}" if where else first["msg"]}, 422)
