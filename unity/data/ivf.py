"""What an IVF container and the VP9 frames in it say of themselves, checked before a decoder believes it.

A decoder takes memory for the size in a frame's own header, whatever its container or other frames say.
IVF: https://wiki.multimedia.cx/index.php/IVF. VP9: Bitstream Specification 0.6, sections 6.2 and B.
"""

import itertools
import struct
from collections.abc import Iterator, Sequence

# the header up to the size has fewer bits
_HEADER = 16
_SYNC = 0x498342
_RGB = 7


def check_video(data: bytes, frames: int, size: Sequence[int]) -> None:
    """ValueError unless an IVF container holds `frames` frames of VP9, all of them of `size` (h, w) as it is."""
    if not is_vp9(data):
        raise ValueError("it is no VP9 video in an IVF container")
    width, height = struct.unpack_from("<HH", data, 12)
    _check_size((height, width), size)
    found = list(itertools.islice(packets(data), frames + 1))
    if len(found) != frames:
        raise ValueError(f"it does not hold exactly {frames} frames")
    told = [told_size(part) for packet in found for part in _parts(packet)]
    if told[0] is None:
        raise ValueError("its first frame has no size")
    for one in filter(None, told):
        _check_size(one, size)


def is_vp9(data: bytes) -> bool:
    """Whether bytes begin as an IVF container of VP9."""
    return len(data) >= 32 and data[:4] == b"DKIF" and data[8:12] == b"VP90"


def packets(data: bytes) -> Iterator[bytes]:
    """What such a container holds, one after the other; ValueError where it ends within a packet."""
    at = struct.unpack_from("<H", data, 6)[0]
    while at < len(data):
        begin = at + 12
        at = begin + struct.unpack_from("<I", data, at)[0] if begin <= len(data) else begin
        if at > len(data):
            raise ValueError("it ends within a frame")
        yield data[begin:at]


def told_size(frame: bytes) -> tuple[int, int] | None:
    """Height and width in the header of a VP9 frame, None if they are an earlier one's; ValueError for no VP9."""
    bits = _Bits(frame)
    if bits(2) != 2:
        raise ValueError("a frame of it is not VP9")
    profile = bits(1) + 2 * bits(1)
    if profile > 1:
        raise ValueError(f"a frame of it is VP9 of profile {profile}, and those of shards are of 0 or 1")
    if bits(1):
        # an earlier frame is shown
        return None
    inter, shown, resilient = bits(1), bits(1), bits(1)
    alone = not inter or (not shown and bits(1))
    if inter and not resilient:
        bits(2)
    if alone:
        _skip_colours(bits, profile, inter)
    if inter:
        # which frames it replaces
        bits(8)
    if not alone:
        # which three it refers to, and, up to the first that does, whether each lends its size
        bits(3 * 4)
        if bits(3):
            return None
    width, height = 1 + bits(16), 1 + bits(16)
    return height, width


class _Bits:
    """The leading bits of a header, most significant first; zeros where it ends too early."""

    def __init__(self, data: bytes):
        self._value, self._left = int.from_bytes(data[:_HEADER].ljust(_HEADER, b"\0")), 8 * _HEADER

    def __call__(self, count: int) -> int:
        self._left -= count
        return self._value >> self._left & (1 << count) - 1


def _skip_colours(bits: _Bits, profile: int, inter: int) -> None:
    if bits(24) != _SYNC:
        raise ValueError("a frame of it is not VP9")
    if inter and not profile:
        return
    if bits(3) != _RGB:
        bits(1)
        if profile:
            bits(3)
    elif profile:
        bits(1)
    else:
        raise ValueError("a frame of it is not VP9")


def _parts(packet: bytes) -> list[bytes]:
    """A packet as its frame, or the frames of a superframe, whose sizes stand at its end between two markers."""
    marker = packet[-1] if packet else 0
    count, unit = 1 + (marker & 7), 1 + (marker >> 3 & 3)
    index = packet[-2 - count * unit :]
    if marker >> 5 != 6 or len(index) != 2 + count * unit or index[0] != marker:
        return [packet]
    sizes = [int.from_bytes(index[1 + number * unit :][:unit], "little") for number in range(count)]
    return [packet[end - size : end] for size, end in zip(sizes, itertools.accumulate(sizes), strict=True)]


def _check_size(told: tuple[int, int], size: Sequence[int]) -> None:
    if told != tuple(size):
        raise ValueError(f"its frames are {told[0]} x {told[1]}, not {size[0]} x {size[1]}")
