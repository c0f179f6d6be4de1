"""What the ops are given: their tensors' axes in letters, checked alike before any form of an op runs.

C++ and Triton read as far as the first tensor of an op reaches: a shorter one would be read past its end.
"""

from torch import Tensor

# op → names and axes of its tensors, in the order of its arguments. The same letter is the same size; `...` stands
# for any axes, the same in all tensors of an op; `n·k` is one axis of both sizes.
TENSORS = {
    "modulated_layernorm": {"x": "g l d", "scale": "g d", "shift": "g d"},
    "gated_residual": {"x": "g l d", "y": "g l d", "gate": "g d"},
    "gated_residual_layernorm": {"x": "g l d", "y": "g l d", "gate": "g d", "scale": "g d", "shift": "g d"},
    "qk_norm_rope": {"q": "b l d", "k": "b l d", "q_weight": "d", "k_weight": "d"},
    "rms_norm": {"x": "... d", "weight": "d"},
    "gelu": {"x": "..."},
    "gelu_fp8": {"x": "g l d"},
    "linear_fp8": {"x": "... i", "weight": "o i", "bias": "o"},
    "flow_noise": {"data": "b s ...", "noise": "b s ...", "time": "b s"},
    "self_attention": {"q": "b m n k", "k": "b l n k", "v": "b l n k"},
    "dual_cross_attention": {
        "q": "g l n k", "key": "g m n k", "value": "g m n k", "bias": "g m", "weight": "n·k"
    },
}  # fmt: skip
for _op in ("modulated_layernorm", "gated_residual_layernorm"):
    TENSORS[f"{_op}_fp8"] = TENSORS[_op]
_ROWS = {op: [(name, tuple(axes.split())) for name, axes in given.items()] for op, given in TENSORS.items()}
_OPTIONAL = {("linear_fp8", "bias"), ("dual_cross_attention", "weight")}
# An 8-bit product's sizes are multiples of this.
MULTIPLE = 16


def check(op: str, *tensors: Tensor | None, eps: float = 1e-6) -> None:
    """ValueError, in a sentence, unless these are floating point, on one device, and fit the op and each other."""
    sizes = {}
    for (name, axes), x in zip(_ROWS[op], tensors, strict=True):
        if x is None and (op, name) in _OPTIONAL:
            continue
        reason = _kind(x, tensors[0])
        if reason is None and not _fits(x.shape, axes, sizes):
            reason = _unfit(op, name, tensors)
        if reason is not None:
            raise ValueError(f"{op}: {name} is {reason}")
    if not eps >= 0:
        raise ValueError(f"{op}: eps is {eps}; it must not be negative")


def check_attention(op: str, q: Tensor, key: Tensor, value: Tensor) -> None:
    """ValueError unless the three, which `check` has seen, have one dtype, and there is a key to attend to."""
    if not q.dtype == key.dtype == value.dtype:
        raise ValueError(f"{op}: queries are {q.dtype}, keys {key.dtype}, values {value.dtype}; give one dtype")
    if key.shape[1] == 0:
        raise ValueError(f"{op}: there are no keys")


def check_product(weight: Tensor) -> None:
    """ValueError unless the weight [o, i] of an 8-bit product has sizes that it can have."""
    if weight.shape[0] % MULTIPLE or weight.shape[1] % MULTIPLE:
        raise ValueError(f"linear_fp8: weight is {list(weight.shape)}; both must be multiples of {MULTIPLE}")


def _kind(x: object, first: Tensor) -> str | None:
    """What x is instead of a floating-point tensor where the first one lies, or None."""
    if not isinstance(x, Tensor):
        return f"{type(x).__name__}, not a tensor"
    if not x.is_floating_point():
        return f"{x.dtype}, not floating point"
    return None if x is first or x.device == first.device else f"on {x.device}, the first tensor on {first.device}"


def _fits(shape: tuple[int, ...], axes: tuple[str, ...], sizes: dict[str, object]) -> bool:
    """Whether a shape has these axes, with the sizes known so far; notes the others."""
    if "..." in axes:
        before, after = axes.index("..."), len(axes) - axes.index("...") - 1
        if len(shape) < before + after:
            return False
        middle = tuple(shape[before : len(shape) - after])
        shape = (*shape[:before], middle, *shape[len(shape) - after :])
    if len(shape) != len(axes):
        return False
    for axis, size in zip(axes, shape, strict=True):
        if (sizes["n"] * sizes["k"] if axis == "n·k" else sizes.setdefault(axis, size)) != size:
            return False
    return True


def _unfit(op: str, name: str, tensors: tuple[Tensor | None, ...]) -> str:
    """The shape of a tensor that does not fit, its axes, and the sizes of them that the tensors before it have."""
    sizes = {}
    for (other, axes), x in zip(_ROWS[op], tensors, strict=True):
        if other == name:
            break
        if x is not None:
            _fits(x.shape, axes, sizes)
    known = ", ".join(f"{axis} = {sizes[axis]}" for axis in "·".join(axes).split("·") if axis in sizes)
    return f"{list(x.shape)}, not [{', '.join(axes)}]" + (f" with {known}" if known else "")
