"""One decoded frame as people are meant to see it: upright, with square pixels, in the colours of a usual screen.

Matrices and ranges are FFmpeg's affair and agree with it bit for bit; HDR is brought to SDR as its usual chain
does (zscale=t=linear:npl=100, zscale=p=bt709, tonemap=hable:desat=0, zscale=t=bt709), which the FFmpeg inside
PyAV lacks.
"""

from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import av.filter
import cv2
import numpy as np
from av.sidedata.sidedata import SideData, SideDataContainer, Type
from av.video.plane import VideoPlane
from av.video.reformatter import ColorRange, ColorTrc
from jaxtyping import Float, UInt8
from PIL import Image

from unity.modality.table import MODALITIES

HDR: dict[int, str] = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}

# white of the screen that HDR is shown on, in candela per square metre
_WHITE = 100
# the brightest that tone mapping expects where the file does not say, in whites
_PEAK = 10.0
# BT.2020 to BT.709, linear light
_TO_709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]],
    np.float32,
)
_2020 = 9

Picture = UInt8[np.ndarray, "h w 3"]
# of another size
Fitted = UInt8[np.ndarray, "rows columns 3"]
Matrix = tuple[int, int, int, int]


def show(frame: av.VideoFrame) -> Picture:
    """RGB of a frame, not turned yet. Raises ValueError for colours that FFmpeg cannot convert."""
    try:
        return _tone_mapped(frame) if frame.color_trc in HDR else _converted(frame, "rgb24")
    except (av.FFmpegError, OSError, ValueError) as error:
        raise ValueError(
            f"its colours (matrix {frame.colorspace}, format {frame.format.name}) cannot be converted to RGB; "
            f"convert it first: ffmpeg -i IN -vf format=yuv420p OUT.mp4"
        ) from error


def pixels(frame: av.VideoFrame) -> Picture:
    """RGB of a frame as FFmpeg converts it, by its matrix and range."""
    # what `video.encode` writes needs no arithmetic, and the general conversion takes as long as decoding
    if frame.format.name == "gbrp":
        green, blue, red = map(_plane, frame.planes)
        return cv2.merge((red, green, blue))
    if frame.format.name == "yuv444p" and frame.color_range == ColorRange.JPEG:
        luma, *colour = map(_plane, frame.planes)
        if all((plane == 128).all() for plane in colour):
            return cv2.merge((luma, luma, luma))
    return frame.to_ndarray(format="rgb24")


def _plane(plane: VideoPlane) -> UInt8[np.ndarray, "h w"]:
    """As it lies in the frame: PyAV's own copies take longer than all of its pixels are worth."""
    lines = np.frombuffer(memoryview(plane), np.uint8).reshape(plane.height, plane.line_size)
    return lines[:, : plane.width]


def _converted(frame: av.VideoFrame, form: str) -> np.ndarray:
    """By the way FFmpeg's program takes; libswscale without it places the colours of 10 bits half a pixel off."""
    graph = av.filter.Graph()
    source = graph.add_buffer(
        width=frame.width, height=frame.height, format=frame.format, time_base=frame.time_base or Fraction(1)
    )
    graph.link_nodes(
        source, graph.add("scale", "flags=bicubic"), graph.add("format", form), graph.add("buffersink")
    )
    graph.configure()
    graph.push(frame)
    return graph.vpull().to_ndarray()


def display_matrix(frame: av.VideoFrame) -> Matrix | None:
    """a, b, c, d of the note on how to turn and mirror, x' = ax + cy and y' = bx + dy; None if there is none."""
    data = side_data(frame, Type.DISPLAYMATRIX)
    if data is None:
        return _turn(frame.rotation)
    values = np.frombuffer(bytes(data), np.int32)
    a, b, c, d = (int(v) for v in values[[0, 1, 3, 4]])
    return a, b, c, d


def side_data(frame: av.VideoFrame, kind: Type) -> SideData | None:
    try:
        # a container of them, not the one that the stubs say
        return cast(SideDataContainer, frame.side_data).get(kind)
    except ValueError:
        # one kind beside it has no name in PyAV, and then it shows none of them
        return None


def exif_matrix(orientation: int) -> Matrix | None:
    """The same of the orientation 1 to 8 in a photograph's EXIF."""
    rows = {2: (-1, 0, 0, 1), 3: (-1, 0, 0, -1), 4: (1, 0, 0, -1), 5: (0, 1, 1, 0), 6: (0, 1, -1, 0)}
    return (rows | {7: (0, -1, -1, 0), 8: (0, -1, 1, 0)}).get(orientation)


def photograph_matrix(path: Path, form: str) -> Matrix | None:
    """The same of a file in one of FFmpeg's formats; None if it is no photograph or asks for nothing."""
    if not form.endswith("_pipe") and "image2" not in form:
        return None
    try:
        with Image.open(path) as image:
            return exif_matrix(image.getexif().get(0x0112, 1))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None


def is_askew(matrix: Matrix | None) -> bool:
    """Turned by something else than quarters."""
    if matrix is None:
        return False
    small, large = sorted((abs(matrix[0]), abs(matrix[2])))
    return small > 0.02 * large


def swaps_sides(matrix: Matrix | None) -> bool:
    return matrix is not None and abs(matrix[0]) < abs(matrix[2])


