"""Depth as a grey video: inverse depth, one range per clip, sky black."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from einops import repeat
from jaxtyping import Bool, Float, Float32

from unity.modality.base import Baseline, Facts, Measure, Modality, Video
from unity.modality.files import check_video, save_arrays
from unity.modality.sizes import inverse_depth

Depth = Float32[np.ndarray, "t h w"]
# scored in float64, whatever it comes in
Scored = Float[np.ndarray, "t h w"]
Metres = Float[np.ndarray, "t h w"]

# metres between which depth is scored, those of KITTI's split (Eigen et al., 2014)
NEAR, CAP = 1e-3, 80.0
# relative depth by which a still surface may differ between two frames, seen at neighbouring pixels
_STILL = 0.05
# share of the least inverse depth that a fit of two clips must leave
_FARTHEST = 0.8


def constants(depth: Depth, size: tuple[int, int]) -> dict[str, float]:
    """Range of the clip's inverse depth, in 1/m. Sky (infinite depth) has inverse depth 0."""
    least = depth.min()
    # nor is a NaN
    if not least > 0:
        raise ValueError(
            f"depth must be positive metres, inf where no surface is seen; the smallest is {least}; "
            f"replace holes by inf"
        )
    return {"near": float(1 / least), "far": float(1 / depth.max())}


def unknown_constants(height: int, width: int) -> dict[str, float]:
    """Range that decodes to relative depth: the nearest point at 1, black at infinity."""
    return {"near": 1.0, "far": 0.0}


def encode(depth: Depth, constants: dict[str, float]) -> Video:
    """Grey level 255·(1/depth - far)/(near - far), in all three channels.

    Of the encodings compared, inverse depth with one range per clip keeps the relative error smallest among
    those that annotators use, and a range per clip does not flicker.
    """
    near, far = constants["near"], constants["far"]
    inverse = np.reciprocal(depth, dtype=np.float32)
    grey = (inverse - far) * np.float32(255 / max(near - far, 1e-9))
    grey = np.clip(grey + 0.5, 0, 255).astype(np.uint8)
    if far == 0:
        # black means sky here, so a far surface must not fall into it
        np.maximum(grey, np.isfinite(depth), out=grey)
    return repeat(grey, "t h w -> t h w c", c=3)


def decode(video: Video, constants: dict[str, float]) -> Depth:
    """Depth in metres (relative if the constants are); inf where black stands for the sky."""
    check_video(video)
    near, far = constants["near"], constants["far"]
    level = video[..., 0].astype(np.float32) + video[..., 1] + video[..., 2]
    inverse = far + level * np.float32((near - far) / 765)
    sky = inverse <= ((near - far) / 510 if far == 0 else 0)
    inverse[sky] = 1
    depth = np.reciprocal(inverse)
    depth[sky] = np.inf
    return depth


def picture(depth: Depth, constants: dict[str, float]) -> Video:
    """Turbo colours of the inverse depth: near red, far blue, sky black."""
    # only drawing needs it; the table is read where OpenCV is not
    import cv2

    grey = encode(depth, constants)[..., 0]
    frames = [cv2.applyColorMap(frame, cv2.COLORMAP_TURBO)[..., ::-1] for frame in grey]
    return np.stack(frames) * np.isfinite(depth)[..., None]


def save(depth: Depth, stem: Path, fps: float) -> list[Path]:
    """`stem.npz` with `depth` float32 [t, h, w] and `fps`."""
    return [save_arrays(stem.with_name(stem.name + ".npz"), depth=depth, fps=np.array(fps))]


def score(prediction: Scored, truth: Scored, aligned: bool = True) -> dict[str, float]:
    """`abs_rel`, mean of |p - t| / t, and `delta_125`, share of max(p/t, t/p) < 1.25, over a clip's valid pixels.

    Valid are pixels whose true depth is above 0 and at most CAP metres: sky (inf), holes (NaN, 0) and what is
    farther are left out. The prediction's inverse is fitted to the true one by one scale and one shift per clip,
    least squares over the valid pixels (Ranftl et al., 2020, section 5; per clip as in video depth, Hu et al.,
    2024, arXiv 2409.02095), unless it is in metres already (`aligned` False); then it is clipped to NEAR..CAP. A
    predicted inf is far away. A predicted NaN, zero or negative depth is none: the fit does not see it, and it
    counts as the worse of NEAR and CAP. Both numbers are NaN where the truth has no valid pixel, else finite.
    """
    found = _errors(prediction, truth, align if aligned else _as_it_is)
    return {name: found[name] for name in ("abs_rel", "delta_125")}


def benchmark(prediction: Scored, truth: Scored, facts: Facts) -> dict[str, float]:
    """The same pixels by other protocols, and the temporal alignment error.

    `rmse`, in metres, with the fit of `score`; `scaled_…` after one factor per clip, the ratio of the medians
    (Zhou et al., 2017); `metric_…` as predicted. A predicted NaN, zero or negative depth counts as the worse of
    NEAR and CAP. `temporal` needs the clip's camera, see `temporal_error`. All are NaN where the truth has no
    valid pixel.
    """
    found = {f"scaled_{name}": value for name, value in _errors(prediction, truth, _scaled).items()}
    found |= {f"metric_{name}": value for name, value in _errors(prediction, truth, _as_it_is).items()}
    found["rmse"] = _errors(prediction, truth, align)["rmse"]
    camera = facts.get("camera")
    return found | {"temporal": temporal_error(prediction, truth, camera) if camera else float("nan")}


