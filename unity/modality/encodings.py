"""How values are drawn by others: encodings beside our own, for checkpoints that were trained on them.

Known of the authors' 5B release are its type prompts: depth "near in warm colors and far in cool colors", flow
"direction with color and magnitude with intensity". Assumed is what its annotators draw by default: depth as
Depth Anything does, the inverse depth through matplotlib's `Spectral_r`, and flow as RAFT does, Middlebury's
wheel with a radius that grows with the speed itself. Its ranges (per frame or clip) are unknown, so that both
decode to relative values. Of its people and masks no colours are known: they are read as ours.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float32

from unity.modality import depth, flow
from unity.modality.base import Modality, Video
from unity.modality.files import check_video
from unity.modality.table import MODALITIES

# the name of our own encodings
OURS = "ours"
# ColorBrewer's Spectral, from far to near: matplotlib's Spectral_r runs straight between these
_SPECTRAL = np.array(
    [
        (94, 79, 162), (50, 136, 189), (102, 194, 165), (171, 221, 164), (230, 245, 152), (255, 255, 191),
        (254, 224, 139), (253, 174, 97), (244, 109, 67), (213, 62, 79), (158, 1, 66),
    ],
    dtype=np.float32,
)  # fmt: skip


def spectral_encode(values: Float32[np.ndarray, "t h w"], constants: dict[str, float]) -> Video:
    """Inverse depth in colours, near red and far blue; the sky is as blue as what is farthest."""
    near, far = constants["near"], constants["far"]
    share = np.clip((np.reciprocal(values, dtype=np.float32) - far) / max(near - far, 1e-9), 0, 1)
    knots = np.linspace(0, 1, len(_SPECTRAL))
    colours = np.stack([np.interp(share, knots, channel) for channel in _SPECTRAL.T], -1)
    return (colours + 0.5).astype(np.uint8)


def spectral_decode(video: Video, constants: dict[str, float]) -> Float32[np.ndarray, "t h w"]:
    """Depth in metres (relative if the constants are): the nearest point of the line of colours, seen anywhere."""
    check_video(video)
    near, far = constants["near"], constants["far"]
    inverse = far + np.stack([_along(frame.astype(np.float32)) for frame in video]) * np.float32(near - far)
    sky = inverse <= ((near - far) / 510 if far == 0 else 0)
    inverse[sky] = 1
    values = np.reciprocal(inverse)
    values[sky] = np.inf
    return values


def _along(colour: Float32[np.ndarray, "h w 3"]) -> Float32[np.ndarray, "h w"]:
    """Share of the way along the colours, 0 far and 1 near, of the point on them that is nearest to each pixel."""
    least, share = np.full(colour.shape[:2], np.inf, np.float32), np.zeros(colour.shape[:2], np.float32)
    for index, (start, end) in enumerate(zip(_SPECTRAL, _SPECTRAL[1:], strict=False)):
        way = end - start
        part = np.clip((colour - start) @ way / (way @ way), 0, 1)
        distance = np.square(colour - start - part[..., None] * way).sum(-1)
        closer = distance < least
        least, share = np.where(closer, distance, least), np.where(closer, index + part, share)
    return share / np.float32(len(_SPECTRAL) - 1)


def linear_encode(values: Float32[np.ndarray, "t h w 2"], constants: dict[str, float]) -> Video:
    """Direction as hue, saturation = speed / scale."""
    # the root of ours undone before it is taken
    return flow.encode(values * (_speed(values) / np.float32(constants["scale"])), constants)


def linear_decode(video: Video, constants: dict[str, float]) -> Float32[np.ndarray, "t h w 2"]:
    """Flow in pixels per frame: its radius is the root of what ours would read."""
    read = flow.decode(video, {"scale": 1.0})
    return read * (np.float32(constants["scale"]) / np.sqrt(np.maximum(_speed(read), 1e-12)))


def _speed(values: Float32[np.ndarray, "t h w 2"]) -> Float32[np.ndarray, "t h w 1"]:
    return np.sqrt(np.square(values).sum(-1, keepdims=True))


def redraw(video: Video, modality: str, encoding: str) -> Video:
    """A video of our encoding in the colours of another one; ours itself comes back as it is."""
    if encoding == OURS:
        return video
    # both are drawn by the same constants, which so cancel
    constants = MODALITIES[modality].unknown_constants(*video.shape[1:3])
    return ENCODINGS[modality][encoding].encode(MODALITIES[modality].decode(video, constants), constants)


# modality → name of an encoding → the row with it
ENCODINGS: dict[str, dict[str, Modality]] = {name: {OURS: row} for name, row in MODALITIES.items()}
ENCODINGS["depth"]["spectral"] = replace(depth.DEPTH, encode=spectral_encode, decode=spectral_decode)
ENCODINGS["flow"]["linear"] = replace(
    # speeds are drawn as they are, not by their roots
    flow.FLOW,
    encode=linear_encode,
    decode=linear_decode,
    redraw=flow.desaturate,
)
