"""Checkpoints beside the steps: what was there at the save is what is written, and every failure comes back."""

import errno
import hashlib
import json
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from unity.model.streamed import write_stream
from unity.train import checkpoint, saver, writer
from unity.train.exchange import Exchange
from unity.train.kept import Keep
from unity.train.remote import Visit, address_of, open_remote, visiting
from unity.train.saver import Manner, Snapshot, saving
from unity.train.writer import Content
from unity.train.zero import Fragment

ROOT = Path(__file__).parents[2]


@pytest.fixture
def world(alone):
    return alone


ONE = {"a": Fragment(flat=0, offset=0, numel=6, shape=(2, 3))}


def numbers(value: float) -> torch.Tensor:
    return torch.full((6,), float(value))


def export(average, folder: Path) -> dict:
    folder.mkdir()
    return {"model.safetensors": write_stream(folder / "model.safetensors", average.shapes, average.parts)}


def content(flat: torch.Tensor, loss: float | None = None) -> Content:
    shards = {"weight": [flat], "ema": [flat]}
    return Content(shards=shards, fragments=ONE, state={"stage": 1, "loss": loss}, export=export)


def saved(run: Path) -> dict[str, float]:
    """Checkpoints by name, and the one number that all of their weights are."""
    found = {}
    for path in sorted((run / "checkpoints").glob("step-*[0-9]")):
        values = load_file(path / "model/model.safetensors")["a"]
        assert (values == values.flatten()[0]).all()
        found[path.name] = float(values.flatten()[0])
    return found


@pytest.fixture
def start(world, tmp_path):
    return partial(saving, world, Manner(run=tmp_path, keep=Keep(last=9), beside=True))


