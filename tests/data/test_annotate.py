"""Annotators against films whose motion, people and depth are known, or networks of random weights written out."""

import json

import cv2
import numpy as np
import pytest

from unity.data.annotate.base import Annotation, Annotator
from unity.data.annotate.clip import annotated, worker
from unity.data.annotate.flow import both_ways, load_raft, raft
from unity.data.annotate.masks import surface
from unity.data.annotate.people import follow, openpose
from unity.data.annotate.table import ANNOTATORS, GATES, annotators
from unity.data.annotate.values import measure, shrink
from unity.data.clips import MODALITY_NAMES
from unity.data.rules import judge
from unity.data.shards import open_shards
from unity.data.shards.annotators import made_by
from unity.data.shards.columns import names
from unity.data.shards.write import Sample, write_encoded
from unity.data.video import write_video
from unity.modality.table import MODALITIES


def _texture(seed, height=80, width=120):
    noise = np.random.default_rng(seed).uniform(0, 255, (height // 5, width // 5, 3)).astype(np.float32)
    return cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC).clip(0, 255).astype(np.uint8)


def _pan(frames=5, step=2, height=64, width=64):
    """What is seen moves `step` pixels to the left, a frame."""
    whole = _texture(1)
    return np.stack([whole[8 : 8 + height, 10 + step * t : 10 + step * t + width] for t in range(frames)])


def _load(name, weights=None):
    row = ANNOTATORS[name]
    return row.load(weights or {}, row.settings, "cpu")


@pytest.fixture
def record(tmp_path):
    path = write_video(np.stack([_texture(1, 128, 192)] * 9), tmp_path / "film.mp4", 8.0)
    return {"video": str(path), "source": "general", "caption": "stones", "start": 0.0, "end": 0.5, "rate": 8.0}


def test_flow_is_that_of_the_camera_and_returns():
    made = _load("dis")(_pan())
    assert made.values.shape == (5, 64, 64, 2)
    inner = made.values[:, 8:-8, 8:-8]
    np.testing.assert_allclose(np.median(inner, axis=(0, 1, 2)), [-2, 0], atol=0.1)
    np.testing.assert_array_equal(made.values[0], made.values[1])
    assert made.scores["returns"] > 0.9
    rng = np.random.default_rng(0)
    noise = both_ways(_pan(), lambda frames: rng.normal(0, 9, (5, 64, 64, 2)).astype(np.float32))
    assert noise.scores["returns"] < 0.2


def test_raft_is_torchvisions(tmp_path):
    """Of random weights, one pair, sizes that its strides do not divide."""
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    model = raft().eval()
    torch.save(model.state_dict(), tmp_path / "raft.pth")
    video = np.stack([_texture(s, 130, 140) for s in (1, 2)])
    made = load_raft({"raft": tmp_path}, {"updates": 2}, "cpu")(video)
    padded = np.pad(video, ((0, 0), (0, 6), (0, 4), (0, 0)), mode="edge")
    both = torch.from_numpy(padded).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        wanted = model(both[:1], both[1:], num_flow_updates=2)[-1][0, :, :130, :140].permute(1, 2, 0)
    np.testing.assert_allclose(made.values[1], wanted, atol=1e-4)
    torch.save({"a": torch.zeros(1)}, tmp_path / "raft.pth")
    with pytest.raises(ValueError, match="holds no weights of raft_large"):
        load_raft({"raft": tmp_path}, {"updates": 2}, "cpu")


def test_depth_is_depth_anythings_nearest_at_one(tmp_path):
    """Of random weights; its map is an inverse depth, so that the largest is nearest."""
    torch = pytest.importorskip("torch")
    from transformers import DepthAnythingConfig, DepthAnythingForDepthEstimation, Dinov2Config, DPTImageProcessor

    shape = {
        "hidden_size": 8,
        "num_attention_heads": 2,
        "num_hidden_layers": 4,
        "image_size": 28,
        "patch_size": 14,
    }
    stages = {"out_features": ["stage1", "stage2", "stage3", "stage4"], "reshape_hidden_states": False}
    backbone = Dinov2Config(**shape, **stages, apply_layernorm=True)
    sizes = {"neck_hidden_sizes": [4, 4, 4, 4], "fusion_hidden_size": 4, "head_hidden_size": 4}
    torch.manual_seed(0)
    model = DepthAnythingForDepthEstimation(
        DepthAnythingConfig(backbone_config=backbone, reassemble_hidden_size=8, **sizes)
    ).eval()
    model.save_pretrained(tmp_path)
    processor = DPTImageProcessor(size={"height": 28, "width": 28}, do_resize=True)
    processor.save_pretrained(tmp_path)
    video = _pan(3)
    values = _load("depth-anything", {"depth-anything": tmp_path})(video).values
    with torch.no_grad():
        pixels = processor(images=list(video), return_tensors="pt")
        raw = model(**pixels).predicted_depth[:, None]
    raw = torch.nn.functional.interpolate(raw, (64, 64), mode="bilinear", align_corners=False)[:, 0].numpy()
    assert values.min() == pytest.approx(1) and values.max() == pytest.approx(255, rel=1e-4)
    share = (1 / values - 1 / 255) / (1 - 1 / 255)
    np.testing.assert_allclose(share, (raw - raw.min()) / np.ptp(raw), atol=1e-4)
    MODALITIES["depth"].encode(values, MODALITIES["depth"].constants(values, (64, 64)))


@pytest.mark.slow
def test_depth_of_windows_is_of_one_scale(tmp_path):
    """A network whose depth is brightness, which each window stretches and lifts by what it shows."""
    torch = pytest.importorskip("torch")

    class Bright(torch.nn.Module):
        def forward(self, window):
            light, own = window.mean(2) + 4, window[:, 20:].mean()
            return (2 + own) * light + own**2

    program = torch.export.export(Bright().eval(), (torch.zeros(1, 32, 3, 28, 28),))
    torch.export.save(program, tmp_path / "bright.pt2")
    video = np.linspace(1, 0.2, 60)[:, None, None, None] * _pan(60, 1, 28, 28)
    video = video.astype(np.uint8)
    values = _load("video-depth-anything", {"video-depth-anything": tmp_path / "bright.pt2"})(video).values
    # a third of the weights is that of each colour, by its deviation
    bright = (video / np.array([0.229, 0.224, 0.225])).mean(-1)
    share = (1 / values - 1 / 255) / (1 - 1 / 255)
    np.testing.assert_allclose(share, (bright - bright.min()) / np.ptp(bright), atol=2e-5)
    (tmp_path / "none.pt2").write_bytes(b"no program")
    torch.export.save(torch.export.export(Bright(), (torch.zeros(1, 22, 3, 28, 28),)), tmp_path / "short.pt2")
    for name, words in (("none", "is no program of torch.export"), ("short", "not one window of shape")):
        with pytest.raises(ValueError, match=words):
            _load("video-depth-anything", {"video-depth-anything": tmp_path / f"{name}.pt2"})


def test_people_keep_their_places():
    rng = np.random.default_rng(2)
    bodies = [np.concatenate([rng.uniform(0, 40, (18, 2)) + [60 * k, 0], np.ones((18, 1))], 1) for k in range(2)]

    def at(who, time):
        return bodies[who] + np.array([2.0 * time, 0, 0])

    order = [(0, 1), (1, 0), (1,), (0, 1), (1, 0)]
    places = follow([[at(who, time) for who in whos] for time, whos in enumerate(order)])
    assert places == [list(whos) for whos in order]
    points, sure = rng.uniform(0, 9, (1, 134, 2)), np.linspace(0, 1, 134)[None]
    (person,) = openpose(points, sure, 0.1)
    np.testing.assert_allclose(person[:, :2], points[0, :18], rtol=1e-6)
    np.testing.assert_array_equal(person[:, 2], sure[0, :18] >= 0.1)


def test_body_parts_are_drawn_into_their_boxes():
    torch = pytest.importorskip("torch")
    fine = torch.zeros(2, 25, 4, 4)
    fine[0, 3], fine[1, 7] = 1, 1
    coarse = torch.zeros(2, 2, 4, 4)
    coarse[:, 1] = 1
    found = {
        "pred_boxes": torch.tensor([[2.0, 1.0, 6.0, 5.0], [4.0, 3.0, 99.0, 99.0]]),
        "scores": torch.tensor([0.95, 0.9]),
        "pred_densepose_coarse_segm": coarse,
        "pred_densepose_fine_segm": fine,
        "pred_densepose_u": torch.full((2, 25, 4, 4), 0.25),
        "pred_densepose_v": torch.full((2, 25, 4, 4), 2.0),
    }
    values = surface(found, (8, 10), 0.8)
    parts = np.zeros((8, 10))
    parts[3:8, 4:10] = 7
    parts[1:5, 2:6] = 3
    np.testing.assert_array_equal(values[..., 0], parts)
    np.testing.assert_array_equal(values[parts > 0][:, 1:], np.tile([0.25, 1.0], ((parts > 0).sum(), 1)))
    assert not surface(found, (8, 10), 0.99).any()


def test_values_of_smaller_pictures_mean_the_same():
    flow = np.full((2, 8, 8, 2), 6.0, np.float32)
    np.testing.assert_allclose(shrink("flow", flow, 2), np.full((2, 4, 4, 2), 3.0))
    # the centre of the first pixel of the small picture lies between the first two of the large one
    points = np.array([[[[0.5, 2.5, 1.0]] * 18]], np.float32)
    np.testing.assert_allclose(shrink("skeleton", points, 2)[0, 0, 0], [0, 1, 1])
    np.testing.assert_allclose(shrink("depth", np.full((1, 4, 4), 5.0, np.float32), 2), np.full((1, 2, 2), 5.0))
    labels = np.kron(np.arange(4).reshape(1, 2, 2), np.ones((1, 3, 3))).astype(np.uint8)
    np.testing.assert_array_equal(shrink("segmentation", labels, 3)[0], [[0, 1], [2, 3]])


def test_gates_find_what_is_unsteady():
    video = np.zeros((4, 8, 8, 3), np.uint8)
    steady = np.zeros((4, 8, 8), np.uint8)
    steady[:, 2:6, 2:6] = 1
    jumping = np.stack([np.roll(frame, 4 * t, 1) for t, frame in enumerate(steady)])
    assert measure("segmentation", steady, video) == {"cover": 0.25, "overlap": 1.0, "seen": 1.0, "swaps": 0}
    assert measure("segmentation", jumping, video)["overlap"] == 0.0
    people = np.zeros((4, 1, 18, 3), np.float32)
    people[:2, :, :9, 2] = 1
    assert measure("skeleton", people, video) == {"seen": 0.5, "joints": 9.0}
    assert measure("skeleton", people[:, :0], video) == {"seen": 0.0, "joints": 0.0}


def test_things_that_take_the_numbers_of_others_are_counted():
    labels = np.zeros((6, 12, 40), np.uint8)
    for t, frame in enumerate(labels):
        # one goes behind another, which stands; a third is alone
        frame[3:9, 2 + t : 10 + t], frame[2:10, 10:18], frame[3:9, 30:36] = 1, 2, 3
    assert measure("segmentation", labels, np.zeros((6, 12, 40, 3), np.uint8))["swaps"] == 0
    swapped = labels.copy()
    # the last two frames: 1 and 3 are each other; the fifth alone: 2 is a new one
    swapped[4:][labels[4:] == 1], swapped[4:][labels[4:] == 3], swapped[4][labels[4] == 2] = 3, 1, 7
    found = measure("segmentation", swapped, np.zeros((6, 12, 40, 3), np.uint8))
    assert found["swaps"] == 2 + 1 + 1
    why = judge(GATES["segmentation"], found).why
    assert why == "things take the numbers of others (swaps 4, kept is at most 0)"


def test_depth_is_followed_along_what_moves():
    """A camera that pans past a relief: its depth moves as the picture does, and is steady."""
    video, relief = _pan(5), 1 + cv2.GaussianBlur(_texture(3), (0, 0), 2)[..., 0] / 64
    steady = np.stack([relief[8:72, 10 + 2 * t : 74 + 2 * t] for t in range(5)])
    inverse = 1 / steady
    still = np.abs(np.diff(inverse, axis=0)).mean() / np.ptp(inverse)
    pumping = 1 / (inverse * np.array([1, 0.7, 1, 0.7, 1])[:, None, None])
    found = [measure("depth", depth.astype(np.float32), video)["flicker"] for depth in (steady, pumping)]
    assert found[0] < still / 4 and found[0] < 0.02 and found[1] > 0.1
    passed = [not judge(GATES["depth"], {"flicker": flicker}).broken for flicker in found]
    assert passed == [True, False]
    assert measure("depth", steady[:1], video[:1]) == {"flicker": 0.0}


def test_a_clip_keeps_what_passes_its_gate(record):
    def row(modality, values, **scores):
        made = Annotator(
            name=f"a {modality}", modality=modality, words="", packages=("numpy",), load=lambda *_: None
        )
        return made, lambda video: Annotation(values(video), scores)

    loaded = [
        row("flow", lambda video: np.full((*video.shape[:3], 2), 8.0, np.float32), returns=1.0),
        row("skeleton", lambda video: np.zeros((len(video), 0, 18, 3), np.float32)),
    ]
    clip, told = annotated("a", record, loaded, GATES, 5, (32, 48))
    assert clip.available == ("flow",) and clip.video["rgb"].shape == (5, 32, 48, 3)
    # annotators saw it four times as large
    again = MODALITIES["flow"].decode(clip.video["flow"], clip.constants["flow"])
    np.testing.assert_allclose(again, np.full_like(again, 2.0), atol=0.05)
    kept = {modality: row["kept"] for modality, row in told["annotators"].items()}
    assert kept == {"flow": True, "skeleton": False}
    assert told["annotators"]["skeleton"]["why"].startswith("frames show nobody")
    assert clip.meta["annotators"]["flow"]["versions"] == {"numpy": np.__version__}


def test_what_workers_make_is_a_dataset(record, tmp_path):
    gates = {"flow": [vars(rule) for rule in GATES["flow"]]}
    settings = json.loads(json.dumps({"names": ["dis"], "weights": {}, "gates": gates, "frames": 5}))
    work = worker(**settings, size=[32, 48], device="cpu")
    told, data = work("a", record)
    columns, at = {}, 0
    for name, length in told["sample"]["columns"].items():
        columns[name], at = data[at : at + length], at + length
    assert at == len(data)
    facts = {key: told["sample"][key] for key in ("frames", "size", "fps")}
    who = made_by(told, told["sample"]["available"])
    write_encoded([Sample("a", "general", facts, told["sample"]["available"], columns, who)], tmp_path / "data")
    shards = open_shards(tmp_path / "data")
    clip = shards.clip("general", 0)
    assert (clip.name, clip.caption, clip.available) == ("a", "stones", ("flow",))
    assert shards.about["frames"] == 5 and clip.meta["annotators"]["flow"]["name"] == "dis"
    assert set(columns) == set(names())
    with pytest.raises(ValueError, match="5 are wanted"):
        work("b", record | {"end": 0.1})


def test_rows_of_the_table_are_asked_for(tmp_path):
    assert {row.modality for row in ANNOTATORS.values()} == set(MODALITY_NAMES)
    assert list(annotators(None, {})) == ["flow"]
    found = annotators(None, {"mediapipe": tmp_path, "raft": tmp_path})
    assert {m: row.name for m, row in found.items()} == {
        "flow": "raft",
        "skeleton": "mediapipe-pose",
        "segmentation": "mediapipe-masks",
    }
    cases = (
        (("dis", "raft"), "dis and raft both make flow"),
        (("sam",), "no annotator 'sam'"),
        (("raft",), "--weights raft=PATH"),
    )
    for names_, words in cases:
        with pytest.raises(ValueError, match=words):
            annotators(names_, {"raft": tmp_path} if len(names_) == 2 else {})
