"""The release's metadata CSV, read as it is."""

import csv
import re
import struct
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest

from unity.data.csv_clips.__main__ import main
from unity.data.csv_clips.convert import REFUSED, Ledger, csv_clips
from unity.data.csv_clips.table import read_table
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
    whole = read_video(metadata.parent / "clips" / "c.mp4", size=(32, 32), stream="flow")
    np.testing.assert_array_equal(first.video["flow"], whole[choose(range(9), 5)])
    assert first.constants["flow"] and first.meta["file"] == "clips/a.mp4"


def test_they_can_be_written_as_shards_from_the_command_line(metadata, tmp_path):
    arguments = ["--csv", str(metadata), "--source", "general", "--out", str(tmp_path / "data")]
    main([*arguments, "--frames", "5", "--size", "32"])
    shards = open_shards(tmp_path / "data")
    assert shards.counts == {"general": 2} and shards.about["size"] == [32, 32]
    assert shards.clip("general", 1).caption == "a dog"
    with pytest.raises(ValueError, match="data exists; choose another folder, or delete it first"):
        main(arguments)


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


PROMPT = "一个人在跑步 – “vite”"
PLAIN = "une fille à l’école"


@pytest.mark.parametrize(
    ("encoding", "given", "prompt"),
    [
        ("utf-8", None, PROMPT),
        ("utf-8-sig", None, PROMPT),
        ("utf-16", None, PROMPT),
        ("utf-32", None, PROMPT),
        ("utf-16-le", "utf-16-le", PROMPT),
        ("gbk", "gbk", PROMPT.replace("–", "—")),
        ("gb18030", "gb18030", PROMPT),
        ("cp1252", "cp1252", PLAIN),
    ],
)
@pytest.mark.parametrize("separator", [",", ";", "\t"])
def test_tables_of_any_encoding_and_separator_are_read(tmp_path, encoding, given, prompt, separator):
    path = tmp_path / "metadata.csv"
    lines = [["video", "prompt", "depth"], ["a.mp4", prompt, "d.mp4"]]
    path.write_bytes("\r\n".join(separator.join(line) for line in lines).encode(encoding))
    names, rows = read_table(path, "video", given)
    assert names == lines[0]
    assert [(row.line, row.cells) for row in rows] == [(2, dict(zip(*lines, strict=True)))]


@pytest.mark.parametrize(
    ("encoding", "text", "given", "words"),
    [
        (
            "gbk",
            "一个人在跑步",
            None,
            r"is not utf-8: line 2 .*--encoding, perhaps gbk \(which reads 'b.mp4,一个人在跑步",
        ),
        ("cp1252", PLAIN, None, r"is not utf-8: line 2 .*cp1252 \(which reads .*fille à l’éc"),
        ("utf-16-le", "a dog", None, "is not utf-8: line 1 holds zeros; .*utf-16-le"),
        ("utf-8", PROMPT, "ascii", "is not ascii: line 2 .*perhaps utf-8"),
        ("utf-8", "a dog", "rot13", "'rot13' is no encoding of text"),
        ("utf-8", "a dog", "no such", "'no such' is no encoding of text"),
    ],
)
def test_an_encoding_is_never_guessed_at(tmp_path, encoding, text, given, words):
    path = tmp_path / "metadata.csv"
    path.write_bytes(f"video,prompt,depth\nb.mp4,{text},\n".encode(encoding))
    with pytest.raises(ValueError, match=words):
        read_table(path, "video", given)


def test_lines_are_those_of_the_file(tmp_path):
    path = tmp_path / "metadata.csv"
    lines = 'video,prompt,depth|a,"one|two||three",x||b,short|c,"d,e",x|d,e,f,g,h|e,"e"x,f| f ,g,|"never closed,||'
    path.write_text(lines.replace("|", "\n"))
    rows = list(read_table(path, "video")[1])
    assert [row.line for row in rows] == [2, 7, 8, 9, 10, 11, 12]
    assert rows[1].cells == {"video": "b", "prompt": "short", "depth": ""} and rows[5].cells["video"] == "f"
    faults = {row.line: row.fault for row in rows if row.fault}
    assert faults.keys() == {9, 10, 12}
    assert faults[9] == "it has 2 cells more than there are columns; quote what holds a ','"
    assert "up to line 13" in faults[12]


