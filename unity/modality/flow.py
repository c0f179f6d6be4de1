"""Optical flow as colours of the Middlebury wheel, with a fixed scale and a square-root radius."""

from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Float32, Integer, Shaped

from unity.files import whole_folder
from unity.modality.base import Baseline, Facts, Measure, Modality, Picture, Video
from unity.modality.files import OURS, check_video, save_arrays
from unity.modality.sizes import motion

Flow = Float32[np.ndarray, "t h w 2"]
# MPI Sintel's borders of slow, middling and fast, in pixels of its width (Butler et al., 2012)
_SPEEDS, _SINTEL = {"slow": (0, 10), "middling": (10, 40), "fast": (40, np.inf)}, 1024

# Baker et al., A Database and Evaluation Methodology for Optical Flow (2011): six ramps between pure colours,
# of 15, 6, 4, 11, 13 and 6 steps. Directions use 54 of the 55 steps, as in the published code and in RAFT's.
_KNOTS = np.array([0, 15, 21, 25, 36, 49, 55])
_PURE = np.array([(1, 0, 0), (1, 1, 0), (0, 1, 0), (0, 1, 1), (0, 0, 1), (1, 0, 1), (1, 0, 0)])
_TURN = 54
# Entries of the hue table per step of the wheel: 1/8 of a grey level in the steepest ramp.
_FINE = 256


def _hue(position: Float[np.ndarray, "n"]) -> Float[np.ndarray, "n 3"]:
    """Saturated RGB in [0, 1] at a position 0..55 of the wheel."""
    return np.stack([np.interp(position, _KNOTS, channel) for channel in _PURE.T], -1)


@lru_cache(maxsize=1)
def _absorbed() -> Float32[np.ndarray, "n 3"]:
    """1 - hue along the wheel: what full saturation takes away from white."""
    return (1 - _hue(np.arange(_TURN * _FINE + 1) / _FINE)).astype(np.float32)


@lru_cache(maxsize=1)
def _ramps() -> tuple[Float32[np.ndarray, "9"], Float32[np.ndarray, "9"]]:
    """Wheel position = start + slope·(middle channel's share), by 3·(largest channel) + smallest channel."""
    start, slope = np.zeros(9, np.float32), np.zeros(9, np.float32)
    for first, last, a, b in zip(_KNOTS, _KNOTS[1:], _PURE, _PURE[1:], strict=False):
        # one channel is full and one empty along the whole ramp; the third rises or falls
        code = 3 * int(np.argmax(a + b)) + int(np.argmin(a + b))
        rising = b.sum() > a.sum()
        start[code], slope[code] = (first, last - first) if rising else (last, first - last)
    return start, slope


def constants(flow: Flow, size: tuple[int, int]) -> dict[str, float]:
    """Speed, in pixels per frame, drawn fully saturated: 0.15 of the width, the same for every clip."""
    return unknown_constants(*size)


def unknown_constants(height: int, width: int) -> dict[str, float]:
    return {"scale": 0.15 * width}


def encode(flow: Flow, constants: dict[str, float]) -> Video:
    """Direction as hue, saturation = √(speed / scale); faster motion is drawn at `scale`.

    The square root spends the 8 bits where speeds are common: four times less error than a maximum per frame.
    """
    if not np.isfinite(flow).all():
        raise ValueError("flow holds NaN or inf; set unknown motion to 0, or leave flow out of this clip")
    # float64, so that the last bit of a CPU's own arctangent never moves a grey level
    u, v = flow[..., 0].astype(np.float64), flow[..., 1].astype(np.float64)
    radius = np.minimum(np.sqrt(np.sqrt(u * u + v * v) / constants["scale"]), 1).astype(np.float32)
    turn = np.arctan2(-v, -u) / np.pi + 1
    colour = _absorbed().take((turn * (_TURN * _FINE / 2) + 0.5).astype(np.int32), axis=0)
    colour *= (-255 * radius)[..., None]
    colour += 255.5
    return colour.astype(np.uint8)


