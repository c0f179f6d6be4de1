"""The page of a study and its HTTP API, in which nothing tells a model.

Videos have made-up names, one encoder and one time stamp; choices are places on the page; what is a check is not
said; and codes of raters are theirs alone.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Annotated

import fastapi
from fastapi import APIRouter, FastAPI
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field

from unity.apps.serving import Page, dress
from unity.apps.study.design import QUESTIONS
from unity.apps.study.options import Options
from unity.apps.study.store import VIDEOS, Store

STATIC = Path(__file__).parent / "static"
PAGES = {"/": Page("study", "Which video is better?", "Loading the study …")}

Code = Annotated[str, fastapi.Path(pattern="^[0-9a-f]{12}$")]
Id = Annotated[str, fastapi.Path(pattern="^[0-9a-f]{16}$")]


class Vote(BaseModel):
    """Answers to all questions about the comparison at a place: the chosen video's place from 0, or null."""

    model_config = ConfigDict(extra="forbid")

    place: Annotated[int, Field(ge=0, le=10_000)]
    choices: Annotated[dict[str, int | None], Field(max_length=len(QUESTIONS))]


def application(options: Options) -> FastAPI:
    """The application of the study in --out; ValueError where there is none, or it has lost videos."""
    store, folder = Store(options.out), options.out / VIDEOS
    lost = [name for name in sorted(store.videos()) if not (folder / f"{name}.mp4").is_file()]
    if lost:
        store.close()
        raise ValueError(f"{folder} has lost {len(lost)} videos, {lost[0]}.mp4 the first; bring a copy back")

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        store.close()

    app = FastAPI(title="A study", version="1", lifespan=life, docs_url=None, redoc_url=None)
    app.include_router(_raters(store))
    app.include_router(_videos(store.videos(), folder))
    dress(app, STATIC, PAGES, options.token, {})
    return app


def _raters(store: Store) -> APIRouter:
    routes = APIRouter(prefix="/api")

    @routes.get("/study")
    def study() -> dict:
        """The questions, how many videos a comparison has, and whether anybody may vote."""
        design = store.design
        asked = [{"name": name, **QUESTIONS[name]._asdict()} for name in design.questions]
        return {"questions": asked, "videos": design.at_once, "open": not design.invite}

    @routes.post("/raters", status_code=201)
    def enter() -> dict:
        """A new rater's code, by which votes are told apart, and a rater goes on elsewhere."""
        return {"code": store.enter()}

    @routes.get("/raters/{code}")
    def rater(code: Code) -> dict:
        """How many comparisons are done, of how many, and the next one."""
        done, total, following = store.standing(code)
        if following is None:
            return {"done": done, "total": total, "next": None}
        prompt = store.design.prompts[following.comparison.clip]
        shown = {"place": following.place, "prompt": prompt, "videos": following.videos}
        return {"done": done, "total": total, "next": shown}

    @routes.post("/raters/{code}/votes", status_code=201)
    def vote(code: Code, vote: Vote) -> dict:
        """Vote once; the answer is what GET would say afterwards."""
        store.vote(code, vote.place, vote.choices)
        return rater(code)

    return routes


def _videos(names: set[str], folder: Path) -> APIRouter:
    routes = APIRouter(prefix="/api")

    @routes.get("/videos/{name}", response_class=FileResponse)
    def video(name: Id) -> FileResponse:
        """A video by its made-up name."""
        if name not in names:
            raise KeyError(name)
        kept = {"cache-control": "private, max-age=86400, immutable"}
        return FileResponse(folder / f"{name}.mp4", media_type="video/mp4", headers=kept)

    return routes
