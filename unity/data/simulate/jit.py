"""How kernels are compiled: cached on disk, IEEE arithmetic unreordered, so that clips are the same anywhere."""

import hashlib
from pathlib import Path

from numba import njit


def forget_stale(folder: Path) -> None:
    """Delete the folder's cached kernels when any of its sources has changed.

    Numba looks at the file of a cached kernel only, not at those of the kernels it calls.
    """
    sources = b"".join(path.read_bytes() for path in sorted(folder.glob("*.py")))
    stamp, cache = hashlib.sha256(sources).hexdigest(), folder / "__pycache__"
    mark = cache / "kernels.stamp"
    if mark.exists() and mark.read_text() == stamp:
        return
    try:
        cache.mkdir(exist_ok=True)
        for path in cache.glob("*.nb[ci]"):
            path.unlink(missing_ok=True)
        mark.write_text(stamp)
    except PermissionError:
        # A read-only installation changes as a whole, and numba keeps its cache elsewhere.
        return


forget_stale(Path(__file__).parent)
kernel = njit(cache=True, error_model="numpy")
# For small kernels that take whole scenes: calling one would hand over hundreds of words and count references.
inlined = njit(cache=True, error_model="numpy", forceinline=True)
