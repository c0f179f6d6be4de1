"""The application around the API: pages and errors of this program."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from fastapi import FastAPI
from fastapi.responses import FileResponse

from unity.apps.serving import FRESH, Page, dress
from unity.apps.web import api, dataset, training
from unity.apps.web.inputs import TooLarge
from unity.apps.web.options import Options
from unity.apps.web.service import Service
from unity.apps.web.store import Full

STATIC = Path(__file__).parent / "static"

# address → page; the first one, with its form, is index.html
PAGES = {
    "/jobs/{name}": Page("job", "A job – unity-video", "Loading the job …"),
    "/compare": Page("compare", "Compare – unity-video", "Loading the jobs …"),
    "/training": Page("training", "Training – unity-video", "Loading the run …"),
    "/dataset": Page("dataset", "Dataset – unity-video", "Loading the dataset …"),
    "/api": Page("api", "API – unity-video", "Loading the description …"),
}


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
    dress(app, STATIC, PAGES, options.token, {TooLarge: 413, Full: 429})
    return app


async def _index() -> FileResponse:
    return FileResponse(STATIC / "index.html", headers=FRESH)
