"""Clips on disk: what is written comes back, parts merge, and damage is told, not trained on."""

import hashlib
import json
import multiprocessing

import numpy as np
import pytest

from unity.data.clips import MODALITY_NAMES, SOURCES, Clip
from unity.data.shards import encode_clip, merge_parts, open_shards, read_clip, write_part, write_shards
from unity.data.shards.columns import ENCODINGS, STREAMS, names, to_bytes
from unity.data.shards.mds import ShardWriter

OBJECTS = ("depth", "flow", "segmentation")


def _clip(number, source="general", modalities=OBJECTS, frames=5, size=(16, 24), values=True):
    random = np.random.default_rng(number)
    streams = ("rgb", *modalities)
    exact = {
        "depth": random.lognormal(size=(frames, *size)).astype(np.float32),
        "flow": random.normal(size=(frames, *size, 2)).astype(np.float32),
        "segmentation": random.integers(0, 9, (frames, *size)).astype(np.uint8),
    }
    exact["depth"][:, 0] = np.inf
    return Clip(
        name=f"clip-{number}",
        source=source,
        caption=f"a ball, the {number}th, “orange”",
        fps=16.0,
        video={s: random.integers(0, 256, (frames, *size, 3)).astype(np.uint8) for s in streams},
        constants={"depth": {"near": 1 / 3, "far": 0.0}, "flow": {"scale": 3.6}},
        values=exact if values else {},
        meta={"seed": number, "camera": {"move": "orbit", "focal": 48.5}},
    )


@pytest.fixture(scope="module")
def clips():
    return [_clip(i, SOURCES[i % 4], OBJECTS if i % 4 > 1 else MODALITY_NAMES) for i in range(12)]


def _equal(back, clip, streams):
    assert (back.name, back.source, back.caption, back.fps) == (clip.name, clip.source, clip.caption, clip.fps)
    assert (back.constants, back.meta) == (clip.constants, clip.meta)
    assert set(back.video) == {"rgb", *streams} & set(clip.video)
    for stream in set(back.video) - {"rgb"}:
        np.testing.assert_array_equal(back.video[stream], clip.video[stream])
    # noise is the hardest picture to code; a photograph comes within a level or two
    assert np.abs(back.video["rgb"].astype(int) - clip.video["rgb"]).max() < 32


