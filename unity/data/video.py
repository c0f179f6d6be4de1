"""Frames to bytes and back: the videos inside shards, and the files people give and get.

Inside shards a video is VP9 with whole colour (profile 1: GBR, or for grey pictures a full-range luma) in an IVF
container. Of the codecs that DALI decodes on a CPU (VP8, VP9, MJPEG) only it can be lossless; PyAV and DALI give
the same values bit for bit, where 4:2:0 costs palettes up to 244 of 255 levels at borders and the two differ by
up to 103. NVDEC has no VP9 4:4:4, so shards are decoded on CPU cores on GPU machines too. One thread and a
container without random identifiers make the bytes a pure function of the frames.
"""

import contextlib
import io
import itertools
import os
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from av.video.reformatter import ColorRange
from jaxtyping import UInt8

from unity.modality.table import MODALITIES

# VP9 quality (0..63, smaller is better) of a photographed stream; modality videos are lossless
RGB_QUALITY = 16

_FAST = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "auto-alt-ref": "0", "g": "1000"}

Frames = UInt8[np.ndarray, "t h w 3"]


def encode(frames: Frames, fps: float, quality: int | None = None) -> bytes:
    """Encode frames to VP9 bytes, the same bytes for the same frames wherever it runs.

    `quality` is VP9's constant quality, 0 (best) to 63; None is lossless.
    """
    options = {"lossless": "1"} if quality is None else {"crf": str(quality), "b": "0"}
    grey = not (frames != frames[..., :1]).any()
    pictures = [(_luma if grey else _gbr)(frame) for frame in np.ascontiguousarray(frames)]
    with io.BytesIO() as data:
        _write(data, "ivf", "libvpx-vp9", "yuv444p" if grey else "gbrp", _FAST | options, pictures, fps)
        return data.getvalue()


def decode(data: bytes, start: int = 0, frames: int | None = None) -> Frames:
    """Decode bytes of `encode` (or any video file's bytes) with PyAV: all, or `frames` of them from `start`.

    Raises ValueError for bytes that are no video or hold too few frames.
    """
    stop = None if frames is None else start + frames
    with _reading(io.BytesIO(data), f"a video of {len(data)} bytes") as stream:
        window = itertools.islice(stream.container.decode(stream), start, stop)
        decoded = [_pixels(frame) for frame in window]
        if len(decoded) < (frames or 1):
            raise ValueError(f"it has only {len(decoded)} frames from frame {start} on")
        return np.stack(decoded)


def decode_all(videos: list[bytes], starts: list[int], frames: int) -> list[Frames]:
    """Decode `frames` frames of every video, from its own start."""
    return [decode(data, start, frames) for data, start in zip(videos, starts, strict=True)]


