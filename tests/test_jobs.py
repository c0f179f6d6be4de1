"""Many requests in one go: what is done stays done, what fails is told, and nothing is mixed up."""

import json
import re
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

from unity import generate, jobs
from unity.config import MODELS
from unity.data.video import write_video
from unity.infer import infer
from unity.jobs import Options, read_jobs, run, share
from unity.model.card import ModelCard
from unity.model.dit import UnityDiT
from unity.model.weights import save_model
from unity.request import Request
from unity.thrift import Thrift


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    torch.manual_seed(0)
    model = UnityDiT(MODELS["debug"])
    state = {name: value + 0.05 * torch.randn_like(value) for name, value in model.state_dict().items()}
    card = ModelCard(model=model.config, modalities=("depth", "flow"), stage=2, step=7, frames=5, size=(32, 32))
    return save_model(state, card, tmp_path_factory.mktemp("run") / "model")


def film(path: Path, level: int = 0) -> Path:
    y, x = np.mgrid[:32, :32]
    frames = np.stack([np.stack([4 * x, 4 * y, 0 * x + 20 * t + level], -1) for t in range(5)])
    path.parent.mkdir(parents=True, exist_ok=True)
    return write_video(frames.astype(np.uint8), path, fps=10)


@pytest.fixture
def films(tmp_path):
    """Three films, a broken one, and what is none."""
    folder = tmp_path / "films"
    film(folder / "a.mp4"), film(folder / "day 2/a.mp4", 40), film(folder / "day 2/ö.mkv", 80)
    (folder / "broken.mp4").write_bytes(b"no film")
    (folder / "notes.txt").write_text("no film")
    film(folder / ".hidden/x.mp4")
    return folder


@pytest.fixture
def options(films, checkpoint, tmp_path):
    return Options(
        jobs=films, modality="depth", checkpoint=checkpoint, steps=1, device="cpu", out=tmp_path / "out"
    )


@pytest.fixture
def loads(monkeypatch):
    """Checkpoints, as often as they are loaded."""
    real, found = generate.load_generator, []
    monkeypatch.setattr(generate, "load_generator", lambda path, *given: found.append(path) or real(path, *given))
    return found


def journal(folder: Path, name: str = "journal.jsonl") -> list[dict]:
    return [json.loads(line) for line in (folder / name).read_text().splitlines()]


def stamps(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in folder.rglob("run.json")}


def test_each_film_of_a_folder_once(options, loads, capsys):
    with pytest.raises(ValueError, match=r"1 of 4 jobs failed, .*journal.jsonl says why"):
        run(options)
    names = {"a", "day 2/a", "day 2/ö"}
    assert {path.parent.relative_to(options.out).as_posix() for path in stamps(options.out)} == names
    assert {entry["name"]: entry["done"] for entry in journal(options.out)} == dict.fromkeys(names, True) | {
        "broken": False
    }
    assert loads == [options.checkpoint]
    said = capsys.readouterr().out
    assert re.search(r"\[2/4\] broken: failed: cannot read \S*broken.mp4", said) and said.count("\n") == 4
    # as by itself
    alone = infer(
        Request(
            modality="depth",
            video=options.jobs / "day 2/a.mp4",
            checkpoint=options.checkpoint,
            steps=1,
            device="cpu",
            out=options.out.parent / "alone",
        )  # fmt: skip
    )
    for name in ("depth.npz", "depth.mp4", "run.json"):
        assert (alone.folder / name).read_bytes() == (options.out / "day 2/a" / name).read_bytes()


def test_it_goes_on_where_it_was_stopped(options, loads, monkeypatch):
    (options.jobs / "broken.mp4").unlink()
    real, count = jobs._Worker.do, []

    def interrupted(worker, request):
        count.append(request)
        if len(count) == 2:
            raise KeyboardInterrupt
        real(worker, request)

    with monkeypatch.context() as patch:
        patch.setattr(jobs._Worker, "do", interrupted)
        with pytest.raises(KeyboardInterrupt):
            run(options)
    # and torn as by a machine that failed
    with (options.out / "journal.jsonl").open("a") as file:
        file.write('{"name": "day 2/a", "do')
    first = stamps(options.out)
    assert len(first) == 1
    run(options)
    second = stamps(options.out)
    assert len(second) == 3 and first.items() <= second.items()
    loads.clear()
    run(options)
    assert stamps(options.out) == second and loads == []


def test_what_differs_is_done_again(options, loads):
    (options.jobs / "broken.mp4").unlink()
    run(options)
    before = stamps(options.out)
    film(options.jobs / "a.mp4", 120)
    shutil.rmtree(options.out / "day 2/ö")
    run(options)
    after = stamps(options.out)
    assert {path.parent.name for path in after if after[path] != before.get(path)} == {"a", "ö"}
    assert after[options.out / "day 2/a/run.json"] == before[options.out / "day 2/a/run.json"]
    run(replace(options, seed=1))
    assert not stamps(options.out).items() & after.items()


def test_lines_have_options_of_their_own(options, loads, tmp_path):
    lines = [
        {"video": str(options.jobs / "a.mp4"), "name": "first/depth"},
        {"video": str(options.jobs / "a.mp4"), "modality": "flow", "seed": 3},
        {"prompt": "a ball", "modality": "depth", "guidance": 1, "frames": 5, "size": [32, 32]},
    ]
    path = tmp_path / "jobs.jsonl"
    path.write_text("\ufeff" + json.dumps(lines[0]) + "\n\n" + "\n".join(map(json.dumps, lines[1:])), "utf-8")
    run(replace(options, jobs=path))
    found = {
        name: json.loads((options.out / name / "run.json").read_text())
        for name in ("first/depth", "00003", "00004")
    }
    assert [(r["task"], r["modality"], r["seed"]) for r in found.values()] == [
        ("estimate", "depth", 0), ("estimate", "flow", 3), ("joint", "depth", 0)
    ]  # fmt: skip
    assert loads == [options.checkpoint]


