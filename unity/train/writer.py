"""A rank's part in writing a checkpoint: what goes into which file, and when the whole is put into place.

Nothing here is a collective, so that it can run in a thread beside the steps (`unity.train.saver`). A rank writes
its shards piece by piece; rank 0 reads the averaged weights for inference back from the ranks' files, fragment by
fragment. So no rank ever holds more than its own share, and a piece of what it is writing.
"""

import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor

from unity.files import flush, point, put, sha256, write_json
from unity.model.streamed import write_stream
from unity.train.exchange import Exchange
from unity.train.kept import Keep, prune
from unity.train.zero import Flats, Fragment


@dataclass(frozen=True, kw_only=True)
class Weights:
    """Parameters as they lie cut up in the ranks' files."""

    # parameter → its shape and dtype, on the meta device
    shapes: Mapping[str, Tensor]
    # the fragments of a parameter, in order
    parts: Callable[[str], Iterator[Tensor]]


@dataclass(frozen=True, kw_only=True)
class Content:
    """What a rank puts into a checkpoint."""

    # kind (weights, average, …) → this rank's flats
    shards: Mapping[str, Flats]
    # parameter → where in the flats it lies
    fragments: Mapping[str, Fragment]
    # what else JSON can say
    state: Mapping
    # writes the averaged weights for inference into a folder, on rank 0 alone; returns the size and SHA-256 of
    # those of its files that it knows them of
    export: Callable[[Weights, Path], Mapping[str, dict]]
    # parameters that are not trained but belong to them: this rank's fragment, and the shape of the whole
    frozen: Mapping[str, tuple[Tensor, tuple[int, ...]]] = field(default_factory=dict)


def write(exchange: Exchange, run: Path, step: int, content: Content, keep: Keep) -> None:
    """Write this rank's part; rank 0 puts the checkpoint into place when all parts are there.

    Raises OSError as the file system does, and ValueError where another rank could not write its part.
    """
    final = run / "checkpoints" / f"step-{step:08}"
    partial = final.with_name(final.name + ".partial")
    if exchange.leads:
        for left_over in (partial, final.with_name(f".{final.name}")):
            shutil.rmtree(left_over, ignore_errors=True)
        partial.mkdir(parents=True)
        exchange.tell("made")
    exchange.hear("made")
    exchange.tell(f"part/{exchange.rank}", json.dumps(_write_shards(partial, content, exchange.rank)))
    if exchange.leads:
        parts = [f"part/{rank}" for rank in range(exchange.size)]
        rows = {name: row for part in parts for name, row in json.loads(exchange.hear(part)).items()}
        exchange.forget("made", *parts)
        _seal(partial, rows | _write_rest(partial, step, exchange.size, content))
        _publish(partial, final)
        prune(final.parent, keep)


def shard(folder: Path, kind: str, rank: int) -> Path:
    """The file of one rank's values of a kind."""
    return folder / f"{kind}-{rank:05}.safetensors"


def digest(path: Path) -> dict:
    """Size and SHA-256 of a file, as a manifest has them."""
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _write_shards(partial: Path, content: Content, rank: int) -> dict[str, dict]:
    """This rank's files; those of the frozen parameters only pass through, and are not told of."""
    rows = {}
    for kind, flats in content.shards.items():
        path = shard(partial, kind, rank)
        rows[path.name] = _write_tensors(path, {str(i): flat for i, flat in enumerate(flats)})
    if content.frozen:
        _write_tensors(shard(partial, "frozen", rank), {name: part for name, (part, _) in content.frozen.items()})
    return rows


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> dict:
    return write_stream(path, tensors, lambda name: [tensors[name]])


def _write_rest(partial: Path, step: int, ranks: int, content: Content) -> dict[str, dict]:
    """What rank 0 adds: the state, and the model for inference."""
    layout, model = {name: asdict(fragment) for name, fragment in content.fragments.items()}, partial / "model"
    about = {**content.state, "step": step, "ranks": ranks, "kinds": list(content.shards), "layout": layout}
    write_json(partial / "state.json", about, indent=None)
    known = {f"model/{n}": row for n, row in content.export(_stored(partial, ranks, content), model).items()}
    for rank in range(ranks):
        shard(partial, "frozen", rank).unlink(missing_ok=True)
    paths = [partial / "state.json", *(path for path in model.rglob("*") if path.is_file())]
    for path in paths:
        flush(path)
    named = {path.relative_to(partial).as_posix(): path for path in paths}
    return {name: known.get(name) or digest(path) for name, path in named.items()}


def _stored(partial: Path, ranks: int, content: Content) -> Weights:
    """The average, and what is frozen, from the files of all ranks."""
    opened = {
        kind: [safe_open(shard(partial, kind, rank), "pt") for rank in range(ranks)]
        for kind in ("ema", *(["frozen"] if content.frozen else []))
    }
    frozen = {
        name: Fragment(flat=0, offset=0, numel=part.numel(), shape=shape)
        for name, (part, shape) in content.frozen.items()
    }
    dtypes = {name: torch.float32 for name in content.fragments}
    dtypes |= {name: part.dtype for name, (part, _) in content.frozen.items()}

    def parts(name: str) -> Iterator[Tensor]:
        if name in frozen:
            return _fragments(opened["frozen"], name, frozen[name])
        piece = content.fragments[name]
        return _fragments(opened["ema"], str(piece.flat), piece)

    shapes = {
        name: torch.empty(piece.shape, dtype=dtypes[name], device="meta")
        for name, piece in {**content.fragments, **frozen}.items()
    }
    return Weights(shapes=shapes, parts=parts)


def _fragments(files: list, key: str, piece: Fragment) -> Iterator[Tensor]:
    """The values of a parameter without those beyond its end, rank by rank."""
    left = torch.Size(piece.shape).numel()
    for file in files:
        take = min(left, piece.numel)
        if take:
            yield file.get_slice(key)[piece.offset : piece.offset + take]
        left -= take


def _seal(folder: Path, rows: Mapping[str, dict]) -> None:
    """Write the manifest, and flush the lists of names."""
    write_json(folder / "manifest.json", rows, indent=1)
    for path in (*(p for p in folder.rglob("*") if p.is_dir()), folder):
        flush(path)


def _publish(partial: Path, final: Path) -> None:
    """Put the whole checkpoint into place, over a broken one of the same step if need be."""
    put(partial, final, aside=final.with_name(f".{final.name}"))
    point(final.parent.parent / "model", Path("checkpoints") / final.name / "model")
