"""A second run replaces what the first wrote, whole, and never anything else."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from unity.results import Results

NAMES = ("rgb.mp4", "flow", "run.json")


@pytest.fixture(autouse=True)
def no_waiting_for_the_disk(monkeypatch):
    """What the disk has when power fails cannot be tested here, and waiting for it takes most of the time."""
    for module in ("files", "results"):
        monkeypatch.setattr(f"unity.{module}.flush", lambda path: None)


def results(folder):
    return Results(folder, "unity.infer", "run.json")


def write(folder, number, frames=3, **options):
    with results(folder).writing({"number": number}, **options) as new:
        (new / "rgb.mp4").write_text(f"rgb {number}")
        (new / "flow").mkdir()
        for i in range(frames):
            (new / "flow" / f"{i}.flo").write_text(f"flow {number}")


def tree(folder):
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in sorted(folder.rglob("*"))}


def numbers(folder):
    """Which runs the folder's files come from, and what its record claims."""
    parts = {p.read_text().split()[1] for p in folder.rglob("*") if p.suffix in (".mp4", ".flo")}
    record = folder / "run.json"
    return parts, str(json.loads(record.read_text())["number"]) if record.exists() else None


def test_a_second_run_replaces_the_first_whole(tmp_path):
    out = tmp_path / "out"
    write(out, 1, frames=5)
    results(out).check(NAMES)
    write(out, 2, frames=3)
    assert numbers(out) == ({"2"}, "2")
    assert set(tree(out)) == {"rgb.mp4", "flow", "flow/0.flo", "flow/1.flo", "flow/2.flo", "run.json"}
    assert [p.name for p in results(out).files()] == ["flow", "rgb.mp4", "run.json"]


OWN = ("notes.txt", "film.mp4", ".hidden", "more/deep.txt", "flow2", "lost+found/x")


@pytest.mark.parametrize("own", OWN)
@pytest.mark.parametrize("fail", [False, True])
def test_own_files_beside_the_results_stay(own, fail, tmp_path):
    out = tmp_path / "out"
    write(out, 1)
    (out / own).parent.mkdir(exist_ok=True)
    (out / own).write_text("years of work")
    before = tree(out)
    results(out).check(NAMES, inputs=[out / own])
    assert tree(out) == before
    if fail:
        with pytest.raises(KeyboardInterrupt), results(out).writing({}) as new:
            (new / "rgb.mp4").write_text("half")
            raise KeyboardInterrupt
        assert tree(out) == before
    else:
        write(out, 2)
        assert (out / own).read_text() == "years of work" and numbers(out)[1] == "2"


def alter(out, how):
    """Things people do to a folder of results, after which a run must not replace them."""
    if how == "own file under a name of ours":
        (out / "picture.png").write_text("mine")
    elif how == "own file in a folder of ours":
        (out / "flow" / "mine.txt").write_text("mine")
    elif how == "ours edited":
        (out / "rgb.mp4").write_text("mine")
    elif how == "ours now a link":
        (out / "rgb.mp4").unlink()
        (out.parent / "film.mp4").write_text("mine")
        (out / "rgb.mp4").symlink_to(out.parent / "film.mp4")
    elif how == "folder now a link":
        (out / "flow").rename(out.parent / "elsewhere")
        (out / "flow").symlink_to(out.parent / "elsewhere")
    elif how == "ours now a folder":
        (out / "rgb.mp4").unlink()
        (out / "rgb.mp4").mkdir()
        (out / "rgb.mp4" / "x").write_text("mine")
    else:
        (out / "run.json").write_text(altered_record(json.loads((out / "run.json").read_text()), how))


def altered_record(record, how):
    foreign = {
        "record of another program": lambda: record.update(program="unity.train"),
        "record without program": lambda: record.pop("program"),
        "record without files": lambda: record.pop("files"),
        "record of no files": lambda: record.update(files={}),
        "record of strange files": lambda: record.update(files=[1, 2]),
        "record that leads out": lambda: record["files"].update({"../film.mp4": "0" * 64}),
        "record that leads to the root": lambda: record["files"].update({"/etc/passwd": "0" * 64}),
        "record with digests that are none": lambda: record["files"].update({"rgb.mp4": 3}),
    }
    if how in foreign:
        foreign[how]()
        return json.dumps(record)
    contents = {"torn": '{"program"', "list": "[]", "empty": "", "number": "3", "binary": "\0\1"}
    return contents[how.removesuffix(" record")]


ALTERED = (
    "own file under a name of ours", "own file in a folder of ours", "ours edited", "ours now a link",
    "folder now a link", "ours now a folder", "record of another program", "record without program",
    "record without files", "record of no files", "record of strange files", "record that leads out",
    "record that leads to the root", "record with digests that are none", "torn record", "list record",
    "empty record", "number record", "binary record",
)  # fmt: skip


@pytest.mark.parametrize("how", ALTERED)
def test_what_may_be_somebodys_work_is_refused_early_and_late(how, tmp_path):
    out = tmp_path / "out"
    write(out, 1)
    (tmp_path / "film.mp4").write_text("a film")
    alter(out, how)
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="give another --out"):
        results(out).check((*NAMES, "picture.png"))
    assert tree(tmp_path) == before
    with pytest.raises(ValueError, match="give another --out"), results(out).writing({}) as new:
        for name in ("rgb.mp4", "picture.png", "flow/mine.txt"):
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text("new")
    assert tree(tmp_path) == before


