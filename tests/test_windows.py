"""Films longer than a clip: windows that cover them, and values that pass the seams unseen."""

import json
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from unity import answer, windows
from unity.config import MODELS
from unity.data.film import look
from unity.data.video import read_video, write_video
from unity.generate import Footage, generate, load_generator
from unity.infer import infer
from unity.modality.table import MODALITIES
from unity.model.card import ModelCard
from unity.model.dit import UnityDiT
from unity.model.weights import save_model
from unity.request import Request
from unity.sampler import Guidance, Sampling
from unity.windows import Joint, as_many, places

FRAMES, WINDOW = 40, 17
STARTS = places(FRAMES, WINDOW)


@pytest.mark.parametrize("frames", [17, 18, 29, 30, 40, 41, 100])
@pytest.mark.parametrize("window", [5, 9, 17])
def test_windows_cover_all_frames_and_share_a_third(frames, window):
    starts = places(frames, window)
    assert starts[0] == 0 and starts[-1] + window == frames
    steps = np.diff(starts)
    assert ((steps > 0) & (window - steps >= max(1, window // 3))).all()


def test_what_cannot_be_windows_is_refused():
    assert places(1, 1) == [0]
    with pytest.raises(ValueError, match="4 frames are fewer than the 5"):
        places(4, 5)
    with pytest.raises(ValueError, match="cannot overlap"):
        places(3, 1)


def cut(values: np.ndarray) -> list[np.ndarray]:
    return [clip.copy() for clip in windows.cut(values, STARTS, WINDOW)]


def join(row, clips, starts) -> np.ndarray:
    """As `unity.reel.joined` does, in memory."""
    joint, pieces = Joint(row), []
    for clip, start in zip(clips, starts, strict=True):
        pieces.append(joint.add(clip, start))
    pieces.append(joint.rest())
    return np.concatenate([as_many(piece, pieces[-1]) for piece in pieces])


def jumps(values: np.ndarray) -> tuple[float, float]:
    """Mean change from frame to frame into the seams and their middles, and elsewhere."""
    change = np.abs(np.diff(values.astype(np.float64), axis=0)).reshape(len(values) - 1, -1).mean(1)
    ends = [a + WINDOW for a in STARTS[:-1]]
    seams = sorted({t for b, e in zip(STARTS[1:], ends, strict=True) for t in range(b, e + 1)})
    rest = [t for t in range(len(change)) if t + 1 not in seams]
    return change[[t - 1 for t in seams if t <= len(change)]].max(), change[rest].max()


def scene() -> np.ndarray:
    """A ball that comes nearer in front of a floor and a sky."""
    t, y, x = np.mgrid[:FRAMES, :32, :48].astype(np.float32)
    depth = np.where(y < 8, np.inf, 40 / np.maximum(y - 6, 1))
    ball = (y - 20) ** 2 + (x - 8 - 0.7 * t) ** 2 < (4 + 0.1 * t) ** 2
    return np.where(ball, 3 - 0.03 * t, depth).astype(np.float32)


def relative(depth: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As a model tells it: inverse depth at a scale and a shift of its own, to 1%."""
    inverse = random.uniform(0.3, 3) / depth
    inverse = np.where(inverse > 0, inverse * (1 + 0.01 * random.standard_normal(depth.shape)), 0)
    shifted = inverse + (inverse > 0) * random.uniform(0, 0.2)
    return np.divide(1, shifted, out=np.full_like(shifted, np.inf), where=shifted > 0).astype(np.float32)


def test_depth_keeps_one_scale():
    truth, random, row = scene(), np.random.default_rng(0), MODALITIES["depth"]
    clips = [relative(clip, random) for clip in cut(truth)]
    joined = join(row, clips, STARTS)
    assert joined.shape == truth.shape and joined.dtype == np.float32
    assert (np.isinf(joined) == np.isinf(truth)).all()
    assert row.score(joined, truth)["abs_rel"] < 0.02
    apart = join(replace(row, agree=None), clips, STARTS)
    assert row.score(apart, truth)["abs_rel"] > 0.1
    seam, elsewhere = jumps(1 / joined)
    worse, _ = jumps(1 / apart)
    assert seam < 1.3 * elsewhere and worse > 3 * seam


def test_what_is_far_does_not_drift_over_many_windows():
    """Windows of a scale of their own, and in places 15% nearer or farther: as a model errs, without a shift."""
    starts, random = places(161, WINDOW), np.random.default_rng(5)
    truth = np.tile(scene()[:1], (161, 1, 1))
    wrong = np.exp(0.15 * np.kron(random.standard_normal((len(starts), 4, 6)), np.ones((8, 8)))).astype(np.float32)
    scales = random.uniform(0.5, 2, len(starts)).astype(np.float32)
    clips = [scale * error * truth[:WINDOW] for scale, error in zip(scales, wrong, strict=True)]
    joined = join(MODALITIES["depth"], clips, starts)
    far = np.isfinite(truth[0]) & (truth[0] > 8)
    off = np.abs(np.log(joined[:, far] / truth[0, far]) - np.log(joined[0, far] / truth[0, far]).mean())
    assert far.sum() > 50 and off[-WINDOW:].mean() < 0.3 and off.max() < 1, off[-WINDOW:].mean()


@pytest.mark.parametrize("earlier", ["flat", "sky", "opposite"])
def test_depth_that_cannot_be_fitted_stays_depth(earlier):
    later = scene()[:WINDOW]
    shared = {"flat": np.full_like(later, 2), "sky": np.full_like(later, np.inf), "opposite": later[:, ::-1]}
    with np.errstate(all="raise"):
        agreed = MODALITIES["depth"].agree(np.ascontiguousarray(shared[earlier][:5]), later)
    assert agreed.shape == later.shape and (agreed > 0).all() and (np.isinf(agreed) == np.isinf(later)).all()


def test_flow_is_never_the_repeated_map():
    truth = np.random.default_rng(1).normal(size=(FRAMES, 8, 8, 2)).astype(np.float32)
    truth[0] = truth[1]
    clips = cut(truth)
    for clip in clips:
        clip[0] = clip[1]
    np.testing.assert_allclose(join(MODALITIES["flow"], clips, STARTS), truth, atol=1e-6)


def test_instances_keep_their_numbers():
    """Also of one that comes later, while another leaves."""
    t, y, x = np.mgrid[:FRAMES, :32, :48]
    truth = np.where((x < 10) & (t < 26), 1, 0) + np.where((x > 20) & (x < 30), 2, 0)
    truth = (truth + np.where((x > 40) & (t > 28), 3, 0)).astype(np.uint8)
    random, clips = np.random.default_rng(2), []
    for clip in cut(truth):
        numbers = np.concatenate(([0], 1 + random.permutation(12))).astype(np.uint8)
        clips.append(numbers[clip])
    joined = join(MODALITIES["segmentation"], clips, STARTS)
    pairs = {(int(a), int(b)) for a, b in zip(truth.ravel(), joined.ravel(), strict=True)}
    assert len(pairs) == 4 and (0, 0) in pairs and len({b for _, b in pairs}) == 4
    # and with other instances than the palette has left, none is lost
    full = (1 + (np.mgrid[:WINDOW, :24, :2][1] // 2)).astype(np.uint8)
    agreed = MODALITIES["segmentation"].agree(np.roll(full[:5], 1, axis=1), full)
    assert len(np.unique(agreed)) == 12 and agreed.min() == 1


def test_people_keep_their_places():
    random = np.random.default_rng(3)
    base = random.uniform(20, 60, (3, 18, 2)) + 200 * np.arange(3)[:, None, None]
    points = base + random.normal(0, 1, (FRAMES, 1, 1, 2)).cumsum(0)
    truth = np.concatenate((points, np.ones((*points.shape[:3], 1))), -1).astype(np.float32)
    # the third comes late, and the first leaves
    truth[:20, 2, :, 2] = truth[34:, 0, :, 2] = 0
    clips = []
    for clip in cut(truth):
        there = [p for p in random.permutation(3) if clip[:, p, :, 2].any()]
        clips.append(clip[:, there])
    joined = join(MODALITIES["skeleton"], clips, STARTS)
    assert joined.shape == truth.shape
    places_of = [next(p for p in range(3) if (joined[:, p, :, 2] == truth[:, q, :, 2]).all()) for q in range(3)]
    assert sorted(places_of) == [0, 1, 2]
    seen = truth[..., 2] > 0
    np.testing.assert_array_equal(joined[:, places_of][seen], truth[seen])


def test_labels_change_in_the_middle_of_what_is_shared():
    row = replace(MODALITIES["densepose"])
    clips = [np.full((WINDOW, 4, 4, 3), number, np.float32) for number in range(len(STARTS))]
    joined = join(row, clips, STARTS)[:, 0, 0, 0]
    assert len(joined) == FRAMES and (np.diff(joined) >= 0).all() and set(joined) == {0, 1, 2}


@pytest.fixture(scope="module")
def generator(tmp_path_factory):
    torch.manual_seed(0)
    model = UnityDiT(MODELS["debug"])
    state = {name: value + 0.05 * torch.randn_like(value) for name, value in model.state_dict().items()}
    card = ModelCard(model=model.config, modalities=tuple(MODALITIES), stage=2, step=7, frames=9, size=(32, 48))
    return load_generator(save_model(state, card, tmp_path_factory.mktemp("run") / "model"), "cpu")


def film(path: Path, frames: int, fps: float = 10, times: list[float] | None = None) -> Path:
    t, y, x = np.mgrid[:frames, :32, :48]
    return write_video(np.stack([5 * x, 7 * y, 8 * t], -1).astype(np.uint8), path, fps, times)


def test_every_frame_of_a_film(generator, tmp_path):
    path = film(tmp_path / "film.mp4", 23)
    result = infer(
        Request(modality=",".join(MODALITIES), video=path, every_frame=True, steps=1, out=tmp_path / "out"),
        generator,
    )
    record = json.loads((tmp_path / "out/run.json").read_text())
    assert record["frames"] == 23 and record["windows"] == {"frames": 9, "begin": [0, 6, 12, 14]}
    video = {name: np.stack([*frames]) for name, frames in result.video.items()}
    np.testing.assert_array_equal(video["rgb"], read_video(path))
    for name in MODALITIES:
        assert len(result.values_of[name]) == len(read_video(tmp_path / f"out/{name}.mp4")) == 23
        assert video[name].shape == (23, 32, 48, 3)
    # the videos say what the values do
    masks, motion = result.values_of["segmentation"], result.values_of["flow"]
    np.testing.assert_array_equal(MODALITIES["segmentation"].decode(video["segmentation"], {}), masks)
    again = MODALITIES["flow"].decode(video["flow"], MODALITIES["flow"].unknown_constants(32, 48))
    assert MODALITIES["flow"].score(again, motion)["epe"] < 0.1


def test_a_film_of_one_window_gives_what_it_gives_without(generator, tmp_path):
    path = film(tmp_path / "film.mp4", 9)
    for name, every in (("a", True), ("b", False)):
        infer(Request(modality="depth", video=path, every_frame=every, steps=1, out=tmp_path / name), generator)
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


def seconds(path: Path) -> np.ndarray:
    """When a file says that its frames are shown."""
    facts = look(path)
    return (np.array(facts.stamps) - facts.stamps[0]) * float(facts.tick)


@pytest.mark.parametrize("uneven", [True, False])
def test_every_frame_is_shown_when_it_was_filmed(uneven, generator, tmp_path):
    """Also by a phone, which slows down in the dark; an even rate stays one that programs know."""
    times = [0.04 * t + 0.08 * max(0, t - 10) * uneven for t in range(23)]
    path = film(tmp_path / "film.mp4", 23, fps=22 / times[-1], times=times)
    np.testing.assert_allclose(seconds(path), times, atol=1e-3)
    result = infer(
        Request(modality="depth", video=path, every_frame=True, steps=1, out=tmp_path / "out"), generator
    )
    assert result.record["source"]["times"] == pytest.approx(times, abs=1e-3)
    for name in ("rgb", "depth"):
        np.testing.assert_allclose(seconds(tmp_path / f"out/{name}.mp4"), times, atol=1e-3)


@pytest.mark.parametrize(
    ("given", "words"),
    [({"prompt": "a ball"}, "is for estimates"), ({"frames": 9}, "leave one of them out")],
)
def test_every_frame_is_refused_where_it_means_nothing(given, words, generator, tmp_path):
    if "prompt" not in given:
        given = given | {"video": film(tmp_path / "film.mp4", 23)}
    with pytest.raises(ValueError, match=words):
        infer(Request(modality="depth", every_frame=True, out=tmp_path / "out", **given), generator)
    assert not (tmp_path / "out").exists()


def ball(path: Path, frames: int, size: tuple[int, int] = (32, 48)) -> Path:
    """A film that differs in every window."""
    y, x = np.mgrid[: size[0], : size[1]]
    shown = (np.stack([5 * x % 256, 7 * y % 256, 8 * t % 256 + 0 * x], -1).astype(np.uint8) for t in range(frames))
    return write_video(shown, path, fps=10)


@pytest.mark.slow
def test_values_of_a_film_are_those_of_its_windows_joined_in_memory(generator, tmp_path):
    """Each window as an estimate by itself, all of them joined and drawn at once: the files hold just that."""
    path, names = ball(tmp_path / "film.mp4", 23), list(MODALITIES)
    asked = Request(modality=",".join(names), video=path, every_frame=True, steps=1, out=tmp_path / "out")
    result = infer(replace(asked, also=("png16", "coco"), at_film_size=True), generator)
    frames, begin = read_video(path), result.record["windows"]["begin"]
    for name in names:
        row = generator.card.modality(name)
        clips = []
        for start in begin:
            footage = Footage(rgb=frames[None, start : start + 9])
            drawn = generate(
                generator, "estimate", name, [""], footage, Sampling(steps=1, guidance=Guidance(scale=1))
            )
            clips.append(row.decode(drawn[1][0], row.unknown_constants(32, 48)))
        whole = join(row, clips, begin)
        np.testing.assert_array_equal(result.values_of[name], whole)
        row.save(whole, tmp_path / name, 10.0)
        for made in (*tmp_path.glob(f"{name}.npz"), *tmp_path.glob(f"{name}.json"), *tmp_path.glob(f"{name}/*")):
            assert made.read_bytes() == (tmp_path / "out" / made.relative_to(tmp_path)).read_bytes()
        shown = np.stack([*result.video[name]])
        np.testing.assert_array_equal(shown, row.encode(whole, row.constants(whole, (32, 48))))


# modalities, frames of a short and a long film, height and width, bytes of values a pixel
LONG = {
    "most bytes a pixel": ("densepose,segmentation", (40, 160), (32, 48), 12 + 1),
    # numpy compresses these in pieces of 16 MB, of which the short film has one, too
    "compressed": ("depth,flow", (260, 780), (96, 160), 4 + 8),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LONG)
def test_a_film_of_any_length_takes_the_memory_of_a_window(name, generator, tmp_path, monkeypatch):
    """What numpy and Python hold at most does not grow with the film, with a model that answers at once."""
    monkeypatch.setattr(answer, "generate", lambda *given: (given[4].rgb, given[4].rgb))
    monkeypatch.setattr(answer, "encode", lambda *given: None)
    names, made, size, each = LONG[name]
    peaks = []
    for frames in made:
        path = ball(tmp_path / f"{frames}.mp4", frames, size)
        also = ("coco",) if "segmentation" in names else ()
        asked = Request(modality=names, video=path, size=size, every_frame=True, steps=1, also=also)
        tracemalloc.start()
        infer(replace(asked, at_film_size=True, out=tmp_path / str(frames)), generator)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    values = (made[1] - made[0]) * size[0] * size[1] * each
    assert peaks[1] - peaks[0] < values / 10, peaks
