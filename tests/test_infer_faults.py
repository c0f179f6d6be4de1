"""What users and machines do to the program: one sentence with the way out, and nothing lost."""

import itertools
import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from unity import answer, reel
from unity.command import end
from unity.data.video import write_video
from unity.infer import infer, main
from unity.request import SHIPPED, Request

ROOT = Path(__file__).parents[1]
LATIN = os.fsdecode(b"caf\xe9")


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """A wide video of 11 frames at 10 a second."""
    y, x = np.mgrid[:72, :128]
    frames = np.stack([np.stack([2 * x, 3 * y, 0 * x + 20 * t], -1) for t in range(11)]).astype(np.uint8)
    return write_video(frames, tmp_path_factory.mktemp("film") / "film.mp4", fps=10)


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


def refused(flags, monkeypatch, capsys):
    """The sentence that a command line ends in, before any weights are read."""
    monkeypatch.setattr(sys, "argv", ["infer", *map(str, flags)])
    monkeypatch.setattr(answer, "load_generator", lambda *_: pytest.fail("weights were read"))
    with pytest.raises(SystemExit) as stop:
        end("infer", main)
    said = capsys.readouterr().err
    assert stop.value.code == 2 and "Traceback" not in said
    return said


NUMBERS = {
    "--steps": ("0", "-3", "1001", "99999999999999999999"),
    "--guidance": ("nan", "inf", "-inf", "-1", "101", "1e400"),
    "--shift": ("nan", "inf", "0", "-1", "1e9"),
    "--seed": ("-1", str(2**53 + 1), str(10**30)),
    "--frames": ("0", "-4", "65536", "8"),
    "--size": ("0 64", "64 0", "-64 64", "64 20000", "64 42"),
}
ONE = [(flag, value) for flag, values in NUMBERS.items() for value in values]
WORDS = ("x", "", " ", "1.5.2", "0x10", "None", "--", "１２x", "9" * 5000, LATIN, "\t1e", "true", "1,5", "🐈")
ODD = [(flag, word) for flag in NUMBERS for word in WORDS if (flag, word) != ("--frames", "None")]


@pytest.mark.parametrize(("flag", "value"), ONE)
def test_a_number_out_of_its_bounds_is_one_sentence(flag, value, film, tmp_path, monkeypatch, capsys):
    flags = ["--modality", "flow", "--video", film, "--out", tmp_path / "out", flag, *value.split()]
    said = refused(flags, monkeypatch, capsys)
    assert said.startswith(f"infer: {flag[2:]} ") and said.count("\n") == 1 and tree(tmp_path) == {}


@pytest.mark.parametrize(("flag", "value"), ODD, ids=lambda v: ascii(v[:20]))
def test_what_is_no_number_is_refused(flag, value, film, tmp_path, monkeypatch, capsys):
    values = [value, "64"] if flag == "--size" else [value]
    flags = ["--modality", "flow", "--video", film, "--out", tmp_path / "out", flag, *values]
    assert refused(flags, monkeypatch, capsys) and tree(tmp_path) == {}


def test_odd_values_of_every_flag_together(film, tmp_path, monkeypatch, capsys):
    """Hundreds of command lines of odd values, two flags at a time."""
    rng = np.random.default_rng(0)
    pairs = list(itertools.combinations(ONE + ODD, 2))
    for number in rng.choice(len(pairs), 200, replace=False):
        values = [part for flag, value in pairs[number] for part in (flag, *(value.split() or [value]))]
        refused(["--modality", "flow", "--video", film, "--out", tmp_path / "out", *values], monkeypatch, capsys)
    assert tree(tmp_path) == {}


def sentences(film, folder):
    """Flags → what the one sentence must say."""
    (folder / "file").write_text("")
    (folder / "theirs").mkdir()
    (folder / "theirs" / "thesis.txt").write_text("years of work")
    base = ("--video", film)
    return {
        "gpu": ((*base, "--device", "gpu"), "unknown device 'gpu'; choose cpu, cuda"),
        "no such gpu": ((*base, "--device", "cuda:99"), "leave --device out, or give cpu"),
        "empty device": ((*base, "--device", ""), "unknown device ''; choose"),
        "empty prompt": (("--prompt", ""), "the prompt is empty; give words .* or leave --prompt out"),
        "blank prompt": (("--prompt", " \n "), "the prompt is empty"),
        "latin prompt": (("--prompt", LATIN), "is not text in the encoding of this terminal"),
        "latin path": (("--video", folder / LATIN), r"no video file .*caf\\xe9; give"),
        "long path": (("--video", folder / ("n" * 300)), "name too long"),
        "folder": (("--video", folder), "is a folder; give a film in it"),
        "device file": (("--video", "/dev/zero"), "no video file"),
        "file in the way": (
            (*base, "--out", folder / "file"),
            "nothing can be written in .*; give another folder",
        ),
        "under a file": ((*base, "--out", folder / "file" / "x"), "nothing can be written in"),
        "proc": ((*base, "--out", "/proc/x"), "nothing can be written in"),
        "name too long": ((*base, "--out", folder / ("n" * 300)), "nothing can be written in"),
        "occupied": ((*base, "--out", folder / "theirs"), "holds no earlier results .*; give another --out"),
        "modality": ((*base, "--modality", LATIN), "unknown modality"),
        "checkpoint": ((*base, "--checkpoint", folder / LATIN), "give|pass|path"),
    }


