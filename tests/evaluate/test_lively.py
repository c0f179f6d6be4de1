"""Which simulated clips a benchmark takes: those of known speeds, and that its own are fast at their own size."""

import numpy as np
import pytest

from unity.data.clips import SOURCES
from unity.evaluate.lively import CAMERA, THINGS, speeds
from unity.evaluate.truth import facts_of, simulated

SHAPE, FOCAL = (3, 32, 48), 40.0


def test_speeds_are_those_that_are_known():
    """A wall at 5 m, the camera 0.5 m to the right a frame, and a square on it that goes 3 pixels down."""
    labels, flow = np.zeros(SHAPE, np.uint8), np.zeros((*SHAPE, 2), np.float32)
    labels[:, 8:16, 8:16] = 1
    # 40 / 5 pixels a metre
    flow[..., 0] = -4
    flow[labels > 0, 1] = 3
    depth = np.full(SHAPE, 5, np.float32)
    depth[:, :4] = np.inf
    camera = {
        "focal": FOCAL,
        "position": [[0.5 * t, 0, 0] for t in range(3)],
        "rotation": [np.eye(3).tolist()] * 3,
    }
    facts = {"depth": depth, "flow": flow, "segmentation": labels, "camera": camera}
    assert speeds(facts) == pytest.approx((4 / 32, 3 / 32))
    still = facts | {"segmentation": np.zeros(SHAPE, np.uint8)}
    assert speeds(still) == pytest.approx((4 / 32, 0))


@pytest.mark.slow
def test_the_clips_of_the_benchmark_are_fast():
    bench = simulated(len(SOURCES), 9, (32, 32))
    for place, source in enumerate(SOURCES):
        clip = bench.clip("control", place)
        camera, thing = speeds(facts_of(clip))
        # chosen at half the size
        assert clip.source == source and camera > 0.9 * CAMERA
        assert thing > 0.9 * THINGS or source == "subject"
    # both tracks have the same clips
    assert np.array_equal(clip.video["rgb"], bench.clip("joint", len(SOURCES) - 1).video["rgb"])
