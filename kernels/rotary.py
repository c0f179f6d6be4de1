"""Where tokens lie, for 3-D rotary positions, and the angles that follow from it."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Rotary:
    """Tokens of `streams` streams, one stream after the other: of each the frames, rows and columns of its grid.

    Stream s lies at the column positions s·w … s·w + w - 1, which is what concatenating the streams along width
    means to attention. Of *each* stream the tokens `first` … `first + count - 1` are here, by default all: a rank
    that holds a slice of a sequence holds the same slice of every stream. Raises ValueError for a grid, slice or
    theta that cannot be.
    """

    # frames, rows and columns of a stream
    grid: tuple[int, int, int]
    streams: int
    num_heads: int
    theta: float = 1e4
    first: int = 0
    # None: to the end of the grid
    count: int | None = None

    def __post_init__(self):
        if len(self.grid) != 3 or min(*self.grid, self.streams, self.num_heads) < 1:
            raise ValueError(
                f"grid {self.grid} of {self.streams} streams and {self.num_heads} heads: all must be at least 1, "
                "and the grid have frames, rows and columns"
            )
        if not 0 <= self.first < self.end <= math.prod(self.grid):
            raise ValueError(
                f"tokens {self.first} to {self.end} of each stream: a grid {self.grid} has {math.prod(self.grid)}"
            )
        if not 0 < self.theta < math.inf:
            raise ValueError(f"theta is {self.theta}; it must be positive and finite")

    @classmethod
    def of(cls, sizes: Sequence[int], theta: float) -> "Rotary":
        """The value whose `sizes` these are."""
        *grid, streams, num_heads, first, count = sizes
        return cls(tuple(grid), streams, num_heads, theta, first, count)

    @property
    def sizes(self) -> list[int]:
        """All but theta, flat, as a library op takes it: t, h, w, streams, heads, first, count."""
        return [*self.grid, self.streams, self.num_heads, self.first, self.end - self.first]

    @property
    def end(self) -> int:
        """The token of a stream before which the slice ends."""
        return math.prod(self.grid) if self.count is None else self.first + self.count

    @property
    def tokens(self) -> int:
        """Of all streams, in this slice."""
        return self.streams * (self.end - self.first)

    def check(self, x: Tensor) -> None:
        """ValueError unless x [b, l, d] are these tokens, and d so many heads of pairs."""
        if x.shape[1] != self.tokens:
            raise ValueError(
                f"{x.shape[1]} tokens are not {self.streams} streams of the tokens {self.first} to {self.end} "
                f"of a {self.grid} grid, which are {self.tokens}"
            )
        if x.shape[2] % (2 * self.num_heads):
            raise ValueError(f"width {x.shape[2]} is not {self.num_heads} heads of an even size")

    @staticmethod
    def split(head_dim: int) -> tuple[int, int, int]:
        """How many numbers of a head turn with the frame, the row and the column (44, 42, 42 of 128)."""
        side = 2 * (head_dim // 6)
        return head_dim - 2 * side, side, side

    def angles(self, head_dim: int, device: torch.device | str) -> tuple[Tensor, Tensor]:
        """Cosines and sines of every token's angles, one a pair of a head, float64 [l, k/2], as Wan forms them."""
        t, h, w = self.grid
        places = (
            torch.arange(t, device=device).view(1, t, 1, 1),
            torch.arange(h, device=device).view(1, 1, h, 1),
            torch.arange(self.streams * w, device=device).view(self.streams, 1, 1, w),
        )
        parts = []
        for place, size in zip(places, self.split(head_dim), strict=True):
            place = place.expand(self.streams, t, h, w).flatten(1)[:, self.first : self.end].reshape(-1, 1)
            exponent = torch.arange(0, size, 2, dtype=torch.float64, device=device) / size
            parts.append(place.double() * self.theta**-exponent)
        angle = torch.cat(parts, dim=1)
        return angle.cos(), angle.sin()