def test_an_input_among_the_results_is_refused(tmp_path):
    write(tmp_path / "out", 1)
    (tmp_path / "link").symlink_to("out")
    for given in (tmp_path / "out" / "rgb.mp4", tmp_path / "link" / "rgb.mp4"):
        with pytest.raises(ValueError, match="one of the results"):
            results(tmp_path / "out").check(NAMES, inputs=[given])


@pytest.mark.parametrize("kind", ["empty", "link", "link to nothing", "mount point"])
def test_places_that_exist_already_work(kind, tmp_path):
    out, place = tmp_path / "out", tmp_path / "place"
    if kind != "link to nothing":
        place.mkdir()
    if kind == "mount point":
        (place / "lost+found").mkdir()
    if kind == "empty":
        place.rename(out)
    else:
        out.symlink_to(place)
    for number in (1, 2):
        results(out).check(NAMES)
        write(out, number)
        assert numbers(out) == ({str(number)}, str(number))
    assert out.is_symlink() == (kind != "empty")


@pytest.mark.skipif(os.geteuid() != 0 or not Path("/usr/bin/mount").exists(), reason="mounting needs root")
def test_a_true_mount_point_works(tmp_path):
    program = (
        "import sys; sys.path.insert(0, sys.argv[2]); from pathlib import Path\n"
        "from test_results import write, numbers, results, NAMES\n"
        "out = Path(sys.argv[1])\n"
        "for n in (1, 2):\n    results(out).check(NAMES); write(out, n)\n"
        "print(numbers(out))"
    )
    inner = f"mount -t tmpfs none {tmp_path} && {sys.executable} -c '{program}' {tmp_path} {Path(__file__).parent}"
    done = subprocess.run(["unshare", "-m", "bash", "-c", inner], capture_output=True, text=True)
    if "not permitted" in done.stderr or "permission denied" in done.stderr.lower():
        pytest.skip("mounting is not allowed here")
    assert done.stdout.strip() == "({'2'}, '2')", done.stderr


@pytest.mark.parametrize("how", ["file", "under a file"])
def test_a_file_in_the_way_is_told_of(how, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="nothing can be written in"):
        results(tmp_path / "file" / ("x" if how == "under a file" else "")).check(NAMES)
    with pytest.raises(ValueError, match="MB are needed"):
        results(tmp_path / "new").check(NAMES, need=1 << 62)
    assert set(tree(tmp_path)) == {"file"}


class Crash(BaseException):
    """The machine stops: nothing that would clean up runs."""


def crash_at(monkeypatch, moment):
    """Let every change of a file count, and stop at the `moment`-th."""
    count = iter(range(1000))

    def counted(function):
        def wrapper(*args, **options):
            if next(count) == moment:
                raise Crash
            return function(*args, **options)

        return wrapper

    for name in ("replace", "unlink", "rmdir", "mkdir"):
        monkeypatch.setattr(Path, name, counted(getattr(Path, name)))
    monkeypatch.setattr("shutil.rmtree", counted(lambda *_, **__: None))


@pytest.mark.parametrize("moment", range(24))
def test_a_crash_at_any_moment_leaves_the_old_or_the_new(moment, tmp_path, monkeypatch):
    out = tmp_path / "out"
    write(out, 1, frames=5)
    (out / "own.txt").write_text("work")
    with monkeypatch.context() as patched, pytest.raises(Crash):
        crash_at(patched, moment)
        write(out, 2)
        raise Crash
    parts, claim = numbers(Path(out))
    stray = [p for p in out.rglob(".part*")]
    # what has a record is whole: its own files and no others, but for what is hidden
    if claim:
        shown = {p.read_text().split()[1] for p in out.glob("*.mp4")} | {
            p.read_text().split()[1] for p in out.glob("flow/*.flo")
        }
        assert shown == {claim}
    results(out).check(NAMES)
    parts, claim = numbers(out)
    assert parts == {claim} and claim in ("1", "2") and (out / "own.txt").read_text() == "work"
    assert not list(out.glob(".part*")), stray
    write(out, 3)
    assert numbers(out) == ({"3"}, "3")


LOOP = """
import sys; sys.path.insert(0, sys.argv[2])
from pathlib import Path
from test_results import write
print("begun", flush=True)
for number in range(10, 100000):
    write(Path(sys.argv[1]), f"{sys.argv[3]}{number}", frames=1 + number % 4)
"""


def loop(out, who=""):
    command = [sys.executable, "-c", LOOP, str(out), str(Path(__file__).parent), who]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "begun\n", process.stderr.read()
    return process


def test_killed_at_many_moments(tmp_path):
    out = tmp_path / "out"
    write(out, 1)
    (out / "own.txt").write_text("work")
    for turn in range(12):
        process = loop(out)
        time.sleep(0.02 + 0.013 * turn)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        results(out).check(NAMES)
        parts, claim = numbers(out)
        assert parts == {claim} and (out / "own.txt").read_text() == "work"


def test_two_programs_in_one_folder_never_mix(tmp_path):
    out = tmp_path / "out"
    write(out, 1)
    both = [loop(out, who) for who in ("a", "b")]
    time.sleep(1)
    for process in both:
        assert process.poll() is None, process.communicate()[1]
        process.send_signal(signal.SIGKILL)
        process.communicate()
    results(out).check(NAMES)
    parts, claim = numbers(out)
    assert parts == {claim} and re.match("[ab]", claim)
