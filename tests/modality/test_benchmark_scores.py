"""The benchmark's numbers against second implementations: loops, scipy, and sets."""

import json
import math

import numpy as np
import pytest
from scipy.ndimage import distance_transform_edt

from unity.modality import coco, densepose, depth, flow, segmentation, skeleton

RANDOM = np.random.default_rng(0)


def iou(a, b):
    return (a & b).sum() / (a | b).sum()


def average_precision(overlap, best_first, count):
    """Mean over thresholds of COCO's 101-point precision; `overlap` of detections, then true ones."""
    found = []
    for threshold in np.arange(0.5, 1, 0.05):
        taken, right = set(), []
        for detection in best_first:
            free = [(overlap[detection][k], k) for k in range(count) if k not in taken]
            value, k = max(free, default=(0, None))
            right.append(value >= threshold - 1e-9)
            taken |= {k} if right[-1] else set()
        hits = np.cumsum(right)
        recall, precision = hits / count, hits / np.arange(1, len(hits) + 1)
        found.append(np.mean([max(precision[recall >= r - 1e-12], default=0) for r in np.linspace(0, 1, 101)]))
    return np.mean(found), found[0]


def test_instances_are_ranked_and_matched_as_coco_does():
    pytest.importorskip("pycocotools", reason="needs pip install pycocotools")
    for _ in range(5):
        truth = np.kron(RANDOM.integers(0, 4, (3, 4, 4)), np.ones((1, 5, 5), int)).astype(np.uint8)
        prediction = np.where(RANDOM.random(truth.shape) < 0.15, RANDOM.integers(0, 5, truth.shape), truth)
        labels = [k for k in np.unique(prediction) if k]
        wanted = [k for k in np.unique(truth) if k]
        order = sorted(labels, key=lambda k: -(prediction == k).sum())
        overlap = {p: [iou(prediction == p, truth == k) for k in wanted] for p in labels}
        found = segmentation.benchmark(prediction.astype(np.uint8), truth, {})
        assert (found["ap"], found["ap50"]) == pytest.approx(average_precision(overlap, order, len(wanted)))
    empty = np.zeros_like(truth)
    assert segmentation.benchmark(empty, truth, {}) == dict.fromkeys(("ap", "ap50", "j_and_f", "j", "f"), 0)
    assert np.isnan(list(segmentation.benchmark(truth, empty, {}).values())).all()


def test_instances_of_many_clips_are_one_set():
    """Of 3 clips the best first over all, and of a clip that counts twice."""
    pytest.importorskip("pycocotools", reason="needs pip install pycocotools")
    clips = []
    for _ in range(3):
        truth = np.kron(RANDOM.integers(0, 3, (2, 3, 3)), np.ones((1, 6, 6), int)).astype(np.uint8)
        wrong = RANDOM.random(truth.shape) < RANDOM.uniform(0, 0.3)
        clips.append((np.where(wrong, RANDOM.integers(0, 4, truth.shape), truth).astype(np.uint8), truth))

    def expected(chosen):
        wanted = [(i, k) for i, (_, truth) in enumerate(chosen) for k in np.unique(truth) if k]
        labels = [(i, k) for i, (prediction, _) in enumerate(chosen) for k in np.unique(prediction) if k]
        overlap = {
            (i, p): [iou(chosen[i][0] == p, chosen[j][1] == k) if i == j else 0 for j, k in wanted]
            for i, p in labels
        }
        order = sorted(labels, key=lambda one: -(chosen[one[0]][0] == one[1]).sum())
        return average_precision(overlap, order, len(wanted))

    told = [segmentation.detections(*clip) for clip in clips]
    # as a journal keeps them
    found = coco.average_precision(json.loads(json.dumps(told)), [(0, 0, 2), (1, 1, 1)])
    assert found.tolist() == [
        pytest.approx(expected([clips[place] for place in chosen])) for chosen in ((0, 1, 2), (0, 0, 2), (1, 1, 1))
    ]
    # the mean over clips is another number
    assert found[0, 0] != pytest.approx(
        np.mean([segmentation.benchmark(*clip, {})["ap"] for clip in clips]), abs=1e-3
    )


