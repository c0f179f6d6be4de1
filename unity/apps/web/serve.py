"""The application around the API: pages, guard, errors in one sentence; and the server that runs it."""

import secrets
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import NamedTuple

import uvicorn
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse
from fastapi.staticfiles import StaticFiles

from unity.apps.web import api, dataset, training
from unity.apps.web.guard import Guard, is_loopback
from unity.apps.web.inputs import TooLarge
from unity.apps.web.options import Options
from unity.apps.web.service import Service
from unity.apps.web.store import Full
from unity.command import check_bounds, sentence

STATIC = Path(__file__).parent / "static"


class Page(NamedTuple):
    """A page that its script fills: `script`.js, and the words until it has."""

    script: str
    title: str
    words: str


# address → page; the first one, with its form, is index.html
PAGES = {
    "/jobs/{name}": Page("job", "A job", "Loading the job …"),
    "/compare": Page("compare", "Compare", "Loading the jobs …"),
    "/training": Page("training", "Training", "Loading the run …"),
    "/dataset": Page("dataset", "Dataset", "Loading the dataset …"),
    "/api": Page("api", "API", "Loading the description …"),
}
_FRESH = {"cache-control": "no-cache"}


def application(options: Options) -> FastAPI:
    """The application; its jobs run from start-up to shut-down."""
    runs = tuple(map(training.check_run, options.run))
    routes = dataset.router(options.data)
    service = Service(options)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        service.open()
        yield
        service.close()

    # its own page of the API would load scripts from elsewhere
    app = FastAPI(title="unity-video", version="1", lifespan=life, docs_url=None, redoc_url=None)
    app.include_router(api.router(service))
    app.include_router(training.router(runs))
    app.include_router(routes)
    app.get("/", include_in_schema=False, response_class=FileResponse)(_index)
    for address, page in PAGES.items():
        app.get(address, include_in_schema=False, response_class=HTMLResponse)(_page(page))
    app.mount("/static", StaticFiles(directory=STATIC))
    _tell_errors(app)
    app.add_middleware(Guard, token=options.token)
    return app


def serve(options: Options) -> None:
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


def listen(options: Options) -> socket.socket:
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


async def _index() -> FileResponse:
    return FileResponse(STATIC / "index.html", headers=_FRESH)


def _page(page: Page):
    html = Template((STATIC / "page.html").read_text(encoding="utf-8")).substitute(page._asdict())

    async def answer() -> HTMLResponse:
        return HTMLResponse(html, headers=_FRESH)

    return answer


def _tell_errors(app: FastAPI) -> None:
    codes = {TooLarge: 413, Full: 429, ValueError: 400, KeyError: 404}
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
