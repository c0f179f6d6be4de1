"""Datasets: the number of workers changes nothing, and what cannot be made is refused before any work."""

import math
import resource
import subprocess
import sys

import numpy as np
import pytest

from unity.command import end
from unity.data.shards import open_shards
from unity.data.simulate.clip import simulate
from unity.data.simulate.dataset import Options, make_dataset
from unity.randomness import fold

SMALL = {"clips": 2, "frames": 5, "size": 32, "sources": ("single_person", "subject"), "seed": 3}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("simulated")
    for workers in (1, 2):
        make_dataset(Options(out=root / str(workers), workers=workers, **SMALL))
    return root / "1", root / "2"


@pytest.mark.slow
def test_workers_change_nothing(folders):
    one, two = map(open_shards, folders)
    assert one.counts == two.counts == {"single_person": 2, "subject": 2}
    for source in one.counts:
        for index in range(2):
            a, b = one.clip(source, index), two.clip(source, index)
            assert a.name == b.name and a.caption == b.caption and a.meta == b.meta
            assert all((a.video[name] == b.video[name]).all() for name in a.video)


def test_clips_can_be_made_again_from_their_seed(folders):
    stored = open_shards(folders[0]).clip("subject", 1)
    assert stored.meta["seed"] == fold(3, 3, 1)
    again = simulate(stored.meta["seed"], "subject", 5, (32, 32))
    assert stored.caption == again.caption
    for name in stored.available:
        np.testing.assert_array_equal(stored.video[name], again.video[name])


def test_nothing_is_left_behind_or_overwritten(folders):
    assert sorted(path.name for path in folders[0].parent.iterdir()) == ["1", "2"]
    with pytest.raises(ValueError, match="exists"):
        make_dataset(Options(out=folders[0], workers=1, **SMALL))
    with pytest.raises(ValueError, match="0 clips"):
        make_dataset(Options(out=folders[0].parent / "new", workers=1, **(SMALL | {"clips": 0})))


NUMBERS = {
    "clips": (0, -1, 10**12),
    "frames": (1, -7, 10**6),
    "size": (15, 0, -128, 10**9),
    "fps": (0.0, -1.0, math.nan, math.inf, 1e6),
    "seed": (-1, 1 << 60),
    "workers": (0, -1, 10**6),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name, all in NUMBERS.items() for value in all])
def test_numbers_out_of_bounds_are_refused_before_anything_is_made(tmp_path, name, value):
    with pytest.raises(ValueError, match=f"{value}.*{name}|{name} is {value}"):
        make_dataset(Options(out=tmp_path / "x", **(SMALL | {name: value})))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("sources", [(), ("nowhere",), ("subject", "subject")])
def test_sources_that_make_no_dataset_are_refused(tmp_path, sources):
    with pytest.raises(ValueError, match="sources"):
        make_dataset(Options(out=tmp_path / "x", **(SMALL | {"sources": sources})))
    assert list(tmp_path.iterdir()) == []


def test_an_empty_folder_is_filled_and_a_link_followed(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "link").symlink_to("empty")
    make_dataset(Options(out=tmp_path / "link", workers=1, **(SMALL | {"clips": 1, "sources": ("subject",)})))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["empty", "link"]
    assert sorted(path.name for path in (tmp_path / "empty").iterdir()) == ["dataset.json", "subject"]


def refused(monkeypatch, capfd, folder, *flags):
    """The one sentence that the command ends in, in `folder` and in this process."""
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        # which the command sets for all its life
        monkeypatch.setenv(name, "1")
    from unity.data.simulate.__main__ import main

    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", ["simulate", *flags])
    with pytest.raises(SystemExit) as stop:
        end("simulate", main)
    said = capfd.readouterr().err.splitlines()
    assert stop.value.code == 2 and len(said) == 1 and said[0].startswith("simulate: "), said
    return said[0]


@pytest.mark.parametrize(
    ("out", "words"),
    [("file/x", "nothing can be written in"), ("/proc/x", "nothing can be"), ("file", "exists")],
)
def test_where_nothing_can_be_written_a_sentence_says_so(tmp_path, monkeypatch, capfd, out, words):
    (tmp_path / "file").touch()
    flags = ["--out", out, "--clips", "2", "--sources", "subject", "--workers", "1"]
    assert words in refused(monkeypatch, capfd, tmp_path, *flags)
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


@pytest.mark.slow
def test_a_full_disk_is_a_sentence_and_leaves_nothing(tmp_path):
    """What is written ends in an error in the middle of a file."""

    def limit():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, resource.RLIM_INFINITY))

    command = [
        sys.executable,
        "-m",
        "unity.data.simulate",
        "--out",
        "full",
        "--clips",
        "2",
        "--sources",
        "subject",
    ]
    done = subprocess.run(
        [*command, "--workers", "1"], capture_output=True, text=True, cwd=tmp_path, preexec_fn=limit
    )
    said = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip() and "%|" not in line]
    assert done.returncode == 2 and len(said) == 1 and "File too large" in said[0], done.stderr
    assert list(tmp_path.iterdir()) == []


def test_the_command_line_says_what_is_wrong(tmp_path, monkeypatch, capfd):
    assert "nowhere" in refused(monkeypatch, capfd, tmp_path, "--out", "x", "--clips", "1", "--sources", "nowhere")
    assert list(tmp_path.iterdir()) == []
