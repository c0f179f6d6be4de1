"""The HTTP API: submit, status, result, cancel; inputs and models. /openapi.json describes it, /api shows that."""

import tempfile
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field
from starlette.background import BackgroundTask

from unity.apps.web import shown
from unity.apps.web.ask import Ask
from unity.apps.web.models import MOST_STEPS
from unity.apps.web.names import SAMPLER_NAMES, JobId, Name, Source
from unity.apps.web.service import Service
from unity.data.clips import SOURCES
from unity.extras import MissingExtra, require
from unity.files import json_text
from unity.modality.table import MODALITIES
from unity.tasks import TASKS

# what a job wrote never changes
KEPT = {"cache-control": "private, max-age=31536000, immutable"}


class Scene(BaseModel):
    """A clip of the simulated world."""

    model_config = ConfigDict(extra="forbid")

    source: Source = "single_person"
    seed: Annotated[int, Field(ge=0, le=2**31)] = 0
    frames: Annotated[int, Field(ge=2, le=129)] = 33
    size: Annotated[int, Field(ge=16, le=512, description="height and width in pixels")] = 128


class Stream(BaseModel):
    """A video of a job's results."""

    model_config = ConfigDict(extra="forbid")

    job: Annotated[str, Field(pattern="^[0-9a-f]{12}$")]
    modality: Name
    stream: Annotated[str, Field(max_length=20)]


def router(service: Service) -> APIRouter:
    """All routes below /api."""
    routes = APIRouter(prefix="/api")
    _about(routes, service)
    _inputs(routes, service)
    _jobs(routes, service)
    _results(routes, service)
    return routes


def _about(routes: APIRouter, service: Service) -> None:
    @routes.get("/options")
    def options() -> dict:
        """Tasks, modalities, samplers and models, with the bounds of their numbers."""
        bounds = service.options
        return {
            "tasks": {name: {"words": row.words, "noisy": row.noisy} for name, row in TASKS.items()},
            "modalities": {name: {"meaning": row.meaning} for name, row in MODALITIES.items()},
            "samplers": SAMPLER_NAMES,
            "models": [model.describe() for model in service.models().values()],
            "sources": SOURCES,
            "simulates": _missing("simulate"),
            "steps": {"most": MOST_STEPS},
            "most": {
                "megabytes": bounds.most_megabytes, "frames": bounds.most_frames, "pixels": bounds.most_pixels,
            },
            "pages": {"run": bool(bounds.run), "data": bool(bounds.data)},
        }  # fmt: skip


def _missing(extra: str) -> str | None:
    """Why something cannot be done here, if it cannot."""
    try:
        require(extra)
    except MissingExtra as error:
        return str(error)
    return None


def _inputs(routes: APIRouter, service: Service) -> None:
    inputs = service.inputs

    @routes.get("/inputs")
    def known_inputs() -> list[dict]:
        """The videos that jobs can start from, the newest first; `people` comes with the package."""
        return inputs.known()

    @routes.post("/inputs", status_code=201)
    async def send_input(request: Request, name: Annotated[str, Query(max_length=400)] = "video") -> dict:
        """Send a video: its bytes are the body. It is read by a process of its own before it is kept."""
        return await inputs.receive(name, request.stream())

    @routes.post("/inputs/simulated", status_code=201)
    async def simulate_input(scene: Scene) -> dict:
        """Film a clip of the simulated world, with its exact views."""
        require("simulate")
        return await inputs.film(scene.source, scene.seed, scene.frames, scene.size)

    @routes.post("/inputs/result", status_code=201)
    async def adopt_input(stream: Stream) -> dict:
        """Take a video of a job's results as an input."""
        job = service.store.get(stream.job)
        path = shown.file(service.jobs / job.id, stream.modality, f"{stream.stream}.mp4")
        return await inputs.adopt(path, f"{stream.stream} of job {job.number}")

    @routes.get("/inputs/{name}")
    def about_input(name: str) -> dict:
        """What is known of an input: name, frames, size (height, width), frames a second, notes."""
        return inputs.get(name)

    @routes.get("/inputs/{name}/video", response_class=FileResponse)
    def show_input(name: str, view: Name | None = None) -> FileResponse:
        """The video as browsers play it; of a simulated clip also an exact `view`."""
        return FileResponse(inputs.shown(name, view), media_type="video/mp4", headers=KEPT)