def read_video(
    path: str | Path, frames: int | None = None, size: tuple[int, int] | None = None, stream: str = "rgb"
) -> Frames:
    """Read a video file: `frames` of them spread evenly from the first to the last, or all.

    `size` (h, w) resizes to cover and cuts out the centre, as suits the `stream` (rgb or a modality). Raises
    ValueError for a file that is missing, unreadable or shorter than `frames`.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"there is no video file {path}; give the path of an existing one")
    wanted = None if frames is None else set(spread(count_frames(path), frames, str(path)))
    with _reading(str(path), str(path)) as video:
        pictures = (f for i, f in enumerate(video.container.decode(video)) if wanted is None or i in wanted)
        kept = [_fit(_upright(picture), size, stream) for picture in pictures]
        if not kept:
            raise ValueError("it has no frames")
    return np.stack(kept)


def write_video(frames: Frames, path: str | Path, fps: float) -> Path:
    """Write an H.264 mp4 that any player shows (yuv420p); odd sizes lose their last row or column.

    Written to a temporary name, then renamed: the file is whole or absent.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    even = frames[:, : frames.shape[1] // 2 * 2, : frames.shape[2] // 2 * 2]
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        # x264's macroblock tree reads unset memory in small pictures, and two files of the same frames differ
        options = {"crf": "12", "preset": "veryfast", "movflags": "faststart", "x264-params": "mbtree=0"}
        pictures = [av.VideoFrame.from_ndarray(frame, format="rgb24") for frame in np.ascontiguousarray(even)]
        _write(str(part), "mp4", "libx264", "yuv420p", options, pictures, fps)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    return path


def count_frames(path: str | Path) -> int:
    """Number of frames in a file, by decoding it: containers often do not say, or say it wrong."""
    with _reading(str(path), str(path)) as video:
        return sum(1 for _ in video.container.decode(video))


def spread(total: int, frames: int, what: str = "the video") -> list[int]:
    """`frames` indices from the first to the last of `total`, as even as integers can be."""
    if frames > total or frames < 1:
        raise ValueError(f"{what} has {total} frames, {frames} are wanted; ask for 1 to {total} (4k+1 of them)")
    return [round(i) for i in np.linspace(0, total - 1, frames)]


def resize(frames: Frames, size: tuple[int, int], stream: str = "rgb") -> UInt8[np.ndarray, "t new_h new_w 3"]:
    """Resize to cover `size` (h, w) and cut out the centre; streams of flat colours keep them exact."""
    if frames.shape[1:3] == tuple(size):
        return frames
    return np.stack([_fit(frame, size, stream) for frame in frames])


class DaliDecoder:
    """Decodes batches of `encode`'s bytes with DALI's CPU threads, to the values that PyAV gives.

    Raises ImportError where DALI is not installed (`pip install nvidia-dali-cuda130`).
    """

    def __init__(self, batch: int, threads: int = 2):
        from nvidia.dali import Pipeline, fn

        self._pipeline = Pipeline(batch, threads, device_id=None, prefetch_queue_depth=1)
        with self._pipeline:
            data, start, length = (fn.external_source(name=name) for name in ("data", "start", "length"))
            video = fn.decoders.video(data, device="cpu", start_frame=start, sequence_length=length)
            self._pipeline.set_outputs(video)
        self._pipeline.build()

    def decode(self, videos: list[bytes], starts: list[int], frames: int) -> list[Frames]:
        """What `decode_all` gives, of at most `batch` videos."""
        self._pipeline.feed_input("data", [np.frombuffer(data, np.uint8) for data in videos])
        self._pipeline.feed_input("start", [np.int32(start) for start in starts])
        self._pipeline.feed_input("length", [np.int32(frames)] * len(videos))
        try:
            (decoded,) = self._pipeline.run()
        except RuntimeError as error:
            raise ValueError(f"DALI cannot decode this batch: {str(error).strip().splitlines()[-1]}") from error
        return [np.array(decoded.at(i)) for i in range(len(videos))]


def _fit(frame: np.ndarray, size: tuple[int, int] | None, stream: str) -> np.ndarray:
    if size is None or frame.shape[:2] == tuple(size):
        return frame
    scale = max(size[0] / frame.shape[0], size[1] / frame.shape[1])
    height, width = (max(wanted, round(n * scale)) for wanted, n in zip(size, frame.shape[:2], strict=True))
    smooth = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    flat = stream in MODALITIES and MODALITIES[stream].flat_colours
    mode = cv2.INTER_NEAREST_EXACT if flat else smooth
    top, left = (height - size[0]) // 2, (width - size[1]) // 2
    resized = cv2.resize(frame, (width, height), interpolation=mode)
    return resized[top : top + size[0], left : left + size[1]]


def _upright(picture: av.VideoFrame) -> np.ndarray:
    """A telephone held upright records lying frames and a note to turn them."""
    return np.rot90(_pixels(picture), picture.rotation // 90)


def _pixels(frame: av.VideoFrame) -> np.ndarray:
    # what `encode` writes needs no arithmetic, and FFmpeg's general conversion takes as long as the decoding
    if frame.format.name == "gbrp":
        return frame.to_ndarray(format="gbrp")
    if frame.format.name == "yuv444p" and frame.color_range == ColorRange.JPEG:
        luma, *colour = frame.to_ndarray()
        if (np.array(colour) == 128).all():
            return cv2.cvtColor(luma, cv2.COLOR_GRAY2RGB)
    return frame.to_ndarray(format="rgb24")


def _gbr(frame: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(frame, format="gbrp")


def _luma(frame: np.ndarray) -> av.VideoFrame:
    """A grey frame as luma with empty colour: a third of the bytes, and as exact."""
    planes = np.full((3, *frame.shape[:2]), 128, np.uint8)
    planes[0] = frame[..., 0]
    picture = av.VideoFrame.from_ndarray(planes, format="yuv444p")
    picture.color_range = ColorRange.JPEG
    return picture


def _write(
    file, container: str, codec: str, pixels: str, options: dict, pictures: list[av.VideoFrame], fps: float
):
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=Fraction(fps).limit_denominator(1001), options=options)
        stream.pix_fmt, stream.bit_rate, stream.codec_context.thread_count = pixels, 0, 1
        stream.height, stream.width = pictures[0].height, pictures[0].width
        stream.codec_context.color_range = pictures[0].color_range
        for picture in pictures:
            out.mux(stream.encode(picture))
        out.mux(stream.encode())


@contextlib.contextmanager
def _reading(file, what: str):
    """Open a file's first video stream, and turn what goes wrong inside into one clear ValueError."""
    try:
        with av.open(file) as container:
            if not container.streams.video:
                raise ValueError("it has no video stream")
            stream = container.streams.video[0]
            # a parent that decoded with threads leaves its forked children waiting for them forever
            stream.thread_type = "NONE"
            stream.codec_context.thread_count = 1
            yield stream
    except (av.FFmpegError, ValueError) as error:
        raise ValueError(f"cannot read {what}: {error}; give a video file that players can open") from error