def decode(video: Video, constants: dict[str, float]) -> Flow:
    """Flow in pixels per frame: hue from the order of the channels, radius by least squares over them."""
    check_video(video)
    red, green, blue = (video[..., channel].astype(np.float32) for channel in range(3))
    high, low = np.maximum(np.maximum(red, green), blue), np.minimum(np.minimum(red, green), blue)
    largest = np.where(red == high, 0, np.where(green == high, 1, 2))
    smallest = np.where(blue == low, 2, np.where(green == low, 1, 0))
    code = 3 * largest + smallest
    start, slope = (table.take(code) for table in _ramps())
    share = (red + green + blue - high - 2 * low) / np.maximum(high - low, 1)
    position = np.minimum(start + slope * share, _TURN)
    absorbed = _absorbed().take((position * _FINE + 0.5).astype(np.int32), axis=0)
    seen = (255 - red) * absorbed[..., 0] + (255 - green) * absorbed[..., 1] + (255 - blue) * absorbed[..., 2]
    radius = seen / (np.float32(255) * np.einsum("thwc,thwc->thw", absorbed, absorbed))
    angle = position * np.float32(2 * np.pi / _TURN) - np.float32(np.pi)
    speed = radius**2 * np.float32(constants["scale"])
    return np.stack([-speed * np.cos(angle), -speed * np.sin(angle)], -1)


def redraw(picture: Picture, ratio: float) -> Picture:
    """The colours of the same speeds, which are a share `ratio` times as large of a width 1/ratio times as wide.

    Speeds that are beyond the new scale are drawn at it, as `encode` does.
    """
    return desaturate(picture, np.sqrt(ratio))


def desaturate(picture: Picture, factor: float) -> Picture:
    """The saturation multiplied; full at most."""
    absorbed = 255 - picture.astype(np.float32)
    # 255 of the saturation, as a full one takes one channel away whole
    most = absorbed.max(-1, keepdims=True)
    return (255.5 - absorbed * np.minimum(factor, 255 / np.maximum(most, 1))).astype(np.uint8)


def picture(flow: Flow, constants: dict[str, float]) -> Video:
    """The wheel itself."""
    return encode(flow, constants)


def save(flow: Flow, stem: Path, fps: float) -> list[Path]:
    """`stem.npz` with `flow` float32 [t, h, w, 2] and `fps`, and a folder `stem` of Middlebury .flo files."""
    with whole_folder(stem, mine=OURS) as folder:
        for index, field in enumerate(flow):
            (folder / f"{index:06d}.flo").write_bytes(flo(field))
    return [save_arrays(stem.with_name(stem.name + ".npz"), flow=flow, fps=np.array(fps)), stem]


def flo(field: Float32[np.ndarray, "h w 2"]) -> bytes:
    """Middlebury's format, little-endian: the float 202021.25, width and height as int32, then u, v by rows."""
    height, width, _ = field.shape
    head = np.float32(202021.25).astype("<f4").tobytes() + np.array([width, height], "<i4").tobytes()
    return head + np.ascontiguousarray(field, "<f4").tobytes()


def score(prediction: Flow, truth: Flow) -> dict[str, float]:
    """`epe`, the mean distance of flow vectors in pixels, and `off_1px`, the share that is off by 1 pixel or more.

    Map 0 is left out, as it repeats map 1, and so are vectors whose truth is no number. A predicted vector that is
    no number is off by the picture's diagonal. Both are NaN where nothing is left, as in a clip of one frame.
    """
    distance = _distance(prediction, truth)
    return {"epe": _mean(distance), "off_1px": _mean(distance >= 1)}


def benchmark(prediction: Flow, truth: Flow, facts: Facts) -> dict[str, float]:
    """The same vectors by other protocols; each number is NaN where the truth has no vector of its kind.

    `fl_all`, the share off by 3 pixels or more and by 5% of the true speed or more (KITTI, Menze & Geiger, 2015);
    `epe_slow`, `epe_middling`, `epe_fast` by true speed, MPI Sintel's borders as shares of the width;
    `epe_scaled` after the one factor per clip that is best in the mean square, for predictions without a scale;
    `epe_visible` and `epe_occluded`, for which the facts need the true segmentation: occluded is what leaves the
    picture or arrives where another instance is seen.
    """
    distance, known = _distance(prediction, truth), _known(truth)
    speed = np.linalg.norm(truth[1:][known].astype(np.float64), axis=-1)
    share = speed * (_SINTEL / truth.shape[2])
    found = {"fl_all": _mean((distance >= 3) & (distance >= 0.05 * speed))}
    for name, (low, high) in _SPEEDS.items():
        found[f"epe_{name}"] = _mean(distance[(share >= low) & (share < high)])
    found["epe_scaled"] = _mean(_distance(_rescaled(prediction, truth), truth))
    labels = facts.get("segmentation")
    hidden = np.ones(0, bool) if labels is None else _occluded(truth, labels)[known]
    return found | {
        "epe_visible": _mean(distance[: len(hidden)][~hidden]),
        "epe_occluded": _mean(distance[: len(hidden)][hidden]),
    }


