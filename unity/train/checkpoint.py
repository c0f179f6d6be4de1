"""Checkpoints that are whole or not there at all, and that resume on any number of ranks.

    runs/x/checkpoints/step-00000100/manifest.json       size and SHA-256 of every other file
                                     state.json          step, configuration, layout of the fragments
                                     weight-00000.safetensors   rank 0's float32 masters; also exp_avg,
                                     ...                        exp_avg_sq and ema, one file per rank; where the
                                                                moments have 8 bits, exp_avg_scale and so on, too
                                     model/              the averaged weights, ready for inference
    runs/x/model -> checkpoints/step-00000100/model

A checkpoint is written (`unity.train.writer`) under a name ending in `.partial`, flushed to the disk and renamed
only when its manifest is there. DeepSpeed's own format is not used: it marks a checkpoint as the latest before all
ranks have written theirs, keeps no average, and cannot be loaded on another number of ranks.
"""

import json
from collections.abc import Callable, Collection, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from unity.train.adam8 import BLOCK, SCALES, SIGNED, Moment
from unity.train.world import World
from unity.train.writer import digest, shard
from unity.train.zero import Flats, Fragment

# of the moments in 8 bits
_SCALES = set(map(SCALES.format, SIGNED))


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
    kinds = set(state.get("kinds", shards))
    # 8 bits have scales in common with their neighbours, so they stay as they are only among the same
    alike = state["ranks"] == world.size and saved == fragments and shards.keys() <= kinds
    for kind, flats in shards.items():
        scales = shards.get(SCALES.format(kind))
        if alike and (scales or kind in _SCALES):
            _copy(checkpoint, kind, world.rank, flats)
        elif kind not in _SCALES:
            files = [_reader(checkpoint, kind, rank, kinds) for rank in range(state["ranks"])]
            targets = [torch.zeros(len(flat)) for flat in flats] if scales else flats
            for name, piece in fragments.items():
                # an optimizer need not keep every kind for every flat
                if not targets[piece.flat].numel():
                    continue
                target = targets[piece.flat].narrow(0, piece.offset, piece.numel)
                target.copy_(_read(files, saved[name], world.rank * piece.numel, piece.numel))
            for codes, scale, values in zip(flats, scales or (), targets, strict=False):
                Moment(codes, scale, SIGNED[kind]).write(values)


def _copy(checkpoint: Path, kind: str, rank: int, flats: Flats) -> None:
    file = safe_open(shard(checkpoint, kind, rank), "pt")
    for i, flat in enumerate(flats):
        flat.copy_(file.get_tensor(str(i)))


def _reader(checkpoint: Path, kind: str, rank: int, kinds: Collection[str]) -> Callable[[int, int, int], Tensor]:
    """reader(flat, start, stop): values of a rank's flat, those of 8 bits in float32."""
    file = safe_open(shard(checkpoint, kind, rank), "pt")
    if SCALES.format(kind) not in kinds:
        return lambda flat, start, stop: file.get_slice(str(flat))[start:stop]
    scales = safe_open(shard(checkpoint, SCALES.format(kind), rank), "pt")

    def read(flat: int, start: int, stop: int) -> Tensor:
        first = start // BLOCK
        codes = file.get_slice(str(flat))[first * BLOCK : stop]
        moment = Moment(codes, scales.get_slice(str(flat))[first : -(-stop // BLOCK)], SIGNED[kind])
        return moment.wide()[start - first * BLOCK :]

    return read


def _read(files: list, saved: Fragment, start: int, numel: int) -> Tensor:
    """Values start .. start + numel of a parameter, zero beyond its end, from its fragments of the old ranks."""
    parts = []
    stop = min(start + numel, len(files) * saved.numel)
    while start + sum(map(len, parts)) < stop:
        position = start + sum(map(len, parts))
        rank, inside = divmod(position, saved.numel)
        take = min(saved.numel - inside, stop - position)
        first = saved.offset + inside
        parts.append(files[rank](saved.flat, first, first + take))
    values = torch.cat(parts) if parts else torch.zeros(0)
    return torch.nn.functional.pad(values, (0, numel - len(values)))


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
    return None if digest(path) == row else f"the SHA-256 of {name} differs"


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
