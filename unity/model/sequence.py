"""A sequence cut over processes: each holds a slice of the tokens, and in attention all tokens of some heads.

DeepSpeed-Ulysses (Jacobs et al., 2023, arXiv 2309.14509), with queries, keys and values in one exchange and the
attended values in a second. How parts travel is handed in, so that this file knows of no communication.

Letters: p processes, g groups, b samples, m queries and l keys of this slice, n heads, k head size.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from einops import rearrange
from jaxtyping import Float
from torch import Tensor

from unity import ops

# contiguous or not, [p, ...] to [p, ...]: part i goes to process i, and what process i sent here takes its place
Exchange = Callable[[Tensor], Tensor]


class Peers(NamedTuple):
    """The processes that work on the same samples, a slice of the tokens each, and this one's place among them.

    All of them make the same calls in the same order. Every call is differentiable, exactly: where each process
    computes the loss of the whole sequence, the mean of their gradients is the gradient of that loss.
    """

    rank: int
    size: int
    exchange: Exchange

    def attend(
        self, q: Float[Tensor, "b m n k"], k: Float[Tensor, "b l n k"], v: Float[Tensor, "b l n k"]
    ) -> Float[Tensor, "b m n k"]:
        """Attention of this slice's queries to the keys of all slices; the size must divide the heads."""
        sent = [rearrange(x, "b l (p n) k -> p b l n k", p=self.size) for x in (q, k, v)]
        parts = self.exchange(torch.cat(sent, dim=2)).split([x.shape[2] for x in sent], dim=2)
        attended = ops.self_attention(*(rearrange(x, "p b l n k -> b (p l) n k") for x in parts))
        back = self.exchange(rearrange(attended, "b (p m) n k -> p b m n k", p=self.size))
        return rearrange(back, "p b m n k -> b m (p n) k")

    def gather(self, x: Float[Tensor, "g l d"]) -> Float[Tensor, "g m d"]:
        """The tokens of all slices, one slice after the other, on every process."""
        if not len(x):
            # nothing to send, and its parameters stay in the graph
            return x.repeat(1, self.size, 1)
        return rearrange(self.exchange(x.expand(self.size, *x.shape)), "p g l d -> g (p l) d")
