"""Pictures against pictures, and what a video says of itself: VBench's dimensions that need no network.

VBench (Huang et al., 2024) takes flow from RAFT and frames in between from AMT; here both are of OpenCV's dense
inverse search, so that numbers compare with each other and with nobody else's.
"""

from itertools import pairwise

import numpy as np
from jaxtyping import Bool, Float32, UInt8

from unity.modality.base import Measure
from unity.modality.flow import classical

Video = UInt8[np.ndarray, "t h w 3"]
Map = Float32[np.ndarray, "h w 2"]

# of a clip; the rest of the words is in `scores`
MEASURES = {
    "flicker": Measure(words="temporal flickering", more=True),
    "smoothness": Measure(words="motion smoothness", more=True),
    "dynamic": Measure(words="dynamic degree", more=True),
    "warp_error": Measure(words="warp error", more=False),
}
# share of the fastest pixels, pixels a frame of a picture of 256, and frames in 16 that must be as fast
_FASTEST, _SPEED, _FRAMES = 0.05, 6.0, 4 / 16


def psnr(prediction: Video, truth: Video) -> float:
    """Peak signal-to-noise ratio of a clip in dB, inf for equal ones."""
    error = np.square(prediction.astype(np.float64) - truth).mean()
    return float(10 * np.log10(255**2 / error)) if error else float("inf")


def scores(video: Video) -> dict[str, float]:
    """All of MEASURES of one clip; a clip too short for one of them gets its best, as nothing in it can be wrong.

    `flicker`, 1 - mean |difference of neighbouring frames| / 255. `smoothness`, the same of every second frame and
    what its neighbours give, carried half-way. `dynamic`, 1 where the fastest 5% of pixels move more than 6 pixels
    of 256 in a quarter of the frames, else 0. `warp_error`, the mean squared difference, of a range of 1, of
    neighbouring frames, one carried to the other, where flow there and back agree (Lai et al., 2018).
    """
    if len(video) < 2:
        return {"flicker": 1.0, "smoothness": 1.0, "dynamic": 0.0, "warp_error": 0.0}
    there = classical(video, np.zeros((*video.shape[:3], 2), np.float32))[1:]
    return {
        "flicker": 1 - float(np.abs(np.diff(video.astype(np.float64), axis=0)).mean()) / 255,
        "smoothness": _smoothness(video),
        "dynamic": float(_is_dynamic(there)),
        "warp_error": warp_error(video, there),
    }


def warp_error(video: Video, flow: Float32[np.ndarray, "steps h w 2"]) -> float:
    """Mean squared difference of the pixels that are seen in both of two neighbouring frames; 0 where none is.

    `flow` is from each frame to the next one, seen at the former.
    """
    back = classical(video[::-1], np.zeros((*video.shape[:3], 2), np.float32))[1:][::-1]
    errors = []
    for (now, then), ahead, behind in zip(pairwise(video.astype(np.float32) / 255), flow, back, strict=True):
        error = np.square(_carried(then, ahead) - now).mean(-1)
        errors.append(error[_seen_in_both(ahead, behind)])
    joined = np.concatenate(errors)
    return float(joined.mean(dtype=np.float64)) if len(joined) else 0.0


def _seen_in_both(ahead: Map, behind: Map) -> Bool[np.ndarray, "h w"]:
    """Where flow there and back cancel (Sundaram et al., 2010), and lead into the picture."""
    returned = _carried(behind, ahead)
    gap = np.square(ahead + returned).sum(-1)
    length = np.square(ahead).sum(-1) + np.square(returned).sum(-1)
    height, width = gap.shape
    rows, columns = np.mgrid[:height, :width]
    x, y = columns + ahead[..., 0], rows + ahead[..., 1]
    inside = (x >= 0) & (x <= width - 1) & (y >= 0) & (y <= height - 1)
    return inside & (gap <= 0.01 * length + 0.5)


def _smoothness(video: Video) -> float:
    """1 - mean |frame - the middle between its neighbours| / 255, of every second frame."""
    if len(video) < 3:
        return 1.0
    middles = video[1:-1:2]
    before, after = video[:-2:2][: len(middles)], video[2::2][: len(middles)]
    gaps = [np.abs(_between(*pair) - middle).mean() for *pair, middle in zip(before, after, middles, strict=True)]
    return 1 - float(np.mean(gaps)) / 255


def _between(first: UInt8[np.ndarray, "h w 3"], last: UInt8[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w 3"]:
    """The picture half-way: each of the two carried half of the way to the other."""
    shape = (2, *first.shape[:2], 2)
    ahead, behind = (
        classical(np.stack(pair), np.zeros(shape, np.float32))[1] for pair in ((first, last), (last, first))
    )
    return (
        _carried(first.astype(np.float32), -0.5 * ahead) + _carried(last.astype(np.float32), -0.5 * behind)
    ) / 2


def _is_dynamic(flow: Float32[np.ndarray, "steps h w 2"]) -> bool:
    """VBench's rule, which wants `round` of a quarter of the frames."""
    speed = np.linalg.norm(flow, axis=-1).reshape(len(flow), -1)
    count = max(1, int(speed.shape[1] * _FASTEST))
    fastest = np.sort(speed, axis=1)[:, -count:].mean(1)
    return bool((fastest > _SPEED * min(flow.shape[1:3]) / 256).sum() >= max(1, round(_FRAMES * (len(flow) + 1))))


def _carried(picture: Float32[np.ndarray, "h w c"], flow: Map) -> Float32[np.ndarray, "h w c"]:
    """The picture read at the places that the flow leads to."""
    # only scores need it
    import cv2

    rows, columns = np.mgrid[: picture.shape[0], : picture.shape[1]].astype(np.float32)
    return cv2.remap(
        picture, columns + flow[..., 0], rows + flow[..., 1], cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE
    )