def test_people_are_ranked_and_matched_as_coco_does():
    pytest.importorskip("pycocotools", reason="needs pip install pycocotools")
    # COCO's falloffs of our joints, twice, squared; the neck is not one of them
    sigma = dict(nose=26, eye=25, ear=35, shoulder=79, elbow=72, wrist=62, hip=107, knee=87, ankle=89)
    falloff = np.array([2e-3 * sigma.get(name.split("_")[-1], 0) for name in skeleton.JOINTS])
    truth = np.concatenate([RANDOM.uniform(0, 64, (1, 3, 18, 2)), np.ones((1, 3, 18, 1))], -1)
    truth[0, 1, 9:, 2] = 0
    prediction = truth.copy()
    prediction[..., :2] += RANDOM.normal(0, 2.5, prediction[..., :2].shape)
    prediction[0, :, :, 2] = 1
    prediction[0, 2, :4, 2] = 0

    def oks(person, other):
        joints = [j for j, name in enumerate(skeleton.JOINTS) if name != "neck" and person[j, 2]]
        area = 0.53 * np.prod(np.ptp(person[[j for j in range(18) if person[j, 2] and j != 1], :2], axis=0))
        exact = [
            math.exp(-(math.dist(person[j, :2], other[j, :2]) ** 2) / (2 * area * falloff[j] ** 2)) * other[j, 2]
            for j in joints
        ]
        return sum(exact) / len(exact)

    overlap = [[oks(person, other) for person in truth[0]] for other in prediction[0]]
    found = skeleton.benchmark(prediction, truth, {})
    assert tuple(found.values()) == pytest.approx(average_precision(overlap, [0, 1, 2], 3), abs=1e-6)
    assert 0.1 < found["oks_ap"] < 0.9
    assert skeleton.benchmark(truth[:, :0], truth, {}) == {"oks_ap": 0, "oks_ap50": 0}
    assert np.isnan(skeleton.benchmark(truth, truth[:, :0], {})["oks_ap"])


def test_contours_by_distances():
    truth, prediction = np.zeros((2, 3, 40, 60), bool)
    for t in range(3):
        truth[t, 5 + t : 20, 10:30] = True
        prediction[t, 6:22, 11 + t : 32] = True
    prediction[2] = False

    def border(mask):
        here = np.zeros_like(mask)
        for y, x in np.ndindex(mask.shape):
            near = mask[y : y + 2, x : x + 2]
            here[y, x] = near.any() != near.all()
        return here

    def near(edges, other):
        if not edges.any() or not other.any():
            return float(edges.any() == other.any())
        return (distance_transform_edt(~other)[edges] <= 1).mean()

    def f(mask, other):
        precision, recall = near(border(other), border(mask)), near(border(mask), border(other))
        return 2 * precision * recall / (precision + recall) if precision + recall else 0

    # the diagonal is 72 pixels, so that one pixel is near
    found = segmentation.contour_accuracy(prediction[None], truth[None])
    assert found.item() == pytest.approx(np.mean([f(*pair) for pair in zip(truth, prediction, strict=True)]))
    assert 0.1 < found.item() < 0.9
    region = segmentation.region_similarity(prediction[None], truth[None]).item()
    assert region == pytest.approx(np.mean([iou(*pair) for pair in zip(truth, prediction, strict=True)]))


