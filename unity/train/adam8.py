"""AdamW with both moments in 8 bits, by bitsandbytes: a byte a number, and a scale for each block of 256 of them.

The codes are dynamic ones (Dettmers et al., 2021, arXiv 2110.02861), dense around zero: a moment is read back to
within 0.7% of the largest of its block, small ones closer. Master weights and gradients stay float32.
"""

from collections.abc import Iterable, Iterator
from functools import cache
from types import ModuleType
from typing import NamedTuple

import torch
from torch import Tensor

from unity.extras import extra

# numbers with a scale in common, as the kernels have it
BLOCK = 256
# numbers that are updated at once: what is widened on a CPU is then small beside the rest
_AT_ONCE = 1 << 24


class Moment(NamedTuple):
    """One moment of a flat of n weights: n codes, and a scale for each block of them."""

    codes: Tensor
    scales: Tensor
    # whether it can be negative
    signed: bool

    def pieces(self, most: int = _AT_ONCE) -> Iterator[tuple[slice, "Moment"]]:
        """Whole blocks of it, as views, and where of the flat they are; `most` is a multiple of 256."""
        for start in range(0, len(self.codes), most):
            place = slice(start, min(start + most, len(self.codes)))
            scales = self.scales[start // BLOCK : -(-place.stop // BLOCK)]
            yield place, Moment(self.codes[place], scales, self.signed)

    def wide(self) -> Tensor:
        """In float32."""
        book = code_book(self.signed, self.codes.device)
        return _functional().dequantize_blockwise(self.codes, absmax=self.scales, code=book, blocksize=BLOCK)

    def write(self, values: Tensor) -> None:
        """Round float32 values, of any device, into it."""
        book = code_book(self.signed, self.codes.device)
        for place, piece in self.pieces():
            wide = values[place].to(book.device)
            codes, state = _functional().quantize_blockwise(wide, code=book, blocksize=BLOCK)
            piece.codes.copy_(codes)
            piece.scales.copy_(state.absmax)


# of a flat's state: the name of a moment's scales, and whether it can be negative
SCALES, SIGNED = "{}_scale", {"exp_avg": True, "exp_avg_sq": False}


class Adam8(torch.optim.Optimizer):
    """AdamW (Loshchilov & Hutter, 2019) whose state is `exp_avg` and `exp_avg_sq` as codes, with their scales."""

    def __init__(self, groups: Iterable[dict], *, lr: float, betas: tuple[float, float], eps: float):
        # before anything is built: the package may be missing
        _functional()
        super().__init__(groups, {"lr": lr, "betas": betas, "eps": eps})

    @staticmethod
    def fresh(flat: Tensor) -> dict[str, Tensor]:
        """The state of a flat before its first step."""
        state = {}
        for name, signed in SIGNED.items():
            # a code of its own stands for zero
            zero = int((code_book(signed, flat.device) == 0).nonzero()[0])
            state[name] = torch.full_like(flat.data, zero, dtype=torch.uint8)
            state[SCALES.format(name)] = flat.new_zeros(-(-flat.numel() // BLOCK))
        return state

    # takes no closure, so there is no loss to give back
    @torch.no_grad()
    def step(self, closure=None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        for group in self.param_groups:
            for flat in group["params"]:
                assert flat.grad is not None
                self.state[flat]["step"] += 1
                _update(flat.data, flat.grad, group, self.state[flat])


def moment(state: dict[str, Tensor], name: str) -> Moment:
    """A moment of a flat's state."""
    return Moment(state[name], state[SCALES.format(name)], SIGNED[name])


@cache
def code_book(signed: bool, device: torch.device) -> Tensor:
    """The 256 numbers between -1, or 0, and 1 that codes stand for."""
    return _functional().create_dynamic_map(signed).to(device)


def _update(flat: Tensor, gradient: Tensor, group: dict, state: dict[str, Tensor]) -> None:
    pieces = zip(*(moment(state, name).pieces() for name in SIGNED), strict=True)
    books = code_book(True, flat.device), code_book(False, flat.device)
    for (place, first), (_, second) in pieces:
        torch.ops.bitsandbytes.optimizer_update_8bit_blockwise(
            "adam", gradient[place], flat[place], first.codes, second.codes, *group["betas"], 0.0, 0.0,
            group["eps"], int(state["step"]), group["lr"], *books,
            first.scales, second.scales, group["weight_decay"], 1.0, False,
        )  # fmt: skip


def _functional() -> ModuleType:
    with extra("lowbit"):
        import bitsandbytes.functional
    return bitsandbytes.functional
