"""Whole or absent, nobody else's files touched, and JSON that every reader accepts."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from unity import files
from unity.files import (
    check_space,
    check_writable,
    json_line,
    json_text,
    whole_file,
    whole_folder,
    write_json,
    write_text,
)


def tree(folder: Path) -> dict[str, bytes | None]:
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else None for p in folder.rglob("*")}


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("writer", [whole_file, whole_folder])
@pytest.mark.parametrize("deep", ["", "new/deeper"])
def test_a_failed_write_leaves_what_was_there(writer, error, deep, tmp_path):
    path = tmp_path / deep / "out"
    if not deep and writer is whole_file:
        path.write_text("old")
    before = tree(tmp_path)
    with pytest.raises(error), writer(path) as temporary:
        (temporary / "half" if writer is whole_folder else temporary).write_text("new")
        raise error
    assert tree(tmp_path) == before


def test_a_file_appears_whole_and_with_the_rights_that_open_gives(tmp_path):
    path = tmp_path / "deep" / "out.txt"
    with whole_file(path) as temporary:
        temporary.write_text("new")
        assert not path.exists() and temporary.suffix == ".txt"
    (tmp_path / "plain").write_text("")
    assert tree(tmp_path) == {"deep": None, "deep/out.txt": b"new", "plain": b""}
    assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_link_to_a_file_stays_a_link(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "link").symlink_to("file")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "file").read_text() == "new"


def test_a_file_does_not_replace_a_folder(tmp_path):
    (tmp_path / "out").mkdir()
    with pytest.raises(IsADirectoryError, match="is a folder.*out"):
        write_text(tmp_path / "out", "new")


@pytest.mark.parametrize("kind", ["absent", "empty", "clutter", "link", "long"])
def test_a_folder_may_be_absent_or_empty_or_a_link_to_such(kind, tmp_path):
    path = tmp_path / ("n" * 255 if kind == "long" else "out")
    if kind in ("empty", "clutter", "link"):
        (tmp_path / "place").mkdir()
        path.symlink_to("place") if kind == "link" else (tmp_path / "place").rename(path)
    if kind == "clutter":
        (path / "lost+found").mkdir()
    with whole_folder(path, last="record") as temporary:
        for name in ("record", "a", "z"):
            (temporary / name).write_text(name)
    assert files.names(path) == {"record", "a", "z"} and path.is_symlink() == (kind == "link")
    assert (path / "lost+found").exists() == (kind == "clutter")
    assert not list(tmp_path.rglob(".part*"))


def test_the_entry_that_tells_of_wholeness_comes_last(tmp_path, monkeypatch):
    moved, replace = [], Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, to: moved.append(to.name) or replace(self, to))
    with whole_folder(tmp_path, last="b") as temporary:
        for name in "abc":
            (temporary / name).write_text(name)
    assert moved == ["a", "c", "b"]


def test_a_folder_with_something_in_it_is_nobodys_to_replace(tmp_path):
    (tmp_path / "own.txt").write_text("work")
    with pytest.raises(ValueError, match=r"holds 'own.txt' already; give"), whole_folder(tmp_path):
        raise AssertionError("not reached")
    out = tmp_path / "out"
    with pytest.raises(ValueError, match="came.txt"), whole_folder(out) as temporary:
        (temporary / "new").write_text("new")
        out.mkdir()
        (out / "came.txt").write_text("meanwhile")
    assert tree(tmp_path) == {"own.txt": b"work", "out": None, "out/came.txt": b"meanwhile"}


def test_what_an_earlier_call_left_is_replaced_and_nothing_else(tmp_path):
    def mine(name):
        return name.endswith(".png")

    out = tmp_path / "out"
    for number in range(2):
        with whole_folder(out, mine=mine) as temporary:
            (temporary / f"{number}.png").write_text("picture")
        assert tree(tmp_path) == {"out": None, f"out/{number}.png": b"picture"}
    (out / "own.txt").write_text("work")
    with pytest.raises(ValueError, match="own.txt"), whole_folder(out, mine=mine):
        raise AssertionError("not reached")
    assert (out / "own.txt").exists() and (out / "1.png").exists()


def test_a_mount_point_is_filled(tmp_path, monkeypatch):
    """Renaming over a mount point fails; a simulated one does too."""
    out = tmp_path / "out"
    out.mkdir()
    monkeypatch.setattr(os.path, "ismount", lambda path: Path(path) == out)
    inode = out.stat().st_ino
    with whole_folder(out) as temporary:
        (temporary / "a").write_text("a")
    assert out.stat().st_ino == inode and tree(out) == {"a": b"a"}


def bad_places(folder):
    (folder / "file").write_text("")
    (folder / "loop").symlink_to("loop")
    return {
        "under a file": folder / "file" / "out",
        "a file": folder / "file",
        "name too long": folder / ("n" * 256),
        "path too long": folder.joinpath(*["d" * 200] * 21),
        "a link to itself": folder / "loop" / "out",
        "proc": Path("/proc/out"),
    }


@pytest.mark.parametrize("name", (
    "under a file", "a file", "name too long", "path too long", "a link to itself", "proc",
))  # fmt: skip
def test_a_place_that_cannot_be_written_is_told_of_and_left(name, tmp_path):
    place = bad_places(tmp_path)[name]
    before = tree(tmp_path)
    with pytest.raises(ValueError, match="give another folder"):
        check_writable(place)
    assert tree(tmp_path) == before


def test_a_place_that_can_be_written_is_left_as_it_was(tmp_path):
    check_writable(tmp_path / "a" / "b")
    check_writable(tmp_path)
    assert tree(tmp_path) == {}


def test_a_full_disk_is_told_of(tmp_path):
    check_space(tmp_path / "a" / "b", 1)
    with pytest.raises(ValueError, match="MB left, and .* MB are needed"):
        check_space(tmp_path / "a" / "b", 1 << 62)


def test_json_is_what_the_standard_calls_json(tmp_path):
    def refuse(word):
        raise AssertionError(f"{word} is no JSON")

    value = {
        "nan": float("nan"), "inf": [-np.inf, 1.5], "numpy": np.float32("nan"), "array": np.arange(2),
        "path": tmp_path, "bytes of a name": os.fsdecode(b"\xe9"), "set": {2, 1}, 3: True, "none": None,
    }  # fmt: skip
    text = write_json(tmp_path / "a.json", value).read_bytes().decode()
    assert json.loads(text, parse_constant=refuse) == {
        "nan": None, "inf": [None, 1.5], "numpy": None, "array": [0, 1], "path": str(tmp_path),
        "bytes of a name": "\\udce9", "set": [1, 2], "3": True, "none": None,
    }  # fmt: skip
    assert json_text({}, None) == "{}"


def test_a_line_of_json_is_one_line_that_people_can_read():
    """Also where a caption holds what Python and editors, but not JSON, end a line at."""
    value = {"фильм.mp4": "ein Hündchen 犬\u2028\u2029\x85\n\x0b\x1c", "name": os.fsdecode(b"\xe9")}
    line = json_line(value)
    assert "фильм" in line and "Hündchen 犬" in line and line.encode().decode().splitlines() == [line[:-1]]
    assert json.loads(line) == value | {"name": "\\udce9"}


PROGRAM = """
import sys, time
from pathlib import Path
from unity.command import end
from unity.files import whole_folder
def main():
    with whole_folder(Path(sys.argv[1])) as folder:
        (folder / "half").write_text("half")
        print("begun", flush=True)
        time.sleep(60)
end("test", main)
"""


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_program_leaves_nothing(sent, code, tmp_path):
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / "new" / "out")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "begun\n"
        process.send_signal(sent)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == code and "Traceback" not in said
    assert tree(tmp_path) == {}