def test_flow_by_loops():
    truth, noise = RANDOM.normal(0, 6, (2, 3, 24, 64, 2)).astype(np.float32)
    truth[1, 0, 0], prediction = np.nan, 2 * truth + 0.5 * noise
    labels = RANDOM.integers(0, 2, (3, 24, 64)).astype(np.uint8)
    kinds = {name: [] for name in ("all", "slow", "middling", "fast", "visible", "occluded")}
    for t, y, x in np.ndindex(2, 24, 64):
        vector, found = truth[t + 1, y, x], prediction[t + 1, y, x]
        if not np.isfinite(vector).all():
            continue
        error, speed = math.dist(vector.tolist(), found.tolist()), math.hypot(*vector.tolist())
        kinds["all"].append(error >= 3 and error >= 0.05 * speed)
        kinds["slow" if speed < 10 / 16 else "middling" if speed < 40 / 16 else "fast"].append(error)
        column, row = round(x + float(vector[0])), round(y + float(vector[1]))
        seen = 0 <= column < 64 and 0 <= row < 24 and labels[t + 1, row, column] == labels[t, y, x]
        kinds["visible" if seen else "occluded"].append(error)
    expected = {"fl_all" if name == "all" else f"epe_{name}": np.mean(errors) for name, errors in kinds.items()}
    found = flow.benchmark(prediction, truth, {"segmentation": labels})
    assert {name: found[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert flow.benchmark(3 * truth, truth, {})["epe_scaled"] == pytest.approx(0, abs=1e-5)
    assert np.isnan(list(flow.benchmark(truth[:1], truth[:1], {}).values())).all()


def test_depth_by_loops():
    truth = np.exp(RANDOM.uniform(0, 5, (2, 9, 11))).astype(np.float32)
    prediction = (truth ** RANDOM.uniform(0.8, 1.2, truth.shape)).astype(np.float32)
    pixels = [(float(p), float(t)) for p, t in zip(prediction.flat, truth.flat, strict=True) if t <= 80]
    for name, factor in {
        "metric": 1,
        "scaled": np.median([t for _, t in pixels]) / np.median([p for p, _ in pixels]),
    }.items():
        fitted = [(min(max(factor * p, 1e-3), 80), t) for p, t in pixels]
        expected = {
            f"{name}_abs_rel": np.mean([abs(p - t) / t for p, t in fitted]),
            f"{name}_delta_125": np.mean([max(p / t, t / p) < 1.25 for p, t in fitted]),
            f"{name}_rmse": np.sqrt(np.mean([(p - t) ** 2 for p, t in fitted])),
        }
        found = depth.benchmark(prediction, truth, {})
        assert {key: found[key] for key in expected} == pytest.approx(expected, rel=1e-4)
    assert np.isnan(depth.benchmark(truth, np.full_like(truth, np.inf), {})["rmse"])


def wall(distance, tilt, camera, height=24, width=32):
    """Depth of the plane z = distance + tilt·x in a camera that only moves, by its equation."""
    x, _, z = camera
    across = (np.arange(width) + 0.5 - width / 2) / 40
    ray = (distance + tilt * x - z) / (1 - tilt * across)
    return np.broadcast_to(ray, (height, width))


def test_depth_that_a_camera_carries():
    places = [(0.05 * i, 0, 0.1 * i) for i in range(4)]
    camera = {"focal": 40.0, "position": places, "rotation": [np.eye(3).tolist()] * 4}
    truth = np.stack([wall(5, 0.3, place) for place in places]).astype(np.float32)
    assert depth.temporal_error(truth, truth, camera) < 0.01
    # near and far in turn: a scale and a shift per clip cannot mend it
    pumped = truth * np.array([0.8, 1.25, 0.8, 1.25], np.float32)[:, None, None]
    error = depth.temporal_error(pumped, truth, camera)
    assert error > 10 * depth.temporal_error(truth, truth, camera)
    assert np.isnan(depth.temporal_error(truth[:1], truth[:1], camera))


def test_bodies_by_sets():
    truth, found = (RANDOM.integers(0, 4, (2, 8, 8)) for _ in range(2))
    surfaces = [np.stack([parts, 0 * parts, 0 * parts], -1).astype(np.float32) for parts in (found, truth)]
    shares = [((found == k) & (truth == k)).sum() / (truth == k).sum() for k in (1, 2, 3)]
    expected = {"body_iou": iou(found > 0, truth > 0), "body_accuracy": np.mean(shares)}
    assert densepose.benchmark(*surfaces, {}) == pytest.approx(expected)


def test_what_differs_from_the_background_is_an_instance():
    rgb = RANDOM.integers(100, 110, (8, 32, 32, 3)).astype(np.uint8)
    truth = np.zeros((8, 32, 32), np.uint8)
    for t in range(8):
        truth[t, 4:12, 3 * t : 3 * t + 6] = 1
    rgb[truth == 1] = (200, 30, 30)
    found = segmentation.background_subtraction(rgb, truth)
    assert segmentation.score(found, truth)["instance_iou"] > 0.95
    assert not segmentation.background_subtraction(rgb[:1], truth[:1]).any()
