"""Checkpoints that are whole or not there at all, and that resume on any number of ranks.

    runs/x/checkpoints/step-00000100/manifest.json       size and SHA-256 of every other file
                                     state.json          step, configuration, layout of the fragments
                                     weight-00000.safetensors   rank 0's float32 masters; also exp_avg,
                                     ...                        exp_avg_sq and ema, one file per rank
                                     model/              the averaged weights, ready for inference
    runs/x/model -> checkpoints/step-00000100/model

A checkpoint is written under a name ending in `.partial`, flushed to the disk and renamed only when its manifest
is there. DeepSpeed's own format is not used: it marks a checkpoint as the latest before all ranks have written
theirs, keeps no average, and cannot be loaded on another number of ranks.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from unity.files import flush, point, put, write_json
from unity.train.world import World
from unity.train.zero import Flats, Fragment


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a rank puts into a checkpoint."""

    # kind (weights, average, …) → this rank's flats
    shards: Mapping[str, Flats]
    # parameter → where in the flats it lies
    fragments: Mapping[str, Fragment]
    # what else JSON can say
    state: Mapping
    # writes the model for inference into a folder; all ranks call it
    export: Callable[[Path], None]


def save(world: World, run: Path, step: int, content: Content, keep: int) -> Path:
    """Write a checkpoint of all ranks' shards and keep the newest `keep`; all ranks must call it."""
    final = run / "checkpoints" / f"step-{step:08}"
    partial = final.with_name(final.name + ".partial")
    if world.leads:
        for left_over in (partial, final.with_name(f".{final.name}")):
            shutil.rmtree(left_over, ignore_errors=True)
        partial.mkdir(parents=True)
    world.barrier()
    for kind, flats in content.shards.items():
        tensors = {str(i): flat.cpu() for i, flat in enumerate(flats)}
        save_file(tensors, _shard(partial, kind, world.rank))
    content.export(partial / "model")
    if world.leads:
        layout = {name: asdict(fragment) for name, fragment in content.fragments.items()}
        kinds = list(content.shards)
        about = {**content.state, "step": step, "ranks": world.size, "kinds": kinds, "layout": layout}
        write_json(partial / "state.json", about, indent=None)
    world.barrier()
    _seal(world, partial)
    if world.leads:
        _publish(partial, final)
        _prune(final.parent, keep)
    world.barrier()
    return final


def newest_whole(world: World, path: Path, say: Callable[[str], None]) -> Path:
    """The newest whole checkpoint of a run folder, or the checkpoint at `path` itself.

    Says which ones it had to pass over; ValueError when none is left. All ranks must call it.
    """
    if (path / "state.json").exists() or path.name.startswith("step-"):
        candidates = [path]
    else:
        candidates = sorted((path / "checkpoints").glob("step-*"), reverse=True)
    for candidate in world.from_lead(lambda: candidates):
        fault = "its writing was cut off" if candidate.suffix == ".partial" else _fault(world, candidate)
        if fault is None:
            return candidate
        say(f"checkpoint {candidate} is not whole ({fault}): passing it over")
    raise ValueError(f"{path} holds no whole checkpoint; give another --resume, or start anew without it")


def read_state(checkpoint: Path) -> dict:
    return json.loads((checkpoint / "state.json").read_text())


def load(world: World, checkpoint: Path, shards: Mapping[str, Flats], fragments: Mapping[str, Fragment]) -> None:
    """Fill this rank's shards from a checkpoint written by any number of ranks.

    Raises ValueError when its parameters are not the model's.
    """
    state = read_state(checkpoint)
    saved = {name: Fragment(**{**row, "shape": tuple(row["shape"])}) for name, row in state["layout"].items()}
    shapes, wanted = ({n: f.shape for n, f in table.items()} for table in (saved, fragments))
    if shapes != wanted:
        differing = sorted(n for n in shapes.keys() | wanted.keys() if shapes.get(n) != wanted.get(n))
        raise ValueError(f"{checkpoint} holds another model: {differing[:4]} differ; give the same --model")
    for kind, flats in shards.items():
        files = [safe_open(_shard(checkpoint, kind, rank), "pt") for rank in range(state["ranks"])]
        for name, piece in fragments.items():
            # an optimizer need not keep every kind for every flat
            if not flats[piece.flat].numel():
                continue
            target = flats[piece.flat].narrow(0, piece.offset, piece.numel)
            target.copy_(_read(files, saved[name], world.rank * piece.numel, piece.numel))


