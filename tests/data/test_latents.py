"""Latents of a dataset: made by several processes that are stopped on the way, and read as they were made."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from unity.config import STAGES
from unity.data.clips import MODALITY_NAMES, SOURCES, Clip
from unity.data.latents.facts import Facts
from unity.data.latents.make import Making, make, parts_folder, units
from unity.data.latents.numbers import latents, states
from unity.data.latents.texts import read_texts
from unity.data.loader import Reading, training_batches
from unity.data.shards import open_shards, write_shards

FRAMES, SIZE, WIDTH = 9, (16, 24), 6
ALL = slice(0, None, 1)


def _clip(number):
    random, source = np.random.default_rng(number), SOURCES[number % 4]
    streams = ("rgb", *(MODALITY_NAMES if "person" in source else ("depth", "flow", "segmentation")))
    video = {s: random.integers(0, 256, (FRAMES, *SIZE, 3)).astype(np.uint8) for s in streams}
    return Clip(name=f"clip-{number}", source=source, caption="word " * number, fps=16.0, video=video)


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """24 clips in shards of one or two."""
    folder = tmp_path_factory.mktemp("clips") / "clips"
    return open_shards(write_shards(map(_clip, range(24)), folder, size_limit=150_000))


def encode(video, streams):
    """Sums of cells of 4 by 4 pixels in the first frame of each four: another function of every pixel it sees."""
    frames = torch.cat((video[:, :1], video[:, 1::4]), 1).float()
    cells = frames.unflatten(2, (-1, 4)).unflatten(4, (-1, 4)).sum((3, 5))
    return cells.permute(0, 4, 1, 2, 3) / 7 + ("rgb", *MODALITY_NAMES).index(streams[0])


def words(text):
    return torch.full((1 + len(text.split()), WIDTH), 1 / 3) * len(text)


def making(frames=FRAMES, numbers="fp32", **changes):
    facts = Facts(
        codec="sums", codec_key="a" * 64, text="counts", text_key="b" * 64,
        shape=(3, 1 + (frames - 1) // 4, SIZE[0] // 4, SIZE[1] // 4), width=WIDTH, precision="fp32",
        numbers=numbers, words=numbers, encodings={}, texts=("", "a depth map"), texts_key="", clips="c" * 64,
    )  # fmt: skip
    return replace(Making(frames=frames, size=SIZE, facts=facts, encode=encode, words=words), **changes)


def files(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_stopped_and_shared_it_is_the_same_as_in_one_go(clips, tmp_path):
    said = []
    assert make(clips, tmp_path / "whole", making(), ALL, said.append)
    calls = []

    def failing(video, streams):
        calls.append(streams)
        if len(calls) == 20:
            raise KeyboardInterrupt
        return encode(video, streams)

    out = tmp_path / "shared"
    with pytest.raises(KeyboardInterrupt):
        make(clips, out, making(encode=failing), slice(0, None, 2), said.append)
    assert not out.exists() and not list(parts_folder(out).glob(".part-*"))
    assert not make(clips, out, making(), slice(1, None, 2), said.append)
    calls.clear()
    with pytest.raises(ValueError, match="other latents .in codec_key"):
        other = making()
        make(clips, out, replace(other, facts=replace(other.facts, codec_key="d" * 64)), ALL, said.append)
    counting = making(encode=lambda *shown: calls.append(shown) or encode(*shown))
    assert make(clips, out, counting, slice(0, None, 2), said.append)
    # what was whole was not made again
    mine = units(clips)[::2]
    assert 0 < len(calls) < sum(6 if "person" in u.source else 4 for u in mine for _ in range(u.count))
    assert files(out) == files(tmp_path / "whole") and not parts_folder(out).exists()


@pytest.mark.parametrize("numbers, tolerance", [("fp32", 0), ("bf16", 2**-8)])
def test_batches_hold_the_latents_of_the_clips_that_the_plan_has(clips, tmp_path, numbers, tolerance):
    make(clips, tmp_path / "latents", making(numbers=numbers), ALL, lambda _: None)
    kept = open_shards(tmp_path / "latents")
    assert kept.counts == clips.counts and kept.shard_sizes("general") == clips.shard_sizes("general")
    assert read_texts(kept.folder, kept.latents).keys() == {"", "a depth map"}
    ours, theirs = (
        training_batches(shards.folder, STAGES[2], 8, 3, reading=Reading(workers=workers))
        for shards, workers in ((kept, 1), (clips, 0))
    )
    for _, batch, truth in zip(range(8), ours, theirs, strict=False):
        for key in ("step", "caption", "name"):
            assert batch[key] == truth[key]
        for key in ("slot", "modality", "source"):
            assert torch.equal(batch[key], truth[key])
        for i, modality in enumerate(truth["modality"].tolist()):
            for stream, shown in (("rgb", "rgb"), ("aux", MODALITY_NAMES[modality])):
                exact = encode(truth[stream][i : i + 1], [shown])[0]
                torch.testing.assert_close(batch[stream][i], exact, rtol=tolerance, atol=0)
            torch.testing.assert_close(batch["states"][i], words(truth["caption"][i]), rtol=tolerance, atol=0)


def test_longer_clips_become_several(clips, tmp_path):
    make(clips, tmp_path / "cut", making(frames=1), ALL, lambda _: None)
    kept = open_shards(tmp_path / "cut")
    assert kept.counts == {source: 9 * count for source, count in clips.counts.items()}
    sample, clip = kept.sample("subject", 9 + 2), clips.clip("subject", 1)
    assert sample["name"] == f"{clip.name}@2"
    first = torch.from_numpy(clip.video["rgb"][2:3])[None]
    assert torch.equal(latents([sample["rgb"]], kept.latents)[0], encode(first, ["rgb"])[0])
    assert torch.equal(states(sample["words"], kept.latents), words(clip.caption))
    with pytest.raises(ValueError, match="holds latents"):
        kept.clip("subject", 0)
    with pytest.raises(ValueError, match="cannot be cut to 5 frames"):
        training_batches(kept.folder, STAGES[2], 4, reading=Reading(frames=5))


def test_changed_texts_are_refused(clips, tmp_path):
    make(clips, tmp_path / "latents", making(), ALL, lambda _: None)
    kept, path = open_shards(tmp_path / "latents"), tmp_path / "latents/texts.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(ValueError, match="is damaged"):
        read_texts(kept.folder, kept.latents)


def test_a_batch_reads_the_latents_that_it_shows_and_no_others(clips, tmp_path):
    """And sees every changed byte of those; that of another one is another batch's."""
    make(clips, tmp_path / "latents", making(), ALL, lambda words: None)
    shards, streams = open_shards(tmp_path / "latents"), ("rgb", "flow")
    whole, some = shards.sample("general", 1), shards.sample("general", 1, streams)
    assert some == {key: value for key, value in whole.items() if key in some}
    assert {*MODALITY_NAMES} & some.keys() == {"flow"} and len(whole["rgb"]) == 3 * 3 * 4 * 6 * 4
    path = next((tmp_path / "latents/general").glob("*.mds"))
    data, refused = path.read_bytes(), {}
    first = open_shards(tmp_path / "latents").sample("general", 0)
    for name in ("rgb", "flow", "depth", "words"):
        at = data.index(first[name]) + 7
        path.write_bytes(data[:at] + bytes([data[at] ^ 16]) + data[at + 1 :])
        for kind, wanted in (("some", streams), ("all", ("rgb", *MODALITY_NAMES))):
            try:
                open_shards(tmp_path / "latents").sample("general", 0, wanted)
            except ValueError as error:
                refused[name, kind] = str(error)
    assert refused.keys() == {(n, k) for n in ("rgb", "flow", "depth", "words") for k in ("some", "all")} - {
        ("depth", "some")
    }
    assert all("checksum" in words for words in refused.values())
    # any byte of the sums themselves, too
    at = data.index(first["sums"]) + 5
    path.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    with pytest.raises(ValueError, match="checksums are damaged"):
        open_shards(tmp_path / "latents").sample("general", 0, streams)
