"""Truth as DAVIS, COCO, Middlebury, KITTI and TUM keep it, written by their own rules and read back."""

import json

import cv2
import numpy as np
import pytest
from PIL import Image

from unity.evaluate.truth import own
from unity.modality.skeleton import COCO_JOINTS, JOINTS
from unity.modality.table import MODALITIES

HEIGHT, WIDTH = 40, 70
# of the centre, in whole 32 pixels
INSIDE = (slice(4, 36), slice(3, 67))
RNG = np.random.default_rng(0)


def _picture(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    shown = RNG.integers(0, 256, (HEIGHT, WIDTH, 3)).astype(np.uint8)
    Image.fromarray(shown).save(path, quality=100)
    return shown


def _only(folder):
    bench = own(folder, 9)
    assert len(bench.names) == 1
    clip = bench.clip("estimate", 0)
    assert clip.video["rgb"].shape[1:] == (32, 64, 3)
    return clip


def test_davis(tmp_path):
    masks = []
    for n in range(6):
        _picture(tmp_path / f"JPEGImages/480p/dog/{n:05}.jpg")
        mask = RNG.integers(0, 3, (HEIGHT, WIDTH)).astype(np.uint8)
        path = tmp_path / f"Annotations/480p/dog/{n:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(mask, mode="P")
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 128, 0])
        image.save(path)
        masks.append(mask)
    clip = _only(tmp_path)
    # 4k + 1 of six
    np.testing.assert_array_equal(clip.values["segmentation"], np.stack(masks[:5])[:, *INSIDE])
    assert "segmentation" in clip.video


def test_coco(tmp_path):
    pytest.importorskip("pycocotools")
    _picture(tmp_path / "val/7.jpg")
    points = np.zeros((17, 3))
    points[COCO_JOINTS.index("left_shoulder")] = (30, 20, 2)
    points[COCO_JOINTS.index("right_shoulder")] = (20, 20, 1)
    points[COCO_JOINTS.index("nose")] = (25, 1, 2)
    box = [10, 10, 40, 10, 40, 30, 10, 30]
    rows = [
        {"image_id": 7, "segmentation": [box], "keypoints": points.flatten().tolist(), "iscrowd": 0},
        {"image_id": 7, "segmentation": [[20, 15, 30, 15, 30, 25, 20, 25]], "iscrowd": 0},
        {"image_id": 7, "segmentation": {"size": [HEIGHT, WIDTH], "counts": [0, HEIGHT * WIDTH]}, "iscrowd": 1},
    ]
    table = {"images": [{"id": 7, "file_name": "7.jpg"}], "annotations": rows}
    (tmp_path / "annotations").mkdir()
    (tmp_path / "annotations/instances_val.json").write_text(json.dumps(table))
    clip = _only(tmp_path)
    wanted = np.zeros((HEIGHT, WIDTH), np.uint8)
    wanted[10:30, 10:40], wanted[15:25, 20:30] = 1, 2
    np.testing.assert_array_equal(clip.values["segmentation"][0], wanted[INSIDE])
    (person,) = clip.values["skeleton"][0]
    # moved with the cut; the nose is cut off, the neck lies between the shoulders
    assert person[JOINTS.index("left_shoulder")].tolist() == [27, 16, 1]
    assert person[JOINTS.index("neck")].tolist() == [22, 16, 1] and person[JOINTS.index("nose"), 2] == 0


def _flow():
    flow = RNG.normal(0, 3, (HEIGHT, WIDTH, 2)).astype(np.float32)
    known = RNG.random((HEIGHT, WIDTH)) < 0.5
    return flow, known, np.where(known[..., None], flow, np.nan)


def test_middlebury(tmp_path):
    pictures = [_picture(tmp_path / f"other-data/Dimetrodon/frame{n:02}.png") for n in range(9, 13)]
    flow, known, wanted = _flow()
    path = tmp_path / "other-gt-flow/Dimetrodon/flow10.flo"
    path.parent.mkdir(parents=True)
    head = np.array([202021.25], "<f4").tobytes() + np.array([WIDTH, HEIGHT], "<i4").tobytes()
    path.write_bytes(head + np.where(known[..., None], flow, 1e10).astype("<f4").tobytes())
    clip = _only(tmp_path)
    np.testing.assert_array_equal(clip.values["flow"][1], wanted[INSIDE].astype(np.float32))
    np.testing.assert_array_equal(
        clip.video["rgb"][[0, 1, 2, 4]], np.stack([*pictures[1:], pictures[3]])[:, *INSIDE]
    )
    assert np.isnan(clip.values["flow"][2:]).all() and "flow" not in clip.video
    # what is right where it is known has no error, whatever it says elsewhere
    assert MODALITIES["flow"].score(np.nan_to_num(clip.values["flow"]), clip.values["flow"])["epe"] == 0


def test_kitti(tmp_path):
    for n in (10, 11):
        _picture(tmp_path / f"training/image_2/000003_{n}.png")
    flow, known, wanted = _flow()
    raw = np.concatenate([np.rint(flow * 64 + 2**15), known[..., None]], -1).astype(np.uint16)
    (tmp_path / "training/flow_occ").mkdir()
    cv2.imwrite(str(tmp_path / "training/flow_occ/000003_10.png"), raw[..., ::-1])
    clip = _only(tmp_path)
    np.testing.assert_allclose(clip.values["flow"][1], wanted[INSIDE], atol=1 / 127)
    here = tmp_path / "depth/val_selection_cropped"
    _picture(here / "image/a_sync_image_05_image_02.png")
    metres = RNG.uniform(2, 80, (HEIGHT, WIDTH))
    (here / "groundtruth_depth").mkdir()
    levels = np.where(known, metres * 256, 0).astype(np.uint16)
    cv2.imwrite(str(here / "groundtruth_depth/a_sync_groundtruth_depth_05_image_02.png"), levels)
    depth = _only(tmp_path / "depth").values["depth"][0]
    np.testing.assert_allclose(depth, np.where(known, metres, np.nan)[INSIDE], atol=1 / 256)


def test_tum(tmp_path):
    lines, metres = {"rgb": [], "depth": []}, []
    for n in range(7):
        _picture(tmp_path / f"desk/rgb/{n}.png")
        metres.append(RNG.uniform(0.5, 5, (HEIGHT, WIDTH)))
        (tmp_path / "desk/depth").mkdir(exist_ok=True)
        cv2.imwrite(str(tmp_path / f"desk/depth/{n}.png"), (metres[-1] * 5000).astype(np.uint16))
        lines["rgb"].append(f"{100 + n / 30:.4f} rgb/{n}.png")
        # the third came too late
        lines["depth"].append(f"{100 + n / 30 + (0.025 if n == 2 else 0.005):.4f} depth/{n}.png")
    for name, rows in lines.items():
        (tmp_path / "desk" / f"{name}.txt").write_text("\n".join(["# time file", *rows]))
    clip = _only(tmp_path)
    wanted = np.stack([metres[n] for n in (0, 1, 3, 4, 5)])[:, *INSIDE]
    np.testing.assert_allclose(clip.values["depth"], wanted, atol=1 / 5000)


def test_a_folder_of_nothing_is_a_sentence(tmp_path):
    with pytest.raises(ValueError, match="holds no clip.*davis .*tum"):
        own(tmp_path, 3)