def _read(files: list, saved: Fragment, start: int, numel: int) -> Tensor:
    """Values start .. start + numel of a parameter, zero beyond its end, from its fragments of the old ranks."""
    parts = []
    stop = min(start + numel, len(files) * saved.numel)
    while start + sum(map(len, parts)) < stop:
        position = start + sum(map(len, parts))
        rank, inside = divmod(position, saved.numel)
        take = min(saved.numel - inside, stop - position)
        first = saved.offset + inside
        parts.append(files[rank].get_slice(str(saved.flat))[first : first + take])
    values = torch.cat(parts) if parts else torch.zeros(0)
    return torch.nn.functional.pad(values, (0, numel - len(values)))


def _seal(world: World, folder: Path) -> None:
    """Flush every file to the disk and write the manifest; the ranks share the hashing."""
    mine = {}
    for name in _files(folder)[world.rank :: world.size]:
        flush(folder / name)
        mine[name] = _digest(folder / name)
    rows = world.gather(mine)
    if world.leads:
        write_json(folder / "manifest.json", {k: v for row in rows for k, v in row.items()}, indent=1)
        for path in (*(p for p in folder.rglob("*") if p.is_dir()), folder):
            flush(path)


def _publish(partial: Path, final: Path) -> None:
    """Put the whole checkpoint into place, over a broken one of the same step if need be."""
    put(partial, final, aside=final.with_name(f".{final.name}"))
    point(final.parent.parent / "model", Path("checkpoints") / final.name / "model")


def _prune(folder: Path, keep: int) -> None:
    finished = sorted(path for path in folder.glob("step-*") if path.suffix != ".partial")
    for path in [*finished[:-keep], *folder.glob("*.partial"), *folder.glob(".step-*")]:
        shutil.rmtree(path)


def _fault(world: World, checkpoint: Path) -> str | None:
    """What is wrong with a checkpoint, if anything; the ranks share the hashing."""
    # rank 0 reads it for all, so that all leave here together
    rows = world.from_lead(lambda: _manifest(checkpoint / "manifest.json"))
    if isinstance(rows, str):
        return rows
    mine = sorted(rows)[world.rank :: world.size]
    faults = [_file_fault(checkpoint, name, rows[name]) for name in mine]
    return next((fault for found in world.gather(faults) for fault in found if fault), None)


def _file_fault(checkpoint: Path, name: str, row: dict) -> str | None:
    path = checkpoint / name
    if not path.is_file():
        return f"{name} is missing"
    if path.stat().st_size != row["bytes"]:
        return f"{name} has {path.stat().st_size} of {row['bytes']} bytes"
    return None if _digest(path) == row else f"the SHA-256 of {name} differs"


def _manifest(path: Path) -> dict[str, dict] | str:
    """Size and SHA-256 of every file, or what is wrong with the list of them."""
    try:
        rows = json.loads(path.read_bytes())
    except FileNotFoundError:
        return "it has no manifest.json"
    except (OSError, ValueError, RecursionError):
        return "its manifest.json is damaged"
    whole = isinstance(rows, dict) and all(
        isinstance(row, dict) and row.keys() == {"bytes", "sha256"} for row in rows.values()
    )
    inside = whole and not any(Path(name).is_absolute() or ".." in Path(name).parts for name in rows)
    return rows if inside and "state.json" in rows else "its manifest.json is damaged"


def _shard(folder: Path, kind: str, rank: int) -> Path:
    return folder / f"{kind}-{rank:05}.safetensors"


def _files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _digest(path: Path) -> dict:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}
