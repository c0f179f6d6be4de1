"""Clips that show the same: perceptual fingerprints, and the nearest earlier one of each.

A fingerprint is 3 × 64 bits: the signs of the 8 × 8 lowest frequencies of three pictures around their median
(pHash, Zauner, 2010), which survive another size, another rate and another codec.
"""

from collections import defaultdict
from collections.abc import Mapping

import cv2
import numpy as np
from jaxtyping import UInt8

BITS = 192
_SIDE = 32
# of a pixel's grey levels: what differs less, in a picture without features, is the codec's noise
_FLAT = 1.0


def fingerprint(video: UInt8[np.ndarray, "t h w 3"]) -> str:
    """48 hexadecimal digits of the first, the middle and the last picture."""
    places = np.linspace(0, len(video) - 1, 3).round().astype(int)
    return "".join(_hash(video[place]) for place in places)


def _hash(picture: UInt8[np.ndarray, "h w 3"]) -> str:
    grey = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY).astype(np.float32)
    small = cv2.resize(grey, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA)
    low = np.asarray(cv2.dct(small), np.float32)[:8, :8].ravel()
    # the first is the brightness, which says nothing of what is seen
    low[0] = 0
    bits = low > max(float(np.median(low)), _FLAT / _SIDE)
    return f"{int(''.join('01'[int(bit)] for bit in bits), 2):016x}"


def nearest(prints: Mapping[str, str], limit: int) -> dict[str, tuple[int, str]]:
    """For each clip that differs by fewer than `limit` bits from an earlier one: those bits, and that one's name.

    Earlier ones that are near to another one themselves do not count, so that one of many alike is left. Exact:
    of prints that differ by fewer than `limit` bits, one of `limit` slices at least is the same (Norouzi et al.,
    2012).
    """
    limit = min(max(limit, 1), BITS)
    edges = np.linspace(0, BITS, limit + 1).astype(int)
    slices = [(int(a), (1 << int(b - a)) - 1) for a, b in zip(edges, edges[1:], strict=False)]
    seen: defaultdict[tuple[int, int], list[tuple[int, str]]] = defaultdict(list)
    found: dict[str, tuple[int, str]] = {}
    for name, text in prints.items():
        bits = int(text, 16)
        keys = [(place, bits >> shift & mask) for place, (shift, mask) in enumerate(slices)]
        others = {other for key in keys for other in seen[key]}
        best = min((((bits ^ other).bit_count(), which) for other, which in others), default=(BITS, ""))
        if best[0] < limit:
            found[name] = best
            continue
        for key in keys:
            seen[key].append((bits, name))
    return found
