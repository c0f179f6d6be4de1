import cv2
import numpy as np
import pytest

from unity.modality import densepose, segmentation
from unity.modality.palette import COLOURS, nearest, nearest_hue


def labels(count, seed=0):
    return np.random.default_rng(seed).integers(0, count, (2, 48, 64)).astype(np.uint8)


def surface(seed=0):
    values = np.random.default_rng(seed).uniform(size=(2, 48, 64, 3)).astype(np.float32)
    values[..., 0] = labels(densepose.PARTS + 1)
    return values


def noisy(video, sigma, seed=0):
    noise = np.random.default_rng(seed).normal(0, sigma, video.shape)
    return (video + noise).round().clip(0, 255).astype(np.uint8)


def brute_force(video, palette):
    distance = ((video[..., None, :].astype(int) - palette.astype(int)) ** 2).sum(-1)
    return distance.argmin(-1), np.sort(distance, -1)


def test_colours_are_far_apart():
    distance = np.linalg.norm(COLOURS[:, None].astype(float) - COLOURS, axis=-1)
    assert distance[np.triu_indices(len(COLOURS), 1)].min() >= 127
    assert not COLOURS[0].any()


def test_nearest_is_nearest_except_within_a_cell_of_the_border():
    video = np.random.default_rng(3).integers(0, 256, (1, 200, 200, 3)).astype(np.uint8)
    truth, distance = brute_force(video, COLOURS)
    # a cell of the table is 8 wide, so a colour is at most 7 (half its diagonal) from the centre it is judged by
    clear = np.sqrt(distance[..., 1]) - np.sqrt(distance[..., 0]) > 14
    np.testing.assert_array_equal(nearest(video, COLOURS)[clear], truth[clear])
    assert clear.mean() > 0.6


def test_the_nearest_hue_is_the_nearest_colour_to_the_brightened_pixel():
    video = np.random.default_rng(4).integers(110, 256, (1, 200, 200, 3)).astype(np.uint8)
    brightened = video * (255 / video.max(-1, keepdims=True))
    truth, distance = brute_force(brightened.round(), densepose.PALETTE[1:])
    clear = np.sqrt(distance[..., 1]) - np.sqrt(distance[..., 0]) > 32
    np.testing.assert_array_equal(nearest_hue(video, densepose.PALETTE)[clear], 1 + truth[clear])
    assert clear.mean() > 0.3


def test_a_part_that_fades_into_the_background_stays_itself():
    parts = np.arange(1, densepose.PARTS + 1)
    for share, wanted in ((1.0, parts), (0.6, parts), (0.45, parts), (0.3, 0 * parts)):
        video = (share * densepose.PALETTE[parts]).round().astype(np.uint8)[None, None]
        np.testing.assert_array_equal(densepose.decode(video, {})[0, 0, :, 0], wanted)


def test_a_model_that_is_nearly_sure_of_front_or_back_says_so():
    for front, back in ((2, 1), (9, 7), (10, 8), (13, 11), (14, 12), (17, 15), (18, 16), (22, 20)):
        for likely, other in ((front, back), (back, front)):
            colour = 0.75 * densepose.PALETTE[likely] + 0.25 * densepose.PALETTE[other]
            found = densepose.decode(colour.round().astype(np.uint8)[None, None, None], {})[..., 0].item()
            assert found == likely, (likely, other, found)


@pytest.mark.parametrize("sigma", [0.0, 2.0, 5.0, 10.0])
def test_labels_survive_noise(sigma):
    instances, parts = labels(segmentation.INSTANCES + 1), surface()
    decoded = segmentation.decode(noisy(segmentation.encode(instances, {}), sigma), {})
    np.testing.assert_array_equal(decoded, instances)
    decoded = densepose.decode(noisy(densepose.encode(parts, {}), sigma), {})
    np.testing.assert_array_equal(decoded[..., 0], parts[..., 0])
    assert not decoded[..., 1:].any()


def test_too_many_labels_are_refused():
    with pytest.raises(ValueError, match="keep the largest instances"):
        segmentation.encode(np.full((1, 2, 2), segmentation.INSTANCES + 1, np.uint8), {})
    with pytest.raises(ValueError, match="part 25"):
        densepose.encode(np.full((1, 2, 2, 3), 25, np.float32), {})


def test_saved_masks_hold_the_instances(tmp_path):
    truth = labels(9)
    (folder,) = segmentation.save(truth, tmp_path / "segmentation", 16.0)
    read = [cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in sorted(folder.iterdir())]
    np.testing.assert_array_equal(np.stack(read), truth)


def test_saved_iuv_and_its_picture(tmp_path):
    truth = surface()
    (folder,) = densepose.save(truth, tmp_path / "densepose", 16.0)
    read = np.stack([cv2.imread(str(path))[..., ::-1] for path in sorted(folder.iterdir())])
    np.testing.assert_array_equal(read[..., 0], truth[..., 0])
    np.testing.assert_allclose(read[..., 1:] / 255, truth[..., 1:], atol=0.5 / 255 + 1e-6)
    np.testing.assert_array_equal(densepose.picture(truth, {}), read * np.array([10, 1, 1]))


def test_saving_again_replaces_the_folder_whole(tmp_path):
    segmentation.save(labels(9), tmp_path / "masks", 16.0)
    segmentation.save(labels(9)[:1], tmp_path / "masks", 16.0)
    assert [path.name for path in tmp_path.rglob("*")] == ["masks", "000000.png"]