def _errors(
    prediction: Scored, truth: Scored, fit: Callable[[np.ndarray, np.ndarray], np.ndarray]
) -> dict[str, float]:
    """Numbers of the valid pixels, the prediction's inverse depths fitted to the true ones."""
    valid = _valid(truth)
    if not valid.any():
        return dict.fromkeys(("abs_rel", "delta_125", "rmse"), float("nan"))
    wanted = truth[valid].astype(np.float64)
    disparity = _disparity(prediction[valid])
    known = ~np.isnan(disparity)
    worst, close = np.maximum(CAP - wanted, wanted - NEAR), np.zeros(wanted.shape, bool)
    off = worst.copy()
    if known.any():
        depth = 1 / fit(disparity[known], 1 / wanted[known]).clip(1 / CAP, 1 / NEAR)
        ratio = depth / wanted[known]
        off[known], close[known] = np.abs(depth - wanted[known]), np.maximum(ratio, 1 / ratio) < 1.25
    return {
        "abs_rel": float((off / wanted).mean()),
        "delta_125": float(close.mean()),
        "rmse": float(np.sqrt(np.square(off).mean())),
    }


def _valid(truth: Scored) -> Bool[np.ndarray, "t h w"]:
    # a NaN compares as False
    return (truth > 0) & (truth <= CAP)


