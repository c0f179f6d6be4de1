"""Clips: conventions, availability, captions, errors, and the same bytes in every process."""

import hashlib
import json
import re
import subprocess
import sys

import numpy as np
import pytest

from unity.data.clips import SOURCES
from unity.data.simulate.caption import article, caption, listing
from unity.data.simulate.clip import facts, simulate
from unity.data.simulate.scene import draw_scene
from unity.data.simulate.truth import Truth
from unity.modality.table import MODALITIES


def digest(clip) -> str:
    """SHA-256 of every uint8 stream."""
    state = hashlib.sha256(clip.caption.encode())
    for name in sorted(clip.video):
        state.update(name.encode() + clip.video[name].tobytes())
    return state.hexdigest()


@pytest.fixture(scope="module")
def clips():
    return {source: simulate(7, source, 5, (64, 80), 16.0) for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES)
def test_streams_shapes_and_availability(source, clips):
    clip = clips[source]
    people = {"single_person": 1, "two_persons": 2}.get(source, 0)
    named = (
        ("depth", "flow", "densepose", "skeleton", "segmentation") if people else ("depth", "flow", "segmentation")
    )
    assert clip.available == named and set(clip.values) == set(named) and set(clip.video) == {"rgb", *named}
    assert all(video.shape == (5, 64, 80, 3) and video.dtype == np.uint8 for video in clip.video.values())
    assert clip.values["depth"].dtype == np.float32 and clip.values["flow"].shape == (5, 64, 80, 2)
    assert clip.values["segmentation"].dtype == np.uint8
    if people:
        assert clip.values["skeleton"].shape == (5, people, 18, 3) and clip.values["densepose"].shape == (
            5,
            64,
            80,
            3,
        )
    assert all(np.isfinite(value).all() for name, value in clip.values.items() if name != "depth")
    assert (clip.values["depth"] > 0.1).all()
    assert len(np.unique(clip.video["rgb"])) > 60 and clip.video["rgb"].std() > 15


def test_facts_are_those_of_the_clip(clips):
    found, clip = facts(7, "single_person", 5, (64, 80), 16.0), clips["single_person"]
    assert found.pop("camera") == clip.meta["camera"] and found.keys() == clip.values.keys()
    assert all(np.array_equal(found[name], values) for name, values in clip.values.items())


@pytest.mark.parametrize("source", SOURCES)
def test_every_instance_has_its_number(source, clips):
    clip = clips[source]
    shown = set(np.unique(clip.values["segmentation"])) - {0}
    people, things = len(clip.meta["people"]), clip.meta["physics"]["things"]
    assert shown and max(shown) <= people + len(things)
    assert [thing["instance"] for thing in things] == list(range(people + 1, people + len(things) + 1))
    assert set(range(1, people + 1)) <= shown


@pytest.mark.parametrize("source", SOURCES)
def test_modality_videos_decode_to_the_values(source, clips):
    clip = clips[source]
    for name in clip.available:
        decoded = MODALITIES[name].decode(clip.video[name], clip.constants[name])
        value = clip.values[name]
        if name == "segmentation":
            np.testing.assert_array_equal(decoded, value)
        if name == "densepose":
            np.testing.assert_array_equal(decoded[..., 0], value[..., 0])
        if name == "flow":
            slow = np.linalg.norm(value, axis=-1) < 0.14 * 80
            assert np.abs(decoded - value)[slow].mean() < 0.06
        if name == "depth":
            near = value < 8
            assert (np.abs(decoded[near] - value[near]) / value[near]).mean() < 0.03


def test_flow_maps_name_the_motion_from_the_frame_before(filmed):
    world, cameras = filmed(3, "two_persons", 3)
    clip = simulate(3, "two_persons", 3, (64, 80), 16.0)
    truth = Truth(world, cameras)
    for index in (1, 2):
        np.testing.assert_array_equal(
            clip.values["flow"][index], truth.measure(index - 1)["flow"].astype(np.float32)
        )
    np.testing.assert_array_equal(clip.values["flow"][0], clip.values["flow"][1])
    np.testing.assert_array_equal(clip.values["depth"][2], truth.measure(2)["depth"].astype(np.float32))


