"""What others packed, streamed: OpenUni's tars and tables, WebDataset's, folders; and each of their faults."""

import csv
import io
import json
import tarfile

import numpy as np
import pytest

pytest.importorskip("pyarrow", reason="extra data")
import pyarrow
from pyarrow import parquet

from unity.data import engine
from unity.data.collect.job import LEDGER, Options, collect, sources_of
from unity.data.collect.layouts import layout_of
from unity.data.shards import open_shards
from unity.data.video import read_video, write_video


@pytest.fixture(scope="module")
def films(tmp_path_factory):
    """Six videos of 6 frames, each its own grey."""
    here = tmp_path_factory.mktemp("films")
    for n in range(6):
        frames = np.full((6, 48, 64, 3), 30 + 30 * n, np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None]
        write_video(frames, here / f"{n}.mp4", 8.0)
    return {n: (here / f"{n}.mp4").read_bytes() for n in range(6)}


@pytest.fixture
def alone(monkeypatch):
    """The engine without Ray: rows one after the other in this process; says which were done."""
    done = []

    def run(folder, rows, make, settings, cluster):
        engine._agree(folder / "settings.json", settings)
        (folder / "out").mkdir(exist_ok=True)
        work = make(**settings)
        for name in sorted(rows.keys() - {name for name, _ in engine.records(folder)}):
            told, data = work(name, rows[name])
            row = {"name": name, "record": json.dumps(told), "data": data}
            file = folder / "out" / f"{len(done)}-{len(list((folder / 'out').glob('*')))}.parquet"
            parquet.write_table(pyarrow.Table.from_pylist([row]), file)
            done.append(name)
        return {}

    monkeypatch.setattr(engine, "run", run)
    return done


def _pack(path, files, mode="w:gz"):
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, mode) as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))


def _hub(place, films):
    """Clips a to d of one source: depth of all but c in two tars, flow of a and b in another order."""
    here = place / "train/Koala36M"
    _pack(
        here / "RGB/Koala36M_RGB_part000.tar.gz", {"x/a.mp4": films[0], "x/b.mp4": films[1], "y/a.mp4": films[2]}
    )
    _pack(here / "RGB/Koala36M_RGB_part001.tar.gz", {"d.mp4": films[3]})
    _pack(here / "depth/Koala36M_depth_part000.tar.gz", {"x/a.mp4": films[4], "x/b.mp4": films[5]})
    _pack(here / "depth/Koala36M_depth_part001.tar.gz", {"d.mp4": films[4], "nobody.mp4": films[5]})
    _pack(here / "raft/Koala36M_raft_part000.tar.gz", {"b.mp4": films[2], "a.mp4": films[3]})
    _pack(here / "canny/Koala36M_canny_part000.tar.gz", {"a.mp4": films[3]})
    rows = [
        ("video", "prompt", "depth", "raft"),
        ("RGB/x/a.mp4", "a walk", "depth/x/a.mp4", "raft/a.mp4"),
        ("RGB/x/b.mp4", "a dog", "depth/x/b.mp4", "raft/b.mp4"),
        ("RGB/y/a.mp4", "", "", ""),
        ("RGB/d.mp4", "a car", "depth/d.mp4", "raft/d.mp4"),
        ("RGB/none.mp4", "nothing", "", ""),
    ]
    (here / "metadata").mkdir(parents=True)
    with (here / "metadata/Koala36M.csv").open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return here


def _collect(place, out, **more):
    return collect(Options(place=place, source=("general",), out=out, frames=5, size=32, **more))


def _lines(out):
    rows = [json.loads(line) for line in (out / LEDGER).read_text().splitlines()]
    return {(row["kind"], row["name"]): row["why"] for row in rows}


def test_openuni_is_joined_from_its_tars(films, alone, tmp_path):
    _hub(tmp_path / "hub", films)
    told = _collect(tmp_path / "hub", tmp_path / "data")
    assert told.layout == "openuni" and len(alone) == 5 and told.available == {"depth": 3, "flow": 2}
    shards = open_shards(tmp_path / "data")
    clips = {clip.name: clip for clip in (shards.clip("general", i) for i in range(4))}
    assert list(clips) == ["Koala36M/a", "Koala36M/b", "Koala36M/a-2", "Koala36M/d"]
    wanted = {"depth": {"a": 4, "b": 5, "d": 4}, "flow": {"a": 3, "b": 2}}
    for stream, numbers in wanted.items():
        for name, number in numbers.items():
            whole = _frames(films[number], tmp_path, stream)
            np.testing.assert_array_equal(clips[f"Koala36M/{name}"].video[stream], whole)
    for name, number in {"a": 0, "b": 1, "a-2": 2, "d": 3}.items():
        video = clips[f"Koala36M/{name}"].video["rgb"].astype(int)
        assert np.abs(video - _frames(films[number], tmp_path, "rgb")).max() < 9
    assert clips["Koala36M/a"].caption == "a walk" and clips["Koala36M/a-2"].available == () and told.wordless == 1
    lines = _lines(tmp_path / "data")
    assert lines["flow", "Koala36M/d"] == "raft/d.mp4 is in none of the tars"
    assert lines["clip", "Koala36M/none"] == "RGB/none.mp4 is in none of the tars"
    assert lines["file", "1 files of depth Koala36M"] == "no clip asks for them, such as nobody.mp4"
    assert any(kind == "tar" and name.endswith("canny") for kind, name in lines) and len(lines) == 4


