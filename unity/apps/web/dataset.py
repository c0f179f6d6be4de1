"""Datasets to look through: clips by source and modality, what is drawn over what, words, and rows left out."""

import csv
import io
import itertools
import tempfile
from functools import lru_cache
from pathlib import Path
from typing import Annotated

import numpy as np
from fastapi import APIRouter, Query
from fastapi.responses import Response
from PIL import Image

from unity.apps.web.names import Name, Source, Stream
from unity.data.clips import MODALITY_NAMES, Clip
from unity.data.shards import Shards, open_shards
from unity.data.video import write_video
from unity.files import json_text

REFUSED = "refused.csv"
KEPT = {"cache-control": "private, max-age=3600"}
# entries of a clip's meta, and characters of each, that the page shows
_MOST_META, _MOST_WORDS = 40, 300


def router(folders: tuple[Path, ...]) -> APIRouter:
    """Routes below /api/datasets; a dataset is named by its place among `folders`."""
    routes = APIRouter(prefix="/api/datasets")
    opened = [open_shards(folder) for folder in folders]
    # before anybody asks: a damaged dataset is refused at the start
    tables = [shards.available for shards in opened]

    def dataset(number: int) -> Shards:
        if not 0 <= number < len(opened):
            raise KeyError(number)
        return opened[number]

    @lru_cache(maxsize=8)
    def clip(number: int, source: str, index: int, stream: str) -> Clip:
        return dataset(number).clip(source, index, (stream,))

    @routes.get("")
    def list_datasets() -> list[dict]:
        """The datasets: frames, size (height, width), rate, and per source how many clips have what."""
        return [_about(number, shards) for number, shards in enumerate(opened)]

    @routes.get("/{number}/clips")
    def clips(
        number: int,
        source: Source | None = None,
        modality: Annotated[Name | None, Query(description="only clips that have it")] = None,
        start: Annotated[int, Query(ge=0)] = 0,
        most: Annotated[int, Query(ge=1, le=500)] = 60,
    ) -> dict:
        """The clips of a source, or of all, from the `start`-th on, and how many there are."""
        dataset(number)
        wanted = [source] if source else list(tables[number])
        places = (place for name in wanted for place in _places(name, tables[number][name], modality))
        found = list(places)
        return {"count": len(found), "clips": list(itertools.islice(found, start, start + most))}

    @routes.get("/{number}/refused")
    def refused(number: int) -> list[dict]:
        """Rows that were left out when the dataset was made, and why."""
        path = dataset(number).folder / REFUSED
        if not path.is_file():
            return []
        with path.open(newline="", encoding="utf-8") as file:
            return list(itertools.islice(csv.DictReader(file), 10_000))

    @routes.get("/{number}/{source}/{index}")
    def about_clip(number: int, source: Source, index: int) -> dict:
        """A clip's name, caption, modalities, constants, and what else is known of it."""
        sample = dataset(number).sample(source, index)
        meta = dict(itertools.islice(sample["meta"].items(), _MOST_META))
        return {
            "name": sample["name"],
            "caption": sample["caption"],
            "fps": sample["fps"],
            "frames": dataset(number).about["frames"],
            "has": [name for name in MODALITY_NAMES if sample[name]],
            "constants": sample["constants"],
            "meta": {name: json_text(value, None)[:_MOST_WORDS] for name, value in meta.items()},
        }

    @routes.get("/{number}/{source}/{index}/{stream}.png", response_class=Response)
    def thumbnail(number: int, source: Source, index: int, stream: Stream) -> Response:
        """The middle frame: RGB, or a modality half over it."""
        found = clip(number, source, index, stream)
        if stream not in found.video:
            raise KeyError(stream)
        middle = len(found.video["rgb"]) // 2
        mixed = (found.video["rgb"][middle].astype(np.uint16) + found.video[stream][middle]) // 2
        data = io.BytesIO()
        Image.fromarray(mixed.astype(np.uint8)).save(data, format="png", compress_level=1)
        return Response(data.getvalue(), media_type="image/png", headers=KEPT)

    @routes.get("/{number}/{source}/{index}/{stream}.mp4", response_class=Response)
    def video(number: int, source: Source, index: int, stream: Stream) -> Response:
        """A stream of a clip as browsers play it."""
        found = clip(number, source, index, stream)
        if stream not in found.video:
            raise KeyError(stream)
        with tempfile.TemporaryDirectory() as scratch:
            path = write_video(found.video[stream], Path(scratch) / "clip.mp4", found.fps)
            return Response(path.read_bytes(), media_type="video/mp4", headers=KEPT)

    return routes


def _about(number: int, shards: Shards) -> dict:
    sources = {
        source: {"clips": len(flags), "has": dict(zip(MODALITY_NAMES, flags.sum(0).tolist(), strict=True))}
        for source, flags in shards.available.items()
    }
    facts = {name: shards.about[name] for name in ("frames", "size", "fps")}
    return {"number": number, "name": str(shards.folder), "sources": sources, **facts}


def _places(source: str, flags: np.ndarray, modality: str | None) -> list[dict]:
    """Source and index of the clips that have the modality."""
    column = None if modality is None else MODALITY_NAMES.index(modality)
    return [{"source": source, "index": index} for index, row in enumerate(flags) if column is None or row[column]]