def _disparity(depth: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """Inverse depth in float64, 0 for what is infinitely far and NaN for what is no depth."""
    with np.errstate(divide="ignore", over="ignore"):
        disparity = 1 / depth.astype(np.float64)
    return np.where((disparity >= 0) & (disparity < np.inf), disparity, np.nan)


def _as_it_is(disparity: Float[np.ndarray, " n"], wanted: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    return disparity


def _scaled(disparity: Float[np.ndarray, " n"], wanted: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """One factor, such that the median depths are equal; what is infinitely far has no part in it."""
    near = disparity[disparity > 0]
    return disparity * (np.median(1 / near) / np.median(1 / wanted)) if len(near) else disparity


def temporal_error(prediction: Scored, truth: Scored, camera: Mapping[str, Any]) -> float:
    """Temporal alignment error: depth carried to the next and the previous frame by the camera against theirs.

    The mean of |p - q| / q, p a pixel's fitted depth seen from the other frame's camera and q the fitted depth
    where it arrives there (Chen et al., 2025, Video Depth Anything, eq. 6), over both directions and the pixels
    that stand still, by the truth: carried alike, it agrees to 5%. A pixel that arrives outside is off by 1. NaN
    without such a pixel, as in a clip of one frame. `camera` has the focal length in pixels and per frame position
    (metres) and rotation (rows right, down, forward).
    """
    near, wanted = _fitted(prediction, truth), np.where(_valid(truth), truth, np.nan).astype(np.float64)
    errors = [
        _carried(near, wanted, camera, frame, frame + step)
        for step in (1, -1)
        for frame in range(max(0, -step), len(truth) - max(0, step))
    ]
    return float(np.mean(np.concatenate(errors))) if sum(map(len, errors)) else float("nan")


def _fitted(prediction: Scored, truth: Scored) -> Float[np.ndarray, "t h w"]:
    """Depth in metres after the fit of `score`; NaN where the truth is not valid, CAP where there is no depth."""
    valid, disparity = _valid(truth), _disparity(prediction)
    known, depth = valid & ~np.isnan(disparity), np.where(valid, CAP, np.nan)
    if known.any():
        depth[known] = 1 / align(disparity[known], 1 / truth[known].astype(np.float64)).clip(1 / CAP, 1 / NEAR)
    return depth


def _carried(
    near: Metres, wanted: Metres, camera: Mapping[str, Any], start: int, end: int
) -> Float[np.ndarray, " n"]:
    """Errors of one frame's still pixels, seen from another frame."""
    seen, there = seen_from(wanted[start], camera, start, end)
    still = np.abs(seen / _at(wanted[end], there) - 1) <= _STILL
    found, place = seen_from(near[start], camera, start, end)
    error = np.abs(found / _at(near[end], place) - 1)[still]
    return np.where(np.isfinite(error), error, 1.0)


def seen_from(
    depth: Float[np.ndarray, "h w"], camera: Mapping[str, Any], start: int, end: int
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w 2"]]:
    """Depth of the pixels' surfaces as another frame's camera sees it, and where (row, column)."""
    height, width = depth.shape
    turn, place = (np.asarray(camera[name], np.float64) for name in ("rotation", "position"))
    rows, columns = np.mgrid[:height, :width] + 0.5
    rays = np.stack([columns - width / 2, rows - height / 2, np.full(depth.shape, camera["focal"])], -1)
    world = place[start] + (rays * (depth / camera["focal"])[..., None]) @ turn[start]
    x, y, z = np.moveaxis((world - place[end]) @ turn[end].T, -1, 0)
    with np.errstate(divide="ignore", invalid="ignore"):
        where = camera["focal"] * np.stack([y, x], -1) / z[..., None] + (height / 2, width / 2)
    return np.where(z > 0, z, np.nan), where


def _at(depth: Float[np.ndarray, "h w"], where: Float[np.ndarray, "h w 2"]) -> Float[np.ndarray, "h w"]:
    """Depth of the pixel that a place lies in, NaN outside."""
    inside = ((where >= 0) & (where < depth.shape)).all(-1)
    rows, columns = np.moveaxis(np.where(inside[..., None], where, 0).astype(int), -1, 0)
    return np.where(inside, depth[rows, columns], np.nan)


def align(disparity: Float[np.ndarray, " n"], wanted: Float[np.ndarray, " n"]) -> Float[np.ndarray, " n"]:
    """`scale·disparity + shift` nearest to `wanted` in the mean square; the mean of `wanted` for a constant."""
    # the scale means nothing, and squares of what is very near would be inf
    disparity = disparity / max(float(disparity.max()), 1e-300)
    return wanted.mean() + _slope(disparity, wanted) * (disparity - disparity.mean())


def _slope(x: Float[np.ndarray, " n"], y: Float[np.ndarray, " n"]) -> float:
    """Of the line over `x` that is nearest to `y` in the mean square; 0 for a constant `x`."""
    centred = x - x.mean()
    spread = np.square(centred).sum()
    # rounding leaves a constant a spread of about the square of the machine's precision
    flat = spread <= 1e-20 * np.square(x).sum()
    return 0.0 if flat else float((centred * y).sum() / spread)


def trivial(rgb: Video | None, truth: Depth) -> Depth:
    """One depth everywhere; aligned, it is the clip's own mean inverse depth, the best of all constants."""
    return np.ones_like(truth)


def gradient(rgb: Video | None, truth: Depth) -> Depth:
    """Inverse depth that rises evenly from the top row to the bottom one: floors are near and skies are far."""
    height = truth.shape[1]
    disparity = (np.arange(height, dtype=truth.dtype) + 0.5) / height
    return np.broadcast_to(1 / disparity[:, None], truth.shape)


def agree(earlier: Float32[np.ndarray, "shared h w"], later: Depth) -> Depth:
    """One scale and one shift of the later clip's inverse depth, over what both see.

    There is no shift where it would push what is farthest still farther, and the scale is the ratio of deviations,
    since the slope of least squares is the less, the more the two err. Either would add up over a film's windows.
    """
    inverse, wanted = 1 / later, 1 / earlier
    seen = (inverse[: len(earlier)] > 0) & (wanted > 0)
    if not seen.any():
        return later
    x, y = inverse[: len(earlier)][seen].astype(np.float64), wanted[seen].astype(np.float64)
    # not above 0: the two tell opposite shapes, or none
    scale = y.std() / x.std() if _slope(x, y) > 0 else 0.0
    shift = y.mean() - scale * x.mean()
    if not scale or scale * x.min() + shift < _FARTHEST * y.min():
        scale, shift = (x @ y) / (x @ x), 0.0
    fitted = np.maximum(scale * inverse + shift, 1e-3 * y.min())
    return np.where(inverse > 0, 1 / fitted, np.inf).astype(np.float32)


def mix(a: Depth, b: Depth, weight: Float32[np.ndarray, "t 1 1"]) -> Depth:
    """Of inverse depth, which sky has too: 0."""
    inverse = 1 / a + weight * (1 / b - 1 / a)
    return np.divide(1, inverse, out=np.full_like(a, np.inf), where=inverse > 0)


DEPTH = Modality(
    name="depth",
    type_prompt="a depth map, near surfaces bright and far ones dark",
    meaning="near is bright, far is dark, black is the sky",
    pixel_aligned=True,
    spread=(-0.189, 0.627),
    constants=constants,
    unknown_constants=unknown_constants,
    encode=encode,
    decode=decode,
    picture=picture,
    save=save,
    resize=inverse_depth,
    agree=agree,
    mix=mix,
    score=score,
    measures={
        "abs_rel": Measure(words="AbsRel", more=False),
        "delta_125": Measure(words="δ<1.25", more=True),
    },
    benchmark=benchmark,
    benchmark_measures={
        "rmse": Measure(words="RMSE, metres", more=False),
        "scaled_abs_rel": Measure(words="AbsRel, scale alone", more=False),
        "scaled_delta_125": Measure(words="δ<1.25, scale alone", more=True),
        "scaled_rmse": Measure(words="RMSE, scale alone", more=False),
        "metric_abs_rel": Measure(words="AbsRel, metric", more=False),
        "metric_delta_125": Measure(words="δ<1.25, metric", more=True),
        "metric_rmse": Measure(words="RMSE, metric", more=False),
        "temporal": Measure(words="temporal alignment error", more=False),
    },
    baselines={
        "trivial": Baseline(words="one depth", predict=trivial),
        "classical": Baseline(words="lower is nearer", predict=gradient),
    },
)
