"""Frames to bytes and back: the videos inside shards, and the files that people get (`film` reads theirs).

Inside shards a video is VP9 with whole colour (profile 1: GBR, or for grey pictures a full-range luma) in an IVF
container. Of the codecs that DALI decodes on a CPU (VP8, VP9, MJPEG) only it can be lossless; PyAV and DALI give
the same values bit for bit, where 4:2:0 costs palettes up to 244 of 255 levels at borders and the two differ by
up to 103. NVDEC has no VP9 4:4:4, so shards are decoded on CPU cores on GPU machines too. One thread and a
container without random identifiers make the bytes a pure function of the frames.
"""

import contextlib
import io
import itertools
from collections.abc import Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Literal

import av
import numpy as np
from av.video.reformatter import ColorPrimaries, ColorRange, Colorspace, ColorTrc, Interpolation
from jaxtyping import UInt8

from unity.data.decoding import decoded, decoded_packets, opened, readable, source
from unity.data.film import look, read_film
from unity.data.ivf import is_vp9, packets
from unity.data.picture import fit, pixels
from unity.files import whole_file

# VP9 quality (0..63, smaller is better) of a photographed stream; modality videos are lossless
RGB_QUALITY = 16

# seconds; what players count film's and television's rates in
_TICK = Fraction(1, 90_000)
_FAST = {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "auto-alt-ref": "0", "g": "1000"}

Frames = UInt8[np.ndarray, "t h w 3"]
Frame = UInt8[np.ndarray, "h w 3"]


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
    with _pictures(data) as pictures:
        shown = [pixels(frame) for frame in itertools.islice(pictures, start, stop)]
        if len(shown) < (frames or 1):
            raise ValueError(f"it has only {len(shown)} frames from frame {start} on")
        return np.stack(shown)


@contextlib.contextmanager
def _pictures(data: bytes) -> Iterator[Iterator[av.VideoFrame]]:
    """The frames of a video's bytes. Those of `encode` need no FFmpeg to look for what is in them."""
    if is_vp9(data):
        with readable(f"a video of {len(data)} bytes"):
            yield decoded_packets("vp9", packets(data))
    else:
        with opened(io.BytesIO(data)) as stream:
            yield source(stream).decode(stream)


def decode_all(videos: list[bytes], starts: list[int], frames: int) -> Iterator[Frames]:
    """`frames` frames of every video, from its own start, one video after the other."""
    return (decode(data, start, frames) for data, start in zip(videos, starts, strict=True))


def read_video(
    path: str | Path, frames: int | None = None, size: tuple[int, int] | None = None, stream: str = "rgb"
) -> Frames:
    """Read a video file: `frames` of them spread evenly in time from the first to the last, or all.

    `size` (h, w) resizes to cover and cuts out the centre, as suits the `stream` (rgb or a modality). Raises
    ValueError for a file that is missing, unreadable or shorter than `frames`.
    """
    return read_film(look(path), frames, size, stream).frames


def write_video(
    frames: Frames | Iterable[Frame], path: str | Path, fps: float, times: Sequence[float] | None = None
) -> Path:
    """Write an H.264 mp4 that any player shows (yuv420p, BT.709); odd sizes lose their last row or column.

    Frames are taken one after the other, and are shown at `times` (ascending seconds) if these are given: `fps` is
    their mean rate then. The file is whole or absent.
    """
    even = (frame[: frame.shape[0] // 2 * 2, : frame.shape[1] // 2 * 2] for frame in frames)
    with whole_file(path) as part:
        # x264's macroblock tree reads unset memory in small pictures, and two files of the same frames differ
        options = {"crf": "12", "preset": "veryfast", "movflags": "faststart", "x264-params": "mbtree=0"}
        pictures = (_bt709(np.ascontiguousarray(frame)) for frame in even)
        _write(str(part), "mp4", "libx264", "yuv420p", options, pictures, fps, times)
    return Path(path)


def count_frames(path: str | Path) -> int:
    """Number of frames in a file, by decoding it: containers often do not say, or say it wrong."""
    return sum(1 for _ in decoded(Path(path)))


def resize(frames: Frames, size: tuple[int, int], stream: str = "rgb") -> UInt8[np.ndarray, "t new_h new_w 3"]:
    """Resize to cover `size` (h, w) and cut out the centre; streams of flat colours keep them exact."""
    if frames.shape[1:3] == tuple(size):
        return frames
    return np.stack([fit(frame, frame.shape[:2], size, stream) for frame in frames])


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

    def decode(self, videos: list[bytes], starts: list[int], frames: int) -> Iterator[Frames]:
        """What `decode_all` gives, of at most `batch` videos; each is there until the next batch is decoded."""
        self._pipeline.feed_input("data", [np.frombuffer(data, np.uint8) for data in videos])
        self._pipeline.feed_input("start", [np.int32(start) for start in starts])
        self._pipeline.feed_input("length", [np.int32(frames)] * len(videos))
        try:
            (decoded,) = self._pipeline.run()
        except RuntimeError as error:
            raise ValueError(f"DALI cannot decode this batch: {str(error).strip().splitlines()[-1]}") from error
        return (np.asarray(decoded.at(i)) for i in range(len(videos)))


def _gbr(frame: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(frame, format="gbrp")


def _luma(frame: np.ndarray) -> av.VideoFrame:
    """A grey frame as luma with empty colour: a third of the bytes, and as exact."""
    planes = np.full((3, *frame.shape[:2]), 128, np.uint8)
    planes[0] = frame[..., 0]
    picture = av.VideoFrame.from_ndarray(planes, format="yuv444p")
    picture.color_range = ColorRange.JPEG
    return picture


def _bt709(frame: np.ndarray) -> av.VideoFrame:
    """A frame in the colours of high definition and with their tags: without tags every player guesses its own."""
    picture = av.VideoFrame.from_ndarray(frame, format="rgb24").reformat(
        format="yuv420p",
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
        dst_colorspace=Colorspace.ITU709,
        dst_color_range=ColorRange.MPEG,
    )
    picture.color_primaries, picture.color_trc = ColorPrimaries.BT709, ColorTrc.BT709
    return picture


def _write(
    file,
    container: str,
    codec: Literal["libvpx-vp9", "libx264"],
    pixels: str,
    options: dict,
    pictures: Iterable[av.VideoFrame],
    fps: float,
    times: Sequence[float] | None = None,
):
    """All pictures are like the first one in size and colour."""
    pictures = iter(pictures)
    first = next(pictures)
    with av.open(file, "w", format=container) as out:
        rate = Fraction(fps).limit_denominator(1001)
        stream = out.add_stream(codec, rate=rate, options=options)
        stream.pix_fmt, stream.bit_rate, stream.codec_context.thread_count = pixels, 0, 1
        stream.height, stream.width = first.height, first.width
        for tag in ("color_range", "colorspace", "color_trc", "color_primaries"):
            setattr(stream.codec_context, tag, getattr(first, tag))
        if times is not None:
            stream.codec_context.time_base = _TICK
        for number, picture in enumerate(itertools.chain([first], pictures)):
            if times is not None:
                picture.pts, picture.time_base = round((times[number] - times[0]) / _TICK), _TICK
            out.mux(stream.encode(picture))
        out.mux(stream.encode())