def _film(path, frames, height, width, rate=16, times=None):
    """A video whose frames come at given times (in frames of `rate`)."""
    scene = _scene(3, frames, height, width)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=rate, options={"g": "8", "bf": "0"})
        stream.height, stream.width, stream.pix_fmt = height, width, "yuv420p"
        stream.codec_context.time_base = Fraction(1, 1000)
        for number, picture in enumerate(scene):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            frame.time_base = Fraction(1, 1000)
            frame.pts = round(1000 * float((times or range(frames))[number] / rate))
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def _turned(path, new, a, b, c, d):
    """A copy of an MP4 with a note to show x' = ax + cy, y' = bx + dy (ISO 14496-12, 8.3.2)."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 44
    struct.pack_into(">9i", data, at, a << 16, b << 16, 0, c << 16, d << 16, 0, 0, 0, 1 << 30)
    new.write_bytes(data)
    return new


# RGB is 20 frames of 48 x 80 at 16 a second, upright
AGREE = {
    "the same": {},
    "half the size": {"height": 24, "width": 40},
    "a frame fewer": {"frames": 19},
    "sides rounded": {"height": 64, "width": 106},
    "nearly the same rate": {"rate": 16.5},
}
DISAGREE = {
    "frames": ({"frames": 5}, "depth has 5 frames, rgb has 20"),
    "two frames fewer": ({"frames": 18}, "depth has 18 frames"),
    "duration": ({"rate": 30}, "depth lasts 0.67 s, rgb 1.25 s"),
    "orientation": ({"height": 80, "width": 48}, "depth lies on its side: it is 80 x 48, rgb 48 x 80"),
    "aspect": ({"height": 48, "width": 64}, "depth has another aspect"),
}
# within the same span as 0..19, half of the frames in its first fifth
BUNCHED = [*np.linspace(0, 4, 10), *np.linspace(5, 19, 10)]


def _row(tmp_path, name, **depth):
    facts = {"frames": 20, "height": 48, "width": 80, "rate": 16}
    folder = tmp_path / name.replace(" ", "_")
    folder.mkdir()
    depth = facts | depth
    depth["rate"] = Fraction(depth["rate"]).limit_denominator(1000)
    rgb = _film(folder / f"{folder.name}.mp4", **facts)
    return {"video": str(rgb), "prompt": name, "depth": str(_film(folder / "depth.mp4", **depth))}


def test_streams_that_do_not_agree_are_refused_and_the_others_kept(tmp_path, capsys):
    rows = [_row(tmp_path, name, **facts) for name, facts in AGREE.items()]
    rows += [_row(tmp_path, name, **facts) for name, (facts, _) in DISAGREE.items()]
    rows.append(_row(tmp_path, "times", times=BUNCHED))
    rows.append(rows[0] | {"prompt": "again"})
    rows.append(rows[1] | {"video": str(tmp_path / "none.mp4"), "prompt": "missing"})
    torn = tmp_path / "torn.mp4"
    torn.write_bytes((tmp_path / "the_same" / "depth.mp4").read_bytes()[:-300])
    rows.append(rows[2] | {"video": str(torn), "prompt": "torn"})
    _write(tmp_path / "metadata.csv", rows)
    out = tmp_path / "data"
    options = ["--csv", str(tmp_path / "metadata.csv"), "--source", "general", "--out", str(out)]
    main([*options, "--frames", "5", "--size", "32"])
    shards = open_shards(out)
    kept = [shards.clip("general", i, ()).caption for i in range(shards.counts["general"])]
    assert kept == list(AGREE)
    with (out / REFUSED).open(newline="") as file:
        refused = {int(row["line"]) - 2: row["reason"] for row in csv.DictReader(file)}
    assert {rows[number]["prompt"] for number in refused} == {*DISAGREE, "times", "again", "missing", "torn"}
    for number, reason in refused.items():
        prompt = rows[number]["prompt"]
        words = {
            "times": "come at other times",
            "again": "already",
            "missing": "no video file",
            "torn": "torn.mp4",
        }
        assert (DISAGREE[prompt][1] if prompt in DISAGREE else words[prompt]) in reason, reason
    assert f"{out}: 5 clips; {len(refused)} rows refused, the first: " in capsys.readouterr().out


def test_a_note_to_turn_that_sides_cannot_tell_of_is_refused(tmp_path):
    upright = _film(tmp_path / "a.mp4", 9, 48, 80)
    half = _turned(upright, tmp_path / "half.mp4", -1, 0, 0, -1)
    quarter = _turned(upright, tmp_path / "quarter.mp4", 0, 1, -1, 0)
    standing = _film(tmp_path / "standing.mp4", 9, 80, 48)
    rows = [
        {"video": str(half), "prompt": "turned by half", "depth": str(upright)},
        {"video": str(quarter), "prompt": "lying frames, upright depth", "depth": str(standing)},
        {"video": str(half), "prompt": "both turned", "depth": str(half)},
        {"video": str(upright), "prompt": "depth turned", "depth": str(quarter)},
    ]
    _write(tmp_path / "metadata.csv", rows)
    ledger = Ledger()
    clips = list(csv_clips(tmp_path / "metadata.csv", "general", 5, (32, 32), ledger=ledger))
    assert [clip.caption for clip in clips] == [rows[1]["prompt"], rows[2]["prompt"]]
    assert "note to turn" in ledger.refused[0][2] and "lies on its side" in ledger.refused[1][2]


def test_names_are_told_apart_and_nothing_is_taken_twice(metadata, tmp_path):
    (tmp_path / "other").mkdir()
    for name in ("a", "b", "c", "d"):
        (tmp_path / "other" / f"{name}.mp4").write_bytes((tmp_path / "clips" / f"{name}.mp4").read_bytes())
    rows = list(csv.DictReader(metadata.open()))
    _write(metadata, [*rows, rows[0] | {"video": "other/a.mp4"}, rows[0] | {"video": "other/../clips/a.mp4"}])
    ledger = Ledger()
    clips = list(csv_clips(metadata, "general", 5, (32, 32), ledger=ledger))
    assert [clip.name for clip in clips] == ["a", "d", "a-2"]
    assert ledger.refused == [
        (str(metadata), 5, "a.mp4 is the video of metadata.csv, line 2 already; delete one of the rows")
    ]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--frames", "0"], "frames is 0; give --frames a number from 1 to 10000"),
        (["--size", "-3"], "size is -3"),
        (["--fps", "nan"], "fps is nan"),
        (["--source", "people"], "source is 'people'; choose one of"),
        (["--source", "general", "subject"], "1 CSVs and 2 sources"),
        (["--out", "clips"], "clips exists; choose another folder"),
        (["--csv", "none.csv"], "there is no metadata file none.csv"),
        (["--frames", "77"], "no row can be used: 0 clips; 2 rows refused, the first: "),
    ],
)
def test_the_command_says_what_is_wrong_in_a_line(metadata, tmp_path, monkeypatch, flags, words):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=re.escape(words)) as refused:
        main(["--csv", "metadata.csv", "--source", "general", "--out", "data", "--size", "32", *flags])
    assert "\n" not in str(refused.value)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["clips", "metadata.csv"]


def test_the_command_works_from_any_folder(metadata, tmp_path):
    command = [sys.executable, "-m", "unity.data.csv_clips", "--csv", "metadata.csv", "--source", "general"]
    done = subprocess.run(
        [*command, "--out", "new/data", "--frames", "5", "--size", "32"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0 and done.stdout == "new/data: 2 clips\n", done.stderr
    assert open_shards(tmp_path / "new" / "data").counts == {"general": 2}