@pytest.mark.slow
def test_the_model_is_loaded_anew_where_it_is_to_lie_otherwise(options, loads, tmp_path):
    """And what each job says is what its own flags ask for."""
    ways = [{}, {"storage": "fp8"}, {"storage": "fp8"}, {"offload": "parts"}]
    path, one = tmp_path / "jobs.jsonl", {"video": str(options.jobs / "a.mp4")}
    path.write_text("\n".join(json.dumps(one | way) for way in ways))
    run(replace(options, jobs=path))
    assert len(loads) == 3
    found = [json.loads((options.out / f"{n:05}/run.json").read_text())["thrift"] for n in range(1, 5)]
    assert found == [vars(Thrift(**way)) for way in ways]
    values = [(options.out / f"{n:05}/depth.npz").read_bytes() for n in range(1, 5)]
    assert values[0] == values[3] != values[1] == values[2]


def test_shares_are_disjoint_and_all(options):
    every = read_jobs(options)
    parts = [share(every, f"{i}/3") for i in (1, 2, 3)]
    assert sorted(job.name for part in parts for job in part) == sorted(job.name for job in every)
    (options.jobs / "broken.mp4").unlink()
    for i in (1, 2):
        run(replace(options, part=f"{i}/2"))
    assert len(journal(options.out, "journal-1-of-2.jsonl")) == 2 and len(stamps(options.out)) == 3
    before = stamps(options.out)
    # shared out anew, nothing is done again
    run(options)
    assert stamps(options.out) == before


BAD = {
    "not json": "line 1 of .* is no job: Expecting value",
    "[1]": "is no object",
    '{"modality": "depth", "video": 3}': "video is '3'",
    '{"modality": "depth", "steps": "many"}': "steps is 'many'",
    '{"modality": "depth", "out": "x"}': "'out' is nothing that a line can say",
    '{"modality": "depth", "film": "x"}': "'film' is nothing that a line can say",
    '{"modality": "depth", "name": "../x"}': "'../x' is no name of a folder",
    '{"modality": "depth", "name": "/x"}': "'/x' is no name of a folder",
    '{"modality": "depth", "name": ""}': "'' is no name of a folder",
    '{"modality": "depth", "name": "a"}\n{"modality": "flow", "name": "a"}': "two jobs are named 'a'",
    '{"video": "a.mp4"}': "no modality is named",
    "\n": "holds no job",
}


@pytest.mark.parametrize("text", BAD)
def test_a_file_that_holds_no_jobs_is_refused_before_anything_is_made(text, options, loads, tmp_path):
    path = tmp_path / "jobs.jsonl"
    path.write_text(text)
    with pytest.raises(ValueError, match=BAD[text]):
        run(replace(options, jobs=path, modality=""))
    assert not options.out.exists() and loads == []


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"jobs": Path("nowhere")}, "there is no nowhere"),
        ({"part": "0/2"}, "--part 0/2 is no share"),
        ({"part": "x"}, "--part x is no share"),
        ({"video": Path("a.mp4")}, "leave --video, --condition and --control-from out"),
        ({"modality": ""}, "no modality is named"),
    ],
)
def test_options_that_cannot_be_are_refused(change, words, options, loads):
    with pytest.raises(ValueError, match=words):
        run(replace(options, **change))
    assert not options.out.exists() and loads == []


def test_a_folder_without_films_is_refused(options, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match="holds no film"):
        read_jobs(replace(options, jobs=tmp_path / "empty"))


def test_results_among_the_films_are_no_films(options):
    (options.jobs / "broken.mp4").unlink()
    inside = replace(options, out=options.jobs / "out")
    run(inside)
    names = [job.name for job in read_jobs(inside)]
    assert names == [job.name for job in read_jobs(options) if not job.name.startswith("out/")] and len(names) == 3


def test_films_of_one_name_keep_their_endings(options):
    film(options.jobs / "a.mkv")
    assert {"a.mp4", "a.mkv", "day 2/a"} <= {job.name for job in read_jobs(options)}


def test_two_processes_do_not_share_a_journal(options, loads):
    options.out.mkdir()
    with (
        FileLock(options.out / "journal.lock"),
        pytest.raises(ValueError, match="another process does these jobs"),
    ):
        run(options)
    assert loads == []


def test_a_checkpoint_that_cannot_do_it_is_not_loaded(options, loads):
    with pytest.raises(ValueError, match="4 of 4 jobs failed"):
        run(replace(options, modality="skeleton"))
    assert loads == [] and "has not learnt" in journal(options.out)[0]["why"]


def test_as_a_program(options, monkeypatch, capsys):
    (options.jobs / "broken.mp4").unlink()
    flags = ("--modality", "depth", "--steps", 1, "--device", "cpu", "--checkpoint", options.checkpoint)
    command = ("jobs", options.jobs, *flags, "--out", options.out)
    monkeypatch.setattr("sys.argv", [str(word) for word in command])
    jobs.main()
    assert capsys.readouterr().out.count("[") == 3