CASES = (
    "gpu", "no such gpu", "empty device", "empty prompt", "blank prompt", "latin prompt", "latin path",
    "long path",
    "folder", "device file", "file in the way", "under a file", "proc", "name too long", "occupied", "modality",
    "checkpoint",
)  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_what_cannot_be_is_said_with_the_way_out(case, film, tmp_path, monkeypatch, capsys):
    flags, wanted = sentences(film, tmp_path)[case]
    defaults = {"--modality": "flow", "--out": tmp_path / "out"}
    flags = [part for flag, value in defaults.items() if flag not in flags for part in (flag, value)] + [*flags]
    before = tree(tmp_path)
    said = refused(flags, monkeypatch, capsys)
    assert re.search(wanted, said, re.I) and said.count("\n") == 1, said
    assert tree(tmp_path) == before


@pytest.fixture(scope="module")
def small(film, tmp_path_factory):
    """One small run of the shipped model: its request."""
    return Request(
        modality="depth",
        video=film,
        checkpoint=SHIPPED,
        steps=1,
        frames=5,
        out=tmp_path_factory.mktemp("a") / "out",
    )


@pytest.fixture(scope="module")
def shipped():
    from unity.generate import load_generator

    return load_generator(SHIPPED, "cpu")


def test_the_whole_frame_comes_back_and_the_record_says_so(small, shipped):
    result = infer(small, shipped)
    record = json.loads((small.out / "run.json").read_text(), parse_constant=pytest.fail)
    assert record["source"]["size"] == [72, 128] and record["source"]["crop"] == [0.0, 0.0, 72.0, 128.0]
    np.testing.assert_allclose(record["source"]["times"], [0, 0.2, 0.5, 0.8, 1.0])
    height, width = record["size"]
    assert result.video["depth"].shape == result.video["rgb"].shape == (5, height, width, 3)
    assert abs(height / width - 72 / 128) < 0.03 and result.values.shape == (5, height, width)
    assert record["fps"] == pytest.approx(4.0)
    assert set(record["files"]) == {"rgb.mp4", "depth.mp4", "depth.npz", "picture.png"}


def test_a_short_film_is_taken_as_long_as_it_is(small, shipped, tmp_path):
    assert len(infer(replace(small, frames=None, out=tmp_path / "out"), shipped).video["rgb"]) == 9


def test_an_input_beside_the_results_stays_and_one_of_the_results_is_refused(small, shipped, tmp_path):
    out = tmp_path / "out"
    infer(replace(small, out=out), shipped)
    own = out / "my film.mp4"
    own.write_bytes(small.video.read_bytes())
    (out / "notes.txt").write_text("work")
    infer(replace(small, video=own, out=out, seed=1), shipped)
    assert own.read_bytes() == small.video.read_bytes() and (out / "notes.txt").read_text() == "work"
    assert json.loads((out / "run.json").read_text())["seed"] == 1
    before = tree(out)
    with pytest.raises(ValueError, match="one of the results that this run would replace"):
        infer(replace(small, video=out / "rgb.mp4", out=out), shipped)
    assert tree(out) == before


def test_a_full_disk_is_one_sentence_and_loses_nothing(small, shipped, tmp_path, monkeypatch, capsys):
    request = replace(small, out=tmp_path / "out")
    infer(request, shipped)
    before = tree(tmp_path)

    def full(*_):
        raise OSError(28, "No space left on device", str(tmp_path / "out"))

    monkeypatch.setattr(reel, "write_video", full)
    with pytest.raises(SystemExit) as stop:
        end("infer", lambda: infer(replace(request, seed=1), shipped))
    assert stop.value.code == 2 and "No space left on device; make room" in capsys.readouterr().err
    assert tree(tmp_path) == before


def program(*flags, **options):
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"} | options.pop("env", {})
    command = [sys.executable, "-m", "unity.infer", *map(str, flags)]
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **options
    )


def test_interrupted_while_sampling(film, tmp_path):
    process = program("--modality", "depth", "--video", film, "--steps", 1000, "--out", tmp_path / "out")
    seen = ""
    while "sampling" not in seen and process.poll() is None:
        seen += process.stderr.read(1)
    process.send_signal(2)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "Traceback" not in said and said.rstrip().splitlines()[-1].startswith("infer: interrupted")
    assert tree(tmp_path) == {}


@pytest.mark.slow
def test_a_strict_terminal_shows_every_name(film, tmp_path):
    """Nothing but ASCII on the terminal, and everything else in the names."""
    name = tmp_path / f"é中{LATIN}.mp4"
    name.write_bytes(film.read_bytes())
    out = tmp_path / f"ü{LATIN}"
    environment = {"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "C.UTF-8"}
    flags = ("--modality", "depth", "--video", name, "--steps", 1, "--frames", 5, "--out", out)
    process = program(*flags, env=environment)
    shown, said = process.communicate(timeout=120)
    assert process.returncode == 0, said
    record = json.loads((out / "run.json").read_bytes().decode())
    assert record["inputs"]["video"].endswith("é中caf\\udce9.mp4") and "\\xfc" in shown


def test_help_needs_no_torch_and_states_the_bounds():
    code = "import sys, unity.infer; print(sorted({'torch', 'numpy', 'av', 'cv2'} & sys.modules.keys()))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr
    shown, said = program("--help").communicate(timeout=60)
    for bounds in (
        "--steps 1..1000",
        "--guidance 0..100",
        "--shift >0..1000",
        "--seed 0..",
        "1..65535",
        "1..16384",
    ):
        assert bounds in shown, shown + said