def test_a_stream_is_the_file_that_safetensors_reads(tmp_path):
    torch.manual_seed(0)
    tensors = {"half": torch.randn(3, 5).bfloat16(), "none": torch.zeros(0), "one": torch.randn(()).double()}
    tensors |= {"wide": torch.randn(7, 3), "turned": torch.randn(4, 6).T}
    row = write_stream(
        tmp_path / "x",
        tensors,
        lambda name: [p for p in tensors[name].split(2)] if name == "wide" else [tensors[name]],
    )
    found = load_file(tmp_path / "x")
    assert found.keys() == tensors.keys()
    assert all(
        torch.equal(found[name], value) and found[name].dtype == value.dtype for name, value in tensors.items()
    )
    data = (tmp_path / "x").read_bytes()
    assert row == {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_steps_go_on_beside_a_save_and_the_next_one_waits_for_it(start, tmp_path, monkeypatch):
    flat, gate, begun = numbers(1.0), threading.Event(), []

    def held_up(exchange, run, step, *rest):
        begun.append(step)
        assert gate.wait(60)
        writer.write(exchange, run, step, *rest)

    monkeypatch.setattr(saver, "write", held_up)
    said = []
    with start(said.append) as ours:
        ours.save(1, content(flat))
        # a step, while nothing is written yet
        flat.fill_(2.0)
        assert saved(tmp_path) == {}
        threading.Timer(0.3, gate.set).start()
        ours.save(2, content(flat))
        # the second has begun only when the first was whole
        assert "step-00000001" in saved(tmp_path)
        flat.fill_(3.0)
    assert begun == [1, 2] and saved(tmp_path) == {"step-00000001": 1.0, "step-00000002": 2.0}
    assert [line.split(" in ")[0] for line in said] == ["saved step 1", "saved step 2"]


def test_a_disk_that_fills_up_ends_the_run_in_a_sentence(start, world, tmp_path, monkeypatch):
    flat = numbers(1.0)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device", "x")

    def failing() -> None:
        with start(lambda line: None) as ours:
            ours.save(1, content(flat))
            ours.finish()
            monkeypatch.setattr(writer, "write_stream", full)
            ours.save(2, content(flat))
            while not ours.failed:
                time.sleep(0.01)

    with pytest.raises(ValueError, match="No space left on device; make room there.*--resume .* last whole one"):
        failing()
    assert checkpoint.newest_whole(world, tmp_path, print).name == "step-00000001"


def test_a_run_that_fails_still_ends_the_checkpoint_that_is_being_written(start, tmp_path, monkeypatch):
    def slowly(*args):
        time.sleep(0.3)
        writer.write(*args)

    monkeypatch.setattr(saver, "write", slowly)
    with pytest.raises(FloatingPointError), start(lambda line: None) as ours:
        ours.save(1, content(numbers(1.0)))
        raise FloatingPointError
    assert saved(tmp_path) == {"step-00000001": 1.0}


def test_the_newest_and_the_best_stay_and_so_does_what_is_not_ours(world, tmp_path):
    folder, losses = tmp_path / "checkpoints", (3.0, 1.0, 2.0, None, 4.0, 5.0)
    folder.mkdir()
    for foreign in ("step-best", "step-00000001-mine", "step-00000009", "notes.partial"):
        (folder / foreign).mkdir()
        (folder / foreign / "notes.txt").write_text("mine")
    with saving(world, Manner(run=tmp_path, keep=Keep(last=2, best=2)), lambda line: None) as ours:
        for step, loss in enumerate(losses, 1):
            ours.save(step, content(numbers(step), loss))
            if step == 1:
                (folder / "step-00000001/notes.txt").write_text("why this one matters")
    names = {path.name for path in folder.iterdir()}
    foreign = {"step-best", "step-00000001-mine", "step-00000009", "notes.partial"}
    assert names == {f"step-{step:08}" for step in (1, 2, 3, 5, 6)} | foreign


def as_ranks(size: int, store: dist.Store, run: Path, contents: list[Content]) -> list[Exception | None]:
    """What became of the writers of so many ranks, each a thread."""
    errors: list[Exception | None] = [None] * size

    def rank(number: int) -> None:
        exchange = Exchange(store=store, rank=number, size=size, name="x", over=threading.Event())
        try:
            writer.write(exchange, run, 1, contents[number], Keep())
        except Exception as error:
            errors[number] = error
            exchange.fail(str(error))

    threads = [threading.Thread(target=rank, args=(number,)) for number in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return errors


@pytest.mark.parametrize("failing", [0, 1, 2])
def test_what_one_rank_cannot_write_all_hear_of(tmp_path, monkeypatch, failing):
    original = writer._write_shards

    def broken(partial, content, rank):
        if rank == failing:
            time.sleep(0.2)
            raise ValueError(f"rank {rank} has no room")
        return original(partial, content, rank)

    monkeypatch.setattr(writer, "_write_shards", broken)
    pieces = {"a": Fragment(flat=0, offset=0, numel=2, shape=(2, 3))}
    contents = [
        Content(shards={"ema": [torch.full((2,), float(n))]}, fragments=pieces, state={}, export=export)
        for n in range(3)
    ]
    errors = as_ranks(3, dist.HashStore(), tmp_path, contents)
    # those that have written theirs need not wait; rank 0, which puts all into place, does
    assert {str(error) for error in errors if error} == {f"rank {failing} has no room"} and errors[0]
    assert not list((tmp_path / "checkpoints").glob("step-00000001"))


def anonymous() -> int:
    """Bytes of this process that no file stands behind."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def test_a_rank_holds_its_share_and_a_tensor_never_the_model(tmp_path):
    """Of 24 tensors of 4 MB on two ranks: a copy of the share, and the writing in less than three tensors more."""
    count, numel, ranks = 24, 1 << 20, 2
    pieces = {
        f"p{i}": Fragment(flat=0, offset=i * numel // ranks, numel=numel // ranks, shape=(numel,))
        for i in range(count)
    }
    flats = [torch.rand(count * numel // ranks) for _ in range(ranks)]
    contents = [Content(shards={"ema": [flat]}, fragments=pieces, state={}, export=export) for flat in flats]
    before = anonymous()
    snapshots = [Snapshot() for _ in range(ranks)]
    copies = [snapshot.of(one) for snapshot, one in zip(snapshots, contents, strict=True)]
    share = sum(flat.nbytes for flat in flats)
    assert anonymous() - before < 1.1 * share
    held, most, over = anonymous(), [], threading.Event()

    def look() -> None:
        while not over.wait(0.001):
            most.append(anonymous())

    looking = threading.Thread(target=look)
    looking.start()
    errors = as_ranks(ranks, dist.HashStore(), tmp_path, copies)
    over.set()
    looking.join()
    assert errors == [None, None] and len(most) > 10
    assert max(most) - held < 3 * 4 * numel
    # and taking another one takes no more
    again = snapshots[0].of(contents[0])
    assert again.shards["ema"][0].data_ptr() == copies[0].shards["ema"][0].data_ptr()
    found = load_file(tmp_path / "model/model.safetensors")
    for name, piece in pieces.items():
        parts = [flat[piece.offset : piece.offset + piece.numel] for flat in flats]
        assert torch.equal(found[name], torch.cat(parts)), name


def test_parameters_that_are_not_trained_are_in_the_model_alone(tmp_path):
    pieces = {"a": Fragment(flat=0, offset=0, numel=3, shape=(5,))}
    frozen = [{"b": (torch.tensor([1.0, 2.0]).bfloat16() + 2 * n, (3,))} for n in range(2)]
    contents = [
        Content(
            shards={"ema": [torch.arange(3.0) + 3 * n]},
            fragments=pieces,
            state={},
            export=export,
            frozen=frozen[n],
        )
        for n in range(2)
    ]
    assert as_ranks(2, dist.HashStore(), tmp_path, contents) == [None, None]
    found, folder = load_file(tmp_path / "model/model.safetensors"), tmp_path / "checkpoints/step-00000001"
    assert found["a"].tolist() == [0, 1, 2, 3, 4] and found["b"].tolist() == [1, 2, 3]
    rows = json.loads((folder / "manifest.json").read_text())
    files = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    assert files == rows.keys() | {"manifest.json"} and not any("frozen" in name for name in files)


@pytest.fixture(params=["memory", "file", pytest.param("s3", marks=pytest.mark.slow)])
def elsewhere(request, tmp_path):
    """An address of nobody else's, and fsspec's file system behind it."""
    fsspec = pytest.importorskip("fsspec")
    if request.param == "s3":
        request.getfixturevalue("s3")
    addresses = {
        "memory": "memory://bucket/run",
        "file": f"file://{tmp_path}/bucket/run",
        "s3": "s3://store/run",
    }
    address = addresses[request.param]
    yield address
    files, root = fsspec.url_to_fs(address)
    if files.exists(root):
        files.rm(root, recursive=True)


def test_what_is_copied_elsewhere_comes_back_and_only_what_is_whole(world, tmp_path, elsewhere):
    here, there, said = tmp_path / "here", tmp_path / "there", []
    manner = Manner(run=here, keep=Keep(last=2), remote=open_remote(elsewhere))
    with saving(world, manner, said.append) as ours:
        for step in (1, 2, 3):
            ours.save(step, content(numbers(step)))
    remote = open_remote(elsewhere)
    assert remote.names() == ["step-00000003", "step-00000002"]
    assert [line.split(" to ")[0] for line in said if line.startswith("copied")] == [
        f"copied step {n}" for n in (1, 2, 3)
    ]
    # damaged, then cut off
    remote.files.pipe_file(remote.path("step-00000003", "weight-00000.safetensors"), b"x")
    bring = Visit(say=said.append).bring
    assert bring(elsewhere, there) == there and said[-2].endswith("is damaged: passing it over")
    remote.files.rm_file(remote.path("step-00000003", "manifest.json"))
    assert bring(elsewhere, there) == there
    assert (
        saved(there) == {"step-00000002": 2.0}
        and float(load_file(there / "model/model.safetensors")["a"][0, 0]) == 2
    )
    assert checkpoint.newest_whole(world, there, said.append) == there / "checkpoints/step-00000002"
    # a path of the command line has lost a slash
    one = bring(address_of(Path(f"{elsewhere}/checkpoints/step-00000002")), tmp_path / "one")
    assert one == tmp_path / "one/checkpoints/step-00000002" and checkpoint.read_state(one)["step"] == 2
    # a run that is refused before it has begun leaves what was here
    one.rename(one.with_name("step-00000001"))
    with pytest.raises(ValueError, match="refused"), visiting(said.append) as visit:
        visit.bring(elsewhere, tmp_path / "one")
        assert (tmp_path / "one/model").resolve().parent.name == "step-00000002"
        raise ValueError("refused")
    assert [path.name for path in (tmp_path / "one/checkpoints").iterdir()] == ["step-00000001"]
    assert (tmp_path / "one/model").resolve().parent.name == "step-00000001"
    with pytest.raises(ValueError, match="cannot be read"):
        bring(f"{elsewhere}/checkpoints/step-00000009", tmp_path / "one")


@pytest.mark.slow
def test_a_run_goes_on_from_a_bucket_on_another_machine(dataset, tmp_path, s3):
    pytest.importorskip("s3fs")
    asked = f"--stage 2 --model debug --data {dataset} --steps 4 --batch-size 8 --save-every 2 --picture-every 0"
    asked += " --precision fp32 --workers 0 --save-beside --remote s3://store/run --resume s3://store/run"

    def train(out: str) -> str:
        command = [sys.executable, "launchers/train.py", *f"{asked} --out {tmp_path}/{out}".split()]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    assert "copied step 4 to s3://store/run" in train("here")
    # as if the machine had gone before the last copy was whole
    s3.delete_object(Bucket="store", Key="run/checkpoints/step-00000004/manifest.json")
    assert "brought step-00000002 of s3://store/run" in train("there")
    here, there = ((tmp_path / out / "model/model.safetensors").read_bytes() for out in ("here", "there"))
    assert here == there


def test_a_copy_that_fails_is_told_at_once_and_at_the_end(world, tmp_path, monkeypatch):
    said, remote = [], open_remote(f"file://{tmp_path}/bucket")
    (tmp_path / "bucket").write_text("what should be a folder")

    def run() -> None:
        with saving(world, Manner(run=tmp_path, remote=remote), said.append) as ours:
            ours.save(1, content(numbers(1.0)))
            ours.save(2, content(numbers(2.0)))

    with pytest.raises(ValueError, match="step 2 was not copied to file://.*holds it"):
        run()
    assert [line[:17] for line in said if line.startswith("WARNING")] == ["WARNING: step 1 w", "WARNING: step 2 w"]
    assert saved(tmp_path) == {"step-00000001": 1.0, "step-00000002": 2.0}


@pytest.mark.parametrize("address", ["nowhere-known://x/y", "file:///proc/nothing/run"])
def test_a_place_that_cannot_be_is_a_sentence(address):
    with pytest.raises(ValueError, match=address):
        open_remote(address).try_out()


@pytest.mark.parametrize("path", ["runs/x", "C:/runs/x", "/abs/run", "step-00000001"])
def test_a_path_is_no_address(path):
    assert address_of(Path(path)) is None