def test_pictures_follow_the_flow():
    """Undoing the motion makes moving pixels agree better than leaving it."""
    better = []
    for source in SOURCES:
        clip = simulate(11, source, 5, (64, 64), 16.0)
        before, after = clip.video["rgb"][2].astype(float), clip.video["rgb"][3].astype(float)
        flow = clip.values["flow"][3]
        rows, columns = np.mgrid[:64, :64]
        y, x = np.rint(rows + flow[..., 1]).astype(int), np.rint(columns + flow[..., 0]).astype(int)
        moved = (np.hypot(x - columns, y - rows) > 0.9) & (x >= 0) & (x < 64) & (y >= 0) & (y < 64)
        warped = after[y.clip(0, 63), x.clip(0, 63)]
        if moved.sum() > 40:
            better.append(np.abs(warped - before)[moved].mean() / np.abs(after - before)[moved].mean())
    assert better and np.mean(better) < 0.75


def test_the_same_bytes_in_another_process_and_in_any_order(clips):
    code = (
        "import sys, json; sys.path.insert(0, {folder!r})\n"
        "from test_clip import digest; from unity.data.simulate.clip import simulate\n"
        "print(json.dumps({{s: digest(simulate(7, s, 5, (64, 80), 16.0)) for s in {sources!r}}}))"
    ).format(folder=str(__file__).rpartition("/")[0], sources=SOURCES[::-1])
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout.splitlines()[-1]) == {source: digest(clip) for source, clip in clips.items()}


def test_seeds_and_sources_differ():
    pictures = {
        simulate(seed, source, 2, (32, 32)).video["rgb"].tobytes() for seed in range(4) for source in SOURCES
    }
    assert len(pictures) == 16


@pytest.mark.parametrize(("frames", "size"), [(17, (64, 64)), (2, (96, 96)), (5, (48, 112)), (3, (33, 17))])
def test_other_lengths_and_sizes(frames, size):
    clip = simulate(2, "single_person", frames, size)
    assert clip.video["skeleton"].shape == (frames, *size, 3)
    assert (clip.values["segmentation"] == 1).any(axis=(1, 2)).all()


@pytest.mark.parametrize("source", SOURCES)
def test_meta_is_json_and_holds_camera_and_physics(source, clips):
    meta = json.loads(json.dumps(clips[source].meta))
    assert meta["seed"] == 7 and np.shape(meta["camera"]["rotation"]) == (5, 3, 3)
    assert np.shape(meta["camera"]["position"]) == (5, 3) and meta["camera"]["focal"] > 0
    for thing in meta["physics"]["things"]:
        assert (
            np.shape(thing["position"]) == (5, 3) and np.shape(thing["quaternion"]) == (5, 4) and thing["mass"] > 0
        )


@pytest.mark.slow
def test_captions_are_english():
    seen = set()
    for source in SOURCES:
        for seed in range(150):
            text = caption(draw_scene(seed, source))
            seen.add(text)
            assert re.fullmatch(r"An? [A-Za-z ,-]+\. [A-Z][a-z ]+\.", text), text
            assert not re.search(r"\ba [aeiou]|\ban [^aeiou]|  |,,", text, re.IGNORECASE), text
    assert len(seen) > 550
    assert article("orange ball") == "an orange ball" and article("older woman") == "an older woman"
    assert listing(["a", "b", "c"]) == "a, b and c" and listing(["a"]) == "a"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, "somebody"), "somebody"),
        ((-1, "general"), "-1"),
        ((0, "general", 1), "1 frames"),
        ((0, "general", 5, (8, 64)), r"\(8, 64\)"),
    ],
)
def test_wrong_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        simulate(*arguments)
