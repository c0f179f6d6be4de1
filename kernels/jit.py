"""Triton; or where there is none (macOS, Windows) enough of its names to import the kernels and refuse them."""

from types import SimpleNamespace

try:
    import triton
    import triton.language as tl

    ABSENT = None
except ModuleNotFoundError:
    triton = SimpleNamespace(jit=lambda function: function)
    tl = SimpleNamespace(constexpr=None)
    ABSENT = "triton is not installed"