def _known(truth: Flow) -> Bool[np.ndarray, "steps h w"]:
    return np.isfinite(truth[1:]).all(-1)


def _distance(prediction: Flow, truth: Flow) -> Float[np.ndarray, " n"]:
    known = _known(truth)
    distance = np.linalg.norm(prediction[1:][known].astype(np.float64) - truth[1:][known], axis=-1)
    distance[~np.isfinite(distance)] = np.hypot(*truth.shape[1:3])
    return distance


def _mean(values: Shaped[np.ndarray, " n"]) -> float:
    return float(values.mean()) if len(values) else float("nan")


def _rescaled(prediction: Flow, truth: Flow) -> Flow:
    used = np.isfinite(truth).all(-1) & np.isfinite(prediction).all(-1)
    used[0] = False
    found, wanted = (flow[used].astype(np.float64) for flow in (prediction, truth))
    power = float(np.square(found).sum())
    return (prediction * np.float32((found * wanted).sum() / power if power else 1)).astype(np.float32)


def _occluded(truth: Flow, labels: Integer[np.ndarray, "t h w"]) -> Bool[np.ndarray, "steps h w"]:
    """Whether a pixel of a frame is not seen in the next one."""
    _, height, width = labels.shape
    rows, columns = np.mgrid[:height, :width]
    where = np.nan_to_num(np.rint(truth[1:] + np.stack([columns, rows], -1)), nan=-1, posinf=-1, neginf=-1)
    x, y = where[..., 0], where[..., 1]
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    x, y = (np.where(inside, side, 0).astype(int) for side in (x, y))
    arrived = labels[1:][np.arange(len(y))[:, None, None], y, x]
    return ~inside | (arrived != labels[:-1])


def trivial(rgb: Video | None, truth: Flow) -> Flow:
    """Nothing moves."""
    return np.zeros_like(truth)


def classical(rgb: Video, truth: Flow) -> Flow:
    """OpenCV's dense inverse search (Kroeger et al., 2016) between the frames of the video."""
    import cv2

    search = cv2.DISOpticalFlow.create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)
    grey = [cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY) for frame in rgb]
    # the stubs do not know that the third, where to begin, may be left out
    maps = [search.calc(*pair, None) for pair in pairwise(grey)]  # pyright: ignore[reportArgumentType, reportCallIssue]
    # map 0 repeats map 1, and a single frame has no motion
    return np.stack([*maps[:1], *maps]) if maps else trivial(rgb, truth)


def mix(a: Flow, b: Flow, weight: Float32[np.ndarray, "t 1 1 1"]) -> Flow:
    """Of the two vectors."""
    return a + weight * (b - a)


FLOW = Modality(
    name="flow",
    type_prompt="an optical flow map, hue for direction and saturation for speed",
    meaning="the hue is the direction of motion, the saturation its speed, and white stands still",
    pixel_aligned=True,
    between_frames=True,
    also_called=("raft",),
    spread=(0.751, 0.297),
    constants=constants,
    unknown_constants=unknown_constants,
    encode=encode,
    decode=decode,
    picture=picture,
    save=save,
    resize=motion,
    redraw=redraw,
    mix=mix,
    score=score,
    measures={
        "epe": Measure(words="EPE, pixels", more=False),
        "off_1px": Measure(words="off by ≥ 1 pixel", more=False),
    },
    benchmark=benchmark,
    benchmark_measures={
        "fl_all": Measure(words="Fl-all", more=False),
        "epe_slow": Measure(words="EPE, slow", more=False),
        "epe_middling": Measure(words="EPE, middling", more=False),
        "epe_fast": Measure(words="EPE, fast", more=False),
        "epe_scaled": Measure(words="EPE, scale aligned", more=False),
        "epe_visible": Measure(words="EPE, visible", more=False),
        "epe_occluded": Measure(words="EPE, occluded", more=False),
    },
    baselines={
        "trivial": Baseline(words="no motion", predict=trivial),
        "classical": Baseline(words="dense inverse search", looks=True, predict=classical),
    },
)