def upright(picture: Picture, matrix: Matrix | None) -> Fitted:
    """Turned and mirrored as the matrix says, to the nearest quarter."""
    if matrix is None:
        return picture
    a, b, c, d = matrix
    if swaps_sides(matrix):
        picture, a, d = picture.swapaxes(0, 1), c, b
    return picture[:: -1 if d < 0 else 1, :: -1 if a < 0 else 1]


def square(height: int, width: int, pixel: Fraction | None) -> tuple[int, int]:
    """Size of a picture when its pixels, `pixel` times as wide as high, are made square."""
    if pixel is None or not is_sane(pixel):
        return height, width
    return height, max(1, round(width * pixel))


def is_sane(pixel: Fraction) -> bool:
    return Fraction(1, 16) <= pixel <= 16


def fit(
    picture: Picture,
    shape: tuple[int, int],
    size: tuple[int, int] | None,
    stream: str = "rgb",
    whole: bool = False,
) -> Fitted:
    """Resize a picture of true `shape` (h, w) to cover `size` and cut out the centre.

    Flat colours stay exact, and colours that stand for shares of the width are drawn anew where it is cut.
    `whole`: nothing is cut, and an aspect that differs is changed.
    """
    goal = tuple(size or shape)
    if picture.shape[:2] == tuple(shape) == goal:
        return picture
    scale = max(goal[0] / shape[0], goal[1] / shape[1])
    height, width = (max(wanted, round(n * scale)) for wanted, n in zip(goal, shape, strict=True))
    height, width = goal if whole else (height, width)
    smooth = cv2.INTER_AREA if height * width < picture.shape[0] * picture.shape[1] else cv2.INTER_LINEAR
    row = MODALITIES.get(stream)
    mode = cv2.INTER_NEAREST_EXACT if row and row.flat_colours else smooth
    top, left = (height - goal[0]) // 2, (width - goal[1]) // 2
    resized = cv2.resize(np.ascontiguousarray(picture), (width, height), interpolation=mode)
    kept = resized[top : top + goal[0], left : left + goal[1]]
    return row.redraw(kept, width / goal[1]) if row and row.redraw and width > goal[1] else kept


def cut(shape: tuple[int, int], size: tuple[int, int] | None) -> tuple[float, float, float, float]:
    """Top, left, height and width of what `fit` keeps, in pixels of `shape`."""
    if size is None:
        return 0.0, 0.0, float(shape[0]), float(shape[1])
    scale = max(size[0] / shape[0], size[1] / shape[1])
    height, width = (wanted / scale for wanted in size)
    return (shape[0] - height) / 2, (shape[1] - width) / 2, height, width


def _tone_mapped(frame: av.VideoFrame) -> Picture:
    # libswscale's white is 255 * 256 of 65535
    signal = np.minimum(_converted(frame, "rgb48le").astype(np.float32) / 65280, 1)
    light = _pq(signal) if frame.color_trc == ColorTrc.SMPTE2084 else _hlg(signal)
    if frame.color_primaries == _2020:
        light = light @ _TO_709.T
    # by the brightest channel, so that hues stay
    brightest = np.maximum(light.max(-1, keepdims=True), 1e-6)
    mapped = light * (_hable(brightest) / (_hable(np.float32(_peak(frame))) * brightest))
    return np.round(np.clip(mapped, 0, 1) ** (1 / 2.4) * 255).astype(np.uint8)


def _pq(signal: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """Whites of a PQ signal (SMPTE ST 2084)."""
    power = signal ** (32 / 2523)
    return (
        (np.maximum(power - 3424 / 4096, 0) / (2413 / 128 - 2392 / 128 * power)) ** (16384 / 2610) * 10000 / _WHITE
    )


def _hlg(signal: Float[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w 3"]:
    """Whites of an HLG signal (BT.2100) on a display of 1000 candela, channel by channel, as zscale has it."""
    high = (np.exp((signal - 0.55991073) / 0.17883277) + 0.28466892) / 12
    return np.where(signal <= 0.5, signal**2 / 3, high) ** np.float32(1.2) * (1000 / _WHITE)


def _hable(light: np.ndarray | np.float32) -> np.ndarray | np.float32:
    """John Hable's filmic curve, as FFmpeg's tonemap has it."""
    a, b, c, d, e, f = 0.15, 0.50, 0.10, 0.20, 0.02, 0.30
    return (light * (light * a + c * b) + d * e) / (light * (light * a + b) + d * f) - e / f


def _peak(frame: av.VideoFrame) -> float:
    """The brightest of the film in whites, by its content light level, or else its mastering display."""
    level = side_data(frame, Type.CONTENT_LIGHT_LEVEL)
    if level is not None and (brightest := int(np.frombuffer(bytes(level), np.uint32)[0])):
        return brightest / _WHITE
    mastering = side_data(frame, Type.MASTERING_DISPLAY_METADATA)
    # primaries, white point, least and most luminance as fractions, then whether the two are there
    numbers = np.frombuffer(bytes(mastering), np.int32) if mastering is not None else np.zeros(22, np.int32)
    if numbers[21] and numbers[19]:
        return float(numbers[18] / numbers[19] / _WHITE)
    return _PEAK


def _turn(degrees: int) -> Matrix | None:
    return {90: (0, -1, 1, 0), -90: (0, 1, -1, 0), 180: (-1, 0, 0, -1), -180: (-1, 0, 0, -1)}.get(round(degrees))
