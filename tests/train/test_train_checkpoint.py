"""A checkpoint is whole or passed over, wherever its writing was cut off; and it fits any number of ranks."""

import json
import multiprocessing
import random
import re
import shutil
import threading
import time
from multiprocessing.synchronize import Event
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from unity.train import checkpoint, writer
from unity.train.exchange import Exchange
from unity.train.kept import Keep
from unity.train.world import World
from unity.train.zero import Fragment, _cut, _whole

SHAPES = {"a": (3, 5), "b": (7,), "c": (1,), "d": (4, 4)}

# a function that a save calls, and the call at which the process dies
POINTS = [("write_stream", 1), ("write_stream", 2), ("_write_rest", 1), ("digest", 1), ("digest", 2), ("flush", 1)]
POINTS += [("_seal", 1), ("flush", 4), ("_publish", 1), ("point", 1), ("prune", 1)]


@pytest.fixture
def world(alone):
    return alone


class Crash(BaseException):
    """Stands for a process that is gone: nothing in the code under test may catch it."""


def fragments(size: int) -> dict[str, Fragment]:
    """Two flats, two parameters in each, cut for `size` ranks."""
    pieces, ends = {}, [0, 0]
    for i, (name, shape) in enumerate(SHAPES.items()):
        numel = -(-torch.Size(shape).numel() // size)
        pieces[name] = Fragment(flat=i % 2, offset=ends[i % 2], numel=numel, shape=shape)
        ends[i % 2] += numel
    return pieces


def empty_flats(size: int) -> list[torch.Tensor]:
    ends = [0, 0]
    for piece in fragments(size).values():
        ends[piece.flat] = max(ends[piece.flat], piece.offset + piece.numel)
    return [torch.full((end,), torch.nan) for end in ends]


def flats_of(tensors: dict, rank: int, size: int) -> list[torch.Tensor]:
    flats = empty_flats(size)
    for name, piece in fragments(size).items():
        cut = _cut(tensors[name], piece, size)[rank]
        flats[piece.flat].narrow(0, piece.offset, piece.numel).copy_(cut)
    return flats


def values(seed: float) -> dict:
    return {
        name: seed + torch.arange(torch.Size(shape).numel()).float().view(shape) for name, shape in SHAPES.items()
    }


def write(world, run, step, keep=None, loss=None):
    """A checkpoint of one rank whose weights say which step they are of."""
    shards = {"weight": flats_of(values(1000.0 * step), 0, 1), "ema": flats_of(values(-step), 0, 1)}
    more = {"stage": 1, "loss": loss}
    content = writer.Content(shards=shards, fragments=fragments(1), state=more, export=export)
    over = threading.Event()
    exchange = Exchange(store=world.store, rank=world.rank, size=world.size, name="test", over=over)
    writer.write(exchange, run, step, content, keep or Keep(last=2))
    return run / f"checkpoints/step-{step:08}"


def export(average, folder) -> dict:
    folder.mkdir()
    tensors = {
        name: torch.cat(list(average.parts(name))).view(like.shape) for name, like in average.shapes.items()
    }
    save_file(tensors, folder / "model.safetensors")
    return {}


def newest(world, run) -> tuple[int, list[str]]:
    """The step that a resume finds, and what it says about the others."""
    said = []
    folder = checkpoint.newest_whole(world, run, said.append)
    weight = empty_flats(1)
    checkpoint.load(world, folder, {"weight": weight}, fragments(1))
    step = checkpoint.read_state(folder)["step"]
    assert all(torch.equal(a, b) for a, b in zip(weight, flats_of(values(1000.0 * step), 0, 1), strict=True))
    return step, said


def test_newest_whole_checkpoint_wins_and_old_ones_go(world, tmp_path):
    for step in (1, 2, 10):
        write(world, tmp_path, step)
    assert newest(world, tmp_path) == (10, [])
    assert sorted(p.name for p in (tmp_path / "checkpoints").iterdir()) == ["step-00000002", "step-00000010"]
    found = load_file(tmp_path / "model/model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in values(-10).items())


@pytest.mark.parametrize("target", POINTS)
@pytest.mark.parametrize("again", [False, True])
def test_a_save_cut_off_anywhere_leaves_a_checkpoint_that_loads(world, tmp_path, monkeypatch, target, again):
    """`again`: the cut-off save writes over a checkpoint of the same step, as after falling back."""
    name, occasion = target
    write(world, tmp_path, 1)
    if again:
        broken = write(world, tmp_path, 2) / "weight-00000.safetensors"
        broken.write_bytes(broken.read_bytes()[:-1])
    original, calls = getattr(writer, name), []

    def crash(*args, **more):
        calls.append(args)
        if len(calls) == occasion:
            raise Crash
        return original(*args, **more)

    with monkeypatch.context() as patch, pytest.raises(Crash):
        patch.setattr(writer, name, crash)
        write(world, tmp_path, 2)
    step, said = newest(world, tmp_path)
    # once it has been renamed into place, the new one is whole
    placed = name in ("point", "prune")
    assert step == (2 if placed else 1)
    assert bool(said) != placed and all("passing it over" in line for line in said)
    # and the next save recovers everything
    write(world, tmp_path, 2)
    assert newest(world, tmp_path) == (2, [])
    assert len(list((tmp_path / "checkpoints").iterdir())) == 2


def save_for_ever(world: World, run: Path, first: int, begun: Event) -> None:
    begun.set()
    for step in range(first, 10**6):
        write(world, run, step)


@pytest.mark.slow
def test_a_save_killed_at_ninety_moments_leaves_a_whole_checkpoint(world, tmp_path):
    """The newest whole checkpoint never goes back, and each next save recovers what was cut off."""
    draw, newest_step, cut_off, started = random.Random(0), 3, 0, time.monotonic()
    for step in (1, 2, 3):
        write(world, tmp_path, step)
    duration = (time.monotonic() - started) / 3
    fork = multiprocessing.get_context("fork")
    for _ in range(90):
        # a large process takes as long to fork as a save takes
        begun = fork.Event()
        saving = fork.Process(target=save_for_ever, args=(world, tmp_path, newest_step + 1, begun))
        saving.start()
        assert begun.wait(60)
        time.sleep(draw.uniform(0, 3 * duration))
        saving.kill()
        saving.join()
        cut_off += any((tmp_path / "checkpoints").glob("*.partial"))
        step, _ = newest(world, tmp_path)
        assert step >= newest_step
        newest_step = step
    # the moments met saves, and saves got through between them
    assert cut_off > 10 and newest_step > 10


def cut_short(folder):
    file = folder / "ema-00000.safetensors"
    file.write_bytes(file.read_bytes()[:-4])


def flip_a_bit(folder):
    file = folder / "weight-00000.safetensors"
    data = bytearray(file.read_bytes())
    data[-1] ^= 1
    file.write_bytes(data)


def damage_manifest(folder):
    (folder / "manifest.json").write_text("{")


FAULTS = {
    cut_short: "ema-00000.safetensors has .* bytes",
    flip_a_bit: "the SHA-256 of weight-00000.safetensors differs",
    damage_manifest: "manifest.json is damaged",
    lambda folder: (folder / "manifest.json").unlink(): "no manifest.json",
    lambda folder: (folder / "state.json").unlink(): "state.json is missing",
    lambda folder: shutil.rmtree(folder / "model"): "model/model.safetensors is missing",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_damaged_checkpoint_is_passed_over_with_the_reason(world, tmp_path, fault):
    write(world, tmp_path, 1)
    fault(write(world, tmp_path, 2))
    step, said = newest(world, tmp_path)
    assert step == 1 and len(said) == 1
    assert re.search(FAULTS[fault], said[0])


def test_a_damaged_checkpoint_asked_for_by_name_is_an_error(world, tmp_path):
    folder = write(world, tmp_path, 1)
    flip_a_bit(folder)
    with pytest.raises(ValueError, match="no whole checkpoint"):
        checkpoint.newest_whole(world, folder, lambda line: None)


@pytest.mark.parametrize("old", [1, 2, 3, 5])
@pytest.mark.parametrize("new", [1, 2, 4, 7])
def test_shards_of_any_number_of_ranks_load_on_any_other(tmp_path, old, new):
    tensors, layout = values(0.5), fragments(old)
    for rank in range(old):
        flats = flats_of(tensors, rank, old)
        save_file({str(i): flat for i, flat in enumerate(flats)}, tmp_path / f"weight-{rank:05}.safetensors")
    rows = {name: vars(piece) for name, piece in layout.items()}
    (tmp_path / "state.json").write_text(json.dumps({"ranks": old, "layout": rows}))
    loaded = []
    for rank in range(new):
        flats = empty_flats(new)
        place = World(rank=rank, size=new, local_rank=rank, device=torch.device("cpu"))
        checkpoint.load(place, tmp_path, {"weight": flats}, fragments(new))
        loaded.append(flats)
    for name, piece in fragments(new).items():
        parts = [flats[piece.flat].narrow(0, piece.offset, piece.numel) for flats in loaded]
        assert torch.equal(_whole(parts, piece), tensors[name])


def test_another_model_is_refused(world, tmp_path):
    folder = write(world, tmp_path, 1)
    other = fragments(1)
    other["e"] = other.pop("d")
    with pytest.raises(ValueError, match="another model"):
        checkpoint.load(world, folder, {"weight": empty_flats(1)}, other)