def _frames(data, folder, stream):
    (folder / "one.mp4").write_bytes(data)
    return read_video(folder / "one.mp4", 5, (32, 32), stream)


def test_a_missing_and_a_cut_tar_cost_their_own_and_are_mended_alone(films, alone, tmp_path):
    here = _hub(tmp_path / "hub", films)
    lost, cut = here / "RGB/Koala36M_RGB_part001.tar.gz", here / "depth/Koala36M_depth_part000.tar"
    lost.rename(here.parent / "aside")
    _pack(here / "RGB/Koala36M_RGB_part002.tar.gz", {"e.mp4": films[0]})
    cut.with_name(f"{cut.name}.gz").unlink()
    _pack(cut, {"x/a.mp4": films[4], "x/b.mp4": films[5]}, "w")
    whole = cut.read_bytes()
    cut.write_bytes(whole[: 1024 + len(films[4]) + 512])
    told = _collect(tmp_path / "hub", tmp_path / "data")
    assert told.available == {"depth": 1, "flow": 2} and told.clips == 3
    lines = _lines(tmp_path / "data")
    assert lines["tar", str(lost)] == "it is missing among its like"
    (name,) = (name for kind, name in lines if kind == "tar" and "depth_part000" in name)
    assert "fetch it again" in lines["tar", name] and lines["depth", "Koala36M/b"].endswith("none of the tars")
    # fetched again, in the folder of the first try: these two are read, and nothing else
    (here.parent / "aside").rename(lost)
    cut.write_bytes(whole)
    (tmp_path / "data.work").rename(tmp_path / "again.work")
    done = len(alone)
    told = _collect(tmp_path / "hub", tmp_path / "again")
    assert told.available == {"depth": 3, "flow": 2} and told.clips == 4
    assert {name.split(" ")[0].rsplit("/")[-1] for name in alone[done:]} == {lost.name, cut.name}


@pytest.mark.parametrize("end", ["middle", "header", "boundary"])
def test_no_tar_ends_early_without_a_word(films, alone, tmp_path, end):
    files = {f"{n}.mp4": films[n] for n in range(3)}
    _pack(tmp_path / "in/a.tar", files, "w")
    data, first = (tmp_path / "in/a.tar").read_bytes(), 512 + -(-len(films[0]) // 512) * 512
    kept = {"middle": data[: first + 900], "header": data[:first] + b"\x07" * 512, "boundary": data[:first]}[end]
    (tmp_path / "in/a.tar").write_bytes(kept)
    told = _collect(tmp_path / "in", tmp_path / "data")
    assert told.clips == 1 and "fetch it again" in told.why["tar"]


def test_webdataset_and_folders_with_sidecars(films, alone, tmp_path):
    files = {
        "one.mp4": films[0],
        "one.depth.mp4": films[4],
        "one.txt": b"a\n walk",
        "two.mp4": films[1],
        "two.json": b'{"prompt": "a dog", "id": 3}',
        "two.raft.mp4": b"no video",
        "two.wav": b"RIFF",
        "three.flow.mp4": films[2],
    }
    _pack(tmp_path / "tars/000.tar", files, "w")
    _pack(tmp_path / "tars/001.tar", {"one.mp4": films[3]}, "w")
    told = _collect(tmp_path / "tars", tmp_path / "tarred")
    shards = open_shards(tmp_path / "tarred")
    clips = {clip.name: clip for clip in (shards.clip("general", i) for i in range(3))}
    assert set(clips) == {"000/one", "000/two", "001/one"} and told.layout == "webdataset"
    assert (clips["000/one"].caption, clips["000/one"].available) == ("a walk", ("depth",))
    assert (clips["000/two"].caption, clips["000/two"].available) == ("a dog", ())
    lines = _lines(tmp_path / "tarred")
    assert lines["clip", "000/three"] == "there is no video beside its views"
    assert "two.raft.mp4" in lines["flow", "000/two"] and any("1 × .wav" in name for _, name in lines)
    for name, data in files.items():
        (tmp_path / "folder/in").mkdir(parents=True, exist_ok=True)
        (tmp_path / "folder/in" / name).write_bytes(data)
    told = _collect(tmp_path / "folder", tmp_path / "unpacked")
    again = open_shards(tmp_path / "unpacked").clip("general", 0)
    assert told.layout == "folder" and again.name == "in/one" and again.caption == "a walk"
    np.testing.assert_array_equal(again.video["depth"], clips["000/one"].video["depth"])


def test_what_is_asked_for_wrongly_is_a_sentence(tmp_path):
    assert sources_of(("general", "b=subject"), {"a", "b"}) == {"a": "general", "b": "subject"}
    cases = ((("people",), "give one of"), (("c=general",), "no such group"), (("a=general",), "nothing of 'b'"))
    for words, message in cases:
        with pytest.raises(ValueError, match=message):
            sources_of(words, {"a", "b"})
    with pytest.raises(ValueError, match="there is no"):
        layout_of(tmp_path / "none", None)
    with pytest.raises(ValueError, match="packed in no way that is known"):
        layout_of(tmp_path, None)
