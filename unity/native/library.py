"""The compiled library of csrc/: found beside this file, or built once into the user's cache."""

import ctypes
import functools
import os
import runpy
import struct
import sys
from collections.abc import Callable
from pathlib import Path

import torch

_HERE = Path(__file__).parent
_BUILDER = _HERE.parents[1] / "csrc" / "build.py"

# The struct that each C function takes: the codes of Python's struct module (i int, q int64, f float, P pointer),
# and S for a Shape, R for rows of a Tensor, T for a Table of csrc/rows.h.
_PARTS = {"S": "iiqqqq", "R": "Pqq", "T": "Pq"}
_ARGUMENTS = {
    "layernorm_forward": "S RR TTT PPP f",
    "layernorm_backward": "S RRRR TT PPPP",
    "residual_forward": "S RR T P",
    "residual_backward": "S RR T PP",
    "rms_norm_forward": "S R PP f",
    "rms_norm_backward": "S RR PPP f",
    "rope_forward": "S qqqqqPPPq f RPR RPR",
    "rope_backward": "S qqqqqPPPq f RqRPP RqRPP P",
    "gelu_forward": "S R P",
    "gelu_backward": "S RR P",
    "flow_noise": "S PPPPP",
}


class Library:
    """The C functions of one instruction set: `library(name, *arguments)`.

    `level` is "baseline", "avx2" or "avx512"; by default the best that this processor has.
    """

    def __init__(self, path: Path, level: str | None = None):
        # torch has loaded its OpenMP; a second library of that name is not loaded, so both share their threads.
        library = ctypes.CDLL(str(path))
        library.native_level.restype = ctypes.c_char_p
        self.level = level or library.native_level().decode()
        self._functions = {name: self._bind(library, name, codes) for name, codes in _ARGUMENTS.items()}

    def _bind(self, library: ctypes.CDLL, name: str, codes: str) -> tuple[Callable, struct.Struct]:
        function = getattr(library, f"{name}_{self.level}")
        function.restype = None
        # one packed struct: ctypes takes a tenth of a microsecond to convert each argument
        function.argtypes = [ctypes.c_char_p]
        return function, struct.Struct("".join(_PARTS.get(code, code) for code in codes))

    def __call__(self, name: str, *arguments) -> None:
        function, layout = self._functions[name]
        function(layout.pack(torch.get_num_threads(), *arguments))


@functools.cache
def _find() -> Path | str:
    """The library that belongs to csrc/, built if need be; or one sentence why there is none."""
    if not _BUILDER.exists():
        built = sorted(_HERE.glob("_native_*.so"))
        return built[-1] if built else "this install has neither compiled kernels nor csrc/ to build them from"
    builder = runpy.run_path(str(_BUILDER))
    name = builder["library_name"]()
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "unity-video"
    for folder in (_HERE, cache):
        if (folder / name).exists():
            return folder / name
    print(f"unity: building the C++ kernels into {cache} (half a minute, once)", file=sys.stderr, flush=True)
    return builder["build"](cache) or cache / name


@functools.cache
def load(level: str | None = None) -> Library | str:
    """The library for an instruction set (default: the best here), or one sentence why there is none."""
    path = _find()
    if isinstance(path, str):
        return path
    try:
        return Library(path, level)
    except OSError as error:
        return f"the compiled kernels do not load: {error}"


def missing() -> str | None:
    """Why there are no C++ kernels on this machine, or None if there are."""
    library = load()
    return library if isinstance(library, str) else None


# as torch.compiler.assume_constant_result marks it, which would take two seconds to import the compiler
vars(missing)["_dynamo_marked_constant"] = True


def run(name: str, *arguments) -> None:
    """Call a C function of the library on as many threads as torch uses."""
    library = load()
    if isinstance(library, str):
        raise ValueError(library)
    library(name, *arguments)
