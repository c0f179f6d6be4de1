"""DensePose as flat colours of the 24 body parts."""

from pathlib import Path

import numpy as np
from jaxtyping import Float32, UInt8

from unity.modality.base import Baseline, Facts, Measure, Modality, Video
from unity.modality.files import check_video, save_images
from unity.modality.overlap import iou_table
from unity.modality.palette import nearest_hue, paint

Surface = Float32[np.ndarray, "t h w 3"]

PARTS = 24
# Neighbouring parts of the usual colour maps are 10 to 12 grey levels apart, lost in light noise. These are 85
# apart or more, all fully bright, and in an order, found by annealing, in which a blend of parts that lie beside
# each other on a body, or are taken for each other (front and back, left and right), is seldom nearest to a third:
# of blurred people 64% of the pixels are read right, as many as can be (benchmarks/palette_bench.py).
PALETTE = np.array(
    [
        (0, 0, 0),
        # torso, back and front; hands and feet
        (0, 255, 255), (170, 255, 255), (255, 85, 255), (255, 170, 255), (170, 255, 85), (170, 255, 170),
        # thighs, backs and fronts; shins, backs and fronts
        (255, 0, 0), (255, 170, 0), (255, 0, 170), (255, 170, 170),
        (255, 255, 255), (255, 255, 0), (255, 255, 170), (255, 255, 85),
        # upper arms, lower arms, head
        (0, 85, 255), (255, 0, 255), (85, 85, 255), (170, 85, 255),
        (0, 0, 255), (85, 0, 255), (170, 255, 0), (170, 0, 255),
        (0, 255, 85), (85, 255, 0),
    ],
    dtype=np.uint8,
)  # fmt: skip


def constants(surface: Surface, size: tuple[int, int]) -> dict[str, float]:
    """None: the palette is fixed."""
    return {}


def unknown_constants(height: int, width: int) -> dict[str, float]:
    return {}


def encode(surface: Surface, constants: dict[str, float]) -> Video:
    """Colour of each part 1..24, background 0 black; U and V are not drawn."""
    return paint(_parts(surface), PALETTE)


def decode(video: Video, constants: dict[str, float]) -> Surface:
    """Part of the nearest hue in channel 0. U and V are 0: the colours do not carry them."""
    check_video(video)
    surface = np.zeros(video.shape, np.float32)
    surface[..., 0] = nearest_hue(video, PALETTE)
    return surface


def picture(surface: Surface, constants: dict[str, float]) -> Video:
    """The IUV picture: red = 10·part, green = 255·U, blue = 255·V."""
    return (_iuv(surface) * np.array([10, 1, 1], np.uint8)).astype(np.uint8)


def save(surface: Surface, stem: Path, fps: float) -> list[Path]:
    """Folder `stem` with one RGB png per frame: part, 255·U, 255·V (the IUV images of DensePose)."""
    return [save_images(stem, (_iuv(frame[None])[0] for frame in surface))]


def _iuv(surface: Surface) -> Video:
    """Part, 255·U and 255·V, rounded."""
    _parts(surface)
    return (surface * np.array([1, 255, 255], np.float32) + 0.5).clip(0, 255).astype(np.uint8)


def _parts(surface: Surface) -> UInt8[np.ndarray, "t h w"]:
    parts = surface[..., 0].astype(np.uint8)
    if parts.size and parts.max() > PARTS:
        raise ValueError(f"DensePose has parts 1 to {PARTS} and background 0, got part {parts.max()}")
    return parts


def score(prediction: Surface, truth: Surface) -> dict[str, float]:
    """`part_miou`, mean IoU over the labels that the truth has (background is one), and `part_accuracy`.

    The accuracy is the share of true body pixels that carry the right part, NaN where the truth has nobody. U and
    V are not scored: a prediction has none. A predicted part that is no number from 0 to PARTS is none of them.
    """
    wanted = np.rint(truth[..., 0]).astype(np.int64)
    parts = np.nan_to_num(np.rint(prediction[..., 0]), nan=-1, posinf=-1, neginf=-1)
    parts = np.where((parts >= 0) & (parts <= PARTS), parts, PARTS + 1).astype(np.int64)
    body = wanted > 0
    diagonal = np.diagonal(iou_table(parts, wanted))
    return {
        "part_miou": float(diagonal[np.unique(wanted)].mean()),
        "part_accuracy": float((parts == wanted)[body].mean()) if body.any() else float("nan"),
    }


def benchmark(prediction: Surface, truth: Surface, facts: Facts) -> dict[str, float]:
    """`body_iou` of all parts as one, 1 where neither has any; `body_accuracy`, the mean accuracy of true parts.

    The latter is NaN where the truth has nobody. A predicted part that is no number from 1 to PARTS is background.
    Geodesic point similarity (GPS) is left out: what is decoded has no U and V, and those of others are of SMPL's
    charts, while the true ones of simulated people are of charts of their own.
    """
    wanted = np.rint(truth[..., 0])
    parts = np.rint(prediction[..., 0])
    body, found = wanted > 0, (parts >= 1) & (parts <= PARTS)
    shares = [float((parts == part)[wanted == part].mean()) for part in np.unique(wanted[body])]
    return {
        "body_iou": float((body & found).sum() / (body | found).sum()) if body.any() else float(not found.any()),
        "body_accuracy": float(np.mean(shares)) if shares else float("nan"),
    }


def trivial(rgb: Video | None, truth: Surface) -> Surface:
    """Nobody is there."""
    return np.zeros_like(truth)


DENSEPOSE = Modality(
    name="densepose",
    type_prompt="a DensePose map, one flat colour for every part of the body",
    meaning="every colour is a part of the body, black is the background",
    pixel_aligned=True,
    of_people=True,
    flat_colours=True,
    spread=(-0.877, 0.452),
    constants=constants,
    unknown_constants=unknown_constants,
    encode=encode,
    decode=decode,
    picture=picture,
    save=save,
    score=score,
    measures={
        "part_miou": Measure(words="mIoU of parts", more=True),
        "part_accuracy": Measure(words="accuracy on people", more=True),
    },
    benchmark=benchmark,
    benchmark_measures={
        "body_iou": Measure(words="IoU of bodies", more=True),
        "body_accuracy": Measure(words="mean accuracy of parts", more=True),
    },
    baselines={"trivial": Baseline(words="nobody", predict=trivial)},
)
