"""Files for other programs, read back as those programs' own descriptions say."""

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image

from unity.modality.exports import (
    COCO_JOINTS,
    EXPORTS,
    depth_exr,
    depth_png,
    flow_kitti,
    keypoints_coco,
    masks_coco,
    masks_davis,
)
from unity.modality.skeleton import JOINTS

RANDOM = np.random.default_rng(0)


def read(path: Path) -> np.ndarray:
    return cv2.imread(str(path), cv2.IMREAD_UNCHANGED)


def test_depth_comes_back_by_its_scale(tmp_path):
    depth = RANDOM.uniform(0.5, 40, (3, 6, 8)).astype(np.float32)
    depth[1, :2] = np.inf
    folder, about = depth_png(depth, tmp_path / "depth")
    scale = json.loads(about.read_text())["scale"]
    for frame, truth in enumerate(depth):
        image = read(folder / f"{frame:06d}.png")
        assert image.dtype == np.uint16 and ((image == 0) == ~np.isfinite(truth)).all()
        seen = np.isfinite(truth)
        np.testing.assert_allclose(image[seen] / scale, truth[seen], atol=0.5001 / scale)
    # where nothing is seen at all
    folder, _ = depth_png(np.full((1, 2, 2), np.inf, np.float32), tmp_path / "sky")
    assert not read(folder / "000000.png").any()


def test_depth_comes_back_from_exr_to_the_bit(tmp_path):
    import OpenEXR

    depth = RANDOM.uniform(0.5, 40, (2, 6, 8)).astype(np.float32)
    depth[1, :2] = np.inf
    (folder,) = depth_exr(depth, tmp_path / "depth")
    for frame, truth in enumerate(depth):
        channels = OpenEXR.File(str(folder / f"{frame:06d}.exr")).channels()
        assert set(channels) == {"Z"} and channels["Z"].pixels.dtype == np.float32
        assert np.array_equal(channels["Z"].pixels, truth)


def test_flow_comes_back_as_kittis_devkit_reads_it(tmp_path):
    flow = RANDOM.normal(0, 30, (2, 5, 7, 2)).astype(np.float32)
    flow[0, 0, 0] = 1e6, -1e6
    (folder,) = flow_kitti(flow, tmp_path / "flow")
    for frame, truth in enumerate(flow):
        valid, v, u = np.moveaxis(read(folder / f"{frame:06d}.png"), -1, 0)
        assert (valid == 1).all()
        found = (np.stack((u, v), -1).astype(np.float64) - 2**15) / 64
        np.testing.assert_allclose(found, truth.clip(-512, 511.984375), atol=1 / 128 + 1e-6)


def test_masks_come_back_from_their_runs(tmp_path):
    labels = RANDOM.integers(0, 4, (3, 6, 5)).astype(np.uint8)
    # the first pixel belongs to an instance, and a frame is of one alone
    labels[0, 0, 0], labels[1] = 2, 3
    (path,) = masks_coco(labels, tmp_path / "segmentation")
    content = json.loads(path.read_text())
    assert [image["id"] for image in content["images"]] == [0, 1, 2] and content["images"][0]["width"] == 5
    found = np.zeros_like(labels)
    for row in content["annotations"]:
        counts, (height, width) = row["segmentation"]["counts"], row["segmentation"]["size"]
        mask = np.repeat(np.arange(len(counts)) % 2 == 1, counts).reshape(width, height).T
        found[row["image_id"]][mask] = row["instance_id"]
        x, y, w, h = row["bbox"]
        assert mask.sum() == row["area"] == mask[y : y + h, x : x + w].sum()
        assert mask[y].any() and mask[y + h - 1].any() and mask[:, x].any() and mask[:, x + w - 1].any()
    assert (found == labels).all()


def test_indices_keep_under_daviss_palette(tmp_path):
    labels = RANDOM.integers(0, 6, (2, 4, 4)).astype(np.uint8)
    (folder,) = masks_davis(labels, tmp_path / "segmentation")
    for frame, truth in enumerate(labels):
        image = Image.open(folder / f"{frame:06d}.png")
        assert image.mode == "P" and (np.array(image) == truth).all()
        # the first colours of DAVIS: black, dark red, dark green, olive, dark blue
        assert image.getpalette()[:15] == [0, 0, 0, 128, 0, 0, 0, 128, 0, 128, 128, 0, 0, 0, 128]


def test_keypoints_are_in_cocos_order(tmp_path):
    people = np.zeros((2, 2, 18, 3), np.float32)
    people[0, 0, :, 0], people[0, 0, :, 1], people[0, 0, :, 2] = np.arange(18), 100, 1
    people[0, 0, JOINTS.index("left_knee"), 2] = 0
    (path,) = keypoints_coco(people, tmp_path / "skeleton")
    content = json.loads(path.read_text())
    (row,) = content["annotations"]
    joints = np.array(row["keypoints"]).reshape(17, 3)
    assert row["image_id"] == 0 and row["num_keypoints"] == 16
    for name, (x, y, visible) in zip(COCO_JOINTS, joints, strict=True):
        assert (x, y, visible) == ((0, 0, 0) if name == "left_knee" else (JOINTS.index(name), 100, 2))


@pytest.mark.parametrize("name", EXPORTS)
def test_what_is_written_is_what_the_row_says(name, tmp_path):
    values = {
        "depth": np.ones((1, 4, 4), np.float32),
        "flow": np.ones((1, 4, 4, 2), np.float32),
        "segmentation": np.ones((1, 4, 4), np.uint8),
        "skeleton": np.ones((1, 1, 18, 3), np.float32),
    }
    for row in EXPORTS[name]:
        paths = row.write(values[row.modality], tmp_path / row.modality)
        assert {path.name for path in paths} == {row.modality + end for end in row.ends}
        assert all(path.exists() for path in paths)
