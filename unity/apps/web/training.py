"""Runs of training, as they go: what metrics.jsonl has come to, and the pictures."""

import json
import re
from pathlib import Path

from fastapi import APIRouter, Query
from fastapi.responses import FileResponse

METRICS = "metrics.jsonl"
# as training names them
_PICTURE = re.compile(r"step-\d{8}\.png").fullmatch
# bytes of metrics that one answer holds at most
_MOST = 4 << 20


def check_run(folder: Path) -> Path:
    """The folder of a run; ValueError for one that is none."""
    if not (folder / METRICS).is_file() and not (folder / "config.json").is_file():
        raise ValueError(
            f"{folder} is no run of training (no {METRICS}, no config.json); give the folder that "
            f"launchers/train.py names when it starts"
        )
    return folder


def router(runs: tuple[Path, ...]) -> APIRouter:
    """Routes below /api/runs; a run is named by its place among `runs`."""
    routes = APIRouter(prefix="/api/runs")

    def run(number: int) -> Path:
        if not 0 <= number < len(runs):
            raise KeyError(number)
        return runs[number]

    @routes.get("")
    def list_runs() -> list[dict]:
        """The runs that are watched: name, stage and steps."""
        return [
            {"number": number, "name": str(folder), **_configured(folder)} for number, folder in enumerate(runs)
        ]

    @routes.get("/{number}/metrics")
    def metrics(number: int, start: int = Query(default=0, ge=0)) -> dict:
        """The steps whose lines begin at the byte `start` or later; go on from `next`."""
        rows, following = read_metrics(run(number) / METRICS, start)
        return {"rows": rows, "next": following}

    @routes.get("/{number}/pictures")
    def pictures(number: int) -> list[str]:
        """Names of the pictures, in the order of their steps."""
        return _pictures(run(number))

    @routes.get("/{number}/pictures/{name}", response_class=FileResponse)
    def picture(number: int, name: str) -> FileResponse:
        """A picture: one row a modality, truth and samples beside each other."""
        if name not in _pictures(run(number)):
            raise KeyError(name)
        return FileResponse(run(number) / "pictures" / name, media_type="image/png")

    return routes


def read_metrics(path: Path, start: int) -> tuple[list[dict], int]:
    """Whole lines from the byte `start` on, and where the next one begins; all of them if the file has shrunk."""
    if not path.is_file():
        return [], 0
    with path.open("rb") as file:
        # a run that was resumed drops what it will do again
        start = start if start <= path.stat().st_size else 0
        file.seek(start)
        data = file.read(_MOST)
    whole = data[: data.rfind(b"\n") + 1]
    return [row for line in whole.splitlines() if (row := _row(line))], start + len(whole)


def _row(line: bytes) -> dict | None:
    """A step's numbers; None for a damaged line."""
    try:
        row = json.loads(line)
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("step"), int) else None


def _pictures(folder: Path) -> list[str]:
    place = folder / "pictures"
    return sorted(path.name for path in place.iterdir() if _PICTURE(path.name)) if place.is_dir() else []


def _configured(folder: Path) -> dict:
    try:
        config = json.loads((folder / "config.json").read_bytes())
        return {name: config[name] for name in ("stage", "steps", "model", "batch_size") if name in config}
    except (OSError, ValueError, TypeError):
        # a run that is just being made has none yet
        return {}
