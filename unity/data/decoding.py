"""The pictures of a file's video stream, one after the other, as FFmpeg's program decodes them."""

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import cast

import av
import av.container
import av.filter
from av.codec.context import Flags
from av.stream import Disposition


def decoded(path: Path) -> Iterator[av.VideoFrame]:
    """All frames that FFmpeg decodes, deinterlaced."""
    with opened(path) as stream:
        yield from progressive(decode(stream, []), stream)


@contextlib.contextmanager
def opened(file) -> Iterator[av.VideoStream]:
    """The video stream of a file that FFmpeg would take, and one clear ValueError for what goes wrong inside.

    A cover picture is no video. Only files are read, whatever a playlist names.
    """
    what = picture_name(file) if isinstance(file, str | Path) else f"a video of {len(file.getbuffer())} bytes"
    # a name may hold a colon, which would name a protocol
    source = f"file:{file}" if isinstance(file, str | Path) else file
    with (
        readable(what),
        av.open(source, container_options={"protocol_whitelist": "file,crypto,data"}) as container,
    ):
        stream = _best(container)
        stream.thread_type = "NONE"
        _alone(stream.codec_context)
        yield stream


@contextlib.contextmanager
def readable(what: str) -> Iterator[None]:
    """One clear ValueError for what goes wrong inside."""
    try:
        yield
    except (av.FFmpegError, UnicodeError, ValueError) as error:
        raise ValueError(f"cannot read {what}: {error}; give a video file that players can open") from error


def _alone(codec: av.CodecContext) -> None:
    # a parent that decoded with threads leaves its forked children waiting for them forever
    codec.thread_count = 1
    # FFmpeg's program does so: a damaged picture is shown rather than left out
    codec.flags |= Flags.output_corrupt


def decoded_packets(codec: str, packets: Iterable[bytes]) -> Iterator[av.VideoFrame]:
    """Frames of packets that were in no file; inside `readable`."""
    context = cast(av.VideoCodecContext, av.VideoCodecContext.create(codec, "r"))
    _alone(context)
    for packet in packets:
        yield from context.decode(av.Packet(packet))
    yield from context.decode(None)


def source(stream: av.VideoStream) -> av.container.InputContainer:
    """The file that an `opened` stream is read from; the stubs know it as one that may also be written to."""
    return cast(av.container.InputContainer, stream.container)


def picture_name(path: str | Path) -> str:
    """A path as it can be shown."""
    return os.fsencode(path).decode(errors="backslashreplace")


def _best(container: av.container.InputContainer) -> av.VideoStream:
    """As FFmpeg chooses: the default one before others, then the largest, then the first; no cover picture."""
    streams = [s for s in container.streams.video if not s.disposition & Disposition.attached_pic]
    if not streams:
        held = "only a cover picture" if container.streams.video else "no video stream"
        raise ValueError(f"it has {held}")
    return max(streams, key=lambda s: (bool(s.disposition & Disposition.default), s.width * s.height, -s.index))


def packets(stream: av.VideoStream, faults: list[str]) -> Iterator[av.Packet]:
    """Packets of the stream, up to where the file cannot be read any more."""
    packets = source(stream).demux(stream)
    while True:
        try:
            packet = next(packets, None)
        except (av.FFmpegError, OSError):
            faults.append("the rest of the file cannot be read")
            return
        if packet is None:
            return
        yield packet


def decode(stream: av.VideoStream, faults: list[str]) -> Iterator[av.VideoFrame]:
    """Frames, going on after what cannot be decoded, as FFmpeg's program does."""
    flushed = False
    for packet in packets(stream, faults):
        flushed = flushed or not packet.size
        for frame in _tried(packet.decode, faults):
            if frame.is_corrupt:
                faults.append("a picture is damaged")
            yield frame
    if not flushed:
        yield from _tried(stream.decode, faults)


def _tried(decode, faults: list[str]) -> list[av.VideoFrame]:
    try:
        return decode()
    except av.EOFError:
        return []
    except av.FFmpegError as error:
        faults.append(error.strerror or str(error))
        return []


def progressive(frames: Iterator[av.VideoFrame], stream: av.VideoStream) -> Iterator[av.VideoFrame]:
    """Frames without interlacing; from the first interlaced one on they go through FFmpeg's bwdif."""
    graph = None
    for frame in frames:
        if graph is None and frame.interlaced_frame:
            graph = _deinterlacer(frame, stream)
        if graph is None:
            yield frame
        else:
            graph.push(frame)
            yield from _pulled(graph)
    if graph is not None:
        graph.push(None)
        yield from _pulled(graph)


def _deinterlacer(frame: av.VideoFrame, stream: av.VideoStream) -> av.filter.Graph:
    graph = av.filter.Graph()
    source = graph.add_buffer(template=stream)
    graph.link_nodes(source, graph.add("bwdif", "mode=send_frame:deint=interlaced"), graph.add("buffersink"))
    graph.configure()
    return graph


def _pulled(graph: av.filter.Graph) -> Iterator[av.VideoFrame]:
    while True:
        try:
            yield graph.vpull()
        except (BlockingIOError, EOFError):
            return
