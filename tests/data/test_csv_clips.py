"""The release's metadata CSV, read as it is."""

import csv

import numpy as np
import pytest

from unity.data.csv_clips import csv_clips, main
from unity.data.film import choose
from unity.data.shards import open_shards, write_shards
from unity.data.video import read_video, write_video


def _scene(seed, frames=9, height=48, width=80):
    t, y, x = np.mgrid[:frames, :height, :width]
    return (
        127 + 60 * np.stack([np.sin((x + t * c + seed * 9) / 9) + np.cos(y / 7) for c in (1, 2, 3)], -1)
    ).astype(np.uint8)


@pytest.fixture
def metadata(tmp_path):
    """Two rows as in the release: flow is called raft, paths are relative or absolute, a cell may be empty."""
    files = {n: write_video(_scene(i), tmp_path / "clips" / f"{n}.mp4", 16.0) for i, n in enumerate("abcd")}
    rows = [
        {
            "id": "7",
            "video": "clips/a.mp4",
            "prompt": "a man, walking",
            "depth": str(files["b"]),
            "raft": "clips/c.mp4",
        },
        {"id": "8", "video": "clips/d.mp4", "prompt": "a dog", "depth": "", "raft": "clips/b.mp4"},
    ]
    path = tmp_path / "metadata.csv"
    _write(path, rows)
    return path


def _write(path, rows):
    with path.open("w", newline="") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(rows)


def test_rows_become_clips(metadata):
    first, second = csv_clips(metadata, "general", frames=5, size=(32, 32))
    assert (first.name, first.caption, first.source) == ("a", "a man, walking", "general")
    assert (first.available, second.available) == (("depth", "flow"), ("flow",))
    whole = read_video(metadata.parent / "clips" / "c.mp4", size=(32, 32))
    np.testing.assert_array_equal(first.video["flow"], whole[choose(range(9), 5)])
    assert first.constants["flow"] and first.meta["file"] == "clips/a.mp4"


def test_they_can_be_written_as_shards_from_the_command_line(metadata, tmp_path, capsys):
    arguments = ["--csv", str(metadata), "--source", "general", "--out", str(tmp_path / "data")]
    assert main([*arguments, "--frames", "5", "--size", "32"]) == 0
    shards = open_shards(tmp_path / "data")
    assert shards.counts == {"general": 2} and shards.about["size"] == [32, 32]
    assert shards.clip("general", 1).caption == "a dog"
    assert main(arguments) == 2
    assert capsys.readouterr().err == f"{tmp_path / 'data'} exists; choose another folder, or delete it first\n"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"video": "clips/none.mp4"}, "line 2: there is no video file .*none.mp4"),
        ({"video": ""}, "line 2: the cell of 'video' is empty"),
        ({"raft": "clips/short.mp4"}, "line 2: .*short.mp4 has 3 frames, 5 are wanted"),
    ],
)
def test_a_bad_row_is_named(metadata, change, message):
    write_video(_scene(9, frames=3), metadata.parent / "clips" / "short.mp4", 16.0)
    rows = list(csv.DictReader(metadata.open()))
    _write(metadata, [rows[0] | change])
    with pytest.raises(ValueError, match=message):
        list(csv_clips(metadata, "general", frames=5, size=(32, 32)))


def test_a_bad_table_is_named(metadata, tmp_path):
    with pytest.raises(ValueError, match="no metadata file"):
        list(csv_clips(tmp_path / "none.csv", "general"))
    _write(metadata, [{"path": "a.mp4", "text": "a dog"}])
    with pytest.raises(ValueError, match="needs 'video', 'prompt'"):
        write_shards(csv_clips(metadata, "general"), tmp_path / "data")
    assert not (tmp_path / "data").exists()