def _jobs(routes: APIRouter, service: Service) -> None:
    store = service.store

    @routes.post("/jobs", status_code=201)
    async def submit(ask: Ask, request: Request) -> dict:
        """Queue a job."""
        return service.submit(ask, request.client.host if request.client else "")

    @routes.get("/jobs")
    async def list_jobs(
        most: Annotated[int, Query(ge=1, le=200)] = 50, before: Annotated[int | None, Query(ge=0)] = None
    ) -> list[dict]:
        """The newest jobs first; `before` a number: older ones."""
        return [service.status(job) for job in store.newest(most, before)]

    @routes.get("/jobs/{name}", response_class=JSONResponse)
    async def job(name: JobId) -> Response:
        """Where a job stands; when it is done, its results, their files and the command lines that make them."""
        return Response(service.told(name), media_type="application/json")

    @routes.post("/jobs/{name}/cancel")
    async def cancel(name: JobId) -> dict:
        """End a job that waits or runs."""
        service.runner.cancel(store.get(name).id)
        return service.status(store.get(name))

    @routes.delete("/jobs/{name}", status_code=204)
    def remove(name: JobId) -> None:
        """Forget a job that does not run, and its files."""
        service.remove(store.get(name))

    @routes.get("/events", response_class=StreamingResponse)
    async def events(job: Annotated[str | None, Query(pattern="^[0-9a-f]{12}$")] = None) -> StreamingResponse:
        """Server-sent events: every job that runs or waits, then each change; of one `job`, until it has ended."""
        if job is not None:
            store.get(job)
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        return StreamingResponse(service.feed.listen(job), media_type="text/event-stream", headers=headers)

    @routes.get("/jobs/{name}/preview", response_class=Response)
    async def preview(name: JobId) -> Response:
        """What the running job would end in now: a PNG, a row of frames for each stream."""
        live = service.runner.live.get(name)
        if live is None or live.preview is None:
            raise KeyError(name)
        return Response(live.preview, media_type="image/png", headers={"cache-control": "no-store"})


def _results(routes: APIRouter, service: Service) -> None:
    store = service.store

    @routes.get("/jobs/{name}/files/{modality}/{file:path}", response_class=FileResponse)
    def result_file(name: JobId, modality: Name, file: str) -> FileResponse:
        """A file that the job's record lists, or the record, run.json."""
        path = shown.file(service.jobs / store.get(name).id, modality, file)
        return FileResponse(path, headers=KEPT | {"content-security-policy": "sandbox; default-src 'none'"})

    @routes.get("/jobs/{name}/values/{modality}", response_class=Response)
    def values(name: JobId, modality: Name) -> Response:
        """The modality's values as little-endian numbers [t, h, w, c]; the header `values` says which, as JSON."""
        data, about = shown.values(service.jobs / store.get(name).id, modality)
        headers = KEPT | {"values": json_text(about, None)}
        return Response(data, media_type="application/octet-stream", headers=headers)

    @routes.get("/jobs/{name}/all.zip", response_class=FileResponse)
    def all_files(name: JobId) -> FileResponse:
        """All files of a job in one archive."""
        job = store.get(name)
        with tempfile.NamedTemporaryFile(suffix=".zip", delete=False) as file:
            path = Path(file.name)
        shown.archive(service.jobs / job.id, path)
        gone = BackgroundTask(path.unlink, missing_ok=True)
        return FileResponse(path, filename=f"job-{job.number}.zip", media_type="application/zip", background=gone)