def test_every_clip_comes_back(tmp_path, clips):
    write_shards(iter(clips), tmp_path / "data", values=True, size_limit=100_000, seed=7)
    shards = open_shards(tmp_path / "data")
    assert shards.counts == dict.fromkeys(SOURCES, 3)
    assert len(shards.shard_sizes("general")) > 1 and sum(shards.shard_sizes("general")) == 3
    for number, clip in enumerate(clips):
        back = shards.clip(clip.source, number // 4)
        _equal(back, clip, MODALITY_NAMES)
        assert set(back.values) == set(clip.values)
        for name, exact in clip.values.items():
            assert back.values[name].dtype == exact.dtype
            np.testing.assert_array_equal(back.values[name], exact)


@pytest.mark.parametrize("share", [0.3, 1.5])
@pytest.mark.parametrize("values", [False, True])
def test_the_files_are_those_of_streaming(tmp_path, clips, values, share):
    from streaming import MDSWriter

    samples = [to_bytes(encode_clip(clip, values)) for clip in clips]
    columns = names(values)
    size_limit = int(share * sum(len(part) for sample in samples for part in sample.values()))
    ours = ShardWriter(tmp_path / "ours", columns, size_limit)
    encodings = {name: ENCODINGS[name] for name in columns}
    theirs = MDSWriter(columns=encodings, out=str(tmp_path / "theirs"), size_limit=size_limit)
    for sample in samples:
        ours.write(sample)
        theirs.write(sample)
    ours.finish()
    theirs.finish()
    files = {path.name: path.read_bytes() for path in (tmp_path / "theirs").iterdir()}
    assert len(files) == (2 if share > 1 else 5)
    assert {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()} == files


def test_a_sample_beyond_the_limit_gets_a_shard_of_its_own(tmp_path, clips):
    shards = open_shards(write_shards(clips, tmp_path / "data", size_limit=1))
    assert [shards.shard_sizes(source) for source in SOURCES] == [[1, 1, 1]] * 4


def test_only_the_wanted_streams_are_decoded(tmp_path, clips):
    write_shards(clips[:1], tmp_path / "data")
    back = open_shards(tmp_path / "data").clip("single_person", 0, ("flow",))
    _equal(back, clips[0], ("flow",))
    assert back.values == {}


def test_dataset_json_says_what_is_there(tmp_path):
    mixed = [_clip(0), _clip(1), _clip(2, modalities=("depth",)), _clip(3, "subject", ("flow",))]
    write_shards(mixed, tmp_path / "data", seed=7)
    about = json.loads((tmp_path / "data" / "dataset.json").read_text())
    assert (about["frames"], about["size"], about["fps"], about["seed"]) == (5, [16, 24], 16.0, 7)
    assert about["sources"]["general"]["count"] == 3
    assert about["sources"]["general"]["modalities"] == list(OBJECTS)
    available = open_shards(tmp_path / "data").available
    assert available["general"].tolist() == [[True, True, False, False, True]] * 2 + [[True] + [False] * 4]
    assert available["subject"].tolist() == [[False, True, False, False, False]]


def test_an_absent_modality_has_no_bytes():
    sample = encode_clip(_clip(0, modalities=("depth",)))
    assert [bool(sample[name]) for name in ("rgb", *MODALITY_NAMES)] == [True, True, False, False, False, False]
    assert read_clip(sample).available == ("depth",)


def _write_a_part(folder, numbers):
    write_part((_clip(n, SOURCES[n % 2]) for n in numbers), folder)


def test_parts_of_parallel_workers_merge_to_the_single_dataset(tmp_path):
    fork = multiprocessing.get_context("fork")
    shares = {tmp_path / "part-0": range(5), tmp_path / "part-1": range(5, 8)}
    workers = [fork.Process(target=_write_a_part, args=item) for item in shares.items()]
    [worker.start() for worker in workers], [worker.join() for worker in workers]
    merge_parts(list(shares), tmp_path / "merged", seed=1)
    write_shards((_clip(n, SOURCES[n % 2]) for n in range(8)), tmp_path / "single", seed=1)

    merged, single = open_shards(tmp_path / "merged"), open_shards(tmp_path / "single")
    assert merged.about == single.about
    for source, count in single.counts.items():
        for index in range(count):
            assert merged.sample(source, index) == single.sample(source, index)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["merged", "single"]


def test_a_killed_write_leaves_no_dataset(tmp_path):
    def broken():
        yield _clip(0)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_shards(broken(), tmp_path / "data")
    assert list(tmp_path.iterdir()) == []


def test_clips_that_do_not_fit_are_refused(tmp_path):
    with pytest.raises(ValueError, match="no clips"):
        write_shards([], tmp_path / "data")
    with pytest.raises(ValueError, match="'clip-1' has frames 9, the dataset has 5"):
        write_shards([_clip(0), _clip(1, frames=9)], tmp_path / "data")
    write_part([_clip(0)], tmp_path / "a")
    write_part([_clip(1, size=(24, 24))], tmp_path / "b")
    with pytest.raises(ValueError, match="size"):
        merge_parts([tmp_path / "a", tmp_path / "b"], tmp_path / "data")
    with pytest.raises(ValueError, match="exists"):
        write_shards([_clip(0)], tmp_path / "a")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_missing_data_says_how_to_get_it(tmp_path, clips):
    with pytest.raises(ValueError, match="no dataset.*unity.data.simulate"):
        open_shards(tmp_path / "nowhere")
    write_shards(clips[:1], tmp_path / "data")
    shards = open_shards(tmp_path / "data")
    with pytest.raises(ValueError, match="no clips of 'subject'"):
        shards.sample("subject", 0)
    with pytest.raises(ValueError, match="there is no clip 1"):
        shards.sample("single_person", 1)


def _flip(data):
    return data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 1]) + data[len(data) // 2 + 1 :]


@pytest.mark.parametrize("damage", [_flip, lambda data: data[: len(data) // 2], lambda data: b"", None])
def test_a_damaged_shard_is_told(tmp_path, clips, damage):
    write_shards(clips[:1], tmp_path / "data")
    file = tmp_path / "data" / "single_person" / "shard.00000.mds"
    file.write_bytes(damage(file.read_bytes())) if damage else file.unlink()
    with pytest.raises(ValueError, match="shard.00000.mds is damaged"):
        open_shards(tmp_path / "data").sample("single_person", 0)


def test_what_is_not_wanted_of_a_sample_is_not_read(tmp_path, clips):
    """Nor believed: a changed byte of it is another reader's."""
    write_shards(clips[:1], tmp_path / "data", values=True)
    file, streams = tmp_path / "data/single_person/shard.00000.mds", ("rgb", "flow")
    whole, some = (open_shards(tmp_path / "data").sample("single_person", 0, s) for s in (STREAMS, streams))
    assert some == {key: value for key, value in whole.items() if key in some}
    assert whole.keys() - some.keys() - {"checksum", "sums"} == {
        name + kind for name in MODALITY_NAMES if name != "flow" for kind in ("", "_values")
    }
    data, refused = file.read_bytes(), set()
    for name in ("rgb", "flow", "flow_values", "meta", "depth", "depth_values"):
        at = data.index(to_bytes({name: whole[name]})[name]) + 7
        file.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        try:
            open_shards(tmp_path / "data").clip("single_person", 0, streams)
        except ValueError as error:
            assert f"the checksum of its {name} differs" in str(error)
            refused.add(name)
        with pytest.raises(ValueError, match="its checksum differs"):
            open_shards(tmp_path / "data").sample("single_person", 0)
    assert refused == {"rgb", "flow", "flow_values", "meta"}


@pytest.mark.parametrize("file", ["dataset.json", "single_person/index.json"])
def test_a_damaged_index_is_told(tmp_path, clips, file):
    write_shards(clips[:1], tmp_path / "data")
    (tmp_path / "data" / file).write_text("{")
    with pytest.raises(ValueError, match="json is damaged"):
        open_shards(tmp_path / "data").sample("single_person", 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (dict(source="people"), "'people'"),
        (dict(video={}), "no 'rgb'"),
        (dict(video={"rgb": np.zeros((5, 8, 8, 3))}), "uint8"),
        (dict(values={"normals": np.zeros(1)}), "normals"),
        (
            dict(video={"rgb": np.zeros((5, 8, 8, 3), np.uint8), "flow": np.zeros((4, 8, 8, 3), np.uint8)}),
            "same shape",
        ),
    ],
)
def test_a_clip_is_checked(change, message, unchecked):
    facts = dict(name="c", source="general", caption="", fps=16.0, video={"rgb": np.zeros((5, 8, 8, 3), np.uint8)})
    Clip(**facts)
    with pytest.raises(ValueError, match=message):
        Clip(**(facts | change))


@pytest.mark.parametrize(("modalities", "read"), [(MODALITY_NAMES, False), (OBJECTS, True)])
def test_a_dataset_in_colours_of_before_is_refused_where_it_shows_them(tmp_path, modalities, read):
    path = write_shards([_clip(0, modalities=modalities)], tmp_path / "data") / "dataset.json"
    record = json.loads(path.read_text())
    assert record.pop("colours") == 2
    del record["sha256"]
    seal = hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps(record | {"sha256": seal}))
    if read:
        assert open_shards(tmp_path / "data").counts == {"general": 1}
        return
    with pytest.raises(ValueError, match="densepose in colours that this version no longer reads; write"):
        open_shards(tmp_path / "data")
